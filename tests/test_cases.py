"""Every case of every check, judged in one run through the real plugin; and what the cases must prove together."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_kvmcheck import catalog
from pytest_kvmcheck.evidence import Evidence
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.gather.redact import redact_record
from pytest_kvmcheck.targets import Target
from tests import casefile
from tests.casefile import CaseFile

CHECKS = catalog.load()
CASES = casefile.all_cases()

Judge = Any


def judge_all(
    cases: list[CaseFile], place: Path, run: Judge, through: Callable[[Evidence], Evidence] = lambda evidence: evidence
) -> dict[str, dict[str, Any]]:
    """Replay *cases* as one bundle, one host each under a profile of its own; return the deciding results by case name.

    All evidence goes *through* a function first.
    """
    targets, evidence = [], []
    for case in cases:
        setting = {key: case.data[key] for key in ("params", "severity", "level") if key in case.data}
        profile = place / f"{case.name}.yaml"
        profile.write_text(yaml.safe_dump({"name": case.name, "checks": {case.check: setting}}), "utf-8")
        cluster = case.name if "hosts" in case.data or "role" in case.data or CHECKS[case.check].scope == "cluster" else ""
        tags = tuple((pattern, frozenset(names)) for pattern, names in case.data.get("tags", {}).items())
        for host, part in case.hosts.items():
            targets.append(Target(host, f"ssh://{host}", case.data.get("role", "host"), cluster, str(profile), tags=tags))
            evidence.append(through(casefile.evidence(host, part)))
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
def asked(request: pytest.FixtureRequest) -> list[CaseFile]:
    """The cases of the checks that were selected: ``-k KVM-MEM`` judges no others."""
    checks = {check for item in request.session.items if (check := _check_of(item))}
    return [case for case in CASES if case.check in checks]


def _check_of(item: pytest.Item) -> str:
    """The check that a parametrized test of this file is about."""
    values = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    case = values.get("case")
    return case.check if isinstance(case, CaseFile) else str(values.get("check_id", ""))


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory: pytest.TempPathFactory, run: Judge, asked: list[CaseFile]) -> dict[str, dict[str, Any]]:
    cases = asked + [casefile.flipped(case) for case in asked if "flip" in case.data]
    return judge_all(cases, tmp_path_factory.mktemp("cases"), run)


Loss = tuple[CaseFile, str, int]


def losses(asked: list[CaseFile], verdicts: dict[str, dict[str, Any]]) -> list[Loss]:
    """Each answer (``host/probe``, and its number) that each passing case read, unless the case can do without."""
    found = []
    for case in asked:
        for number, proof in enumerate(verdicts[case.name]["evidence"] if case.outcome == "pass" else ()):
            key = proof["host"].removeprefix(f"{case.name}.") if "hosts" in case.data else ""
            if not {proof["probe"], f"{key}/{proof['probe']}"} & set(case.data.get("optional", [])):
                found.append((case, f"{key}/{proof['probe']}", number))
    return found


def survivors(replaced: list[tuple[Loss, str, dict[str, Any]]], place: Path, run: Judge) -> dict[str, list[str]]:
    """By check: the cases that still pass, or break the check, when one answer is replaced by another of this name."""
    variants = {}
    for (case, probe, number), kind, answer in replaced:
        variant = casefile.instead(case, probe, answer, f"{kind}-{number}")
        variants[variant.name] = (variant, f"{probe.removeprefix('/')} {kind}")
    results = judge_all([variant for variant, _ in variants.values()], place, run)
    assert len(results) == len(variants) == len(replaced)
    found = defaultdict(list)
    for name, result in results.items():
        if result["outcome"] in ("pass", "error"):
            found[variants[name][0].check].append(f"{name}: {result['outcome']} with {variants[name][1]}")
    return found


@pytest.fixture(scope="session")
def lossy(
    tmp_path_factory: pytest.TempPathFactory, run: Judge, asked: list[CaseFile], verdicts: dict[str, dict[str, Any]]
) -> dict[str, list[str]]:
    """By check: the passing cases that still pass when one answer that they read is taken away."""
    replaced = [(loss, "lost", {"cause": "lost", "rc": -1}) for loss in losses(asked, verdicts)]
    return survivors(replaced, tmp_path_factory.mktemp("lossy"), run)


#: What comes instead of an answer when something else answers, with exit code 0.
GARBAGE: dict[str, dict[str, Any]] = {
    "empty": {"stdout": ""},
    "garbage": {"stdout": "garbage\n\\x00\\x01\n"},
    "html": {"stdout": "<html>\n<head><title>502 Bad Gateway</title></head>\n</html>\n"},
    "shell": {"stdout": "sh: 1: Syntax error: Unterminated quoted string\n"},
}


#: Where nothing is an answer, by probe and section (N: a number or UUID), and what it says.
NOTHING = {
    "audit_denials": "ausearch's own words were judged on the target; nothing of libvirt was denied",
    "chrony_sources": "chrony has no source",
    "dm_slaves": "there is no device-mapper map and no RAID array",
    "images:local/stat": "no image could be looked at; who needs them all asks for that",
    "images:remote/stat": "no image could be looked at; who needs them all asks for that",
    "iptables:ip": "the table is not loaded; the section itself proves that it was looked for",
    "iscsi": "there is no session",
    "journal:libvirt": "no errors; the section control proves that the journal may be read",
    "key_modes": "none of the directories is there",
    "libvirt_access:groups": "there is no such group",
    "libvirt_accounts:groups": "there is no such group",
    "libvirt_access:polkit": "libvirt's policy is not installed",
    "libvirt_guests_script": "the script sets nothing",
    "listeners": "nothing listens",
    "nova_migration": "no option is set",
    "pci": "s390x and some virtual machines have none",
    "pool_files": "none of the directories is there",
    "qemu_huge_maps:N": "no huge page is mapped",
    "qemu_process:N": "the process has ended",
    "qemu_strays:N/cmdline": "the process has ended",
    "scsi_disk": "there is no SCSI disk",
    "scsi_disks": "there is no SCSI disk",
    "updates:apt/held": "nothing is held back",
    "updates:dnf/held": "nothing is held back",
    "virsh": "the head of an answer that consists of sections",
}


@pytest.fixture(scope="session")
def garbled(
    tmp_path_factory: pytest.TempPathFactory, run: Judge, asked: list[CaseFile], verdicts: dict[str, dict[str, Any]]
) -> dict[str, list[str]]:
    """By check: the passing cases that still pass when one answer that they read is no answer.

    Each check meets each kind in place of each probe's answer, in one of its cases: all of all cases would take too long.
    """
    groups = defaultdict[tuple[str, str], list[Loss]](list)
    for case, probe, number in losses(asked, verdicts):
        groups[case.check, re.sub(r"[0-9a-f-]{36}|\b[0-9]+", "N", probe.partition("/")[2])].append((case, probe, number))
    replaced = []
    for (_, place), group in groups.items():
        for turn, (loss, kind) in enumerate(zip(cycle(group), cycle(GARBAGE))):
            if turn == max(len(group), len(GARBAGE)):
                break
            case, probe, _ = loss
            if (kind == "empty" and place in NOTHING) or casefile.says(case, probe, GARBAGE[kind]):
                continue
            replaced.append((loss, kind, GARBAGE[kind]))
    return survivors(replaced, tmp_path_factory.mktemp("garbled"), run)


def redacted(evidence: Evidence) -> Evidence:
    return replace(evidence, records={name: redact_record(record, b"key") for name, record in evidence.records.items()})


@pytest.fixture(scope="session")
def verdicts_of_redacted(tmp_path_factory: pytest.TempPathFactory, run: Judge, asked: list[CaseFile]) -> dict[str, dict[str, Any]]:
    cases = asked + [casefile.flipped(case) for case in asked if "flip" in case.data]
    return judge_all(cases, tmp_path_factory.mktemp("redacted"), run, redacted)


@pytest.mark.parametrize("check_id", CHECKS)
def test_redaction_changes_no_verdict(
    check_id: str, verdicts: dict[str, dict[str, Any]], verdicts_of_redacted: dict[str, dict[str, Any]]
) -> None:
    """What is kept of each answer is all that a check reads. Messages may differ where they quote what cannot be read."""
    changed = [
        f"{name}: {before['outcome']} ({before['message']}), redacted {after['outcome']} ({after['message']})"
        for name, before in verdicts.items()
        if name.startswith(f"{check_id}.")
        and (after := verdicts_of_redacted[name])
        and (before["outcome"] != after["outcome"] or (before["outcome"] != "unknown" and before["message"] != after["message"]))
    ]
    assert not changed, "\n".join(changed)


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


@pytest.mark.parametrize("check_id", CHECKS)
def test_no_pass_survives_the_loss_of_its_evidence(check_id: str, lossy: dict[str, list[str]]) -> None:
    """Take away, one at a time, each answer that a passing case read: unless named optional, the verdict is no pass."""
    assert not lossy[check_id], "\n".join(lossy[check_id])


@pytest.mark.parametrize("check_id", CHECKS)
def test_no_pass_comes_from_what_is_no_answer(check_id: str, garbled: dict[str, list[str]]) -> None:
    """Emptiness and any line are answers only where the case says so."""
    assert not garbled[check_id], "\n".join(garbled[check_id])


@pytest.fixture(scope="session")
def hurried(tmp_path_factory: pytest.TempPathFactory, run: Judge, asked: list[CaseFile]) -> dict[str, dict[str, Any]]:
    """By check: the verdict on its first passing case when our own deadline ended the gathering."""
    cases = {case.check: casefile.hurried(case) for case in reversed(asked) if case.outcome == "pass"}
    results = judge_all(list(cases.values()), tmp_path_factory.mktemp("hurried"), run)
    return {check: results[case.name] for check, case in cases.items()}


@pytest.mark.parametrize("check_id", CHECKS)
def test_no_deadline_of_ours_is_the_hosts_fault(check_id: str, hurried: dict[str, dict[str, Any]]) -> None:
    assert hurried[check_id]["outcome"] in ("unknown", "no such subject"), hurried[check_id]


@pytest.mark.parametrize("check_id", CHECKS)
def test_check_declares_what_it_reads(check_id: str, verdicts: dict[str, dict[str, Any]]) -> None:
    """``reads`` is neither too short nor too long: it is what `kvmcheck explain` and `kvmcheck commands` show."""
    seen = {
        proof["probe"].partition(":")[0] for case in CASES if case.check == check_id for proof in verdicts[case.name]["evidence"]
    }
    check = CHECKS[check_id]
    # The list of domains is read to find the subjects, before any verdict.
    listing = {"virsh"} if check.scope in ("domain", "disk", "nic", "vcpu") else set()
    undeclared, unread = seen - set(check.reads), set(check.reads) - seen - listing
    assert not undeclared, f"not declared: {sorted(undeclared)}"
    assert not unread, f"never read in a case: {sorted(unread)}"
