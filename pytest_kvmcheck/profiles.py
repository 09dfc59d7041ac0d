"""Profiles: which checks are run, how strictly and with which values. YAML holds values, never logic."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_kvmcheck.catalog import digest_of
from pytest_kvmcheck.contradictions import contradiction
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.names import oddity, resembles
from pytest_kvmcheck.parameters import Parameter
from pytest_kvmcheck.paths import shipped
from pytest_kvmcheck.registry import Check, Params, Severity
from pytest_kvmcheck.yamlfile import YamlFile, did_you_mean

#: Own files of a profile: name and text, the nearest first.
Recorded = tuple[tuple[str, str], ...]

#: No name of a profile is longer.
MAX_NAME = 200


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
    """A profile with what it extends. ``digest`` is the SHA-256 of the files it was read from; ``own`` those not shipped."""

    name: str
    title: str
    description: str
    role: str
    settings: Mapping[str, Setting]
    digest: str
    source: str
    own: Recorded = ()

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


@functools.cache
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


def load(reference: str, checks: Mapping[str, Check] | None, recorded: Recorded | None = None) -> Profile:
    """Return the profile *reference* with what it extends, validated against *checks* (None: ids are not validated).

    *recorded* are the own files of the profile as they were when evidence was judged: they are taken instead of those of today.
    Raises :class:`~pytest_kvmcheck.errors.ConfigError` with file, line and key path of the first mistake.
    """
    chain = list(_recorded_chain(recorded) if recorded else _chain(reference))
    settings: dict[str, Setting] = {}
    for source, parsed in reversed(chain):
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
    source, top = chain[0]
    profile = Profile(
        top.name,
        top.title,
        top.description,
        top.role,
        dict(sorted(settings.items())),
        digest_of((source.path.name, source.text.encode()) for source, _ in chain),
        str(source.path),
        tuple((source.path.name, source.text) for source, _ in chain if not _is_shipped(source)),
    )
    if checks is not None:
        _demand_consistent(profile, checks, chain)
    return profile


def _is_shipped(source: YamlFile) -> bool:
    return source.path in shipped_profiles().values()


def _chain(reference: str) -> Iterator[tuple[YamlFile, ProfileFile]]:
    """Return the file of *reference* and those that it extends, the nearest first."""
    seen: list[Path] = []
    path: Path | None = find(reference)
    while path:
        seen.append(path)
        source, parsed = _parsed(YamlFile(path, _shown(path)))
        yield source, parsed
        try:
            path = find(parsed.extends, path.parent) if parsed.extends else None
        except KvmcheckError as exc:
            raise source.error(str(exc), ("extends",)) from None
        if path and any(path.samefile(other) for other in seen):
            raise source.error(f"{path.name} is extended by itself", ("extends",))


def _recorded_chain(recorded: Recorded) -> Iterator[tuple[YamlFile, ProfileFile]]:
    """Return the recorded files, the nearest first, and what the last of them extends: a shipped profile as it is today."""
    for name, text in recorded:
        source, parsed = _parsed(YamlFile(Path(name), f"{name} (recorded)", text))
        yield source, parsed
    if parsed.extends:
        if parsed.extends not in shipped_profiles():
            raise source.error(f"profile {parsed.extends}: was not recorded, and none is shipped", ("extends",))
        yield from _chain(parsed.extends)


def _parsed(source: YamlFile) -> tuple[YamlFile, ProfileFile]:
    parsed = source.validated(ProfileFile)
    if not _is_shipped(source):
        if not parsed.name.strip() or parsed.name != parsed.name.strip() or len(parsed.name) > MAX_NAME:
            raise source.error(f"expected a name of 1 to {MAX_NAME} characters, given: {parsed.name!r}", ("name",))
        if problem := oddity(parsed.name):
            raise source.error(f"the name {problem}", ("name",))
        if taken := next((name for name in shipped_profiles() if resembles(name, parsed.name)), ""):
            same = "is that of a shipped profile" if taken == parsed.name else f"looks like that of the shipped profile {taken}"
            raise source.error(f"{parsed.name} {same}: call it otherwise", ("name",))
    return source, parsed


def strictest(cluster: str, profiles: Sequence[Profile], checks: Iterable[Check]) -> Profile:
    """Return what the hosts of *cluster* are judged by together when they have several *profiles*: the strictest of each.

    That is for every check of clusters: run when one of them runs it, the stricter level, the worse severity, and the strictest
    value of each parameter. Raises :class:`KvmcheckError` where no value is the strictest.
    """
    settings = {}
    for check in checks:
        mine = [profile for profile in profiles if check.scope == "cluster" and profile.setting(check.id)]
        if not mine:
            continue
        params = {}
        for name, declared in check.declared.items():
            values = [profile.params(check)[name] for profile in mine]
            try:
                params[name] = _strictest(declared, values)
            except ValueError:
                given = ", ".join(f"{value!r} ({profile.name})" for value, profile in zip(values, mine, strict=True))
                raise KvmcheckError(
                    f"cluster {cluster}: the profiles of its hosts do not agree on {check.id} {name}: {given}; give the cluster a"
                    f" profile in the inventory (clusters: {{{cluster}: {{profile: NAME}}}})"
                ) from None
        settings[check.id] = Setting(
            Level.FAIL if any(profile.settings[check.id].level is Level.FAIL for profile in mine) else Level.WARN,
            min((profile.severity(check) for profile in mine), key=lambda severity: severity.rank),
            params,
            "; ".join(dict.fromkeys(filter(None, (profile.settings[check.id].comment for profile in mine)))),
        )
    digest = digest_of((profile.name, profile.digest.encode()) for profile in profiles)
    return Profile("+".join(sorted(profile.name for profile in profiles)), "", "", "host", settings, digest, "")


def _strictest(declared: Parameter, values: Sequence[Any]) -> Any:
    """Return the strictest of *values*. Raises ValueError when none is."""
    if all(value == values[0] for value in values):
        return values[0]
    if declared.strictest is None:
        raise ValueError
    return declared.strictest(values)


def _demand_consistent(profile: Profile, checks: Mapping[str, Check], chain: list[tuple[YamlFile, ProfileFile]]) -> None:
    """Raise :class:`~pytest_kvmcheck.errors.ConfigError` for what no host could fulfil, at the file that says it last."""

    def told(check_id: str) -> Params | None:
        return profile.params(checks[check_id]) if check_id in checks and profile.setting(check_id) else None

    found = contradiction(told)
    if not found:
        return
    for source, parsed in chain:
        for check_id, name in found.params:
            entry = parsed.checks.get(check_id)
            if entry and name in entry.params:
                raise source.error(f"contradiction: {found.text}", ("checks", check_id, "params", name))
    raise chain[0][0].error(f"contradiction: {found.text}")


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
        if problem := check.declared[name].problem(value):
            raise source.error(problem, key)


def json_schema(checks: Mapping[str, Check]) -> dict[str, Any]:
    """Return the JSON Schema of profile files, for editors: with the parameters of each check and their bounds."""
    schema = ProfileFile.model_json_schema()
    common = {name: {"$ref": f"#/$defs/Entry/properties/{name}"} for name in schema["$defs"]["Entry"]["properties"]}
    schema["properties"]["checks"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            check.id: {"description": check.title, "anyOf": [_entry_schema(check, common), {"type": "null"}]}
            for check in checks.values()
        },
    }
    return schema


def _entry_schema(check: Check, common: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {name: declared.schema() for name, declared in check.declared.items()}
    params = {"type": "object", "additionalProperties": False, "properties": parameters}
    return {"type": "object", "additionalProperties": False, "properties": {**common, "params": params}}
