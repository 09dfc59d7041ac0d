"""kvm01 healthy, and kvm01 broken in each way of ``scenarios.py``: the verdicts that must turn do, and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import judge, propose
from tests.lab.conftest import Verdict
from tests.lab.lab import Lab
from tests.lab.scenarios import HEALTHY, SCENARIOS, Scenario

Judge = Callable[[Scenario], Verdict]


@pytest.mark.parametrize("scenario", [HEALTHY], ids=lambda scenario: scenario.name)
def test_healthy(scenario: Scenario, verdict: Judge) -> None:
    """Every check has the outcome that healthy.yaml gives, and none is unknown."""
    found = verdict(scenario).run.results
    expected = judge.healthy(scenario.profile)
    assert not judge.turned(found, expected), propose.told(found, expected)
    assert {result["outcome"] for result in found.values()} <= {"pass", "fail", "warn", "na"}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_broken(scenario: Scenario, verdict: Judge) -> None:
    """Exactly the expected verdicts turn, each with the expected outcome, cause and words."""
    found = verdict(scenario)
    expected = dict(scenario.turns)
    if everything := expected.pop("everything", ""):
        assert propose.names(found.run.results) >= propose.names(judge.healthy(scenario.profile))
        assert len(found.turned) == len(found.run.results)
    if others := expected.pop("others", everything):
        assert everything or len(found.turned) < len(found.run.results)
        expected = dict.fromkeys(found.turned, others) | expected
    wrong = [
        name for name in sorted(found.turned.keys() | expected.keys()) if not judge.fits(found.turned.get(name), expected.get(name))
    ]
    told = [f"{name}: {found.turned.get(name, 'as before')} (expected: {expected.get(name, 'as before')})" for name in wrong]
    paste = propose.turns({name: found.turned.get(name) for name in wrong})
    assert not wrong, "\n".join([*told, "", "if that is right, write into scenarios.yaml:", paste])
    assert found.run.rc == 1


@pytest.mark.parametrize(("user", "profile"), [("root", "production"), ("root", "database"), ("checker", "production")])
def test_recorded(user: str, profile: str, lab: Lab, tmp_path: Path) -> None:
    """Recorded evidence of the healthy host is judged like the host."""
    found, expected = judge.replay(tmp_path, lab.evidence(user), profile).results, judge.healthy(profile)
    unlike = judge.turned(found, expected)
    allowed = next(scenario for scenario in SCENARIOS if scenario.user == "checker").turns if user == "checker" else {}
    if unlike.keys() != allowed.keys():
        lab.forget_evidence(user)
        pytest.fail(propose.told(found, expected))
