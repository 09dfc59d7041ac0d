"""Where evidence and rules come from: what a recording says of itself, and how it differs from what judges it now."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_kvmcheck import __version__
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.gather.bundle import Manifest
from pytest_kvmcheck.profiles import Recorded
from pytest_kvmcheck.subjects import CLUSTER
from pytest_kvmcheck.targets import Target, same_host

if TYPE_CHECKING:
    from pytest_kvmcheck.asked import Asked
    from pytest_kvmcheck.plan import Plan

#: So many names are told of those that share a profile.
MANY_NAMES = 8


def recorded_profile(manifest: Manifest) -> tuple[str, str]:
    """Return how the profile of the recorded run was called, and its digest; both empty where it was not told."""
    reference = str(manifest.meta.get("profile") or "")
    digests = _strings(manifest.meta.get("profiles"))
    name = str(manifest.meta.get("profile_name") or reference)
    return reference, digests.get(name, next(iter(digests.values()), "") if len(digests) == 1 else "")


def recorded_files(spec: str, manifest: Manifest, reference: str) -> Recorded:
    """Return the own files of the profile *reference* as they were recorded; empty for a shipped one, and in old recordings.

    Raises :class:`KvmcheckError` for a manifest that says it in no way that we know.
    """
    files = manifest.meta.get("profile_files", {})
    found = files.get(reference, []) if isinstance(files, dict) else None
    try:
        pairs = tuple((name, text) for name, text in found or ())
    except (TypeError, ValueError):
        pairs = ((None, None),)
    if found is None or not all(isinstance(part, str) for pair in pairs for part in pair):
        raise KvmcheckError(f"{spec}: manifest.json: profile_files is damaged")
    return pairs


def recorded_clusters(manifest: Manifest) -> dict[str, str]:
    """Return the profiles that the inventory of the recorded run gave to clusters."""
    return _strings(manifest.meta.get("clusters"))


def _strings(value: Any) -> dict[str, str]:
    return {str(key): str(item) for key, item in value.items()} if isinstance(value, dict) else {}


def absent(asked: Asked, targets: Iterable[Target]) -> dict[str, list[str]]:
    """Return the hosts of each cluster in the run that are not in it themselves, by the inventory and by the recordings."""
    targets = list(targets)
    members: dict[str, set[str]] = defaultdict(set)
    for entry in asked.inventory.targets:
        if entry.cluster and entry.role == "host":
            members[entry.cluster].add(entry.name)
    for recording in asked.recordings:
        told = recording.manifest.meta.get("absent")
        for cluster, names in told.items() if isinstance(told, dict) else ():
            members[str(cluster)] |= {str(name) for name in names} if isinstance(names, list) else set()
    here = {same_host(target.name) for target in targets}
    clusters = {target.cluster for target in targets if target.role == "host"}
    missing = {name: sorted(one for one in members[name] if same_host(one) not in here) for name in sorted(clusters & {*members})}
    return {name: names for name, names in missing.items() if names}


def partial_clusters(plan: Plan) -> list[str]:
    """Return a line for each cluster of which some hosts are no targets: they were compared with nobody."""
    lines = []
    for name, missing in plan.absent.items():
        here = sum(target.cluster == name and target.role == "host" for target in plan.targets)
        what = "nothing is compared" if here == 1 else "what only they could tell is unknown"
        lines.append(f"cluster {name}: {_few(missing)} {'is' if len(missing) == 1 else 'are'} not in this run; {what}")
    return lines


def tool_version(manifest: Manifest) -> str:
    """Return the version that recorded it, without the name of the tool."""
    return str(manifest.tool).removeprefix("pytest-kvmcheck ")


def differences(plan: Plan, manifest: Manifest) -> list[str]:
    """Return what judges now otherwise than it did when *manifest* was written."""
    found = []
    if tool_version(manifest) != __version__:
        found.append(f"judged by {__version__}")
    then, now = _strings(manifest.meta.get("profiles")), plan.meta()["profiles"]
    changed = sorted(name for name in now if name in then and now[name] != then[name])
    found += [f"profile {name} differs from the recorded one" for name in changed]
    if then and (new := sorted(set(now) - set(then))):
        found.append(f"profile {', '.join(new)} instead of the recorded {', '.join(sorted(then))}")
    if (digest := manifest.meta.get("catalogue_sha256")) and digest != plan.meta()["catalogue_sha256"]:
        found.append("catalogue differs")
    return found


def evidence_lines(plan: Plan) -> list[str]:
    """Return a line for each recording that is judged: when it was made, by what, and what differs now.

    Recordings that say the same are told together.
    """
    told: dict[str, list[str]] = defaultdict(list)
    for recording in plan.recordings:
        began = recording.started_at.astimezone(dt.UTC)
        text = f"evidence of {began:%Y-%m-%d %H:%M} UTC, by {tool_version(recording.manifest)}"
        told["; ".join([text, *differences(plan, recording.manifest)])].append(recording.spec)
    if len(told) == 1:
        return list(told)
    return [f"{text} ({_few(specs)})" for text, specs in told.items()]


def profile_lines(plan: Plan) -> list[str]:
    """Return who is judged by which profile, one line each; empty while all are judged by the profile of the run."""
    by_profile: dict[str, list[str]] = defaultdict(list)
    for target in plan.targets:
        by_profile[plan.profile_of(target.profile).name].append(target.name)
    for name, profile in plan.profiles.items():
        if name.startswith(CLUSTER):
            by_profile[profile.name].append(name)
    if set(by_profile) == {plan.profile.name}:
        return []
    return [f"profile {name}: {_few(who)}" for name, who in sorted(by_profile.items())]


def mixed_clusters(plan: Plan) -> list[str]:
    """Return a line for each cluster whose hosts have several profiles while nobody said by which it is judged."""
    lines = []
    for name in plan.profiles:
        cluster = name.removeprefix(CLUSTER)
        hosts = {plan.profile_of(target.profile).name for target in plan.targets if target.cluster == cluster}
        if name.startswith(CLUSTER) and len(hosts) > 1 and cluster not in plan.cluster_references:
            lines.append(
                f"cluster {cluster}: its hosts have the profiles {' and '.join(sorted(hosts))}; together they are judged by the"
                f" strictest of each (to choose: clusters: {{{cluster}: {{profile: NAME}}}} in the inventory)"
            )
    return lines


def shared_sources(plan: Plan) -> list[str]:
    """Return a line for each place that answers under several names: who meant two hosts has looked at one."""
    by_spec: dict[str, list[str]] = defaultdict(list)
    for target in plan.targets:
        by_spec[target.spec].append(target.name)
    return [f"one place answers for {_few(names)}: {spec}" for spec, names in sorted(by_spec.items()) if len(names) > 1]


def lines(plan: Plan) -> list[str]:
    """Return all that the header has to say of evidence and profiles; empty for a live run by one profile."""
    return [*evidence_lines(plan), *profile_lines(plan), *mixed_clusters(plan), *partial_clusters(plan), *shared_sources(plan)]


def as_json(plan: Plan) -> list[Mapping[str, Any]]:
    """Return what recordings say of themselves that were made by other rules than judge them now.

    The rest is what the report itself says: whoever replays gets the report of the run, byte for byte.
    """
    return [
        {
            "bundle": recording.spec,
            "tool": str(recording.manifest.tool),
            "started_at": recording.manifest.started_at,
            "finished_at": recording.manifest.finished_at,
            "catalogue_sha256": str(recording.manifest.meta.get("catalogue_sha256", "")),
            "profiles": _strings(recording.manifest.meta.get("profiles")),
            "differences": different,
        }
        for recording in plan.recordings
        if (different := differences(plan, recording.manifest))
    ]


def _few(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - MANY_NAMES} more" if len(found) > MANY_NAMES else ""
    return ", ".join(found[:MANY_NAMES]) + more
