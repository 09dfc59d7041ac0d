"""kvm01 healthy, and kvm01 broken in each way of ``scenarios.py``: the verdicts that must turn do, and no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab import judge
from tests.lab.conftest import Verdict
from tests.lab.scenarios import HEALTHY, SCENARIOS, Scenario

Judge = Callable[[Scenario], Verdict]


@pytest.mark.parametrize("scenario", HEALTHY, ids=lambda scenario: scenario.name)
def test_healthy(scenario: Scenario, verdict: Judge) -> None:
    """Every check has the outcome that healthy.yaml gives, and none is unknown."""
    found = verdict(scenario)
    assert found.turned == {}
    assert {result["outcome"] for result in found.run.results.values()} <= {"pass", "fail", "warn", "na"}
    assert {check for check, _ in judge.healthy(scenario.profile)} == {check for check, _ in found.run.results}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_broken(scenario: Scenario, verdict: Judge) -> None:
    """Exactly the expected verdicts turn, each with the expected outcome, cause and words."""
    found = verdict(scenario)
    expected = dict(scenario.turns)
    if everything := expected.pop("everything", ""):
        assert {check for check, _ in found.run.results} == {check for check, _ in judge.healthy(scenario.profile)}
        assert len(found.turned) == len(found.run.results)
    if others := expected.pop("others", everything):
        expected = dict.fromkeys(found.turned, others) | expected
    wrong = [
        f"{name}: {found.turned.get(name, 'as before')} (expected: {expected.get(name, 'as before')})"
        for name in sorted(found.turned.keys() | expected.keys())
        if not judge.fits(found.turned.get(name), expected.get(name))
    ]
    assert not wrong, "\n".join(wrong)
    assert found.run.rc == 1
