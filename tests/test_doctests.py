"""The examples in docstrings are true, in every module of the package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import pytest_kvmcheck

NAMES = [info.name for info in pkgutil.walk_packages(pytest_kvmcheck.__path__, "pytest_kvmcheck.") if ".checks" not in info.name]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
