"""Who is judged by which profile: the run, hosts and guests, and clusters; and that everybody is judged by something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_kvmcheck import profiles, provenance
from pytest_kvmcheck.asked import Asked, Recording
from pytest_kvmcheck.errors import ConfigError, KvmcheckError
from pytest_kvmcheck.names import folded
from pytest_kvmcheck.profiles import Profile
from pytest_kvmcheck.registry import Check
from pytest_kvmcheck.settings import Settings
from pytest_kvmcheck.subjects import CLUSTER
from pytest_kvmcheck.targets import Target

#: Checks by id to validate profiles against; None while a file of checks cannot be imported.
Known = Mapping[str, Check] | None


@dataclass
class Judges:
    """Profiles: that of the run, and ``others`` by the name that an inventory has for them, or ``cluster:NAME``.

    ``clusters`` are the profiles that somebody gave to clusters, as they were named.
    """

    run: Profile
    others: dict[str, Profile] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> Profile:
        """Return the profile called *name*; that of the run for the empty name."""
        return self.others[name] if name else self.run


def choose(
    run: Profile,
    targets: Sequence[Target],
    asked: Asked,
    origin: Mapping[str, Recording],
    checks: Mapping[str, Check],
    known: Known,
) -> Judges:
    """Return by what *targets* and their clusters are judged; *origin* are the recordings of those that are recorded, by name.

    Raises :class:`KvmcheckError` for profiles that cannot be told apart, and for a target that nothing would judge.
    """
    judges = Judges(run)
    for target in targets:
        if target.profile:
            judges.others[target.profile] = _profile_of_target(judges, target, asked, origin.get(target.name), known)
    for name in sorted({target.cluster for target in targets if target.cluster and target.role != "guest"}):
        members = [target for target in targets if target.cluster == name and target.role != "guest"]
        profile = _named_for_cluster(judges, name, asked, known)
        judges.others[f"{CLUSTER}{name}"] = profile or _of_members(judges, name, members, checks.values())
    _demand_one_name([run, *judges.others.values()])
    if known is not None:
        _demand_judged(judges, targets, known)
    return judges


def with_recorded_profile(settings: Settings, recordings: Sequence[Recording]) -> Settings:
    """Return *settings* with the profile that evidence was judged by when it was recorded, unless the user names another.

    Raises :class:`KvmcheckError` when the recordings do not agree.
    """
    if not recordings or settings.sources.get("profile") != "default":
        return settings
    first = recordings[0]
    for other in recordings[1:]:
        if provenance.recorded_profile(other.manifest) != provenance.recorded_profile(first.manifest):
            names = [provenance.recorded_profile(one.manifest)[0] or "none" for one in (first, other)]
            what = "another version of it" if names[0] == names[1] else names[1]
            raise KvmcheckError(
                f"{first.spec} was recorded with profile {names[0]}, {other.spec} with {what}: say by which to judge:"
                " --kvmcheck-profile"
            )
    reference = provenance.recorded_profile(first.manifest)[0] or settings.profile
    return replace(settings, profile=reference, sources={**settings.sources, "profile": "bundle"})


def profile_of_run(settings: Settings, asked: Asked, known: Known) -> Profile:
    """Return the profile of the run: as it was recorded where that is where it comes from."""
    from_recording = settings.sources.get("profile") == "bundle"
    return profiles.load(settings.profile, known, _recorded(settings.profile, asked.recordings) if from_recording else None)


def _recorded(reference: str, recordings: Sequence[Recording]) -> profiles.Recorded | None:
    """Return the files of the own profile *reference* as the first of *recordings* that has them does."""
    found = (provenance.recorded_files(one.spec, one.manifest, reference) for one in recordings)
    return next((files for files in found if files), None)


def _profile_of_target(judges: Judges, target: Target, asked: Asked, recording: Recording | None, known: Known) -> Profile:
    told = asked.inventory.find(target.name)
    recorded = _recorded(target.profile, [recording]) if recording and told is None else None
    before = judges.others.get(target.profile)
    if before and recorded in (None, before.own):
        return before
    profile = _load(target.profile, recorded, asked, (*asked.inventory.place(told), "profile") if told else (), known)
    if before:
        _demand_one_name([before, profile])
    return profile


def _load(reference: str, recorded: profiles.Recorded | None, asked: Asked, place: tuple[str, ...], known: Known) -> Profile:
    """Return a profile; one that does not exist is told at *place* in the inventory."""
    if reference.startswith(CLUSTER):
        raise asked.inventory.error(f"no profile can be called {reference}", place)
    try:
        return profiles.load(reference, known, recorded)
    except ConfigError:
        raise
    except KvmcheckError as exc:
        raise asked.inventory.error(str(exc), place) if place else exc from None


def _named_for_cluster(judges: Judges, name: str, asked: Asked, known: Known) -> Profile | None:
    """Return the profile that the inventory, or else the recording, gives the cluster."""
    place: tuple[str, ...] = ()
    recordings: list[Recording] = []
    if name in asked.inventory.clusters:
        reference, place = asked.inventory.clusters[name], ("clusters", name, "profile")
    else:
        recordings = [one for one in asked.recordings if name in provenance.recorded_clusters(one.manifest)]
        given = {provenance.recorded_clusters(one.manifest)[name] for one in recordings}
        if not given:
            return None
        if len(given) > 1:
            raise KvmcheckError(
                f"cluster {name} was recorded with profiles {' and '.join(sorted(given))}: name one in an inventory"
            )
        (reference,) = given
    profile = _load(reference, _recorded(reference, recordings), asked, place, known)
    if known is not None and not any(check.scope == "cluster" and profile.setting(check.id) for check in known.values()):
        raise asked.inventory.error(f"profile {reference} has no check for clusters", place)
    judges.clusters[name] = reference
    return profile


def _of_members(judges: Judges, name: str, members: Sequence[Target], checks: Iterable[Check]) -> Profile:
    """Return what the hosts of a cluster agree on, or the strictest of their profiles."""
    found = {profile.digest: profile for profile in (judges.of(target.profile) for target in members)}
    if len(found) == 1:
        return next(iter(found.values()))
    return profiles.strictest(name, sorted(found.values(), key=lambda profile: profile.name), checks)


def _demand_one_name(found: Sequence[Profile]) -> None:
    """Demand that one name means one profile in the whole run: reports tell profiles by their names."""
    seen: dict[str, Profile] = {}
    for profile in found:
        other = seen.setdefault(folded(profile.name), profile)
        if other.digest != profile.digest:
            names = profile.name if other.name == profile.name else f"{other.name} and {profile.name} (one name)"
            raise KvmcheckError(f"two profiles are called {names}: {other.source} and {profile.source}; rename one of them")


def _demand_judged(judges: Judges, targets: Sequence[Target], known: Mapping[str, Check]) -> None:
    """Demand that there is a check for every target: one without a verdict would look as if all were well."""
    scopes = {
        id(profile): {check.scope for check in known.values() if profile.setting(check.id)}
        for profile in (judges.run, *judges.others.values())
    }
    for target in targets:
        profile = judges.of(target.profile)
        mine, role = scopes[id(profile)], "guest" if target.role == "guest" else "host"
        together = judges.others.get(f"{CLUSTER}{target.cluster}")
        if role == "guest":
            judged = "guest" in mine
        else:
            judged = bool(mine - {"guest", "cluster"}) or (together is not None and "cluster" in scopes[id(together)])
        # A few checks of guests are in profiles for hosts too, for those who name these on purpose.
        if judged and (target.profile or profile.role == role):
            continue
        why = f"is for {profile.role}s" if judged else f"has no check for {role}s"
        fitting = [name for name in profiles.shipped_profiles() if profiles.load(name, None).role == role]
        raise KvmcheckError(
            f"{role} {target.name}: profile {profile.name} {why}; give it a profile in the inventory ({', '.join(fitting)})"
        )
