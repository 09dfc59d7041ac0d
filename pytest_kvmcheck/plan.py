"""The plan of a run: who is judged by what. Every mistake of the user's is found here, before any connection."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_kvmcheck import __version__, catalog, inventory, profiles, provenance, waivers
from pytest_kvmcheck import asked as who
from pytest_kvmcheck.asked import Recording
from pytest_kvmcheck.errors import Cause, ConfigError, EvidenceMissing, KvmcheckError
from pytest_kvmcheck.evidence import Evidence
from pytest_kvmcheck.gather import bundle, libvirt_api, live, recorded
from pytest_kvmcheck.gather.redact import operator_key, redact, redact_record
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.inventory import Inventory
from pytest_kvmcheck.names import folded
from pytest_kvmcheck.profiles import Profile
from pytest_kvmcheck.registry import Check
from pytest_kvmcheck.settings import Settings
from pytest_kvmcheck.subjects import CLUSTER
from pytest_kvmcheck.targets import Target
from pytest_kvmcheck.views.cluster import acquaint
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.waivers import Waiver

#: How many hosts are asked at a time.
MAX_CONCURRENT = 32


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
    recordings: tuple[Recording, ...] = ()
    cluster_references: dict[str, str] = field(default_factory=dict)
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
    _demand_places(settings)
    _demand_keys(connection)
    asked = who.read(hosts, inventory.load(settings.inventory) if settings.inventory else Inventory(), connection)
    settings = _with_recorded_profile(settings, asked.recordings)
    recorded = _recorded(settings.profile, asked.recordings) if settings.sources.get("profile") == "bundle" else None
    profile = profiles.load(settings.profile, known, recorded)
    targets, bundled, origin = asked.targets(profile.role)
    if not targets:
        raise KvmcheckError("no host to check")
    if any(target.kind == "libvirt" for target in targets if target.name not in bundled):
        libvirt_api.demand_installed()
    plan = Plan(
        settings,
        checks,
        profile,
        _profiles_of_targets(targets, asked, origin, known),
        targets,
        [],
        connection,
        sudo,
        bundled,
        asked.recordings,
    )
    plan.profiles |= _profiles_of_clusters(plan, asked, known)
    _demand_one_name([plan.profile, *plan.profiles.values()])
    if known is not None:
        _demand_judged(plan)
    if asked.recordings and len(bundled) == len(targets):
        plan.started_at = min(asked.recordings, key=lambda one: one.started_at).manifest.started_at
        plan.finished_at = max((one.manifest.finished_at for one in asked.recordings), key=dt.datetime.fromisoformat)
    if settings.waivers:
        latest = max([dt.datetime.now(dt.UTC), *([plan.at] if plan.started_at else [])])
        plan.waivers = waivers.load(settings.waivers, checks, latest + dt.timedelta(days=settings.waiver_days))
    return plan


def _demand_places(settings: Settings) -> None:
    """Find out now whether all can be written: not after an hour of gathering."""
    for option, path in (("--kvmcheck-json", settings.json), ("--kvmcheck-record", settings.record)):
        if path is not None:
            _demand_writable(option, path)
    if (path := settings.json) and path.exists() and not path.is_file():
        raise KvmcheckError(f"--kvmcheck-json: {path} is {'a directory' if path.is_dir() else 'no plain file'}")
    if settings.record and settings.record.exists() and (settings.record.is_file() or any(settings.record.iterdir())):
        raise KvmcheckError(f"--kvmcheck-record: {settings.record} exists and is not empty: evidence is never overwritten")
    if settings.json and settings.record and settings.json.resolve().is_relative_to(settings.record.resolve()):
        raise KvmcheckError(f"--kvmcheck-json: {settings.json} is within the evidence ({settings.record}), which is sealed")
    read = [path for path in (settings.inventory, settings.waivers, Path(settings.profile).expanduser()) if path]
    if settings.json and any(path.exists() and settings.json.exists() and path.samefile(settings.json) for path in read):
        raise KvmcheckError(f"--kvmcheck-json: {settings.json} is read by this run: it would be overwritten")


def _demand_writable(option: str, path: Path) -> None:
    place = path.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=place), contextlib.suppress(FileNotFoundError):
            path.stat()  # is told here: a name that is too long, a folder that cannot be entered
    except OSError as exc:
        why = "no permission" if isinstance(exc, PermissionError) else exc.strerror
        raise KvmcheckError(f"{option}: {path} cannot be written: {why} in {place}") from None


def _demand_keys(connection: Connection) -> None:
    """Demand that the files exist that ssh is to read: it would go on without a key, and fail without a configuration."""
    for option, given in (("--ssh-config", connection.ssh_config), ("--ssh-identity-file", connection.ssh_identity_file)):
        if not given or (option, given) == ("--ssh-config", "none"):  # ssh(1): -F none reads no file
            continue
        path = Path(given).expanduser()
        if path.is_dir() or not path.exists():
            raise KvmcheckError(f"{option}: {given}: {'is a directory' if path.is_dir() else 'there is no such file'}")
        if not os.access(path, os.R_OK):
            raise KvmcheckError(f"{option}: {given}: no permission to read it")


def _with_recorded_profile(settings: Settings, recordings: Sequence[Recording]) -> Settings:
    """Return *settings* with the profile that evidence was judged by when it was recorded, unless the user names another.

    Raises :class:`KvmcheckError` when the recordings do not agree.
    """
    if not recordings or settings.sources.get("profile") != "default":
        return settings
    first = recordings[0]
    for other in recordings[1:]:
        if provenance.recorded_profile(other.manifest) != provenance.recorded_profile(first.manifest):
            names = [provenance.recorded_profile(one.manifest)[0] or "none" for one in (first, other)]
            what = f"profile {names[0]}, {other.spec} with {names[1]}"
            if names[0] == names[1]:
                what = f"profile {names[0]}, {other.spec} with another version of it"
            raise KvmcheckError(f"{first.spec} was recorded with {what}: say by which to judge: --kvmcheck-profile")
    reference = provenance.recorded_profile(first.manifest)[0] or settings.profile
    return replace(settings, profile=reference, sources={**settings.sources, "profile": "bundle"})


def _recorded(reference: str, recordings: Sequence[Recording]) -> profiles.Recorded | None:
    """Return the files of the own profile *reference* as the first of *recordings* that has them does."""
    found = (provenance.recorded_files(one.spec, one.manifest, reference) for one in recordings)
    return next((files for files in found if files), None)


def _profiles_of_targets(
    targets: Sequence[Target], asked: who.Asked, origin: Mapping[str, Recording], known: Mapping[str, Check] | None
) -> dict[str, Profile]:
    """Return the profiles of *targets* that have one of their own, by what the inventory or the recording calls it."""
    described = {target.name: target for target in asked.inventory.targets}
    found: dict[str, Profile] = {}
    for target in targets:
        if not target.profile:
            continue
        told = described.get(target.name)
        recorded = _recorded(target.profile, [origin[target.name]]) if target.name in origin and told is None else None
        if target.profile in found and recorded in (None, found[target.profile].own):
            continue
        try:
            profile = profiles.load(target.profile, known, recorded)
        except ConfigError:
            raise
        except KvmcheckError as exc:
            place = (*asked.inventory.place(told), "profile") if told else ()
            raise asked.inventory.error(str(exc), place) if told else exc from None
        _demand_one_name([profile, *([found[target.profile]] if target.profile in found else [])])
        found[target.profile] = profile
    return found


def _profiles_of_clusters(plan: Plan, asked: who.Asked, known: Mapping[str, Check] | None) -> dict[str, Profile]:
    """Return by what each cluster is judged, by the name of its subject.

    That is the profile that the inventory, or the recording, gives it; else that of its hosts; else the strictest of theirs.
    """
    found: dict[str, Profile] = {}
    for name in sorted({target.cluster for target in plan.targets if target.cluster and target.role != "guest"}):
        told: dict[str, Recording | None] = {
            reference: one for one in asked.recordings if (reference := provenance.recorded_clusters(one.manifest).get(name))
        }
        if name in asked.inventory.clusters:
            told = {asked.inventory.clusters[name]: None}
        if len(told) > 1:
            raise KvmcheckError(f"cluster {name} was recorded with profiles {' and '.join(told)}: name one in an inventory")
        hosts = {plan.profile_of(one.profile).digest: plan.profile_of(one.profile) for one in plan.targets if one.cluster == name}
        if told:
            ((reference, recording),) = told.items()
            plan.cluster_references[name] = reference
            profile = _profile_of_cluster(name, reference, recording, asked, known)
        elif len(hosts) == 1:
            (profile,) = hosts.values()
        else:
            profile = profiles.strictest(name, sorted(hosts.values(), key=lambda one: one.name), plan.checks.values())
        found[f"{CLUSTER}{name}"] = profile
    return found


def _profile_of_cluster(
    name: str, reference: str, recording: Recording | None, asked: who.Asked, known: Mapping[str, Check] | None
) -> Profile:
    place = ("clusters", name, "profile")
    try:
        profile = profiles.load(reference, known, _recorded(reference, [recording]) if recording else None)
    except ConfigError:
        raise
    except KvmcheckError as exc:
        raise asked.inventory.error(str(exc), place) from None
    if known is not None and not any(check.scope == "cluster" and profile.setting(check.id) for check in known.values()):
        raise asked.inventory.error(f"profile {reference} has no check for clusters", place)
    return profile


def _demand_one_name(found: Sequence[Profile]) -> None:
    """Demand that one name means one profile in the whole run: reports tell profiles by their names."""
    seen: dict[str, Profile] = {}
    for profile in found:
        other = seen.setdefault(folded(profile.name), profile)
        if other.digest != profile.digest:
            names = profile.name if other.name == profile.name else f"{other.name} and {profile.name}, which look alike"
            raise KvmcheckError(f"two profiles are called {names}: {other.source} and {profile.source}; rename one of them")


def _demand_judged(plan: Plan) -> None:
    """Demand that there is a check for every target: one without a verdict would look as if all were well."""
    scopes: dict[int, set[str]] = {}
    for profile in (plan.profile, *plan.profiles.values()):
        scopes[id(profile)] = {check.scope for check in plan.checks.values() if profile.setting(check.id)}
    judged_together = {name for name, profile in plan.profiles.items() if "cluster" in scopes[id(profile)]}
    for target in plan.targets:
        profile = plan.profile_of(target.profile)
        mine = scopes[id(profile)]
        guest = target.role == "guest"
        if "guest" in mine if guest else mine - {"guest", "cluster"} or f"{CLUSTER}{target.cluster}" in judged_together:
            continue
        fitting = [name for name in profiles.shipped_profiles() if (profiles.load(name, None).role == "guest") == guest]
        role = "guest" if guest else "host"
        raise KvmcheckError(
            f"{role} {target.name}: profile {profile.name} has no check for {role}s; give it a profile in the inventory"
            f" ({', '.join(fitting)})"
        )


def gather(plan: Plan, progress: Callable[[Target, Evidence, float], None]) -> None:
    """Fetch and redact the evidence of all targets at the same time; *progress* hears of each when it is done (s)."""
    import time

    begin = time.monotonic()
    plan.started_at = plan.started_at or utc_now()
    key = operator_key()
    evidence = dict(plan.bundled)
    missing = [target for target in plan.targets if target.name not in evidence]
    if missing:
        with ThreadPoolExecutor(min(MAX_CONCURRENT, len(missing)), "kvmcheck") as pool:
            waiting = {pool.submit(_collect, target, plan): target for target in missing}
            for done in as_completed(waiting):
                target = waiting[done]
                one = _redacted(done.result(), key)
                evidence[target.name] = one
                progress(target, one, time.monotonic() - begin)
    plan.finished_at = plan.finished_at or utc_now()
    plan.hosts = [Host(target, evidence[target.name]) for target in plan.targets]
    acquaint(plan.hosts)


def _collect(target: Target, plan: Plan) -> Evidence:
    try:
        match target.kind:
            case "libvirt":
                return libvirt_api.gather(target)
            case "sosreport":
                return recorded.from_sosreport(target)
            case "reply":
                return recorded.from_reply(target)
            case _:
                return live.gather(target, plan.connection, sudo=plan.sudo, active=plan.settings.active)
    except Exception as exc:  # noqa: BLE001 - one host's trouble must never take the others down
        return Evidence(target.name, failure=EvidenceMissing(Cause.LOST, f"{type(exc).__name__}: {str(exc)[:200]}"))


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
