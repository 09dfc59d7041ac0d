"""Checks of guest disks and snapshots."""

from __future__ import annotations

from pytest_kvmcheck import Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.snapshots import parse_snapshots
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.images import image
from pytest_kvmcheck.views.time import now_s

DAY_S = 86400
DIRECT = ("none", "directsync")


@condition
def is_a_disk(disk: Disk) -> str | None:
    """Hold for disks, not for CD-ROM and floppy drives."""
    return None if disk.is_disk else f"a {disk.device} drive"


@condition
def is_writable(disk: Disk) -> str | None:
    """Hold for disks that the guest can write."""
    return "a read-only disk" if disk.readonly else None


@check(
    "KVM-DSK-003",
    title="The cache mode is safe and meets policy",
    severity=Severity.HIGH,
    reads=("virsh", "domain"),
    params={"allowed_modes": ("none", "directsync", "writethrough", "writeback"), "outside_allowed": "warn"},
    applies=all_of(is_a_disk, is_writable),
)
def test_cache_mode(domain: Domain, disk: Disk, params: Params) -> None:
    """What the guest has flushed survives a crash of the host.

    What it checks
        cache=unsafe only for guests tagged throw-away; shareable disks use none or directsync; otherwise the mode (writeback
        when none is given) is one of allowed_modes. A mode outside these warns, or fails if outside_allowed says so. rbd disks
        may use writeback: that cache honours flushes.

    Why it matters
        unsafe ignores flushes: a crash can destroy the file system. writeback keeps data twice in memory.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <driver ... cache='none'/>, then restart the guest
        verify: virsh dumpxml --inactive $DOM | grep cache=

    When not to
        Guests whose data nobody needs (tag throw-away).

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
        https://www.qemu.org/docs/master/system/images.html
    """
    mode = disk.effective_cache
    shown = mode if disk.cache == mode else f"{mode} (by default)"
    if params.outside_allowed not in ("warn", "fail"):
        raise ValueError(f"outside_allowed is {params.outside_allowed!r}, expected warn or fail")
    with Findings() as findings:
        if mode == "unsafe":
            if "throw-away" not in domain.tags:
                findings.fail(f"{domain}: disk {disk.target} has cache mode unsafe: flushes of the guest are ignored.")
        elif disk.shareable:
            if mode not in DIRECT:
                findings.fail(f"{domain}: shareable disk {disk.target} has cache mode {shown}, expected none or directsync.")
        elif mode not in params.allowed_modes and not (disk.protocol == "rbd" and mode == "writeback"):
            report = findings.fail if params.outside_allowed == "fail" else findings.warn
            report(f"{domain}: disk {disk.target} has cache mode {shown}, expected {' or '.join(params.allowed_modes)}.")


@condition
def is_local(disk: Disk) -> str | None:
    """Hold for disks whose I/O mode is QEMU's own."""
    return f"a disk of type {disk.type}" if disk.type in ("network", "vhostuser", "vhostvdpa") else None


@check(
    "KVM-DSK-004",
    title="The asynchronous I/O mode is consistent with cache and backend",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "images"),
    applies=all_of(is_a_disk, is_local),
)
def test_io_mode(host: Host, domain: Domain, disk: Disk) -> None:
    """Disk requests are handed to the kernel in the way that fits where the data lies.

    What it checks
        io=native goes with cache none or directsync only. Disks of critical domains on block devices or on raw files without
        holes use native or io_uring; everything else may use any mode.

    Why it matters
        With the host's page cache in between, native I/O blocks; without native or io_uring, a busy disk waits for threads.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <driver ... cache='none' io='native'/>, or io='io_uring' (QEMU 5.0, libvirt 6.3)
        verify: virsh dumpxml --inactive $DOM | grep io=

    When not to
        io_uring may be forbidden by the distribution; the guest then does not start.

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
    """
    with Findings() as findings:
        if disk.io == "native" and disk.effective_cache not in DIRECT:
            findings.fail(f"{domain}: disk {disk.target} has io=native with cache mode {disk.effective_cache}, expected none.")
        if not domain.critical or disk.io in ("native", "io_uring"):
            return
        if disk.type == "block" or (disk.type == "file" and disk.format == "raw" and _full(host, disk)):
            where = "a block device" if disk.type == "block" else "a raw file without holes"
            findings.fail(
                f"{domain}: disk {disk.target} on {where} has io={disk.io or 'threads (by default)'}, expected native or io_uring."
            )


def _full(host: Host, disk: Disk) -> bool:
    return not image(host, disk.source).sparse


@check(
    "KVM-DSK-009",
    title="Snapshots of a guest are few and young",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "now"),
    params={"max_snapshots": 2, "max_age_days": 7},
)
def test_snapshots_are_few(host: Host, domain: Domain, params: Params) -> None:
    """Snapshots are taken for a change and gone when it is done.

    What it checks
        libvirt knows at most max_snapshots of the domain, and the oldest is at most max_age_days old by the host's clock.

    Why it matters
        Snapshots are no backups. They slow the guest down, fill the storage, and block backup and migration.

    How to fix
        now: virsh snapshot-delete $DOM NAME (external ones: virsh blockcommit $DOM TARGET --active --pivot)
        after a reboot: keep states with virsh backup-begin and checkpoints instead
        verify: virsh snapshot-list $DOM

    When not to
        Test guests that are reset all the time.

    References
        https://libvirt.org/manpages/virsh.html#snapshot-list
        https://libvirt.org/kbase/domainstatecapture.html
    """
    found = parsing("domain", parse_snapshots, domain.snapshots)
    with Findings() as findings:
        if len(found) > params.max_snapshots:
            findings.fail(f"{domain}: {len(found)} snapshots, at most {params.max_snapshots} allowed.")
        if not found:
            return
        oldest = min(found, key=lambda item: item.created_s)
        age = (now_s(host) - oldest.created_s) / DAY_S
        if age > params.max_age_days:
            findings.fail(f"{domain}: snapshot {oldest.name} is {age:.0f} days old, at most {params.max_age_days} allowed.")
        note(f"{len(found)} snapshots, the oldest {max(age, 0):.0f} days old")
