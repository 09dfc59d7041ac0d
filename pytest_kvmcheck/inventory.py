"""The inventory file: which hosts and guests there are, what they are for and how strictly each is judged."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.targets import Target, check_spec, distinct
from pytest_kvmcheck.yamlfile import YamlFile


class Tag(StrEnum):
    """What a domain is for. Some rules only hold for some guests."""

    CRITICAL = "critical"
    DATABASE = "database"
    REALTIME = "realtime"
    LEGACY = "legacy"
    THROW_AWAY = "throw-away"
    MUST_RUN = "must-run"
    LOCAL = "local"
    WINDOWS = "windows"
    LINUX = "linux"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class Entry(_Strict):
    """One host or guest."""

    target: str = ""
    cluster: str = ""
    profile: str = ""
    sudo: bool = False
    domains: dict[str, list[Tag]] = Field(default_factory=dict)


class Inventory(_Strict):
    """The whole file. ``domains`` maps name patterns to tags on every host; a host may add its own."""

    hosts: dict[str, Entry | None] = Field(default_factory=dict)
    guests: dict[str, Entry | None] = Field(default_factory=dict)
    domains: dict[str, list[Tag]] = Field(default_factory=dict)


def load(path: Path) -> list[Target]:
    """Return the targets of the inventory file *path*, sorted by name.

    Raises :class:`~pytest_kvmcheck.errors.ConfigError` with the place of the first mistake.
    """
    source = YamlFile(path)
    inventory = source.validated(Inventory)
    targets = []
    for section, role in (("hosts", "host"), ("guests", "guest")):
        for name, entry in getattr(inventory, section).items():
            told = entry or Entry()
            spec = told.target or f"ssh://{name}"
            try:
                check_spec(spec, "target")
            except KvmcheckError as exc:
                raise source.error(str(exc), (section, name, "target")) from None
            tags = {**inventory.domains, **told.domains}
            targets.append(
                Target(
                    name,
                    spec,
                    role,
                    told.cluster,
                    told.profile,
                    told.sudo,
                    tuple((pattern, frozenset(map(str, names))) for pattern, names in tags.items()),
                )
            )
    if not targets:
        raise KvmcheckError(f"no host to check: {source.shown} names 0 hosts")
    try:
        return sorted(distinct(targets), key=lambda target: target.name)
    except KvmcheckError as exc:
        raise source.error(str(exc)) from None
