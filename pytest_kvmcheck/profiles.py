"""Profiles: which checks are run, how strictly and with which values. YAML holds values, never logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_kvmcheck.catalog import digest
from pytest_kvmcheck.contradictions import contradiction
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.paths import shipped
from pytest_kvmcheck.registry import Check, Choice, Params, Severity
from pytest_kvmcheck.yamlfile import YamlFile, did_you_mean


class Level(StrEnum):
    """What becomes of a failure: it fails the run, it warns, or the check is not run at all."""

    FAIL = "fail"
    WARN = "warn"
    NONE = "none"


class Entry(BaseModel):
    """What a profile says about one check; what it leaves out stays as it was."""

    model_config = ConfigDict(extra="forbid")
    level: Level | None = Field(None, description="fail, warn, or none to leave the check out")
    severity: Severity | None = Field(None, description="severity of a failure under this profile")
    params: dict[str, Any] = Field(default_factory=dict, description="values of the check's parameters")
    comment: str = Field("", description="why; shown by kvmcheck explain")


class ProfileFile(BaseModel):
    """A profile file."""

    model_config = ConfigDict(extra="forbid", title="pytest-kvmcheck profile")
    name: str
    title: str = ""
    description: str = Field("", description="what this profile trades for what; shown by kvmcheck profiles")
    extends: str | None = Field(None, description="name of a shipped profile, or path of a file beside this one")
    role: Literal["host", "guest"] = Field("host", description="what targets are that no inventory describes")
    checks: dict[str, Entry | None] = Field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """A check under a profile."""

    level: Level = Level.FAIL
    severity: Severity | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    comment: str = ""


@dataclass(frozen=True)
class Profile:
    """A profile with what it extends. ``digest`` is the SHA-256 of the files it was read from."""

    name: str
    title: str
    description: str
    role: str
    settings: Mapping[str, Setting]
    digest: str
    source: str

    def setting(self, check_id: str) -> Setting | None:
        """Return the setting of a check that this profile runs, else None."""
        setting = self.settings.get(check_id)
        return setting if setting and setting.level is not Level.NONE else None

    def params(self, check: Check) -> Params:
        """Return the parameters of *check* under this profile."""
        setting = self.settings.get(check.id)
        return Params({**check.params, **(setting.params if setting else {})})

    def severity(self, check: Check) -> Severity:
        """Return the severity of *check* under this profile."""
        setting = self.settings.get(check.id)
        return setting.severity if setting and setting.severity else check.severity


def shipped_profiles() -> dict[str, Path]:
    """Return the profiles that come with the package, by name."""
    return {path.stem: path for path in sorted(shipped("profiles").glob("*.yaml"))}


def find(reference: str, beside: Path | None = None) -> Path:
    """Return the file of the profile *reference*: a shipped name, or a path. Raises :class:`KvmcheckError`."""
    known = shipped_profiles()
    if reference in known:
        return known[reference]
    path = Path(reference).expanduser()
    if beside and not path.is_absolute():
        path = beside / path
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or "/" in reference:
        raise KvmcheckError(f"profile {reference}: there is no such file")
    raise KvmcheckError(f"profile {reference}: unknown{did_you_mean(reference, known)} (shipped: {', '.join(known)})")


def load(reference: str, checks: Mapping[str, Check] | None) -> Profile:
    """Return the profile *reference* with what it extends, validated against *checks* (None: ids are not validated).

    Raises :class:`~pytest_kvmcheck.errors.ConfigError` with file, line and key path of the first mistake.
    """
    chain: list[tuple[Path, YamlFile, ProfileFile]] = []
    path: Path | None = find(reference)
    while path:
        if any(path.samefile(seen) for seen, _, _ in chain):
            raise chain[-1][1].error(f"{path.name} is extended by itself", ("extends",))
        source = YamlFile(path, _shown(path))
        parsed = source.validated(ProfileFile)
        chain.append((path, source, parsed))
        try:
            path = find(parsed.extends, path.parent) if parsed.extends else None
        except KvmcheckError as exc:
            raise source.error(str(exc), ("extends",)) from None
    settings: dict[str, Setting] = {}
    for _, source, parsed in reversed(chain):
        for check_id, given in parsed.checks.items():
            entry = given or Entry.model_validate({})
            if checks is not None:
                _validate(source, check_id, entry, checks)
            before = settings.get(check_id, Setting())
            settings[check_id] = Setting(
                level=entry.level or before.level,
                severity=entry.severity or before.severity,
                params={**before.params, **entry.params},
                comment=entry.comment or before.comment,
            )
    top_path, _, top = chain[0]
    profile = Profile(
        top.name,
        top.title,
        top.description,
        top.role,
        dict(sorted(settings.items())),
        digest(p for p, _, _ in chain),
        str(top_path),
    )
    if checks is not None:
        _demand_consistent(profile, checks, chain)
    return profile


def _demand_consistent(profile: Profile, checks: Mapping[str, Check], chain: list[tuple[Path, YamlFile, ProfileFile]]) -> None:
    """Raise :class:`~pytest_kvmcheck.errors.ConfigError` for what no host could fulfil, at the file that says it last."""

    def told(check_id: str) -> Params | None:
        return profile.params(checks[check_id]) if check_id in checks and profile.setting(check_id) else None

    found = contradiction(told)
    if not found:
        return
    for _, source, parsed in chain:
        for check_id, name in found.params:
            entry = parsed.checks.get(check_id)
            if entry and name in entry.params:
                raise source.error(f"contradiction: {found.text}", ("checks", check_id, "params", name))
    raise chain[0][1].error(f"contradiction: {found.text}")


def _shown(path: Path) -> str:
    """Return how messages call the file: relative to where the user stands, if it is below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _validate(source: YamlFile, check_id: str, entry: Entry, checks: Mapping[str, Check]) -> None:
    check = checks.get(check_id)
    if check is None:
        raise source.error(f"unknown check id{did_you_mean(check_id, checks)}", ("checks", check_id))
    for name, value in entry.params.items():
        key = ("checks", check_id, "params", name)
        if name not in check.params:
            known = ", ".join(check.params) or "none"
            raise source.error(f"unknown parameter{did_you_mean(name, check.params)} (it has: {known})", key)
        _validate_type(source, key, value, check.params[name])


def _validate_type(source: YamlFile, key: tuple[str, ...], value: Any, default: Any) -> None:
    """Demand that *value* is of the type of *default*; a whole number may stand for a fraction, None for nothing given."""
    if default is None or value is None:
        if default is not None:
            raise source.error("has no value", key)
        return
    if isinstance(default, Choice):
        if value not in default.words:
            hint = did_you_mean(str(value), default.words)
            raise source.error(f"expected one of {', '.join(default.words)}, given: {value!r}{hint}{_bare(value)}", key)
        return
    expected: type | tuple[type, ...] = type(default)
    if expected is float:
        expected = (int, float)
    elif expected in (tuple, list):
        expected = (list, tuple)
    if not isinstance(value, expected) or (isinstance(value, bool) and not isinstance(default, bool)):
        wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(type(default), "a list")
        raise source.error(f"expected {wanted}, given: {value!r}{_bare(value)}", key)


def _bare(value: Any) -> str:
    return ' (YAML reads a bare yes, no, on or off as true or false: write "off")' if isinstance(value, bool) else ""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of profile files, for editors."""
    return ProfileFile.model_json_schema()
