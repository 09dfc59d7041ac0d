"""The plan of a run: who is judged by what. Every mistake of the user's is found here, before any connection."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pytest_kvmcheck import __version__, asked, catalog, inventory, judges, places, provenance, waivers
from pytest_kvmcheck.asked import Recording
from pytest_kvmcheck.errors import Cause, EvidenceMissing, Interrupted, KvmcheckError
from pytest_kvmcheck.evidence import Evidence
from pytest_kvmcheck.gather import bundle, crowd, leash, libvirt_api, live, recorded
from pytest_kvmcheck.gather.redact import operator_key, redact, redact_record
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.inventory import Inventory
from pytest_kvmcheck.profiles import Profile
from pytest_kvmcheck.registry import Check
from pytest_kvmcheck.settings import Settings
from pytest_kvmcheck.subjects import CLUSTER
from pytest_kvmcheck.targets import Target
from pytest_kvmcheck.views.cluster import acquaint
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.waivers import Waiver


@dataclass
class Plan:
    """What is to be done, and once gathered, the hosts. ``at`` is the time of the evidence (UTC).

    ``absent`` are the hosts of each cluster, by the inventory or the recording, that are no targets of this run.
    """

    settings: Settings
    checks: Mapping[str, Check]
    profile: Profile
    profiles: dict[str, Profile]
    targets: list[Target]
    waivers: list[Waiver]
    connection: Connection
    sudo: bool
    bundled: dict[str, Evidence] = field(default_factory=dict)
    recordings: tuple[Recording, ...] = ()
    cluster_references: dict[str, str] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    hosts: list[Host] = field(default_factory=list)

    @property
    def at(self) -> dt.datetime:
        """The time of the evidence: waivers are judged by it, so that a replay gives the same verdicts."""
        return dt.datetime.fromisoformat(self.started_at)

    def profile_of(self, name: str) -> Profile:
        """Return the profile that an inventory calls *name*, that of a cluster's subject (cluster:NAME), or the run's own."""
        return self.profiles[name] if name else self.profile

    def meta(self) -> dict[str, Any]:
        """Return what a bundle's manifest says about the run besides its targets."""
        return {
            "catalogue_sha256": catalog.shipped_digest(),
            "profile": self.settings.profile,
            "profiles": {profile.name: profile.digest for profile in (self.profile, *self.profiles.values())},
        }

    def sealed_meta(self) -> dict[str, Any]:
        """Return what a manifest says besides, so that the evidence can be judged elsewhere by what judged it here."""
        named = {reference: self.profiles[f"{CLUSTER}{name}"] for name, reference in self.cluster_references.items()}
        every = {self.settings.profile: self.profile, **self.profiles, **named}
        files = {reference: [list(file) for file in profile.own] for reference, profile in every.items() if profile.own}
        return {
            **self.meta(),
            "profile_name": self.profile.name,
            "profile_files": files,
            "clusters": self.cluster_references,
            "absent": self.absent,
            "active": self.settings.active,
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
    places.demand_writable(settings)
    places.demand_keys(connection)
    wanted = asked.read(hosts, inventory.load(settings.inventory) if settings.inventory else Inventory(), connection)
    settings = judges.with_recorded_profile(settings, wanted.recordings)
    profile = judges.profile_of_run(settings, wanted, known)
    targets, bundled, origin = wanted.targets(profile.role)
    if not targets:
        raise KvmcheckError("no host to check")
    for target in targets:
        if target.kind == "libvirt" and target.name not in bundled:
            libvirt_api.check_uri(target.spec, target.name)
            libvirt_api.demand_installed()
    chosen = judges.choose(profile, targets, wanted, origin, checks, known)
    plan = Plan(
        settings,
        checks,
        profile,
        chosen.others,
        targets,
        [],
        connection,
        sudo,
        bundled,
        wanted.recordings,
        chosen.clusters,
        provenance.absent(wanted, targets),
    )
    if wanted.recordings and len(bundled) == len(targets):
        plan.started_at = min(wanted.recordings, key=lambda one: one.started_at).manifest.started_at
        plan.finished_at = max((one.manifest.finished_at for one in wanted.recordings), key=dt.datetime.fromisoformat)
    if settings.waivers:
        latest = max([dt.datetime.now(dt.UTC), *([plan.at] if plan.started_at else [])])
        plan.waivers = waivers.load(settings.waivers, checks, latest + dt.timedelta(days=settings.waiver_days))
    return plan


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
        plan.sealed_meta(),
    )
    bundle.write(directory, manifest, [host.evidence for host in plan.hosts])
