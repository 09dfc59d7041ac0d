"""Profiles: those that are shipped are sound, and every mistake in one is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvmcheck import catalog, profiles
from pytest_kvmcheck.contradictions import CONTRADICTIONS
from pytest_kvmcheck.errors import ConfigError, KvmcheckError

CHECKS = catalog.load()
SHIPPED = [profiles.load(name, CHECKS) for name in profiles.shipped_profiles()]
each_shipped = pytest.mark.parametrize("profile", SHIPPED, ids=lambda profile: profile.name)


def load(place: Path, text: str) -> profiles.Profile:
    path = place / "site.yaml"
    path.write_text(text)
    return profiles.load(str(path), CHECKS)


@each_shipped
def test_shipped_profiles_say_what_they_trade(profile: profiles.Profile) -> None:
    assert Path(profile.source).stem == profile.name
    assert profile.title
    assert len(profile.description.split()) >= 15, f"{profile.name} does not describe its trade-offs"


@each_shipped
def test_guest_checks_and_host_checks_do_not_mix(profile: profiles.Profile) -> None:
    if profile.role == "guest":
        assert {CHECKS[check_id].scope for check_id in profile.settings} == {"guest"}


def test_every_check_is_in_a_shipped_profile() -> None:
    assert not set(CHECKS) - {check_id for profile in SHIPPED for check_id in profile.settings if profile.setting(check_id)}


def test_what_is_left_out_is_inherited(tmp_path: Path) -> None:
    site = load(
        tmp_path,
        "name: site\nextends: production\nchecks:\n  KVM-TIM-002: {params: {max_offset_ms: 3}}\n  KVM-CPU-001: {level: none}\n",
    )
    production = next(profile for profile in SHIPPED if profile.name == "production")
    before, after = (profile.params(CHECKS["KVM-TIM-002"]) for profile in (production, site))
    assert after.max_offset_ms == 3
    assert after.max_error_ms == before.max_error_ms
    assert site.setting("KVM-CPU-001") is None
    assert set(site.settings) == set(production.settings)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\nchecks:\n  KVM-MEM-01:\n", "site.yaml:3: checks.KVM-MEM-01: unknown check id; did you mean KVM-MEM-001?"),
        ("name: a\nchecks:\n  KVM-TIM-002: {params: {max_offset: 1}}\n", "did you mean max_offset_ms?"),
        (
            "name: a\nchecks:\n  KVM-TIM-002: {params: {max_offset_ms: soon}}\n",
            "expected a number from 0.000001 to 10000, given: 'soon'",
        ),
        (
            "name: a\nchecks:\n  KVM-KSM-002: {params: {ksm_policy: of}}\n",
            "expected one of any, off, on, auto, given: 'of'; did you mean off?",
        ),
        ("name: a\nchecks:\n  KVM-KSM-002: {params: {ksm_policy: off}}\n", "given: False (YAML reads a bare"),
        ("name: a\nchecks:\n  KVM-TIM-002: {level: off}\n", "write it in quotes"),
        ("name: a\nchecks:\n  KVM-TIM-002: {severty: high}\n", "unknown key; did you mean severity?"),
        ("name: a\nextends: producton\n", "did you mean production?"),
        ("name: a\nextends: site.yaml\n", "is extended by itself"),
        ("name: a\nname: b\n", "the same key twice"),
        ("name: [", "not YAML"),
        ("- a\n", "expected keys and values"),
        ("", "is empty"),
        ("extends: production\n", "name: is missing"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"site\.yaml") as caught:
        load(tmp_path, text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_does_not_exist() -> None:
    with pytest.raises(KvmcheckError, match="did you mean production"):
        profiles.load("prodcution", CHECKS)


@pytest.mark.parametrize("item", CONTRADICTIONS, ids=lambda item: "-".join(f"{check}.{name}" for check, name in item.params))
def test_contradictions_name_parameters_that_exist(item: object) -> None:
    assert item.params  # type: ignore[attr-defined]
    for check_id, name in item.params:  # type: ignore[attr-defined]
        assert name in CHECKS[check_id].params, f"{check_id} has no parameter {name}"


def test_a_contradiction_is_told_at_its_place(tmp_path: Path) -> None:
    text = "name: a\nextends: production\nchecks:\n  KVM-TIM-002:\n  KVM-KSM-003: {params: {ksm_policy: 'on'}}\n"
    with pytest.raises(ConfigError, match=r"site.yaml:5: checks.KVM-KSM-003.params.ksm_policy: contradiction: ") as caught:
        load(tmp_path, text)
    assert "KVM-KSM-002" in str(caught.value)
