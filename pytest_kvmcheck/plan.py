"""The plan of a run: who is judged by what. Every mistake of the user's is found here, before any connection."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pytest_kvmcheck import __version__, catalog, inventory, profiles, waivers
from pytest_kvmcheck.errors import Cause, EvidenceMissing, Interrupted, KvmcheckError
from pytest_kvmcheck.evidence import Evidence
from pytest_kvmcheck.gather import bundle, crowd, leash, libvirt_api, live, recorded
from pytest_kvmcheck.gather.redact import operator_key, redact, redact_record
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.paths import shipped
from pytest_kvmcheck.profiles import Profile
from pytest_kvmcheck.registry import Check
from pytest_kvmcheck.settings import Settings
from pytest_kvmcheck.subjects import IMPLICIT_CLUSTER
from pytest_kvmcheck.targets import Target, check_spec, distinct, name_of
from pytest_kvmcheck.views.cluster import acquaint
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.waivers import Waiver


@dataclass
class Plan:
    """What is to be done, and once gathered, the hosts. ``at`` is the time of the evidence (UTC)."""

    settings: Settings
    checks: Mapping[str, Check]
    profile: Profile
    profiles: dict[str, Profile]
    targets: list[Target]
    waivers: list[Waiver]
    connection: Connection
    sudo: bool
    bundled: dict[str, Evidence] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    hosts: list[Host] = field(default_factory=list)

    @property
    def at(self) -> dt.datetime:
        """The time of the evidence: waivers are judged by it, so that a replay gives the same verdicts."""
        return dt.datetime.fromisoformat(self.started_at)

    def profile_of(self, name: str) -> Profile:
        """Return the profile called *name* in an inventory, or the run's own."""
        return self.profiles[name] if name else self.profile

    def meta(self) -> dict[str, Any]:
        """Return what a bundle's manifest says about the run besides its targets."""
        return {
            "catalogue_sha256": catalog.digest(shipped("checks").glob("test_*.py")),
            "profile": self.settings.profile,
            "profiles": {profile.name: profile.digest for profile in (self.profile, *self.profiles.values())},
        }


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def make(
    settings: Settings,
    hosts: str | None,
    connection: Connection,
    *,
    sudo: bool = False,
    own_checks: Sequence[Path] = (),
) -> Plan:
    """Return the plan. Raises :class:`KvmcheckError` for whatever is wrong with it.

    *hosts* is testinfra's ``--hosts``; *own_checks* are files and directories of checks besides the shipped ones.
    """
    known: Mapping[str, Check] | None
    try:
        checks = known = catalog.load(own_checks)
    except KvmcheckError:
        if not own_checks:
            raise
        checks, known = catalog.load(), None  # pytest shows why a file of the user's cannot be imported
    entries = inventory.load(settings.inventory) if settings.inventory else []
    for path in (settings.json, settings.record):
        _demand_writable(path)
    if settings.record and settings.record.exists() and (settings.record.is_file() or any(settings.record.iterdir())):
        raise KvmcheckError(f"--kvmcheck-record: {settings.record} exists and is not empty: evidence is never overwritten")
    specs = [spec.strip() for spec in hosts.split(",") if spec.strip()] if hosts is not None else None
    if specs == []:
        raise KvmcheckError("--hosts: no host to check: it is empty")
    bundles = [spec for spec in specs or () if spec.startswith("bundle:")]
    reference, manifests = settings.profile, []
    for spec in bundles:
        check_spec(spec)
        manifests.append(bundle.read(Path(spec.removeprefix("bundle:")).expanduser()))
    if len(manifests) == 1 and settings.sources.get("profile") == "default":
        reference = str(manifests[0][0].meta.get("profile") or reference)
        settings = replace(settings, profile=reference, sources={**settings.sources, "profile": "bundle"})
    profile = profiles.load(reference, known)
    targets = _targets([spec for spec in specs if spec not in bundles] if specs is not None else None, entries, profile, connection)
    bundled: dict[str, Evidence] = {}
    by_name = {entry.name: entry for entry in entries}
    for manifest, evidence in manifests:
        for target, one in zip(manifest.targets, evidence, strict=True):
            told = by_name.get(target.name)
            targets.append(replace(told, spec=target.spec) if told else target)
            bundled[target.name] = one
    targets = sorted(distinct(targets), key=lambda target: target.name)
    if not targets:
        raise KvmcheckError("no host to check")
    for target in targets:
        if target.kind == "libvirt" and target.name not in bundled:
            libvirt_api.check_uri(target.spec, target.name)
            libvirt_api.demand_installed()
    plan = Plan(
        settings,
        checks,
        profile,
        {target.profile: profiles.load(target.profile, known) for target in targets if target.profile},
        targets,
        waivers.load(settings.waivers, checks) if settings.waivers else [],
        connection,
        sudo,
        bundled,
    )
    if manifests and len(bundled) == len(targets):
        plan.started_at = min(manifest.started_at for manifest, _ in manifests)
        plan.finished_at = max(manifest.finished_at for manifest, _ in manifests)
        dt.datetime.fromisoformat(plan.started_at)
    return plan


def _demand_writable(path: Path | None) -> None:
    """Find out now whether *path* can be written: not after an hour of gathering."""
    if path is None:
        return
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise KvmcheckError(f"{path} cannot be written: no permission in {place}")


def _targets(specs: Sequence[str] | None, entries: list[Target], profile: Profile, connection: Connection) -> list[Target]:
    if specs is None:
        return entries or [
            Target(name_of("local://"), "local://", profile.role, "" if profile.role == "guest" else IMPLICIT_CLUSTER)
        ]
    found = []
    for spec in _expanded(specs, connection):
        known = [entry for entry in entries if spec in (entry.name, entry.spec)]
        if known:
            found += known
            continue
        check_spec(spec)
        cluster = IMPLICIT_CLUSTER if not entries and profile.role == "host" else ""
        found.append(Target(name_of(spec), spec, profile.role, cluster))
    return found


def _expanded(specs: Sequence[str], connection: Connection) -> list[str]:
    """Return *specs* with ansible groups replaced by their hosts."""
    result = []
    for spec in specs:
        if not spec.startswith("ansible://"):
            result.append(spec)
            continue
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


def gather(plan: Plan, progress: Callable[[Target, Evidence, float], None]) -> None:
    """Fetch and redact the evidence of all targets at the same time; *progress* hears of each when it is done (s).

    Raises :class:`Interrupted` when the run is stopped by a signal; nothing that was started is left then.
    """
    import time

    begin = time.monotonic()
    plan.started_at = plan.started_at or utc_now()
    key = operator_key()
    evidence = dict(plan.bundled)
    missing = [target for target in plan.targets if target.name not in evidence]
    try:
        if missing:
            with leash.held():
                for target, one in crowd.each(missing, partial(_collect, plan, key), _given_up, plan.connection.deadline_s):
                    evidence[target.name] = one
                    progress(target, one, time.monotonic() - begin)
    except KeyboardInterrupt as exc:
        done = f"{len(evidence)} of {len(plan.targets)} targets were done"
        raise Interrupted(f"{exc or 'Ctrl-C'} while gathering: {done}; nothing was judged or recorded") from None
    plan.finished_at = plan.finished_at or utc_now()
    plan.hosts = [Host(target, evidence[target.name]) for target in plan.targets]
    acquaint(plan.hosts)


def _collect(plan: Plan, key: bytes, target: Target, place: crowd.Place) -> Evidence:
    connection = replace(plan.connection, place=place)
    try:
        match target.kind:
            case "libvirt":
                evidence = libvirt_api.gather(target, connection)
            case "sosreport":
                evidence = recorded.from_sosreport(target)
            case "reply":
                evidence = recorded.from_reply(target)
            case _:
                evidence = live.gather(target, connection, sudo=plan.sudo, active=plan.settings.active)
        if place.stopped and evidence.failure:
            evidence.failure = EvidenceMissing(place.stopped, place.why)
        return _redacted(evidence, key)
    except Exception as exc:  # noqa: BLE001 - one host's trouble must never take the others down
        detail = redact(f"{type(exc).__name__}: {str(exc)[:200]}", key)
        return Evidence(target.name, failure=EvidenceMissing(Cause.LOST, detail))


def _given_up(target: Target, cause: Cause) -> Evidence:
    return Evidence(target.name, failure=EvidenceMissing(cause, "it was given up: nothing came back long after its time limit"))


def _redacted(evidence: Evidence, key: bytes) -> Evidence:
    if evidence.failure:
        evidence.failure.detail = redact(evidence.failure.detail, key)
    return replace(evidence, records={name: redact_record(record, key) for name, record in evidence.records.items()})


def seal(plan: Plan, directory: Path) -> None:
    """Write the evidence of the gathered *plan* as a bundle."""
    manifest = bundle.Manifest(
        f"pytest-kvmcheck {__version__}",
        plan.started_at,
        plan.finished_at,
        tuple(plan.targets),
        {**plan.meta(), "active": plan.settings.active},
    )
    bundle.write(directory, manifest, [host.evidence for host in plan.hosts])
