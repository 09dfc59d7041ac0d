"""Reports of one run on recorded evidence: JSON by its schema, JUnit, HTML, terminal; waivers in all of them; merging."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import xmlschema

from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.reports import json_report
from pytest_kvmcheck.targets import Target
from tests import casefile

AT = "2026-06-01T12:00:00+00:00"
NASTY = '"><script>alert(1)</script>'
XML = (
    "<domain type='kvm'><name>{name}</name><memory>1024</memory><vcpu>1</vcpu>"
    "<os><type arch='x86_64'>hvm</type></os>{more}</domain>"
)
DISK = "<devices><disk type='file' device='disk'><source file='/x'/><target dev='hda' bus='ide'/></disk></devices>"
PROFILE = """
name: site
checks:
  KVM-VIO-001: {severity: critical}
  KVM-DSK-003:
  KVM-KSM-002: {params: {ksm_policy: "off"}}
  KVM-KSM-005:
"""
WAIVERS = """
- {check: KVM-VIO-001, subject: "a/old", reason: P2V, owner: anna, approver: bert, expires: 2026-12-31, ticket: OPS-1}
- {check: KVM-VIO-001, subject: "a/older", reason: P2V, owner: anna, approver: bert, expires: 2026-05-31}
- {check: KVM-KSM-002, subject: "b", reason: none, owner: anna, approver: bert, expires: 2026-12-31}
""".replace('"a/old"', '"a/old/*"').replace('"a/older"', '"a/older/*"')


def make_bundle(place: Path, *names: str) -> None:
    ksm = {"files": {"/sys/kernel/mm/ksm/run": "0", "/sys/kernel/mm/ksm/merge_across_nodes": "1"}}
    escaped = NASTY.replace("<", "&lt;").replace(">", "&gt;")
    domains = [{"xml": XML.format(name=name, more=DISK)} for name in ("old", "older", escaped)]
    parts = {"a": {"evidence": {"ksm": ksm}, "domains": domains}, "b": {"evidence": {"ksm": {"rc": 66}}, "domains": []}}
    evidence = [casefile.evidence(name, parts[name]) for name in names]
    bundle.write(place, bundle.Manifest("t", AT, AT, tuple(Target(name, f"ssh://{name}") for name in names)), evidence)


def run(place: Path, *args: str, rc: int = 1) -> subprocess.CompletedProcess[str]:
    """Run pytest --kvmcheck, which ends with *rc*: most of what is judged here has a failure in it."""
    command = [sys.executable, "-m", "pytest", "--kvmcheck", "-p", "no:cacheprovider", "--kvmcheck-profile=site.yaml", *args]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == rc, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reports")
    (place / "site.yaml").write_text(PROFILE)
    (place / "waivers.yaml").write_text(WAIVERS)
    make_bundle(place / "ab", "a", "b")
    make_bundle(place / "only-a", "a")
    make_bundle(place / "only-b", "b")
    return place


@pytest.fixture(scope="module")
def done(place: Path) -> subprocess.CompletedProcess[str]:
    return run(
        place,
        "--hosts=bundle:ab",
        "--kvmcheck-waivers=waivers.yaml",
        "--kvmcheck-json=out.json",
        "--junitxml=j.xml",
        "--html=r.html",
        "--self-contained-html",
    )


@pytest.fixture(scope="module")
def report(place: Path, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return dict(json.loads((place / "out.json").read_text()))


def test_json_follows_its_schema(report: dict[str, Any]) -> None:
    schema = json_report.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema)


def test_every_outcome_is_told(report: dict[str, Any]) -> None:
    outcomes = {(result["check"], result["subject"]): result for result in report["results"]}
    assert outcomes["KVM-VIO-001", "a/old/hda"]["outcome"] == "waived"
    assert outcomes["KVM-VIO-001", "a/old/hda"]["waiver"]["approver"] == "bert"
    assert outcomes["KVM-VIO-001", "a/older/hda"]["outcome"] == "fail"
    assert "expired on 2026-05-31" in outcomes["KVM-VIO-001", "a/older/hda"]["message"]
    assert outcomes["KVM-KSM-002", "a"]["outcome"] == "pass"
    assert outcomes["KVM-KSM-002", "b"]["outcome"] == "unknown", "a waiver must not hide what is unknown"
    assert outcomes["KVM-KSM-005", "a"]["outcome"] == "na"
    assert outcomes["KVM-VIO-001", "b/-"]["outcome"] == "na"
    assert outcomes["KVM-VIO-001", "a/old/hda"]["severity"] == "critical"
    digest = {proof["probe"]: proof["sha256"] for proof in outcomes["KVM-KSM-002", "a"]["evidence"]}["ksm"]
    assert len(digest) == 64


def test_terminal_says_the_worst_first(done: subprocess.CompletedProcess[str]) -> None:
    lines = done.stdout.splitlines()
    section = lines[next(n for n, line in enumerate(lines) if line.strip("= ") == "kvmcheck") + 1 :]
    assert section[0].startswith("FAIL    critical  KVM-VIO-001")
    assert any(line.strip().startswith("now:") for line in section)
    assert any(line.startswith("UNKNOWN 2") and " b: not collected" in line for line in section), section
    assert any(line.startswith("WAIVED 1") and "OPS-1" in line for line in section)
    assert any(line.startswith("EXPIRED 1") for line in section)
    assert any(line.startswith("UNUSED 1") for line in section)
    assert "Traceback" not in done.stdout


def test_junit_keeps_to_the_default_schema(place: Path, report: dict[str, Any]) -> None:
    """xunit2 allows no properties in a test case; one verdict is one test case with at most one result."""
    suite = ET.parse(place / "j.xml").getroot().find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    assert len(cases) == len(report["results"])
    for case in cases:
        assert set(case.attrib) <= {"classname", "name", "time"}
        assert {child.tag for child in case} <= {"failure", "error", "skipped", "system-out", "system-err"}
        assert len([child for child in case if child.tag in ("failure", "error", "skipped")]) <= 1
    totals = report["totals"]
    assert suite.get("failures") == str(totals["fail"])
    assert suite.get("errors") == str(totals["unknown"])
    assert suite.get("skipped") == str(totals["na"] + totals["waived"] + totals["warn"])


XUNIT2 = xmlschema.XMLSchema(str(Path(__file__).parent / "xunit2.xsd"))


def test_junit_by_its_schema(place: Path, done: subprocess.CompletedProcess[str]) -> None:
    XUNIT2.validate(str(place / "j.xml"))


def test_junit_with_properties_where_they_are_allowed(place: Path) -> None:
    run(place, "--hosts=bundle:only-a", "--junitxml=j1.xml", "-o", "junit_family=xunit1")
    names = {item.get("name") for item in ET.parse(place / "j1.xml").getroot().iter("property")}
    assert names == {"kvmcheck_check", "kvmcheck_severity", "kvmcheck_host", "kvmcheck_subject", "kvmcheck_outcome"}


def test_hostile_names_are_escaped_everywhere(place: Path, report: dict[str, Any]) -> None:
    for name in ("r.html", "j.xml"):
        assert "<script>alert(1)" not in (place / name).read_text()
    subjects = [result["subject"] for result in report["results"] if "script" in result["subject"]]
    assert subjects
    assert all(subject.startswith("a/%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E/") for subject in subjects)


def test_html_has_our_columns(place: Path, report: dict[str, Any]) -> None:
    text = (place / "r.html").read_text()
    for title in ("Host", "Id", "Severity", "Fix", "Verdict"):
        assert f">{title}</th>" in text


def test_merged_shards_are_the_whole(place: Path, report: dict[str, Any]) -> None:
    for name in ("a", "b"):
        run(place, f"--hosts=bundle:only-{name}", f"--kvmcheck-json={name}.json", f"--junitxml={name}.xml")
    merge = [sys.executable, "-m", "pytest_kvmcheck.cli", "merge"]
    subprocess.run([*merge, "a.json", "b.json", "--output", "m.json"], cwd=place, check=True)
    merged = json.loads((place / "m.json").read_text())
    jsonschema.validate(merged, json_report.schema())
    keys = [(result["check"], result["subject"]) for result in report["results"]]
    assert [(result["check"], result["subject"]) for result in merged["results"]] == keys
    subprocess.run([*merge, "--junit", "a.xml", "b.xml", "--output", "m.xml"], cwd=place, check=True)
    assert len(list(ET.parse(place / "m.xml").getroot().iter("testcase"))) == len(keys)
    XUNIT2.validate(str(place / "m.xml"))


def test_reports_of_different_profiles_are_not_merged(place: Path) -> None:
    body = json.loads((place / "a.json").read_text())
    (place / "other.json").write_text(json.dumps({**body, "profile": "another"}))
    command = [sys.executable, "-m", "pytest_kvmcheck.cli", "merge", "a.json", "other.json", "--output", "n.json"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "not parts of one run" in done.stderr
    assert not (place / "n.json").exists()


def test_a_changed_byte_makes_one_host_unknown(place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(place / "ab", tmp_path / "ab")
    (tmp_path / "site.yaml").write_text(PROFILE)
    path = tmp_path / "ab" / "hosts" / "a" / "ksm.txt"
    path.write_text(path.read_text().replace("run:0", "run:2"))
    done = run(tmp_path, "--hosts=bundle:ab", "--kvmcheck-json=out.json")
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert {result["outcome"] for result in results if result["host"] == "a"} == {"unknown"}
    assert {result["cause"] for result in results if result["host"] == "a"} == {"tampered"}
    assert {result["outcome"] for result in results if result["host"] == "b"} == {"unknown", "na"}
    assert "was changed after the bundle was sealed" in " ".join(done.stdout.split())
