"""Checks of the hosts of a cluster against each other."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from pytest_kvmcheck import (
    EvidenceMissing,
    Findings,
    Flag,
    Items,
    NotApplicable,
    Number,
    Params,
    Severity,
    Text,
    Whole,
    check,
    note,
)
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cpulist import format_cpulist
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.pool import Pool
from pytest_kvmcheck.facts.virtnet import VirtNetwork
from pytest_kvmcheck.parameters import fewest, none_first
from pytest_kvmcheck.views import identity as identities
from pytest_kvmcheck.views.cluster import Cluster
from pytest_kvmcheck.views.cpu import capabilities, cpuinfo, online_cpus, uname
from pytest_kvmcheck.views.domains import Domain, filters, networks, running_domains, secrets, storage_pools
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.identity import packages, versions
from pytest_kvmcheck.views.memory import default_page_bytes
from pytest_kvmcheck.views.migration import (
    Guest,
    Pages,
    Room,
    clock_offset,
    clock_sample,
    definition_to_move,
    domcapabilities,
    free_pages,
    guest_of,
    has_feature,
    huge_bytes,
    layout,
    microcode,
    moving_domains,
    must_run,
    pages_of,
    total_bytes,
)
from pytest_kvmcheck.views.network import links, ports
from pytest_kvmcheck.views.placement import isolated_cpus, nohz_full_cpus, size
from pytest_kvmcheck.views.services import lockd_conf, qemu_conf, unit
from pytest_kvmcheck.views.sharing import (
    SHARED_POOLS,
    SHARED_TYPES,
    identity,
    is_block,
    lun_named,
    luns,
    luns_below,
    mount_terms,
    plain_wwid,
    shared_mount,
)
from pytest_kvmcheck.views.storage import dm_maps
from pytest_kvmcheck.views.system import mounts
from pytest_kvmcheck.views.time import chrony_sources, now_s, tracking

T = TypeVar("T")


def _by_value(answers: dict[str, str]) -> str:
    """Return who has what, for a message: ``6.1.0 on a, b; 6.8.0 on c``."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, value in answers.items():
        found[value].append(name)
    return "; ".join(f"{value} on {', '.join(sorted(names))}" for value, names in sorted(found.items()))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@check(
    "KVM-CLU-002",
    title="Kernel, QEMU, libvirt and firmware versions are aligned",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "uname", "packages"),
    params={"max_minor_skew": Whole(0, 0, 5, strictest=min)},
)
def test_versions_are_aligned(cluster: Cluster, params: Params) -> None:
    """A guest finds on every host of the cluster what it was started with.

    What it checks
        Running QEMU and libvirt have the same major version on all hosts, and minor versions at most max_minor_skew apart; every
        machine type of a domain that may move (not tagged local, no assigned devices) is offered by all hosts. Other differences
        (kernel, package releases, firmware) warn.

    Why it matters
        Migration to an older QEMU is not guaranteed to work.

    How to fix
        now: finish the rolling upgrade; migrate from older to newer hosts only
        after a reboot: the same packages on all hosts
        roll back: downgrade the packages again (dnf downgrade, apt-get install PACKAGE=VERSION, zypper install --oldpackage), with
            the guests moved away
        verify: virsh -r -c qemu:///system version; uname -r

    When not to
        During a rolling upgrade.

    References
        https://www.qemu.org/docs/master/devel/migration/compatibility.html
    """
    with Findings() as findings:
        found, missing = cluster.each(versions)
        findings.unknown(missing)
        for what in ("qemu", "libvirt"):
            shown = {name: getattr(item, what) for name, item in found.items()}
            majors = {version[0] for version in shown.values()}
            minors = {version[1] for version in shown.values() if len(version) > 1}
            label = {"qemu": "QEMU", "libvirt": "libvirt"}[what]
            text = _by_value({name: _dotted(version) for name, version in shown.items()})
            if len(majors) > 1:
                findings.fail(f"{cluster}: {label} of different major versions: {text}.")
            elif minors and max(minors) - min(minors) > params.max_minor_skew:
                findings.fail(f"{cluster}: {label} of different minor versions: {text}.")
            elif len(set(shown.values())) > 1:
                findings.warn(f"{cluster}: {label} of different releases: {text}.")
        _machine_types(cluster, findings)
        kernels, missing = cluster.each(lambda host: uname(host).release)
        findings.unknown(missing)
        findings.warn_if(len(set(kernels.values())) > 1, f"{cluster}: different kernels: {_by_value(kernels)}.")
        installed, missing = cluster.each(packages)
        findings.unknown(missing)
        for package in sorted({name for item in installed.values() for name in item}):
            have = {name: item[package] for name, item in installed.items() if package in item}
            findings.warn_if(len(set(have.values())) > 1, f"{cluster}: {package} differs: {_by_value(have)}.")


def _machine_types(cluster: Cluster, findings: Findings) -> None:
    """Find machine types of domains that another host of the cluster does not offer."""
    offered, missing = cluster.each(capabilities)
    findings.unknown(missing)

    def used(host: Host) -> set[tuple[str, str]]:
        return {(domain.saved.os.arch, domain.saved.os.machine) for domain in moving_domains(host) if domain.saved.os.machine}

    wanted, missing = cluster.each(used)
    findings.unknown(missing)
    for arch, machine in sorted(set().union(*wanted.values())):
        users = sorted(name for name, types in wanted.items() if (arch, machine) in types)
        lacking = sorted(name for name, caps in offered.items() if machine not in caps.machines.get(arch, frozenset()))
        if lacking:
            findings.fail(f"{cluster}: machine type {machine}, used on {', '.join(users)}, is not offered by {', '.join(lacking)}.")


def _duplicates(answers: dict[str, set[str]]) -> list[tuple[str, list[str]]]:
    """Return the values that several hosts have, with the hosts."""
    owners: dict[str, list[str]] = defaultdict(list)
    for name, found in answers.items():
        for value in found:
            owners[value].append(name)
    return sorted((value, sorted(names)) for value, names in owners.items() if len(names) > 1)


def _hashed(value: str) -> str:
    """Return a short digest: identifiers are nobody's business."""
    return hashlib.sha256(value.encode()).hexdigest()[:12]


@check(
    "KVM-CLU-009",
    title="Hosts have unique IDs and initiator names",
    severity=Severity.CRITICAL,
    reads=("virsh", "machine_id", "ssh_host_keys", "nvme_identity", "iscsi_initiator", "fc_ports", "product_uuid"),
)
def test_identities_are_unique(cluster: Cluster) -> None:
    """No host of the cluster takes itself for another.

    What it checks
        libvirt's host UUID, machine-id, SSH host keys, iSCSI initiator name, NVMe host name and Fibre Channel port names differ
        between all hosts. What a host does not have is left out. Equal firmware UUIDs alone are a warning.

    Why it matters
        Cloned hosts with one initiator name knock each other off the storage; libvirt refuses to migrate to "the same" host.

    How to fix
        now: rm /etc/machine-id and systemd-machine-id-setup; iscsi-iname > a new InitiatorName in /etc/iscsi/initiatorname.iscsi;
            nvme gen-hostnqn > /etc/nvme/hostnqn; ssh-keygen -A after the old host keys are removed
        after a reboot: host_uuid_source = "machine-id" in the libvirt daemon's configuration, where the firmware has no UUID
        roll back: put the former files back, from copies made before, on one of the hosts only
        verify: compare the files named above on both hosts

    When not to
        Never.

    References
        https://libvirt.org/formatcaps.html
        https://www.freedesktop.org/software/systemd/man/latest/machine-id.html
    """
    kinds: tuple[tuple[str, Callable[[Host], set[str]]], ...] = (
        ("libvirt host UUID", identities.libvirt_uuid),
        ("machine-id", identities.machine_id),
        ("SSH host key", identities.ssh_host_keys),
        ("iSCSI initiator name", identities.iscsi_iqn),
        ("NVMe host name", identities.nvme_nqn),
        ("Fibre Channel port name", identities.fc_wwpn),
    )
    with Findings() as findings:
        for what, ask in kinds:
            answers, missing = cluster.each(ask)
            findings.unknown(missing)
            for value, owners in _duplicates(answers):
                findings.fail(f"{cluster}: {', '.join(owners)} have the same {what} (sha256 {_hashed(value)}).")
            if what == "machine-id" and any(not found for found in answers.values()):
                nameless = sorted(name for name, found in answers.items() if not found)
                findings.unknown(EvidenceMissing(Cause.EMPTY, f"{', '.join(nameless)}: machine-id is empty", "machine_id"))
        answers, missing = cluster.each(identities.product_uuid)
        findings.unknown(missing)
        for value, owners in _duplicates(answers):
            findings.warn(f"{cluster}: {', '.join(owners)} have the same firmware UUID (sha256 {_hashed(value)}).")


def _other_hosts(cluster: Cluster, host: Host) -> list[Host]:
    return [other for other in cluster.hosts if other is not host]


def _asked(findings: Findings, host: Host, ask: Callable[[], T]) -> T | None:
    """Return what *ask* answers; what it misses is reported as unknown of *host*, and None returned."""
    try:
        return ask()
    except EvidenceMissing as missing:
        findings.unknown(EvidenceMissing(missing.cause, f"{host}: {missing.detail}", missing.probe, missing.blocked_by))
        return None


@check(
    "KVM-CLU-001",
    title="All hosts of a migration domain can run the guest CPU model",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "domcapabilities", "cpuinfo", "microcode", "uname"),
)
def test_cpu_models_run_everywhere(cluster: Cluster) -> None:
    """Whatever CPU a guest sees here, the other hosts have it too.

    What it checks
        For each KVM guest that may move (not tagged local, no assigned devices): its named model is usable on every other host, or
        is that host's own, and each feature that it requires is there. A guest with host-passthrough (or maximum) needs the same
        vendor, family, model, stepping, flags, kernel and QEMU; another microcode alone is a warning.

    Why it matters
        Migration to a CPU that lacks something fails, or the guest crashes there later.

    How to fix
        now: keep the guest on the hosts that can run it
        after a reboot: virsh edit DOMAIN: a model that all have, from virsh domcapabilities of all hosts in one file and
            virsh hypervisor-cpu-baseline FILE
        roll back: virsh define FILE, with what virsh dumpxml --inactive DOMAIN had written to FILE before the change
        verify: virsh domcapabilities | grep -A30 host-model (not on a read-only connection)

    When not to
        Guests that never move: tag them local.

    References
        https://libvirt.org/formatdomain.html#cpu-model-and-topology
        https://libvirt.org/manpages/virsh.html#hypervisor-cpu-baseline
    """
    with Findings() as findings:
        for host in cluster.hosts:
            for domain in _asked(findings, host, functools.partial(moving_domains, host)) or []:
                _judge_cpu(cluster, host, domain, findings)


def _judge_cpu(cluster: Cluster, host: Host, domain: Domain, findings: Findings) -> None:
    xml = definition_to_move(domain)
    if xml.type != "kvm" or xml.cpu.mode in ("", "host-model"):
        return  # a default model runs anywhere; host-model becomes that of the host where the guest starts
    for other in _other_hosts(cluster, host):
        who = f"{domain} ({host})"
        if xml.cpu.mode in ("host-passthrough", "maximum"):
            _compare_cpus(who, host, other, findings)
            continue
        caps = _asked(findings, other, functools.partial(domcapabilities, other))
        if caps is None:
            continue
        if caps.arch != xml.os.arch:
            findings.fail(f"{who}: {other} runs {caps.arch} guests, not {xml.os.arch}.")
            continue
        model = xml.cpu.model
        if model not in caps.usable and model != caps.host_model:
            findings.fail(f"{who}: {other} cannot run CPU model {model}, its own is {caps.host_model or 'not told'}.")
            continue
        needed = sorted(name for name, policy in xml.cpu.features.items() if policy in ("require", "force"))
        lacking = [name for name in needed if not has_feature(other, name)]
        if not lacking:
            continue
        # A feature that not even its own host shows goes by a name that we do not know: that proves nothing.
        known = [name for name in lacking if _asked(findings, host, functools.partial(has_feature, host, name))]
        if known:
            findings.fail(f"{who}: {other} lacks CPU feature {', '.join(known)}.")
        else:
            detail = f"{who}: whether {other} has CPU feature {', '.join(lacking)} cannot be told"
            findings.unknown(EvidenceMissing(Cause.MISSING, detail, "domcapabilities"))


def _compare_cpus(who: str, host: Host, other: Host, findings: Findings) -> None:
    """Demand two hosts between which a guest that sees the bare CPU can move."""
    kinds: tuple[tuple[str, Callable[[Host], object]], ...] = (
        ("vendor", lambda item: cpuinfo(item).vendor),
        ("flags", lambda item: cpuinfo(item).flags),
        ("family, model and stepping", _signature),
        ("kernel", lambda item: uname(item).release),
        ("QEMU", lambda item: _dotted(versions(item).qemu)),
    )
    for what, ask in kinds:
        ours = _asked(findings, host, functools.partial(ask, host))
        theirs = _asked(findings, other, functools.partial(ask, other))
        if ours is None or theirs is None or ours == theirs:
            continue
        if isinstance(ours, frozenset) and isinstance(theirs, frozenset):
            shown = f"only on one: {', '.join(sorted(map(str, ours ^ theirs))[:8])}"
        else:
            shown = f"{ours} and {theirs}"
        findings.fail(f"{who} sees the bare CPU, and {host} and {other} differ in {what} ({shown}).")
    if uname(host).machine == "x86_64" and (revisions := {item.name: _revision(item) for item in (host, other)}):
        findings.warn_if(len(set(revisions.values())) > 1, f"{who}: microcode differs: {_by_value(revisions)}.")


def _signature(host: Host) -> str:
    if uname(host).machine not in ("x86_64", "i686"):
        return cpuinfo(host).model
    return ", ".join("{}/{}/{}".format(*signature) for signature in sorted(microcode(host)))


def _revision(host: Host) -> str:
    return ", ".join(sorted(f"0x{revision:x}" for revisions in microcode(host).values() for revision in revisions))


#: A clock that chrony set longer ago (seconds) may have run away since.
_STALE_S = 3600


@check(
    "KVM-CLU-003",
    title="Hosts agree on the time and the time zone",
    severity=Severity.MEDIUM,
    reads=("clock", "chrony_tracking", "chrony_sources", "now"),
    params={"max_skew_ms": Number(50, 1, 10_000, strictest=min)},
)
def test_hosts_agree_on_time(cluster: Cluster, params: Params) -> None:
    """A guest that moves does not travel in time.

    What it checks
        No two hosts are proved to differ by more than max_skew_ms, and it is known that they do not: by the controller's clock at
        asking and at the answer, or, where the way there is too slow for that, by chrony's own bounds (offset, half the root
        delay, root dispersion) while its last update is less than an hour old. All keep one time zone. Servers of time that no two
        hosts have in common are a warning.

    Why it matters
        Guests jump by the difference when they move; logs contradict each other, and leases of sanlock and Ceph expire early.

    How to fix
        now: chronyc makestep on the host that is off (its guests see the jump)
        after a reboot: the same servers in chrony.conf of all hosts (KVM-TIM-001); timedatectl set-timezone UTC
        roll back: the former chrony.conf, and systemctl restart chronyd (Debian, Ubuntu: chrony); a step of the clock cannot be
            taken back
        verify: chronyc -n tracking; readlink /etc/localtime

    When not to
        Hosts that are no cluster but far apart: put them into clusters of their own in the inventory.

    References
        https://chrony-project.org/doc/4.6/chronyc.html
    """
    limit = params.max_skew_ms / 1000
    with Findings() as findings:
        samples, missing = cluster.each(clock_sample)
        findings.unknown(missing)
        for first, second in itertools.combinations(sorted(samples), 2):
            if not samples[first].same_zone(samples[second]):
                zones = _by_value({name: sample.zone for name, sample in samples.items()})
                findings.fail(f"{cluster}: different time zones: {zones}.")
                break
        offsets, missing_trip = cluster.each(clock_offset)
        found: list[str] = []
        for one, two in itertools.combinations(cluster.hosts, 2):
            if one.name not in samples or two.name not in samples:
                continue
            skew, doubt = None, float("inf")
            if one.name in offsets and two.name in offsets:
                (ahead, half), (behind, other_half) = offsets[one.name], offsets[two.name]
                skew, doubt = abs(ahead - behind), half + other_half
                if skew - doubt > limit:
                    shown = f"{skew * 1000:.0f} ms (give or take {doubt * 1000:.0f})"
                    findings.fail(
                        f"{cluster}: the clocks of {one} and {two} differ by {shown}, at most {params.max_skew_ms} allowed."
                    )
                    continue
                if max(half, other_half) <= limit:
                    found.append(f"{one} and {two}: {skew * 1000:.0f} ms")
                    continue
            bounds = [_asked(findings, host, functools.partial(_chrony_bound, host)) for host in (one, two)]
            if None in bounds:
                why = f"only known to {doubt * 1000:.0f} ms" if skew is not None else "not timed"
                detail = f"the clocks of {one} and {two} are {why}, and chrony does not vouch for both"
                findings.unknown(missing_trip or EvidenceMissing(Cause.MISSING, detail, "clock"))
                continue
            bound = sum(filter(None, bounds))
            if bound > limit:
                detail = f"the clocks of {one} and {two} are known to {bound * 1000:.0f} ms only, not to {params.max_skew_ms}"
                findings.unknown(EvidenceMissing(Cause.MISSING, detail, "chrony_tracking"))
            found.append(f"{one} and {two}: within {bound * 1000:.0f} ms by chrony")
        _judge_servers(cluster, findings)
        note("; ".join(found))


def _chrony_bound(host: Host) -> float | None:
    """Return by how much (seconds) the host's clock can be off by chrony's own account, None when it does not vouch for it."""
    known = tracking(host)
    if known is None or not known.synchronized or abs(now_s(host) - known.reference_s) > _STALE_S:
        return None
    return abs(known.offset_s) + known.root_delay_s / 2 + known.root_dispersion_s


def _judge_servers(cluster: Cluster, findings: Findings) -> None:
    """Warn when the hosts that tell their servers of time have none in common."""
    sources, missing = cluster.each(chrony_sources)
    findings.unknown(missing)
    sets = {name: {source.address for source in told if not source.refclock} for name, told in sources.items() if told}
    if len(sets) > 1 and not set.intersection(*sets.values()):
        shown = _by_value({name: " ".join(sorted(found)) for name, found in sets.items()})
        findings.warn(f"{cluster}: no server of time is common to all: {shown}.")


@check(
    "KVM-CLU-004",
    title="Every shared LUN and pool is visible on every host under the same name",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "objects", "scsi_disks", "scsi_wwids", "dm_maps", "dm_slaves", "block_devices", "mounts", "images"),
    params={"ignore_wwids": Items((), Text("", r"[\w.:-]{8,}", "a WWID"), strictest=fewest)},
)
def test_shared_storage_is_everywhere(cluster: Cluster, params: Params) -> None:
    """A guest finds its disks on every host, by the name that its definition has for them.

    What it checks
        For each guest that may move (not tagged local, no assigned devices): every host sees its LUNs (of volumes and partitions
        those below them), with equal sizes, and the source in the definition leads to the same WWID there; its files lie on a
        file system with the same source, protocol version and hard or soft everywhere; its pools exist everywhere. Shared pools
        of one name have the same target and source. LUNs below multipath that some hosts do not see, or see by fewer paths, are a
        warning, but for those of ignore_wwids and mounted ones.

    Why it matters
        A guest that is restarted where a LUN is missing does not start. Names like mpatha are each host's own choice: the same name
        may be another LUN.

    How to fix
        now: mend zoning or masking, then rescan-scsi-bus.sh -a
        after a reboot: copy /etc/multipath/bindings to all hosts, or user_friendly_names no in multipath.conf; the same lines in
            /etc/fstab; virsh pool-define and pool-autostart on all hosts
        roll back: the former /etc/multipath/bindings, /etc/multipath.conf and /etc/fstab; virsh pool-undefine POOL on the hosts
            that had none
        verify: multipath -ll; virsh pool-list --all; grep nfs /proc/mounts

    When not to
        LUNs that only one host is meant to see: name them in ignore_wwids.

    References
        https://libvirt.org/formatstorage.html
        https://manpages.ubuntu.com/manpages/noble/man5/multipath.conf.5.html
    """
    ignored = {plain_wwid(wwid) for wwid in params.ignore_wwids}
    with Findings() as findings:
        seen, missing = cluster.each(luns)
        findings.unknown(missing)
        pools_of, missing_pools = cluster.each(storage_pools)
        findings.unknown(missing_pools)
        mounted, missing_mounts = cluster.each(lambda host: [item for item in mounts(host) if item.type in SHARED_TYPES])
        findings.unknown(missing_mounts)
        shared = any(mounted.values()) or any(lun.mapped for found in seen.values() for lun in found.values())
        for host in cluster.hosts:
            for domain in _asked(findings, host, functools.partial(moving_domains, host)) or []:
                for disk in definition_to_move(domain).disks:
                    shared |= _judge_disk(cluster, host, f"{domain} ({host})", disk, findings)
        shared |= _judge_pools(
            cluster, {name: {key: pool for key, (pool, _) in found.items()} for name, found in pools_of.items()}, findings
        )
        if not shared and not findings.failures and not findings.missing:
            raise NotApplicable("no shared storage")
        known = {wwid for found in seen.values() for wwid, lun in found.items() if lun.mapped} - ignored
        for wwid in sorted(known - {wwid for host in cluster.hosts if host.name in seen for wwid in _mounted_luns(host)}):
            paths = {name: found[wwid].paths if wwid in found else 0 for name, found in seen.items()}
            if len(set(paths.values())) > 1:
                counts = _by_value({name: f"{count} paths" for name, count in paths.items()})
                findings.warn(f"{cluster}: LUN {wwid} is not seen alike: {counts}.")


def _mounted_luns(host: Host) -> set[str]:
    """Return the WWIDs of LUNs that hold mounted file systems of this host: those it boots from."""
    sources = {mount.source.rpartition("/")[2] for mount in mounts(host) if mount.source.startswith("/dev/")}
    found = set()
    for lun in luns(host).values():
        above = {item.name for item in dm_maps(host) if lun.names & set(item.slaves)}
        if any(re.fullmatch(rf"{re.escape(name)}(?:-?p(?:art)?)?\d*", source) for name in lun.names | above for source in sources):
            found.add(lun.wwid)
    return found


def _judge_disk(cluster: Cluster, host: Host, who: str, disk: Disk, findings: Findings) -> bool:
    """Judge one disk of a guest; tell whether it is on shared storage."""
    if disk.type == "volume":
        for other in _other_hosts(cluster, host):
            known = _asked(findings, other, functools.partial(storage_pools, other))
            if known is not None and disk.pool not in known:
                findings.fail(f"{who}: {other} has no pool {disk.pool}.")
        return False
    if is_block(disk):
        named = _asked(findings, host, functools.partial(luns_below, host, disk.source))
        if not named or not named[0]:
            return False
        wwid = lun_named(host, disk.source)
        if not wwid:  # a volume or partition on LUNs, or a name that only its own host can follow
            return _judge_luns_below(cluster, host, who, disk, named[0], findings)
        ours = luns(host)[wwid]
        for other in _other_hosts(cluster, host):
            seen = _asked(findings, other, functools.partial(luns, other))
            if seen is None:
                continue
            there = lun_named(other, disk.source)
            if wwid not in seen:
                findings.fail(f"{who}: {other} does not see LUN {wwid} ({disk.source}).")
            elif there != wwid:
                findings.fail(
                    f"{who}: {disk.source} is LUN {wwid} on {host}, and {f'LUN {there}' if there else 'nothing'} on {other}."
                )
            elif seen[wwid].size_bytes != ours.size_bytes:
                sizes = f"{ours.size_bytes} bytes on {host}, {seen[wwid].size_bytes} on {other}"
                findings.fail(f"{who}: LUN {wwid} has {sizes}: rescan.")
        return ours.mapped or any(wwid in (seen or {}) for seen in cluster.each(luns)[0].values())
    if disk.type != "file" or not disk.source.startswith("/"):
        return False
    mount = _asked(findings, host, functools.partial(shared_mount, host, disk.source))
    if mount is None:
        return False
    for other in _other_hosts(cluster, host):
        if _asked(findings, other, functools.partial(mounts, other)) is None:
            continue
        their = shared_mount(other, disk.source)
        if their is None:
            findings.fail(f"{who}: {other} has no shared file system at {mount.target}.")
        elif mount_terms(their) != mount_terms(mount) or their.target != mount.target:
            shown = [" ".join(filter(None, mount_terms(item))) for item in (mount, their)]
            findings.fail(f"{who}: {mount.target} is {shown[0]} on {host}, and {shown[1]} on {other}.")
    return True


def _judge_luns_below(cluster: Cluster, host: Host, who: str, disk: Disk, wwids: tuple[str, ...], findings: Findings) -> bool:
    """Demand the LUNs that a volume or partition lies on; whether its name is the same on other hosts is not seen there."""
    shared = False
    for wwid in wwids:
        ours = luns(host)[wwid]
        for other in _other_hosts(cluster, host):
            seen = _asked(findings, other, functools.partial(luns, other))
            if seen is None:
                continue
            if wwid not in seen:
                findings.fail(f"{who}: {other} does not see LUN {wwid} below {disk.source}.")
                continue
            shared = True
            if seen[wwid].size_bytes != ours.size_bytes:
                sizes = f"{ours.size_bytes} bytes on {host}, {seen[wwid].size_bytes} on {other}"
                findings.fail(f"{who}: LUN {wwid} below {disk.source} has {sizes}: rescan.")
        shared |= ours.mapped
    return shared


def _judge_pools(cluster: Cluster, found: dict[str, dict[str, Pool]], findings: Findings) -> bool:
    """Compare shared pools of one name; tell whether there are any."""
    shared = {pool.name for pools in found.values() for pool in pools.values() if pool.type in SHARED_POOLS}
    for name in sorted(shared):
        terms = {
            host: " ".join(filter(None, (pools[name].type, *pools[name].source, pools[name].target)))
            for host, pools in found.items()
            if name in pools
        }
        findings.fail_if(len(set(terms.values())) > 1, f"{cluster}: pool {name} is not the same: {_by_value(terms)}.")
    return bool(shared)


@check(
    "KVM-CLU-005",
    title="Networks, bridges and secrets have the same names and MTU on all hosts",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "objects", "ip_link"),
)
def test_networks_are_everywhere(cluster: Cluster) -> None:
    """A guest finds its networks, filters and secrets on every host, and they mean the same there.

    What it checks
        Each bridge, network, filter and secret that a guest that may move refers to (not tagged local, no assigned devices) exists
        on all hosts. Bridges of one name have the same MTU and the same VLAN on their uplink; networks the same forward mode,
        VLANs, port groups and, where they name one, bridge. What no guest uses may differ.

    Why it matters
        Migration fails, stalls on the one host with a small MTU, or, worst, joins the guest to another network.

    How to fix
        now: virsh net-dumpxml NET on a good host, virsh net-define and net-start on the other; ip link set BRIDGE mtu 9000
        after a reboot: virsh net-autostart NET; the same bridges in the configuration of the network (nmcli, netplan, ifupdown,
            wicked)
        roll back: virsh net-destroy and net-undefine NET on the host that had none; ip link set BRIDGE mtu with the former value
        verify: virsh net-list --all; ip -d link show BRIDGE

    When not to
        Guests that never move: tag them local. The switch's side of a VLAN cannot be seen from here.

    References
        https://libvirt.org/formatdomain.html#network-interfaces
        https://libvirt.org/formatnetwork.html
    """
    with Findings() as findings:
        used: dict[tuple[str, str], set[str]] = defaultdict(set)
        for host in cluster.hosts:
            for domain in _asked(findings, host, functools.partial(moving_domains, host)) or []:
                for what in _references(host, definition_to_move(domain), findings):
                    used[what].add(f"{domain} ({host})")
        kinds: dict[str, Callable[[Host], dict[str, str]]] = {
            "bridge": lambda host: {name: _bridge_terms(host, name) for name in links(host)},
            "device": lambda host: dict.fromkeys(links(host), ""),
            "network": lambda host: {name: _network_terms(net) for name, (net, _) in networks(host).items()},
            "filter": lambda host: dict.fromkeys(filters(host), ""),
            "secret": lambda host: {**dict.fromkeys(secrets(host), ""), **{_use(text): "" for text in secrets(host).values()}},
        }
        for kind in sorted({kind for kind, _ in used}):
            answers, missing = cluster.each(kinds[kind])
            findings.unknown(missing)
            for name in sorted(name for known, name in used if known == kind):
                lacking = sorted(host for host, there in answers.items() if name not in there)
                users = ", ".join(sorted(used[kind, name]))
                if lacking:
                    findings.fail(f"{cluster}: {kind} {name}, used by {users}, is not on {', '.join(lacking)}.")
                    continue
                terms = {host: there[name] for host, there in answers.items()}
                findings.fail_if(len(set(terms.values())) > 1, f"{cluster}: {kind} {name} differs: {_by_value(terms)}.")


def _references(host: Host, xml: DomainXml, findings: Findings) -> Iterator[tuple[str, str]]:
    """Yield kind and name of what a definition refers to; a network that stands on a bridge refers to that too."""
    for nic in xml.nics:
        if nic.filter:
            yield "filter", nic.filter
        if nic.type == "bridge" and nic.source:
            yield "bridge", nic.source
        elif nic.type == "direct" and nic.source:
            yield "device", nic.source
        elif nic.type == "network" and nic.source:
            yield "network", nic.source
            known = (_asked(findings, host, functools.partial(networks, host)) or {}).get(nic.source)
            if known and known[0].forward_mode == "bridge" and known[0].bridge:
                yield "bridge", known[0].bridge
    for disk in xml.disks:
        for secret in disk.secrets:
            yield "secret", secret


def _use(text: str) -> str:
    """Return the name in the use of a secret: ``ceph client.libvirt secret`` by ``usage='client.libvirt secret'``."""
    return text.partition(" ")[2]


def _bridge_terms(host: Host, name: str) -> str:
    """Return what bridges of one name must have in common: MTU, and the VLAN of their uplinks."""
    known = links(host)[name]
    uplinks = [port for port in ports(host, name) if port.kind not in ("tun", "veth")]
    vlans = sorted({f"VLAN {port.data.get('id')}" if port.kind == "vlan" else "untagged" for port in uplinks})
    return f"mtu {known.mtu}, uplink {' and '.join(vlans) or 'none'}"


def _network_terms(net: VirtNetwork) -> str:
    parts = [f"forward {net.forward_mode}"]
    if net.forward_mode == "bridge" and net.bridge:
        parts.append(f"bridge {net.bridge}")
    if net.vlans:
        parts.append(f"VLAN {format_cpulist(net.vlans)}")
    if net.portgroups:
        parts.append(f"port groups {', '.join(sorted(net.portgroups))}")
    if net.mtu:
        parts.append(f"mtu {net.mtu}")
    return ", ".join(parts)


@check(
    "KVM-CLU-006",
    title="Where guests are pinned, hosts have the same CPU and NUMA layout",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "cpu_lists", "cpu_topology", "numa", "isolation"),
    params={"manager_repins": Flag(False, strictest=min)},
)
def test_layouts_are_equal(cluster: Cluster, params: Params) -> None:
    """A pin means the same CPU, core and node wherever the guest goes.

    What it checks
        While a guest that may move (not tagged local, no assigned devices) has pins or is bound to NUMA nodes: all hosts have the
        same CPUs online, in the same cores, packages and nodes, and the same ones isolated. Not where a manager computes pins anew
        on the target (manager_repins: OpenStack since Train).

    Why it matters
        A pin to a CPU that the other host lacks keeps the guest from starting there; one into another node costs performance
        quietly.

    How to fix
        now: migrate with a changed definition: virsh migrate DOMAIN TARGET --live --xml FILE
        after a reboot: the same SMT setting in the firmware and the same isolcpus= on all hosts; group equal hardware
        roll back: the former setting in the firmware, and the former kernel command line, and reboot
        verify: lscpu -e; cat /sys/devices/system/cpu/isolated

    When not to
        Clusters of unequal hosts: leave guests unpinned there.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
        https://docs.openstack.org/nova/latest/admin/cpu-topologies.html
    """
    if params.manager_repins:
        raise NotApplicable("a manager computes the pins anew (manager_repins)")

    def pinned(host: Host) -> list[str]:
        found = []
        for domain in moving_domains(host):
            xml = definition_to_move(domain)
            if xml.has_pins or xml.numatune_nodeset or xml.memnode_nodesets:
                found.append(domain.name)
        return found

    with Findings() as findings:
        bound, missing = cluster.each(pinned)
        if not any(bound.values()):
            if missing:
                raise missing
            raise NotApplicable("no pinned domains")
        findings.unknown(missing)
        layouts, missing = cluster.each(layout)
        findings.unknown(missing)
        users = ", ".join(f"{name} ({host})" for host, names in sorted(bound.items()) for name in names[:3])
        online = {name: format_cpulist(item.online) for name, item in layouts.items()}
        if len(set(online.values())) > 1:
            findings.fail(f"{cluster}: different CPUs are online: {_by_value(online)}; pinned are {users}.")
        elif layouts:
            first = min(layouts)
            for name in sorted(set(layouts) - {first}):
                ours, theirs = layouts[first], layouts[name]
                cores = {cpu for cpu in ours.online if ours.places.get(cpu) != theirs.places.get(cpu)}
                nodes = {cpu for cpu in ours.online if ours.nodes.get(cpu) != theirs.nodes.get(cpu)}
                for what, cpus in (("in another core or package", cores), ("in another NUMA node", nodes)):
                    if cpus:
                        findings.fail(
                            f"{cluster}: CPUs {format_cpulist(cpus)} are {what} on {name} than on {first}; pinned are {users}."
                        )
        for what, ask in (("isolated", isolated_cpus), ("nohz_full", nohz_full_cpus)):
            answers, missing = cluster.each(ask)
            findings.unknown(missing)
            shown = {name: format_cpulist(cpus) for name, cpus in answers.items()}
            findings.fail_if(
                len(set(shown.values())) > 1, f"{cluster}: different CPUs are {what}: {_by_value(shown)}; pinned are {users}."
            )


@check(
    "KVM-CLU-007",
    title="Huge-page sizes and pools allow failover",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "hugepages", "hugepages_node", "meminfo"),
    params={"n_minus": Whole(1, 1, 3, strictest=max)},
)
def test_huge_pages_allow_failover(cluster: Cluster, params: Params) -> None:
    """When a host is lost, the others have huge pages for its guests.

    What it checks
        Each page size that a guest that may move uses has a pool on all hosts. For any n_minus hosts lost, their guests on huge
        pages (those that run, have autostart or are tagged must-run) fit into the free, unreserved pages of the others: largest
        first, each whole on one host, and on the right NUMA nodes where numatune is strict. A size that a definition leaves out is
        the host's default.

    Why it matters
        Live migration needs pages of the same size, and without free ones the guest does not start at all.

    How to fix
        now: echo N > /sys/devices/system/node/nodeX/hugepages/hugepages-2048kB/nr_hugepages
        after a reboot: the same hugepagesz= and hugepages= on the kernel command lines of all hosts
        roll back: the same with the former count
        verify: grep -r . /sys/kernel/mm/hugepages/*/free_hugepages

    When not to
        Guests that may stay down when a host is lost: tag them local.

    References
        https://docs.kernel.org/admin-guide/mm/hugetlbpage.html
        https://libvirt.org/formatdomain.html#memory-backing
    """

    def wanted(host: Host) -> dict[str, list[Pages]]:
        found = {}
        for domain in moving_domains(host):
            if domain.running or domain.autostart or "must-run" in domain.tags:
                xml = definition_to_move(domain)
                if xml.hugepages is not None:
                    found[domain.name] = pages_of(xml, default_page_bytes(host))
        return found

    with Findings() as findings:
        needs, missing = cluster.each(wanted)
        if not any(needs.values()):
            if missing:
                raise missing
            raise NotApplicable("no guest on huge pages")
        findings.unknown(missing)
        rooms, missing = cluster.each(free_pages)
        findings.unknown(missing)
        sizes = {item.size_bytes for guests in needs.values() for pages in guests.values() for item in pages}
        for size_bytes in sorted(sizes):
            lacking = sorted(name for name, room in rooms.items() if size_bytes not in room.pages)
            findings.fail_if(
                bool(lacking), f"{cluster}: pages of {size(size_bytes)} are in use, and {', '.join(lacking)} has none."
            )
        for lost in itertools.combinations(sorted(needs), min(params.n_minus, len(needs))):
            left = [room.copy() for name, room in sorted(rooms.items()) if name not in lost]
            waiting = sorted(
                ((name, pages) for host in lost for name, pages in needs[host].items()),
                key=lambda item: (-sum(page.size_bytes * page.count for page in item[1]), item[0]),
            )
            homeless = [name for name, pages in waiting if not any(room.take_pages(pages) for room in left)]
            if homeless and _all_told(cluster, rooms, lost):
                findings.fail(
                    f"{cluster}: without {', '.join(lost)} there are not enough free huge pages for {', '.join(homeless)}."
                )


def _all_told(cluster: Cluster, rooms: Mapping[str, Room], lost: Iterable[str]) -> bool:
    """Whether each host that is left told its room: who did not may have had some."""
    return {host.name for host in cluster.hosts} <= set(rooms) | set(lost)


@check(
    "KVM-CLU-008",
    title="Shared disks are protected by a lock manager and no guest runs twice",
    severity=Severity.CRITICAL,
    reads=(
        *("virsh", "domain", "scsi_disks", "scsi_wwids", "dm_maps", "dm_slaves", "block_devices", "mounts"),
        *("qemu_conf", "systemd_units", "images", "objects"),
    ),
    params={"managed_by": Text(None, strictest=none_first)},
)
def test_no_disk_has_two_writers(cluster: Cluster, params: Params) -> None:
    """One guest, one host; one disk, one writer.

    What it checks
        No domain (by UUID) runs on two hosts, but for one that is just migrating (then: look again). No disk that is writable,
        and not shareable in one of them at least, is open in two running guests: by its WWID, by file system and path, by its
        name at the server. Where guests use LUNs that several hosts see, each of those hosts has lock_manager lockd or sanlock in
        qemu.conf, with its daemon, and lockd a lockspace directory on a shared file system (on the device itself it locks for its
        own host only); or managed_by names a manager that holds leases or fences. Images on shared file systems without a lock
        manager are a warning: QEMU locks those itself.

    Why it matters
        Two QEMUs that write one disk destroy it, within seconds. QEMU's own locks do not reach a raw device on another host.

    How to fix
        now: stop one of the two at once: virsh destroy DOMAIN on the host where it should not run, then check its file systems
        after a reboot: lock_manager = "lockd" in /etc/libvirt/qemu.conf, and in /etc/libvirt/qemu-lockd.conf scsi_lockspace_dir
            (for LUNs) and lvm_lockspace_dir (for logical volumes) on an NFS or cluster file system; or sanlock; restart the daemon
            (running guests are not locked until they start again)
        roll back: the former qemu.conf and qemu-lockd.conf, and restart of the daemon; a guest that was stopped: virsh start DOMAIN
            on one host
        verify: virsh list --uuid on all hosts; lslocks; sanlock client status

    When not to
        Where oVirt, OpenStack with fencing, or Pacemaker makes sure of it: name it in managed_by.

    References
        https://libvirt.org/kbase/locking.html
        https://libvirt.org/kbase/locking-lockd.html
    """
    with Findings() as findings:
        active, missing = cluster.each(running_domains)
        findings.unknown(missing)
        by_uuid: dict[str, list[Domain]] = defaultdict(list)
        for found in active.values():
            for domain in found:
                by_uuid[domain.uuid].append(domain)
        for twins in by_uuid.values():
            if len(twins) > 1:
                _judge_twins(cluster, twins, findings)
        writers: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
        sharers: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
        for found in active.values():
            for domain in found:
                for what, alone in _asked(findings, domain.host, functools.partial(_written, domain)) or ():
                    (writers if alone else sharers)[what].setdefault(domain.uuid, f"{domain} ({domain.host})")
        for what, owners in sorted(writers.items()):
            users = {**sharers.get(what, {}), **owners}
            if len(users) > 1:
                findings.fail(f"{cluster}: {' '.join(filter(None, what))} is written by {', '.join(sorted(users.values()))}.")
        shared = _judge_locks(cluster, writers, params, findings)
        if not shared and not findings.failures and not findings.missing:
            raise NotApplicable("no shared storage")


def _judge_twins(cluster: Cluster, twins: list[Domain], findings: Findings) -> None:
    """Judge a domain that runs on several hosts: during a migration it does so for a while, one of the two being paused.

    ``running (migrated)`` is no sign of it: a guest that came from another host says so for the rest of its life.
    """
    places = ", ".join(str(domain.host) for domain in twins)
    states = [_asked(findings, domain.host, functools.partial(getattr, domain, "state")) or "" for domain in twins]
    if any(state.startswith("paused") and ("migrat" in state or "post-copy" in state) for state in states):
        detail = f"{twins[0]} is being migrated between {places}: look again"
        findings.unknown(EvidenceMissing(Cause.SKIPPED, detail, f"domain:{twins[0].uuid}/state"))
    else:
        moved = any("migrated" in state for state in states)
        again = " Unless it was migrated while the hosts were asked: look again." if moved else ""
        findings.fail(f"{cluster}: {twins[0]} ({twins[0].uuid}) runs on {places} at once.{again}")


def _written(domain: Domain) -> list[tuple[tuple[str, ...], bool]]:
    """Return the identities of the disks that a running domain writes, and whether it means to do so alone (not shareable)."""
    disks = [disk for disk in domain.live.disks if disk.is_disk and not disk.readonly]
    return [(what, not disk.shareable) for disk in disks if (what := identity(domain.host, disk))]


def _judge_locks(cluster: Cluster, writers: dict[tuple[str, ...], dict[str, str]], params: Params, findings: Findings) -> bool:
    """Demand lock managers where LUNs or file systems are shared; tell whether any are."""
    seen, missing = cluster.each(luns)
    used = {what[1] for what in writers if what[0] == "LUN"}
    common = {name: used & set(found) for name, found in seen.items()}
    shared_luns = {wwid for wwid in used if sum(wwid in found for found in common.values()) > 1}
    if used:
        findings.unknown(missing)
    files = sorted({what[1] for what in writers if what[0] == "file" and what[1] not in {host.name for host in cluster.hosts}})
    networked = any(what[0] == "network" for what in writers)
    if params.managed_by or not (shared_luns or files):
        return bool(shared_luns or files or networked)
    for host in cluster.hosts:
        locked = _asked(findings, host, functools.partial(_lock_manager, host))
        if locked is None:
            continue
        if locked:
            mine = shared_luns & common.get(host.name, set())
            if locked == "lockd" and mine and (where := _asked(findings, host, functools.partial(_local_locks, host))):
                findings.fail(f"{host}: virtlockd locks LUN {min(mine)} on this host only: {where}.")
            continue
        if shared_luns & common.get(host.name, set()):
            findings.fail(f"{host}: no lock manager in qemu.conf, and guests use LUNs that several hosts see ({min(shared_luns)}).")
        elif files:
            findings.warn(f"{host}: no lock manager in qemu.conf; QEMU alone locks the images on {', '.join(files)}.")
    return True


def _lock_manager(host: Host) -> str:
    """Return the lock manager in force, empty when there is none or its daemon is down."""
    name = str(qemu_conf(host).get("lock_manager", "")).strip()
    daemons = {"sanlock": ("sanlock.service",), "lockd": ("virtlockd.socket", "virtlockd.service")}
    if name not in daemons:
        return ""
    return name if any(unit(host, daemon).active for daemon in daemons[name]) else ""


def _local_locks(host: Host) -> str:
    """Return why the other hosts do not see virtlockd's locks of block devices, empty when they do.

    By default it locks the device node itself, which is each host's own; only files on a shared file system are seen by all.
    """
    given = [str(lockd_conf(host).get(f"{kind}_lockspace_dir", "")) for kind in ("file", "lvm", "scsi")]
    places = [place for place in given if place]
    if not places:
        return "qemu-lockd.conf names no lockspace directory"
    if not any(shared_mount(host, f"{place.rstrip('/')}/") for place in places):
        return f"{', '.join(places)} is on no shared file system"
    return ""


@check(
    "KVM-CLU-010",
    title="The cluster has room for the loss of one host",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "domstats", "meminfo", "cpu_lists", "hugepages", "hugepages_node"),
    params={
        "n_minus": Whole(1, 1, 3, strictest=max),
        "max_ratio_degraded": Number(8.0, 0.5, 32, strictest=min),
        "reserve_pct": Number(10, 0, 50, strictest=max),
    },
)
def test_room_for_the_loss_of_a_host(cluster: Cluster, params: Params) -> None:
    """When a host is lost, the others can take over its guests.

    What it checks
        For any n_minus hosts lost, their guests that must run (tagged must-run; all that run while none is tagged) fit into the
        others: largest first, each whole on one host, into MemTotal without huge pages, the memory of the guests that run there
        (what their balloons may grow to) and reserve_pct; guests on huge pages into free ones as by KVM-CLU-007; and no host gets
        more than max_ratio_degraded vCPUs for each CPU. CPU models and pins are judged by KVM-CLU-001 and 006.

    Why it matters
        Redundant paths and shared disks are of no use when nobody has the memory to start the guests.

    How to fix
        now: shut down what can wait, or shrink it: virsh setmaxmem and setmem --config
        after a reboot: add memory or a host; tag the guests that must run as must-run
        roll back: virsh setmaxmem and setmem --config with the former sizes; start what was shut down
        verify: virsh domstats --balloon --vcpu --list-running; cat /proc/meminfo

    When not to
        Clusters whose guests are redundant themselves: tag those that must run, or none but one.

    References
        https://libvirt.org/manpages/virsh.html#domstats
    """
    with Findings() as findings:
        needs, missing = cluster.each(lambda host: [guest_of(domain) for domain in must_run(host)])
        findings.unknown(missing)
        rooms, missing = cluster.each(lambda host: _room(host, params.reserve_pct))
        findings.unknown(missing)
        for lost in itertools.combinations(sorted(needs), min(params.n_minus, len(needs))):
            left = [room.copy() for name, room in sorted(rooms.items()) if name not in lost]
            waiting = sorted((guest for name in lost for guest in needs[name]), key=lambda guest: (-guest.memory_bytes, guest.name))
            homeless = [str(guest) for guest in waiting if not any(_take(room, guest, params.max_ratio_degraded) for room in left)]
            if homeless and _all_told(cluster, rooms, lost):
                free = ", ".join(f"{room.host} {max(0, room.memory_bytes) >> 20} MiB" for room in left) or "nothing"
                findings.fail(
                    f"{cluster}: without {', '.join(lost)} there is no room for {', '.join(homeless)} (left then: {free})."
                )


def _room(host: Host, reserve_pct: float) -> Room:
    """Return what the host has left for guests of others."""
    running = [guest_of(domain) for domain in running_domains(host)]
    total = total_bytes(host)
    room = free_pages(host).copy()
    room.memory_bytes = int(total * (1 - reserve_pct / 100)) - huge_bytes(host) - sum(guest.small_bytes for guest in running)
    room.vcpus = sum(guest.vcpus for guest in running)
    room.cpus = len(online_cpus(host))
    return room


def _take(room: Room, guest: Guest, max_ratio: float) -> bool:
    """Put *guest* into *room*; False, with nothing changed, when it does not fit."""
    if guest.small_bytes > room.memory_bytes or room.vcpus + guest.vcpus > max_ratio * room.cpus:
        return False
    if not room.take_pages(guest.pages):
        return False
    room.memory_bytes -= guest.small_bytes
    room.vcpus += guest.vcpus
    return True
