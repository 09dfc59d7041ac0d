"""The templates of CONTRIBUTING.md work as they stand."""

from __future__ import annotations

import doctest
import re
import sys
import types
from pathlib import Path

import pytest

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")


def block(kind: str) -> str:
    found = re.findall(rf"^```\w+ {kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_check_and_its_case(pytester: pytest.Pytester) -> None:
    import json

    import yaml

    from pytest_kvmcheck.gather import bundle
    from pytest_kvmcheck.targets import Target
    from tests import casefile

    pytester.makepyfile(test_template=block("check"))
    pytester.path.joinpath("site.yaml").write_text("name: site\nchecks:\n  KVM-KSM-099: {}\n")
    case = casefile.CaseFile("KVM-KSM-099", "template", "fail", yaml.safe_load(block("case")), pytester.path)
    at = "2026-06-01T12:00:00+00:00"
    outcomes = []
    for number, variant in enumerate((case, casefile.flipped(case))):
        place = pytester.path / f"bundle{number}"
        target = Target("kvm01", "ssh://kvm01")
        bundle.write(place, bundle.Manifest("t", at, at, (target,)), [casefile.evidence("kvm01", variant.data)])
        pytester.runpytest_subprocess(
            "--kvmcheck",
            f"--hosts=bundle:{place}",
            "--kvmcheck-profile=site.yaml",
            f"--kvmcheck-json=out{number}.json",
            "test_template.py",
        )
        results = json.loads(pytester.path.joinpath(f"out{number}.json").read_text())["results"]
        outcomes.append([(result["check"], result["outcome"]) for result in results])
    assert outcomes == [[("KVM-KSM-099", "fail")], [("KVM-KSM-099", "pass")]]


def test_the_parser() -> None:
    module = sys.modules["template"] = types.ModuleType("template")
    exec(block("parser"), module.__dict__)
    results = doctest.testmod(module)
    assert (results.attempted, results.failed) == (1, 0)
    for text in ("", "load: Permission denied\n", "a b c d e"):
        with pytest.raises(ValueError, match="not /proc/loadavg"):
            module.__dict__["parse_load"](text)
