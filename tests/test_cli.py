"""The command kvmcheck: offline, and one line for a mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from pytest_kvmcheck import catalog, profiles

COMMANDS = ("list", "explain", "commands", "collect-script", "sos-coverage", "verify", "merge", "schema", "docs")


def kvmcheck(*args: str, cwd: Path | None = None, rc: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command, which ends with *rc*."""
    command = [sys.executable, "-m", "pytest_kvmcheck.cli", *args]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == rc, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str) -> None:
    done = kvmcheck(command, "--help")
    assert "example" in done.stdout or "kvmcheck" in done.stdout.split("usage:")[1]
    assert len(done.stdout.splitlines()) > 6


def test_list_names_every_check() -> None:
    listed = [line.split()[0] for line in kvmcheck("list").stdout.splitlines()]
    assert listed == sorted(catalog.load())
    some = kvmcheck("list", "--profile", "database", "--severity", "critical", "--json")
    assert {item["severity"] for item in json.loads(some.stdout)} == {"critical"}


@pytest.mark.parametrize("check_id", sorted(catalog.load()))
def test_explain_tells_all(check_id: str) -> None:
    check = catalog.load()[check_id]
    from pytest_kvmcheck.reports import explain

    text = explain.as_text(check, [profiles.load(name, catalog.load()) for name in profiles.shipped_profiles()])
    for heading in ("What it checks", "What is read", "Profiles", "Why it matters", "How to fix", "References"):
        assert f"\n{heading}" in text
    assert "none of the shipped ones" not in text
    assert len(text.splitlines()) < 70


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("explain", "KVM-MEM-01"), "unknown check id; did you mean KVM-MEM-001?"),
        (("list", "--profile", "prodction"), "did you mean production?"),
        (("list", "--area", "MME"), "did you mean MEM?"),
        (("commands", "--check", "KVN-STO-002"), "did you mean KVM-STO-002?"),
        (("commands", "--sudoers", "a b"), "no name of a user"),
        (("verify", "nowhere"), "not an evidence bundle"),
        (("sos-coverage", "nowhere"), "there is no such file or directory"),
        (("sos-coverage", "."), "holds no sosreport"),
        (("sos-coverage", __file__), "neither a directory nor a sound tar archive"),
        (("merge", "none.json", "--output", "x"), "there is no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_4(args: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = kvmcheck(*args, cwd=tmp_path, rc=4)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_the_collect_script_says_is_a_target(tmp_path: Path) -> None:
    (tmp_path / "collect.sh").write_text(kvmcheck("collect-script").stdout)
    reply = subprocess.run(["sh", "collect.sh"], cwd=tmp_path, capture_output=True, check=True, timeout=120).stdout
    (tmp_path / "kvm01.reply").write_bytes(b"some banner\r\n" + reply)
    command = [sys.executable, "-m", "pytest", "--kvmcheck", "--hosts=reply:kvm01.reply", "--kvmcheck-json=o.json", "-q"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout
    results = json.loads((tmp_path / "o.json").read_text())["results"]
    assert {result["outcome"] for result in results} >= {"pass", "unknown"}


def test_schemas_are_schemas() -> None:
    for name in ("report", "profile", "inventory", "waivers"):
        done = kvmcheck("schema", name)
        assert done.returncode == 0
        schema = json.loads(done.stdout)
        assert schema["title"].startswith("pytest-kvmcheck ")
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("kind", "page"), [("waivers", "profiles.md"), ("profile", "profiles.md"), ("inventory", "targets.md")])
def test_the_files_in_the_docs_follow_the_schemas_and_their_mistakes_do_not(kind: str, page: str) -> None:
    text = (Path(__file__).parent.parent / "docs" / page).read_text("utf-8")
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    shown = next(
        block for block in blocks if block.startswith({"profile": "# site", "waivers": "# waivers"}.get(kind, "# inventory"))
    )
    body = yaml.load(shown, Loader=yaml.BaseLoader if kind == "waivers" else yaml.SafeLoader)
    validator = jsonschema.Draft202012Validator(json.loads(kvmcheck("schema", kind).stdout))
    validator.validate(body)
    wrong = [{**body[0], "expires": "20270131"}] if kind == "waivers" else {**body, "hots": {}}
    assert list(validator.iter_errors(wrong))


def test_explain_shows_the_bounds_of_parameters() -> None:
    done = kvmcheck("explain", "TIM-002")
    assert done.returncode == 0
    assert "max_offset_ms          100.0 (a number from 0.000001 to 10000)" in done.stdout


def test_docs_are_generated(tmp_path: Path) -> None:
    kvmcheck("docs", str(tmp_path / "d"))
    assert (tmp_path / "d" / "KVM-MEM-001.md").read_text().startswith("# KVM-MEM-001: ")
    assert "(KVM-MEM-001.md)" in (tmp_path / "d" / "index.md").read_text()


def test_sos_coverage_has_a_row_for_every_check() -> None:
    rows = json.loads(kvmcheck("sos-coverage", "--json").stdout)
    checks = catalog.load()
    assert [row["check"] for row in rows] == list(checks)
    assert all([probe["id"] for probe in row["evidence"]] == list(checks[row["check"]].reads) for row in rows)
    assert {row["coverage"] for row in rows} == {"all", "some", "none"}
    text = kvmcheck("sos-coverage").stdout
    assert f"{len(checks)} checks: all evidence " in text
    assert max(map(len, text.splitlines())) <= 100


def test_sos_coverage_is_what_the_reader_reads(tmp_path: Path) -> None:
    """A sosreport with every file that the table names answers exactly the probes that the table promises."""
    rows = json.loads(kvmcheck("sos-coverage", "--json").stdout)
    for name in {place for row in rows for probe in row["evidence"] for place in probe["places"]}:
        path = tmp_path / "report" / re.sub(r"\[0-9\]\*|\*", "0", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x\n")
    for form in ("report", "report.tar.gz"):
        if form != "report":
            subprocess.run(["tar", "-czf", form, "report"], cwd=tmp_path, check=True)
        for row in json.loads(kvmcheck("sos-coverage", form, "--json", cwd=tmp_path).stdout):
            for probe in row["evidence"]:
                assert probe["found"] == (probe["held"] != "no"), (form, probe)
    shutil.rmtree(tmp_path / "report" / "sos_commands")
    text = kvmcheck("sos-coverage", "report", cwd=tmp_path).stdout
    assert "!uname" in text


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m pytest_kvmcheck.cli commands | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
