"""docs/lab.md and tried.yaml say what the lab's scenarios say, and its tables speak of checks that there are."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import yaml

from pytest_kvmcheck import catalog
from pytest_kvmcheck.outcomes import TABLE
from tests.lab import judge, propose
from tests.lab.scenarios import FAULTS, SCENARIOS, Scenario
from tests.lab.table import FILES


@pytest.mark.parametrize("path", FILES)
def test_files_are_as_generated(path: str) -> None:
    found = Path(__file__).parents[1].joinpath(path).read_text()
    assert found == FILES[path](), "run: python -m tests.lab.table"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_speaks_of_what_there_is(scenario: Scenario) -> None:
    """A check that a scenario waits for must be moved from ``should`` to ``turns`` when it is written."""
    checks = catalog.load()
    turns = {name.split("@")[0] for name in scenario.turns} - {"everything", "others"}
    assert turns <= checks.keys()
    assert not set(scenario.should) & checks.keys(), "these are written now: move them to 'turns', with what the lab finds"
    assert {turned.split(":")[0] for turned in scenario.turns.values()} <= {*TABLE, "gone"}
    assert {scenario.fault, scenario.meanwhile} - {""} <= FAULTS.keys()


@pytest.mark.parametrize("profile", sorted({scenario.profile for scenario in SCENARIOS} | {"database", "guest-linux"}))
def test_the_healthy_host_is_judged_with_reasons(profile: str) -> None:
    assert {check for check, _ in judge.healthy(profile)} <= catalog.load().keys()
    for check, entry in yaml.safe_load(judge.HEALTHY.read_text())[profile].items():
        assert entry.get("why") not in (None, "", propose.WHY), f"{check}: why is that right?"
        allowed = {"pass", "fail", "warn", "na", "any"} | (set() if profile == "production" else {"unknown"})
        assert set(entry.values()) - {entry["why"]} <= allowed, check


def test_proposals() -> None:
    """What is proposed for a check that the table lacks can be pasted as it is, but for the reason."""
    assert doctest.testmod(propose).failed == 0
    result = {"title": "T", "outcome": "fail", "message": "kvm01: bad.", "cause": "", "blocked_by": "", "evidence": []}
    text = propose.table({("KVM-ABC-001", "kvm01/52%3A54"): result}, {("KVM-OLD-001", "kvm01"): "pass"})
    assert yaml.safe_load(f"production:\n{text}") == {"production": {"KVM-ABC-001": {"kvm01/52%3A54": "fail", "why": propose.WHY}}}
    assert "KVM-OLD-001 is not judged any more" in text
    assert not propose.table({("KVM-ABC-001", "kvm01"): result}, {("KVM-ABC-001", "kvm01"): "fail"})
