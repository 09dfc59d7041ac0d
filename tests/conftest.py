"""What is collected: the lab boots virtual machines for a quarter of an hour, so only when it is asked for by name."""

from __future__ import annotations

from pathlib import Path

import pytest

LAB = Path(__file__).parent / "lab"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave ``tests/lab`` out unless an argument names it or something in it."""
    if collection_path != LAB:
        return None
    named = [Path(config.invocation_params.dir, argument.split("::", 1)[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(LAB) for path in named) else True
