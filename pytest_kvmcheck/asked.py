"""Who was asked for: the targets of ``--hosts``, of the inventory and of recorded evidence, each by one name with one source."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.evidence import Evidence
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.gather.bundle import Manifest
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.inventory import Inventory
from pytest_kvmcheck.subjects import IMPLICIT_CLUSTER
from pytest_kvmcheck.targets import RECORDED, Target, check_spec, distinct, hide_password, name_of, same_host


@dataclass(frozen=True)
class Recording:
    """A bundle of evidence as it was asked for: *spec*, what its manifest says, and what the hosts in it said, by name."""

    spec: str
    manifest: Manifest
    evidence: Mapping[str, Evidence]

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        return {same_host(name): name for name in self.evidence}

    def called(self, name: str) -> str | None:
        """Return how the host *name* is written there, None when it is not among the hosts."""
        return self._names.get(same_host(name))

    @property
    def started_at(self) -> dt.datetime:
        """When it was begun (UTC)."""
        return dt.datetime.fromisoformat(self.manifest.started_at)


@dataclass(frozen=True)
class Asked:
    """What ``--hosts`` and the inventory name, before a profile says what becomes of targets that no inventory describes.

    ``plain`` are specs of targets that no inventory knows.
    """

    plain: tuple[str, ...] = ()
    entries: tuple[Target, ...] = ()
    recordings: tuple[Recording, ...] = ()
    inventory: Inventory = field(default_factory=Inventory)

    def targets(self, role: str) -> tuple[list[Target], dict[str, Evidence], dict[str, Recording]]:
        """Return the targets, sorted by name; the evidence of those that are recorded, and their recordings, by name.

        *role* is what targets are that no inventory describes. Raises :class:`KvmcheckError` for a host that has two sources.
        """
        found: list[tuple[Target, str]] = []
        evidence: dict[str, Evidence] = {}
        origin: dict[str, Recording] = {}
        cluster = IMPLICIT_CLUSTER if not self.inventory.targets and role == "host" else ""
        found += [(Target(name_of(spec), spec, role, cluster), spec) for spec in self.plain]
        by_spec = {recording.spec: recording for recording in self.recordings}
        whole = {recording.spec for recording in self.recordings}
        for entry in self.entries:
            if entry.kind != "bundle":
                found.append((entry, entry.spec))
                continue
            recording = by_spec[entry.spec]
            whole.discard(entry.spec)
            name = recording.called(entry.name)
            if name is None:
                raise self.inventory.error(
                    f"{entry.spec} has no host called {entry.name} (it has {', '.join(recording.evidence)})",
                    (*self.inventory.place(entry), "target"),
                )
            spec = next(target.spec for target in recording.manifest.targets if target.name == name)
            found.append((replace(entry, spec=spec), entry.spec))
            evidence[entry.name], origin[entry.name] = replace(recording.evidence[name], host=entry.name), recording
        for recording in self.recordings:
            if recording.spec not in whole:
                continue
            for target in recording.manifest.targets:
                told = self.inventory.find(target.name)
                found.append((replace(told, name=target.name, spec=target.spec) if told else target, recording.spec))
                evidence[target.name], origin[target.name] = recording.evidence[target.name], recording
        return distinct(found), evidence, origin


def read(hosts: str | None, inventory: Inventory, connection: Connection) -> Asked:
    """Return what was asked for. *hosts* is testinfra's ``--hosts``. Raises :class:`KvmcheckError`."""
    if hosts is None:
        entries = inventory.targets
        specs = [entry.spec for entry in entries if entry.kind == "bundle"]
        return Asked(() if entries else ("local://",), entries, tuple(_recordings(specs)), inventory)
    plain: dict[str, None] = {}
    entries_asked: dict[str, Target] = {}
    bundles: list[str] = []
    for spec in _expanded(_split(hosts), connection):
        known = [entry for entry in inventory.targets if spec in (entry.name, entry.spec)]
        if spec.startswith("bundle:") and not any(entry.name == spec for entry in known):
            check_spec(spec)
            bundles.append(spec)
        elif known:
            entries_asked |= {entry.name: entry for entry in known}
        else:
            check_spec(spec)
            _demand_undescribed(spec, inventory)
            plain[spec] = None
    whole = list(_recordings(bundles))
    more = [entry.spec for entry in entries_asked.values() if entry.kind == "bundle"]
    both = sorted(set(more) & set(bundles))
    if both:
        raise KvmcheckError(f"--hosts: {both[0]} is asked for as a whole, and as a target of the inventory: ask for one of them")
    return Asked(tuple(plain), tuple(entries_asked.values()), (*whole, *_recordings(more)), inventory)


def _split(hosts: str) -> list[str]:
    """Return the specs in *hosts*, parted by commas. A comma in a password is told as such, and its parts are not shown."""
    specs = [spec.strip() for spec in hosts.split(",") if spec.strip()]
    if not specs:
        raise KvmcheckError("--hosts: no host to check: it is empty")
    for before, spec in itertools.pairwise(specs):
        if "@" in spec and "://" not in spec and not spec.startswith(RECORDED) and re.search(r"//[^@]*:[^@]*$", before):
            check_spec(f"{before},{spec}")
    return specs


def _demand_undescribed(spec: str, inventory: Inventory) -> None:
    """Refuse a target that the inventory knows by another way: what it says of the host would be lost without a word."""
    if entry := inventory.find(name_of(spec)):
        raise KvmcheckError(
            f"--hosts: {hide_password(spec)}: the inventory reaches {entry.name} by {hide_password(entry.spec)};"
            f" ask for it by its name: --hosts={entry.name}"
        )


def _recordings(specs: Iterable[str]) -> Iterable[Recording]:
    """Return the bundles of *specs*, each once, however its path is written."""
    seen: dict[Path, str] = {}
    for spec in dict.fromkeys(specs):
        path = Path(spec.removeprefix("bundle:")).expanduser()
        if (other := seen.setdefault(path.resolve(), spec)) != spec:
            raise KvmcheckError(f"{other} and {spec} are one bundle: name it once")
        manifest, evidence = bundle.read(path)
        distinct((target, f"{spec}, place {number}") for number, target in enumerate(manifest.targets, 1))
        by_name = {target.name: one for target, one in zip(manifest.targets, evidence, strict=True)}
        yield Recording(spec, manifest, by_name)


def _expanded(specs: Sequence[str], connection: Connection) -> list[str]:
    """Return *specs* with ansible groups replaced by their hosts."""
    result = []
    for spec in specs:
        if not spec.startswith("ansible://"):
            result.append(spec)
            continue
        check_spec(spec)
        if not shutil.which("ansible-inventory"):
            raise KvmcheckError(f"--hosts: {spec}: no ansible-inventory is in PATH: pip install ansible-core")
        from testinfra.backend.ansible import AnsibleBackend

        try:
            names = AnsibleBackend.get_hosts(spec.removeprefix("ansible://"), ansible_inventory=connection.ansible_inventory)
        except Exception as exc:  # noqa: BLE001 - whatever ansible's inventory raises is a mistake in it
            said = (str(exc).strip() or type(exc).__name__).splitlines()[0][:200]
            raise KvmcheckError(f"--hosts: {spec}: {said}") from None
        if not names:
            raise KvmcheckError(f"--hosts: {spec}: the ansible inventory names no such host")
        result += [f"ansible://{name}" for name in names]
    return result
