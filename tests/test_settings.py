"""Each setting is an option, an environment variable and an ini key; the first that is given counts, and the header says which."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.targets import Target
from tests import casefile

AT = "2026-06-01T12:00:00+00:00"
WAIVER = "[{check: KVM-KSM-002, subject: a, reason: x, owner: anna, approver: bert, expires: 2026-12-31}]\n"


@pytest.fixture
def place(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("", "_PROFILE", "_INVENTORY", "_WAIVERS", "_RECORD", "_JSON", "_ACTIVE"):
        monkeypatch.delenv(f"KVMCHECK{name}", raising=False)
    ksm = {"files": {"/sys/kernel/mm/ksm/run": "1", "/sys/kernel/mm/ksm/merge_across_nodes": "1"}}
    evidence = casefile.evidence("a", {"evidence": {"ksm": ksm}, "domains": []})
    bundle.write(pytester.path / "a", bundle.Manifest("t", AT, AT, (Target("a", "ssh://a"),)), [evidence])
    for name in ("option", "environment", "ini"):
        folder = pytester.path / name
        folder.mkdir()
        (folder / "profile.yaml").write_text(f"name: by-{name}\nchecks:\n  KVM-KSM-002: {{params: {{ksm_policy: 'off'}}}}\n")
        (folder / "waivers.yaml").write_text(WAIVER)
    (pytester.path / "inventory.yaml").write_text("hosts:\n  a: {target: 'bundle:a', cluster: c1}\n")
    return pytester.path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ini"}, "ini"),
        ({"ini", "environment"}, "environment"),
        ({"ini", "environment", "option"}, "option"),
        ({"ini", "option"}, "option"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(sorted(value)),
)
def test_option_before_environment_before_ini(
    place: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, given: set[str], expected: str
) -> None:
    values = {"profile": "{}/profile.yaml", "waivers": "{}/waivers.yaml", "json": "{}/out.json", "record": "{}/evidence"}
    options = []
    lines = ["[pytest]", "kvmcheck = true"]
    for name, value in values.items():
        if "ini" in given:
            lines.append(f"kvmcheck_{name} = {value.format('ini')}")
        if "environment" in given:
            monkeypatch.setenv(f"KVMCHECK_{name.upper()}", value.format("environment"))
        if "option" in given:
            options.append(f"--kvmcheck-{name}={value.format('option')}")
    (place / "pytest.ini").write_text("\n".join(lines) + "\n")
    result = pytester.runpytest_subprocess("--hosts=bundle:a", *options)
    assert result.ret == 0, result.outlines
    result.stdout.fnmatch_lines([f"kvmcheck * | profile by-{expected} ({expected}), *"])
    report = json.loads((place / expected / "out.json").read_text())
    assert [item["outcome"] for item in report["results"]] == ["waived"]
    assert (place / expected / "evidence" / "SHA256SUMS").is_file()
    assert [path.parent.name for path in place.glob("*/out.json")] == [expected]
    shutil.rmtree(place / expected / "evidence")


def test_active_probes_are_shown_and_kept_in_the_manifest(
    place: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*options: str) -> str:
        result = pytester.runpytest_subprocess("--kvmcheck", "--hosts=bundle:a", "-k", "KVM-KSM-002", *options)
        return "\n".join(result.outlines + result.errlines)

    assert "active probes" not in run("--kvmcheck-record=none")
    assert json.loads((place / "none" / "manifest.json").read_text())["active"] is False
    assert "active probes (option)" in run("--kvmcheck-active", "--kvmcheck-record=all")
    assert json.loads((place / "all" / "manifest.json").read_text())["active"] is True
    monkeypatch.setenv("KVMCHECK_ACTIVE", "yes")
    assert "active probes (environment)" in run()
    monkeypatch.setenv("KVMCHECK_ACTIVE", "maybe")
    assert "KVMCHECK_ACTIVE: expected true or false, given: 'maybe'" in run()


def test_the_switch_by_environment(place: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMCHECK", "1")
    monkeypatch.setenv("KVMCHECK_PROFILE", "ini/profile.yaml")
    assert pytester.runpytest_subprocess("--hosts=bundle:a").ret == 1
    monkeypatch.setenv("KVMCHECK", "perhaps")
    result = pytester.runpytest_subprocess("--hosts=bundle:a")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*KVMCHECK: expected true or false, given: 'perhaps'"])


def test_an_ini_file_of_another_place(place: Path, pytester: pytest.Pytester) -> None:
    """Paths in it are relative to it."""
    (place / "ini" / "pytest.ini").write_text(
        "[pytest]\nkvmcheck = true\nkvmcheck_waivers = waivers.yaml\nkvmcheck_profile = ./profile.yaml\n"
    )
    result = pytester.runpytest_subprocess("-c", "ini/pytest.ini", "--hosts=bundle:a")
    assert result.ret == 0, result.outlines
    result.stdout.fnmatch_lines(["kvmcheck * | profile by-ini (ini), *"])
