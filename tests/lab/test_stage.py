"""What is prepared beside the scenarios, when that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.lab.conftest import Stage
from tests.lab.machine import SilentError


def test_failed_chore() -> None:
    """It is told with its notes, and the others are done all the same."""

    def fail() -> None:
        exc = SilentError("no answer within 600 s")
        exc.add_note("what the console said")
        raise exc

    done: list[str] = []
    lab: Any = SimpleNamespace(evidence=done.append)
    stage = Stage(lab, [], [fail, lambda: done.append("chore")], {})
    stage.finish()
    stage.close()
    assert stage.troubles() == ["tests.lab.machine.SilentError: no answer within 600 s\nwhat the console said\n"]
    assert done == ["root", "chore"]
