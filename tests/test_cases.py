"""Every case of every check, judged in one run through the real plugin; and what the cases must prove together."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_kvmcheck import catalog
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.targets import Target
from tests import casefile
from tests.casefile import CaseFile

CHECKS = catalog.load()
CASES = casefile.all_cases()

Judge = Any


def judge_all(cases: list[CaseFile], place: Path, run: Judge) -> dict[str, dict[str, Any]]:
    """Replay *cases* as one bundle, one host each under a profile of its own; return the deciding results by case name."""
    targets, evidence = [], []
    for case in cases:
        setting = {key: case.data[key] for key in ("params", "severity", "level") if key in case.data}
        profile = place / f"{case.name}.yaml"
        profile.write_text(yaml.safe_dump({"name": case.name, "checks": {case.check: setting}}), "utf-8")
        cluster = case.name if CHECKS[case.check].scope == "cluster" else ""
        tags = tuple((pattern, frozenset(names)) for pattern, names in case.data.get("tags", {}).items())
        for host, part in case.hosts.items():
            targets.append(Target(host, f"ssh://{host}", case.data.get("role", "host"), cluster, str(profile), tags=tags))
            evidence.append(casefile.evidence(host, part))
    at = "2026-06-01T12:00:00+00:00"
    bundle.write(place / "bundle", bundle.Manifest("cases", at, at, tuple(targets)), evidence)
    out = place / "out.json"
    run("--kvmcheck", f"--hosts=bundle:{place / 'bundle'}", f"--kvmcheck-json={out}", "-q", "-p", "no:cacheprovider")
    results = {(result["check"], result["subject"]): result for result in json.loads(out.read_text())["results"]}
    found = {}
    for case in cases:
        result = results.get((case.check, case.subject))
        if result is None:
            near = [key[1] for key in results if key[0] == case.check and key[1].startswith(case.subject.split("/")[0])]
            result = {"outcome": "no such subject", "message": f"{case.subject} is not among {near}", "evidence": []}
        found[case.name] = result
    return found


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    import subprocess
    import sys

    def inner(*args: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *args],
            cwd=tmp_path_factory.mktemp("run"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stdout[-3000:] + done.stderr[-3000:]

    return inner


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory, run: Judge) -> dict[str, dict[str, Any]]:
    cases = CASES + [casefile.flipped(case) for case in CASES if "flip" in case.data]
    return judge_all(cases, tmp_path_factory.mktemp("cases"), run)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}.{case.outcome}")
def test_case_gets_its_verdict(case: CaseFile, verdicts: dict[str, dict[str, Any]]) -> None:
    result = verdicts[case.name]
    assert result["outcome"] == case.outcome, f"{case.path.name}: {result['outcome']}: {result['message']}"
    assert case.data.get("message", "") in result["message"]


@pytest.mark.parametrize("case", [case for case in CASES if "flip" in case.data], ids=lambda case: case.name)
def test_flipping_the_decisive_value_flips_the_verdict(case: CaseFile, verdicts: dict[str, dict[str, Any]]) -> None:
    wanted = case.data["flip"]["outcome"]
    assert wanted != case.outcome
    result = verdicts[f"{case.name}-flipped"]
    assert result["outcome"] == wanted, f"{case.path.name} flipped: {result['outcome']}: {result['message']}"


@pytest.mark.parametrize("check_id", CHECKS)
def test_every_check_has_its_cases(check_id: str) -> None:
    mine = [case for case in CASES if case.check == check_id]
    outcomes = {case.outcome for case in mine}
    assert {"pass", "fail", "unknown"} <= outcomes or {"pass", "warn", "unknown"} <= outcomes, f"{check_id} has only {outcomes}"
    assert any("flip" in case.data for case in mine), f"{check_id}: no case flips its decisive value"


def test_no_case_is_without_its_check() -> None:
    assert {case.check for case in CASES} <= set(CHECKS)


def test_no_pass_survives_the_loss_of_its_evidence(verdicts: dict[str, dict[str, Any]], tmp_path: Path, run: Judge) -> None:
    """Take away, one at a time, each answer that a passing case read: unless named optional, the verdict is no pass."""
    lossy: dict[str, tuple[CaseFile, str]] = {}
    for case in CASES:
        if case.outcome != "pass":
            continue
        for number, proof in enumerate(verdicts[case.name]["evidence"]):
            key = proof["host"].removeprefix(f"{case.name}.") if "hosts" in case.data else ""
            if proof["probe"] not in case.data.get("optional", []):
                variant = casefile.without(case, f"{key}/{proof['probe']}", number)
                lossy[variant.name] = (variant, proof["probe"])
    results = judge_all([variant for variant, _ in lossy.values()], tmp_path, run)
    survivors = [f"{name}: passes without {lossy[name][1]}" for name, result in results.items() if result["outcome"] == "pass"]
    assert not survivors, "\n".join(survivors)


def test_checks_declare_what_they_read(verdicts: dict[str, dict[str, Any]]) -> None:
    """``reads`` is neither too short nor too long: it is what `kvmcheck explain` and `kvmcheck commands` show."""
    seen: dict[str, set[str]] = defaultdict(set)
    for case in CASES:
        seen[case.check] |= {proof["probe"].partition(":")[0] for proof in verdicts[case.name]["evidence"]}
    wrong = {}
    for check_id, check in CHECKS.items():
        # The list of domains is read to find the subjects, before any verdict.
        listing = {"virsh"} if check.scope in ("domain", "disk", "nic", "vcpu") else set()
        undeclared, unread = seen[check_id] - set(check.reads), set(check.reads) - seen[check_id] - listing
        if undeclared or unread:
            wrong[check_id] = f"undeclared: {sorted(undeclared)}, never read in a case: {sorted(unread)}"
    assert not wrong, "\n".join(f"{key}: {value}" for key, value in sorted(wrong.items()))
