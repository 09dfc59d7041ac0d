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


@pytest.mark.parametrize("value", ["0", "false", "no"])
def test_options_while_the_environment_switches_kvmcheck_off(
    place: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Who gives our options believes that hosts are checked: nothing is green in silence."""
    pytester.makepyfile("def test_of_somebody_else(): pass")
    monkeypatch.setenv("KVMCHECK", value)
    result = pytester.runpytest_subprocess("--hosts=bundle:a", "--kvmcheck-profile=ini/profile.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--kvmcheck-profile while KVMCHECK switches kvmcheck off: nothing would be checked"])
    assert pytester.runpytest_subprocess().ret == 0, "without our options the plugin does nothing"


def test_options_while_the_ini_file_switches_kvmcheck_off(place: Path, pytester: pytest.Pytester) -> None:
    (place / "pytest.ini").write_text("[pytest]\nkvmcheck = false\n")
    result = pytester.runpytest_subprocess("--kvmcheck-active")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--kvmcheck-active while ini key kvmcheck switches kvmcheck off: nothing would be checked"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KVMCHECK_PROFIL", "; did you mean KVMCHECK_PROFILE[?]"),
        ("KVMCHECK_WAIVER", "; did you mean KVMCHECK_WAIVERS[?]"),
        ("kvmcheck_profile", "; did you mean KVMCHECK_PROFILE[?]"),
        ("KVMCHECK_HOSTTIMEOUT", "; did you mean KVMCHECK_HOST_TIMEOUT[?]"),
        ("KVMCHECKPROFILE", "; did you mean KVMCHECK_PROFILE[?]"),
        ("KVMCHECK_ZZZZZZZZ", "*"),
    ],
)
def test_a_typo_in_the_environment(
    place: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    pytester.makepyfile("def test_of_somebody_else(): pass")
    monkeypatch.setenv(name, "x")
    result = pytester.runpytest_subprocess("--kvmcheck", "--hosts=bundle:a")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*environment variable {name}: unknown{hint}"])
    assert pytester.runpytest_subprocess().ret == 0, "not asked for, the plugin does nothing"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("waiver_days", "0", "*kvmcheck_waiver_days (ini): expected days from 1 to 3660, given: '0'"),
        ("waiver_days", "nan", "*kvmcheck_waiver_days (ini): expected days from 1 to 3660, given: 'nan'"),
        ("waiver_days", "99999", "*kvmcheck_waiver_days (ini): expected days from 1 to 3660, given: '99999'"),
        ("host_timeout", "nan", "*kvmcheck_host_timeout (ini): expected seconds from 1 to 86400, given: 'nan'"),
        ("host_timeout", "inf", "*kvmcheck_host_timeout (ini): expected seconds from 1 to 86400, given: 'inf'"),
    ],
)
def test_numbers_have_bounds(place: Path, pytester: pytest.Pytester, key: str, value: str, said: str) -> None:
    (place / "pytest.ini").write_text(f"[pytest]\nkvmcheck_{key} = {value}\n")
    result = pytester.runpytest_subprocess("--kvmcheck", "--hosts=bundle:a")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hosts=bundle:a,bundle:b"], "*two targets are called a: bundle:a and bundle:b; judge them in two runs"),
        (["--hosts=ssh://a,bundle:a"], "*two targets are called a: ssh://a and bundle:a; judge them in two runs"),
        (
            ["--kvmcheck-inventory=guest.yaml"],
            "*guest web: profile baseline has no check for guests; give it a profile in the inventory (guest-linux)",
        ),
        (["--hosts=bundle:a", "--kvmcheck-profile=nan.yaml"], "*nan.yaml:3: *max_offset_ms: expected a number from 0.000001 to *"),
        (["--hosts=bundle:a", "--kvmcheck-waivers=far.yaml"], "*far.yaml:1: waiver 1.expires: expected a date such as *"),
        (["--hosts=bundle:a", "--ssh-config=/nope"], "*--ssh-config: /nope: No such file or directory"),
        (["--hosts=bundle:a", "--kvmcheck-json=ini"], "*--kvmcheck-json: ini is a directory"),
    ],
)
def test_what_would_hide_a_verdict_is_one_line_and_exit_code_4(
    place: Path, pytester: pytest.Pytester, options: list[str], said: str
) -> None:
    shutil.copytree(place / "a", place / "b")
    (place / "guest.yaml").write_text("hosts:\n  a: {target: 'bundle:a'}\nguests:\n  web: {target: 'ssh://dead.invalid'}\n")
    (place / "nan.yaml").write_text("name: nan\nchecks:\n  KVM-TIM-002: {params: {max_offset_ms: .nan}}\n")
    (place / "far.yaml").write_text(WAIVER.replace("2026-12-31", "20200131235959"))
    result = pytester.runpytest_subprocess("--kvmcheck", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])
    assert len([line for line in result.errlines if "kvmcheck" in line]) == 1
    assert not any("Traceback" in line or "INTERNALERROR" in line for line in result.outlines + result.errlines)
