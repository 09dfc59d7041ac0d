"""The inventory file: which hosts and guests there are, what they are for and how strictly each is judged."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.names import folded, oddity
from pytest_kvmcheck.targets import Target, check_spec, same_host
from pytest_kvmcheck.yamlfile import YamlFile, did_you_mean


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


class ClusterEntry(_Strict):
    """What is said of a cluster: the profile that its hosts are judged by together."""

    profile: str = Field(description="name of a shipped profile, or a file")


class InventoryFile(_Strict):
    """The whole file. ``domains`` maps name patterns to tags on every host; a host may add its own."""

    model_config = ConfigDict(extra="forbid", title="pytest-kvmcheck inventory")
    hosts: dict[str, Entry | None] = Field(default_factory=dict)
    guests: dict[str, Entry | None] = Field(default_factory=dict)
    clusters: dict[str, ClusterEntry] = Field(default_factory=dict)
    domains: dict[str, list[Tag]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Inventory:
    """An inventory file: its targets, sorted by name, and the profiles of clusters by name."""

    targets: tuple[Target, ...] = ()
    clusters: Mapping[str, str] = field(default_factory=dict)
    source: YamlFile | None = None

    @functools.cached_property
    def _by_name(self) -> dict[str, Target]:
        return {same_host(target.name): target for target in self.targets}

    def find(self, name: str) -> Target | None:
        """Return what the file says of the host or guest *name*, however that is written."""
        return self._by_name.get(same_host(name))

    def error(self, message: str, path: tuple[str, ...]) -> KvmcheckError:
        """Return the complaint *message*, with its place where there is a file."""
        return self.source.error(message, path) if self.source else KvmcheckError(message)

    def place(self, target: Target) -> tuple[str, ...]:
        """Return the key path of *target*."""
        return ("guests" if target.role == "guest" else "hosts", target.name)


def load(path: Path) -> Inventory:
    """Return the inventory file *path*.

    Raises :class:`~pytest_kvmcheck.errors.ConfigError` with the place of the first mistake.
    """
    source = YamlFile(path)
    inventory = source.validated(InventoryFile)
    targets: dict[str, Target] = {}
    for section, role in (("hosts", "host"), ("guests", "guest")):
        for name, entry in getattr(inventory, section).items():
            told = entry or Entry()
            spec = told.target or f"ssh://{name}"
            if problem := oddity(name) or ("is blank" if not name.strip() or name != name.strip() else ""):
                raise source.error(f"the name {problem}", (section, name))
            try:
                check_spec(spec, "target")
            except KvmcheckError as exc:
                raise source.error(str(exc), (section, name, "target")) from None
            tags = {**inventory.domains, **told.domains}
            target = Target(
                name,
                spec,
                role,
                told.cluster,
                told.profile,
                told.sudo,
                tuple((pattern, frozenset(map(str, names))) for pattern, names in tags.items()),
            )
            if (other := targets.setdefault(same_host(name), target)) is not target:
                both = "the same" if other.name == name else f"{other.name}, which is the same name"
                raise source.error(f"two targets are called {name}: another one is called {both}", (section, name))
    if not targets:
        raise KvmcheckError(f"no host to check: {source.shown} names 0 hosts")
    _demand_clusters(source, inventory, list(targets.values()))
    clusters = {name: entry.profile for name, entry in inventory.clusters.items()}
    return Inventory(tuple(sorted(targets.values(), key=lambda target: target.name)), clusters, source)


def _demand_clusters(source: YamlFile, inventory: InventoryFile, targets: list[Target]) -> None:
    """Raise :class:`ConfigError` for clusters that no host is in, and for two that are one but for the way they are written."""
    known: dict[str, str] = {}
    for target in targets:
        if target.cluster:
            path = ("guests" if target.role == "guest" else "hosts", target.name, "cluster")
            if problem := oddity(target.cluster):
                raise source.error(f"the name {problem}", path)
            if (other := known.setdefault(folded(target.cluster), target.cluster)) != target.cluster:
                raise source.error(f"{target.cluster}: another cluster is called {other}; write one name", path)
    hosts = {target.cluster for target in targets if target.cluster and target.role == "host"}
    for name in inventory.clusters:
        if name not in hosts:
            raise source.error(f"no host is in this cluster{did_you_mean(name, hosts)}", ("clusters", name))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of inventory files, for editors."""
    return InventoryFile.model_json_schema()
