"""Checks of guest disks, their images, file systems and pools, and of snapshots."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Items, Number, Params, Severity, Whole, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.blkerror import parse_blkerror
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.imagestat import QCOW2
from pytest_kvmcheck.facts.lvm import parse_lvs
from pytest_kvmcheck.facts.snapshots import parse_snapshots
from pytest_kvmcheck.views.blocks import (
    DIRECTORY_POOLS,
    NETWORK_POOLS,
    array_of,
    block_devices,
    device_of,
    device_of_volume,
    in_thin_pool,
    lun_of,
    on_thin_lun,
    pool_of,
    scsi_disk,
    with_all_below,
)
from pytest_kvmcheck.views.domains import Domain, answered, domains, storage_pools
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.images import (
    chain_below,
    demand_images_seen,
    header_of,
    image,
    image_heads,
    image_stats,
    inodes_at,
    is_remote,
    magic_of,
    mount_at,
    mount_holding,
    mount_of_directory,
    space_at,
)
from pytest_kvmcheck.views.processes import cgroup_file
from pytest_kvmcheck.views.storage import dm_maps
from pytest_kvmcheck.views.system import demand_kernel_log_since, demand_whole_kernel_log, kernel_log
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


#: Types of disks whose data lies on no file system of the host; gluster and sheepdog serve files of their own.
NO_FILE = ("block", "nvme", "vhostuser", "vhostvdpa")
FILE_PROTOCOLS = ("gluster", "nfs", "ssh", "http", "https", "ftp", "ftps", "vxhs")
FILE_POOLS = {"dir": True, "fs": True, "netfs": False, "gluster": False}


@check(
    "KVM-DSK-001",
    title="I/O-critical disks are on block devices or local/RBD volumes, not on network file systems",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "images", "mounts", "objects"),
    params={"allow_local_file": True},
    applies=is_a_disk,
)
def test_disk_is_on_fast_storage(host: Host, domain: Domain, disk: Disk, params: Params) -> None:
    """The disks of guests that depend on I/O have as few layers below them as can be.

    What it checks
        The disk is a block device, an NVMe device, vhost-user or vDPA, an rbd volume, or a file on a local file system (unless
        allow_local_file is off). A file on NFS, CIFS, CephFS or FUSE (GlusterFS, sshfs) fails for critical guests and is a remark
        for others. A volume counts as what its pool is.

    Why it matters
        Each file system and each server in between adds latency, and is one more thing that fails.

    How to fix
        now: virsh blockcopy $DOM TARGET --dest /dev/VG/LV --blockdev --format raw --transient-job --wait --pivot
            (persistent domains need --transient-job: the copy does not outlive the guest)
        after a reboot: virsh edit $DOM: <disk type='block'>, <driver name='qemu' type='raw'/> and <source dev='/dev/VG/LV'/>
        roll back: blockcopy to a file again
        verify: virsh domblklist --details $DOM

    When not to
        Guests whose I/O nobody waits for: files are convenient.

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
        https://libvirt.org/manpages/virsh.html#blockcopy
    """
    where, good = _where(host, disk, local=bool(params.allow_local_file))
    expected = "a block device, rbd or a local file system" if params.allow_local_file else "a block device or rbd"
    assert good or not domain.critical, f"{domain}: disk {disk.target} is {where}, expected {expected}."
    note(where)


def _where(host: Host, disk: Disk, *, local: bool) -> tuple[str, bool]:
    """Return what a disk is on, in words, and whether that is fast enough for critical guests."""
    if disk.type in NO_FILE:
        return f"on storage of type {disk.type}", True
    if disk.type == "network":
        return f"on {disk.protocol or 'a network disk'}", disk.protocol not in FILE_PROTOCOLS
    if disk.type == "volume":
        pool = pool_of(host, disk)
        return f"in the pool {pool.name} of type {pool.type}", FILE_POOLS.get(pool.type, True) and (
            local or pool.type not in FILE_POOLS
        )
    if disk.type != "file":
        return f"of type {disk.type or 'unknown'}", False
    mount = mount_holding(host, disk.source)
    return f"a file on {mount.type} ({mount.target})", local and not is_remote(mount.type)


@condition
def has_a_header(disk: Disk) -> str | None:
    """Hold for disks whose image the host itself can look at."""
    return None if disk.type in ("file", "block", "volume") else f"a disk of type {disk.type}"


@check(
    "KVM-DSK-002",
    title="The image format is explicit, matches reality and suits the workload",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "images"),
    params={"preferred_formats": Items(("raw",), Choice("raw", "qcow2", "qed", "vmdk", "vdi", "vhdx"), least=1)},
    applies=all_of(is_a_disk, has_a_header),
)
def test_image_format(host: Host, domain: Domain, disk: Disk, params: Params) -> None:
    """What the definition calls the image is what the image is.

    What it checks
        The definition names the format. An image called qcow2 begins with its magic bytes, is of version 3 (2: warning) and not
        marked corrupt; one called raw has no such bytes. Disks of critical guests have one of preferred_formats. The first bytes
        are read by root as they are; no tool that follows what they say is run.

    Why it matters
        Called raw, a qcow2 image shows its guest garbage. Without a format, or with qcow2 for what the guest may write as it
        likes, the guest can have QEMU open any file of the host by a header that it writes.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <driver name='qemu' type='FORMAT'/>; old images: qemu-img amend -o compat=1.1 IMAGE;
        corrupt ones: qemu-img check -r all IMAGE, with the guest off and a copy made
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change; qemu-img check
            -r and amend cannot be undone: keep the copy
        verify: virsh dumpxml --inactive $DOM | grep 'driver name'

    When not to
        A guest may keep a qcow2 image inside its raw disk on purpose (nested hosts): then waive it.

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
        https://www.qemu.org/docs/master/interop/qcow2.html
    """
    who = f"{domain}: disk {disk.target}"
    with Findings() as findings:
        findings.fail_if(not disk.format, f"{who} names no format, expected <driver type=...>.")
        if disk.format and domain.critical and disk.format not in params.preferred_formats:
            findings.fail(f"{who} has format {disk.format}, expected {' or '.join(params.preferred_formats)}.")
        if disk.type == "volume":
            raise EvidenceMissing(
                Cause.SKIPPED, f"where the volume {disk.source} of the pool {disk.pool} lies is not asked", "images"
            )
        if not disk.source:
            raise EvidenceMissing(Cause.EMPTY, f"{who} has no source", "domain")
        real = magic_of(host, disk.source) == QCOW2
        if disk.format == "raw" and real:
            findings.fail(f"{who} is called raw but begins as qcow2 does: called wrong, or its guest wrote a header.")
        if disk.format == "qcow2":
            if not real:
                findings.fail(f"{who} is called qcow2 but does not begin so.")
                return
            header = header_of(host, disk.source)
            findings.fail_if(header.corrupt, f"{who}: the image is marked corrupt.")
            findings.warn_if(header.version < 3, f"{who} is qcow2 version {header.version}, expected 3.")
        note(disk.format)


@condition
def is_cached_by_qemu(disk: Disk) -> str | None:
    """Hold for disks with a cache mode: libvirt refuses one where another process serves the disk."""
    return "a disk that another process serves (vhost-user)" if disk.type == "vhostuser" else None


@check(
    "KVM-DSK-003",
    title="The cache mode is safe and meets policy",
    severity=Severity.HIGH,
    reads=("virsh", "domain"),
    params={
        "allowed_modes": Items(
            ("none", "directsync", "writethrough", "writeback"), Choice("none", "directsync", "writethrough", "writeback"), least=1
        ),
        "outside_allowed": Choice("warn", "fail"),
    },
    applies=all_of(is_a_disk, is_writable, is_cached_by_qemu),
)
def test_cache_mode(domain: Domain, disk: Disk, params: Params) -> None:
    """What the guest has flushed survives a crash of the host.

    What it checks
        cache=unsafe only for guests tagged throw-away; shareable disks use none or directsync; otherwise the mode (writeback
        when none is given) is one of allowed_modes. A mode outside these warns, or fails if outside_allowed says so. rbd disks
        may use writeback: that cache honours flushes. Of a running guest the mode that it was started with is judged too.

    Why it matters
        unsafe ignores flushes: a crash can destroy the file system. writeback keeps data twice in memory.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <driver ... cache='none'/>, then restart the guest
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml --inactive $DOM | grep cache=

    When not to
        Guests whose data nobody needs (tag throw-away).

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
        https://www.qemu.org/docs/master/system/images.html
    """
    with Findings() as findings:
        modes = {disk.effective_cache: disk}
        if domain.running:
            with findings.part():
                modes |= {
                    live.effective_cache: live
                    for live in domain.live.disks
                    if live.target == disk.target and live.effective_cache != disk.effective_cache
                }
        for mode, item in modes.items():
            when = "" if item is disk else " now, while it runs"
            shown = f"{mode if item.cache == mode else f'{mode} (by default)'}{when}"
            if mode == "unsafe":
                if "throw-away" not in domain.tags:
                    findings.fail(f"{domain}: disk {disk.target} has cache mode {shown}: flushes of the guest are ignored.")
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
    reads=("virsh", "domain", "images", "mounts", "objects"),
    applies=all_of(is_a_disk, is_local),
)
def test_io_mode(host: Host, domain: Domain, disk: Disk) -> None:
    """Disk requests are handed to the kernel in the way that fits where the data lies.

    What it checks
        io=native goes with cache none or directsync only. Disks of critical domains on block devices or on raw files without
        holes on a local file system use native or io_uring; everything else may use any mode.

    Why it matters
        With the host's page cache in between, native I/O blocks; without native or io_uring, a busy disk waits for threads.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <driver ... cache='none' io='native'/>, or io='io_uring' (QEMU 5.0, libvirt 6.3)
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
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
        block = disk.type == "block" or (disk.type == "volume" and _is_block_volume(host, disk))
        if block or (disk.type == "file" and disk.format == "raw" and _full(host, disk)):
            where = "a block device" if block else "a raw file without holes"
            findings.fail(
                f"{domain}: disk {disk.target} on {where} has io={disk.io or 'threads (by default)'}, expected native or io_uring."
            )


def _is_block_volume(host: Host, disk: Disk) -> bool:
    pool = pool_of(host, disk)
    if pool.type in DIRECTORY_POOLS and pool.type != "netfs" and disk.format == "raw":
        raise EvidenceMissing(
            Cause.SKIPPED, f"whether the volume {disk.source} of the pool {disk.pool} has holes is not asked", "images"
        )
    return pool.type not in (*DIRECTORY_POOLS, *NETWORK_POOLS)


def _full(host: Host, disk: Disk) -> bool:
    return not image(host, disk.source).sparse and not is_remote(mount_holding(host, disk.source).type)


@condition
def is_virtio(domain: Domain, disk: Disk) -> str | None:
    """Hold for disks that an iothread can serve."""
    if disk.bus == "virtio":
        return None
    if disk.bus == "scsi":
        controller = domain.saved.controller("scsi", disk.controller)
        model = controller.model if controller else ""
        return None if model in ("virtio-scsi", "virtio-transitional", "virtio-non-transitional", "") else f"a {model} controller"
    return f"a disk on {disk.bus or 'no bus'}"


@condition
def is_critical(domain: Domain) -> str | None:
    """Hold for domains that someone depends on."""
    return None if domain.critical else f"{domain} is not tagged critical, database or realtime"


@check(
    "KVM-DSK-005",
    title="Busy disks are served by an iothread",
    severity=Severity.LOW,
    reads=("virsh", "domain"),
    params={"max_disks_per_thread": Whole(2, 1, 32)},
    applies=all_of(is_a_disk, is_virtio, is_critical),
)
def test_disk_has_an_iothread(domain: Domain, disk: Disk, params: Params) -> None:
    """Disk requests of a critical guest have a thread of their own.

    What it checks
        A virtio-blk disk, or the virtio-scsi controller of a disk, names an iothread that the domain has, and at most
        max_disks_per_thread disks and controllers share it. A mapping to several threads is fine.

    Why it matters
        Without one, all disks of the guest share the main loop of QEMU with its timers, displays and monitor.

    How to fix
        now: virsh iothreadadd $DOM 1 --live --config; the disk must be detached and attached to use it
        after a reboot: virsh edit $DOM: <iothreads>1</iothreads> and <driver ... iothread='1'/> (for SCSI at the controller)
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change; virsh
            iothreaddel $DOM 1 --live --config
        verify: virsh iothreadinfo $DOM; pin it as KVM-PIN-008 says

    When not to
        Guests with one vCPU and little I/O.

    References
        https://libvirt.org/formatdomain.html#iothreads-allocation
        https://libvirt.org/formatdomain.html#controllers
    """
    definition = domain.saved
    used = Counter(item.iothread for item in definition.disks if item.bus == "virtio" and item.iothread)
    used += Counter(item.iothread for item in definition.controllers if item.type == "scsi" and item.iothread)
    if disk.bus == "virtio":
        thread, several, who = disk.iothread, disk.iothreads, f"disk {disk.target}"
    else:
        controller = definition.controller("scsi", disk.controller)
        thread, several = (controller.iothread, controller.iothreads) if controller else ("", ())
        who = f"the controller scsi{disk.controller} of disk {disk.target}"
    if several:
        unknown = sorted(set(several) - definition.iothread_ids)
        assert not unknown, f"{domain}: {who} names the iothreads {', '.join(unknown)}, which the domain does not have."
        note(f"served by {len(several)} iothreads")
        return
    assert thread, f"{domain}: {who} has no iothread, expected one."
    assert thread in definition.iothread_ids, f"{domain}: {who} names iothread {thread}, which the domain does not have."
    count = used[thread]
    assert count <= params.max_disks_per_thread, (
        f"{domain}: iothread {thread} of {who} serves {count} devices, at most {params.max_disks_per_thread} allowed."
    )


#: Where a limit is complete: one for both directions, or one for each.
LIMITS = ("bytes_sec", "iops_sec")


@condition
def limits_wanted(params: Params) -> str | None:
    """Hold where the profile wants guests kept apart by limits."""
    return None if params.isolation == "limits" else "the profile asks for no isolation by limits"


@check(
    "KVM-DSK-006",
    title="Guests on shared hosts have I/O limits",
    severity=Severity.LOW,
    reads=("virsh", "domain", "images", "qemu_process", "qemu_proc", "qemu_cgroup"),
    params={"isolation": Choice("none", "limits")},
    applies=all_of(limits_wanted, is_a_disk, is_writable),
)
def test_disk_has_limits(host: Host, domain: Domain, disk: Disk) -> None:
    """No guest can take all of the storage.

    What it checks
        Where isolation is "limits": each writable disk has a limit of bytes or of operations a second, for both directions, in its
        <iotune>, or its block device has one in <blkiotune>, or in io.max of the guest's cgroup. The limits of a running guest are
        those of its saved definition (else a warning).

    Why it matters
        One guest that copies its disk slows all others on the same array.

    How to fix
        now: virsh blkdeviotune $DOM TARGET --total-iops-sec N --total-bytes-sec N --live
        after a reboot: the same with --config
        roll back: the same with 0
        verify: virsh blkdeviotune $DOM TARGET

    When not to
        The array or Ceph limits volumes itself (QoS); hosts with one guest.

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
        https://libvirt.org/manpages/virsh.html#blkdeviotune
        https://docs.kernel.org/admin-guide/cgroup-v2.html#io-interface-files
    """
    with Findings() as findings:
        saved = _limits(disk, domain.saved if disk in domain.saved.disks else domain.live)
        live = saved
        if domain.running:
            now = next((item for item in domain.live.disks if item.target == disk.target), None)
            if now is not None:
                live = _limits(now, domain.live)
                findings.warn_if(
                    live != saved,
                    f"{domain}: disk {disk.target} has the limits {_shown(live)} now and {_shown(saved)} after its next start.",
                )
        if _complete(saved) and _complete(live):
            return
        which = "now" if _complete(saved) else "after its next start" if _complete(live) else ""
        if not which and domain.running and disk.type == "block" and _in_io_max(host, domain, disk):
            note("limited by io.max of its cgroup, which is gone with the guest's next start")
            return
        findings.fail(
            f"{domain}: disk {disk.target} has no limit for both directions{f' {which}' if which else ''}, expected bytes or iops."
        )


def _limits(disk: Disk, xml: DomainXml) -> dict[str, int]:
    """Return what limits a disk by the definition *xml*: QEMU itself, or the kernel where it is a block device."""
    by_kernel = xml.tuning.device_limits.get(disk.source, {}) if disk.type == "block" else {}
    return {key: value for key, value in {**by_kernel, **disk.iotune}.items() if value}


def _shown(limits: dict[str, int]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(limits.items())) or "none"


def _complete(limits: dict[str, int]) -> bool:
    return any(f"total_{kind}" in limits or {f"read_{kind}", f"write_{kind}"} <= set(limits) for kind in LIMITS)


def _in_io_max(host: Host, domain: Domain, disk: Disk) -> bool:
    """Whether the cgroup (v2) of a running domain limits reads and writes of the block device of a disk."""
    number = image(host, disk.source).device
    if number is None:
        return False
    for line in (cgroup_file(domain, "io.max") or "").splitlines():
        device, *words = line.split()
        limits = dict(word.split("=", 1) for word in words if "=" in word and not word.endswith("=max"))
        if device == f"{number[0]}:{number[1]}" and ({"rbps", "wbps"} <= set(limits) or {"riops", "wiops"} <= set(limits)):
            return True
    return False


@check(
    "KVM-DSK-007",
    title="Discard is passed through on thin storage",
    severity=Severity.LOW,
    reads=("domain", "virsh", "images", "block_devices", "dm_maps", "dm_slaves", "device_places", "scsi_disk"),
    applies=all_of(is_a_disk, is_writable),
)
def test_discard_on_thin_storage(host: Host, domain: Domain, disk: Disk) -> None:
    """What a guest deletes is free again on the host.

    What it checks
        Disks on thin storage have discard='unmap': qcow2 images, raw files with holes, logical volumes in a thin pool, rbd, and
        LUNs of which every path says that it is thin provisioned and whose device takes discards. Thick storage may have either.

    Why it matters
        Without discard, thin storage only ever grows, until it is full and its guests stop.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <driver ... discard='unmap'/>; in the guest: systemctl enable --now fstrim.timer
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml --inactive $DOM | grep discard=

    When not to
        Storage that must not be told what is deleted (encryption, secure erase), and arrays that choke on discards.

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
        https://docs.kernel.org/block/queue-sysfs.html
    """
    if disk.discard == "unmap":
        return
    thin = _thin(host, disk)
    shown = disk.discard or "not set"
    assert not thin, f"{domain}: disk {disk.target} is {thin}, and its discard is {shown}; expected unmap."
    note(f"discard is {shown}; the storage is not thin")


def _thin(host: Host, disk: Disk) -> str:
    """Return in what way the storage of a disk is thin, empty when it is not."""
    if disk.format == "qcow2":
        return "a qcow2 image"
    if disk.type == "network":
        return "an rbd volume" if disk.protocol == "rbd" else ""
    if disk.type == "file":
        return "a raw file with holes" if image(host, disk.source).sparse else ""
    if disk.type == "block":
        device = device_of(host, disk.source)
        if in_thin_pool(host, device):
            return "a logical volume in a thin pool"
        return "a thin provisioned LUN" if on_thin_lun(host, device) else ""
    if disk.type == "volume":
        raise EvidenceMissing(
            Cause.SKIPPED, f"whether the volume {disk.source} of the pool {disk.pool} is thin is not asked", "images"
        )
    return ""


@check(
    "KVM-DSK-008",
    title="Backing chains of disks are short",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "images"),
    params={"max_chain": Whole(2, 0, 32)},
    applies=is_a_disk,
)
def test_backing_chain_is_short(host: Host, domain: Domain, disk: Disk, params: Params) -> None:
    """An image lies on few others.

    What it checks
        At most max_chain backing files are below the image. Of a running guest the live definition tells; of a stopped one the
        headers of the images, which root must read where the definition holds no chain.

    Why it matters
        Each layer is one more look-up for each read, and a damaged one takes all above it along. Chains grow when backups or
        snapshots do not clean up behind themselves.

    How to fix
        now: virsh blockcommit $DOM TARGET --active --pivot --wait, or virsh blockpull $DOM TARGET --wait
        after a reboot: find what makes the layers: backup software, virsh snapshot-list $DOM
        roll back: a merged chain cannot be parted again: keep a copy or a backup of the image
        verify: virsh dumpxml $DOM | grep -c '<backingStore type'

    When not to
        Templates with many clones: allow one layer more.

    References
        https://libvirt.org/kbase/domainstatecapture.html
        https://libvirt.org/manpages/virsh.html#blockcommit
    """
    chain = _chain(host, domain, disk, params.max_chain)
    assert len(chain) <= params.max_chain, (
        f"{domain}: disk {disk.target} lies on {len(chain)} backing files, at most {params.max_chain} allowed."
    )
    note(f"{len(chain)} backing files")


def _chain(host: Host, domain: Domain, disk: Disk, enough: int) -> list[str]:
    """Return the layers below a disk, or more than *enough* of them. Only qcow2 and its like have any."""
    if domain.running:
        live = next((item for item in domain.live.disks if item.target == disk.target), None)
        if live is not None and (live.chain_told or len(live.backing) > enough):
            return list(live.backing)
    if disk.chain_told or len(disk.backing) > enough or disk.format == "raw" or disk.type == "network":
        return list(disk.backing)
    if disk.type not in ("file", "block"):
        raise EvidenceMissing(
            Cause.SKIPPED, f"the chain of {disk.target}, a disk of type {disk.type}, is not told while it is off", "domain"
        )
    return chain_below(host, disk.source, enough)


@check(
    "KVM-DSK-009",
    title="Snapshots and checkpoints of a guest are few and young",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "images", "now"),
    params={"max_snapshots": Whole(2, 0, 100), "max_age_days": Number(7, 0, 366)},
)
def test_snapshots_are_few(host: Host, domain: Domain, params: Params) -> None:
    """Snapshots are taken for a change and gone when it is done.

    What it checks
        libvirt's snapshots of the domain, and those within its qcow2 images that libvirt does not know, are at most max_snapshots,
        and the oldest is at most max_age_days old by the host's clock. The images' own tables are read by root.

    Why it matters
        Snapshots are no backups. They slow the guest down, fill the storage, and block backup and migration.

    How to fix
        now: virsh snapshot-delete $DOM NAME (external ones: virsh blockcommit $DOM TARGET --active --pivot; ones that libvirt does
        not know: qemu-img snapshot -d NAME IMAGE, with the guest off)
        after a reboot: keep states with virsh backup-begin and checkpoints instead
        roll back: a deleted snapshot is gone: keep a backup
        verify: virsh snapshot-list $DOM; qemu-img snapshot -U -l IMAGE

    When not to
        Test guests that are reset all the time.

    References
        https://libvirt.org/manpages/virsh.html#snapshot-list
        https://libvirt.org/kbase/domainstatecapture.html
    """
    listed = parsing("domain", parse_snapshots, domain.snapshots)
    found = {item.name: item.created_s for item in listed}
    with Findings() as findings:
        for disk in domain.saved.disks:
            if disk.is_disk and disk.format == "qcow2" and disk.type in ("file", "block", "volume"):
                with findings.part():
                    found = {**dict(_internal(host, disk, params.max_snapshots, findings)), **found}
        unlisted = len(found) - len(listed)
        if len(found) > params.max_snapshots:
            extra = f" ({unlisted} within its images, not known to libvirt)" if unlisted else ""
            findings.fail(f"{domain}: {len(found)} snapshots{extra}, at most {params.max_snapshots} allowed.")
        if not found:
            return
        oldest = min(found, key=lambda name: found[name])
        age = (now_s(host) - found[oldest]) / DAY_S
        if age > params.max_age_days:
            findings.fail(f"{domain}: snapshot {oldest} is {age:.0f} days old, at most {params.max_age_days} allowed.")
        note(f"{len(found)} snapshots, the oldest {max(age, 0):.0f} days old")


def _internal(host: Host, disk: Disk, most: int, findings: Findings) -> Iterator[tuple[str, int]]:
    """Yield names and times of the snapshots within the image of a disk. Raises :class:`EvidenceMissing`.

    The header tells how many there are: more than *most* are a failure even where the table is too long to be read.
    """
    path = disk.source
    if disk.type == "volume":
        raise EvidenceMissing(Cause.SKIPPED, f"where the volume {path} of the pool {disk.pool} lies is not asked", "images")
    if magic_of(host, path) != QCOW2:
        return
    count, table = header_of(host, path).snapshots, image_heads(host).internal.get(path)
    if isinstance(table, EvidenceMissing) or (count and table is None):
        findings.fail_if(count > most, f"{path} holds {count} snapshots, at most {most} allowed.")
        raise table or EvidenceMissing(Cause.MISSING, f"the table of snapshots of {path} could not be read", "images")
    for item in table or ():
        yield item.name, item.created_s


#: Pools that are full by design; the space of those that are directories is that of the file system at their target.
FULL_BY_DESIGN = ("logical", "disk", "iscsi", "iscsi-direct", "scsi", "mpath")


@condition
def has_images(host: Host) -> str | None:
    """Hold where a pool is defined or a domain has a disk on this host."""
    if storage_pools(host) or any(
        disk.is_disk and disk.type != "network" for domain in domains(host) for disk in domain.saved.disks
    ):
        return None
    return "no pool and no local image"


@check(
    "KVM-DSK-010",
    title="Image file systems, pools and thin pools have free space and bounded oversubscription",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "objects", "images", "df", "mounts", "domstats", "dm_maps", "dm_slaves", "lvm"),
    params={
        "warn_pct": Number(80, 1, 99),
        "crit_pct": Number(90, 1, 99),
        "thin_crit_pct": Number(85, 1, 99),
        "max_oversub": Number(2.0, 0.1, 20),
        "oversub_level": Choice("warn", "fail"),
    },
    applies=has_images,
)
def test_space_for_images(host: Host, params: Params) -> None:
    """Guests do not stop because the storage below them is full.

    What it checks
        Each file system with an image or pool is used less than crit_pct (warn_pct: warning) and has 5 % of its inodes free;
        pools of other kinds (rbd, zfs, gluster) likewise; data and metadata of each LVM thin pool are below thin_crit_pct. What
        the disks on a file system may grow to is at most max_oversub times its size (a warning, unless oversub_level is fail).
        Pools of whole LUNs and volume groups are full by design.

    Why it matters
        A full file system pauses its guests in the middle of a write. Full metadata of a thin pool can destroy it.

    How to fix
        now: delete what nobody uses (old images, snapshots), run fstrim -av in the guests; lvextend the pool
        after a reboot: grow the storage; watch it
        roll back: what was deleted is gone: keep a backup; a volume that was grown is not shrunk while it is used
        verify: df -h; lvs -o +data_percent,metadata_percent; virsh pool-info POOL

    When not to
        File systems that are filled on purpose with preallocated images: raise the limits for them.

    References
        https://libvirt.org/manpages/virsh.html#pool-info
        https://man7.org/linux/man-pages/man7/lvmthin.7.html
    """
    with Findings() as findings:
        targets: dict[str, str] = {}
        for path, stat in image_stats(host).items():
            if not stat.block_device:
                targets.setdefault(mount_holding(host, path).target, "images")
        for name, (pool, info) in sorted(storage_pools(host).items()):
            if not info.active:
                continue
            if pool.type in DIRECTORY_POOLS:
                targets.setdefault(mount_of_directory(host, pool.target), f"pool {name}")
            elif pool.type not in FULL_BY_DESIGN:
                _judge_space(
                    findings, params, f"{host}: pool {name}", pool.capacity_bytes - pool.available_bytes, pool.capacity_bytes
                )
        wanted = _wanted_by_mount(host, findings)
        for target, what in sorted(targets.items()):
            who = f"{host}: {target} ({what})"
            try:
                space, inodes = space_at(host, target), inodes_at(host, target)
            except EvidenceMissing as missing:
                findings.unknown(missing)
                continue
            _judge_space(findings, params, who, space.used, space.used + space.free)
            if inodes.total and inodes.free * 20 <= inodes.total:
                findings.fail(f"{who}: {100 * inodes.free / inodes.total:.0f} % of the inodes free, expected more than 5 %.")
            ratio = wanted.get(target, 0) / space.total if space.total else 0
            if ratio > params.max_oversub:
                report = findings.fail if params.oversub_level == "fail" else findings.warn
                report(f"{who}: its disks may grow to {ratio:.1f} times its size, at most {params.max_oversub} allowed.")
        thin_pools = {item.name for item in dm_maps(host) if item.uuid.endswith("-tpool")}
        if thin_pools:
            answered_lvm(host)
            for volume in host.evidence.parsed(f"lvm{KEY_SEPARATOR}lvs", parse_lvs):
                if volume.segtype == "thin-pool" and volume.active:
                    thin_pools.discard("-".join(part.replace("-", "--") for part in volume.name.split("/")) + "-tpool")
                    for kind, percent in (("data", volume.data_percent), ("metadata", volume.metadata_percent)):
                        if percent is None:
                            raise EvidenceMissing(Cause.MISSING, f"lvs does not tell how full {kind} of {volume.name} is", "lvm")
                        limit = params.thin_crit_pct
                        if percent >= limit:
                            findings.fail(
                                f"{host}: {kind} of thin pool {volume.name} {percent:.0f} % full, expected below {limit} %."
                            )
        for name in sorted(thin_pools):  # a filter or the devices file of LVM hides it
            findings.unknown(EvidenceMissing(Cause.MISSING, f"lvs does not show the thin pool {name}", "lvm"))


def answered_lvm(host: Host) -> None:
    """Raise :class:`EvidenceMissing` when LVM was not asked."""
    host.evidence.head("lvm")


def _judge_space(findings: Findings, params: Params, who: str, used: int, total: int) -> None:
    if total <= 0:
        findings.unknown(EvidenceMissing(Cause.MISSING, f"{who}: its size is not told", "objects"))
        return
    percent = 100 * used / total
    if percent >= params.crit_pct:
        findings.fail(f"{who}: {percent:.0f} % used, expected below {params.crit_pct} %.")
    elif percent >= params.warn_pct:
        findings.warn(f"{who}: {percent:.0f} % used, expected below {params.warn_pct} %.")


def _wanted_by_mount(host: Host, findings: Findings) -> dict[str, int]:
    """Return what the disks on each file system may grow to: the sum of their capacities."""
    wanted: Counter[str] = Counter()
    seen: set[str] = set()
    for domain in domains(host):
        for disk in domain.saved.disks:
            if disk.type == "volume" and disk.is_disk and (volume := f"{disk.pool}/{disk.source}") not in seen:
                seen.add(volume)
                with findings.part():
                    pool = pool_of(host, disk)
                    if pool.type in DIRECTORY_POOLS:
                        wanted[mount_of_directory(host, pool.target)] += capacity(host, domain, disk)
            if disk.type == "file" and disk.is_disk and disk.source and disk.source not in seen:
                seen.add(disk.source)
                if image_heads(host).magic.get(disk.source) == "absent":
                    continue  # an image that is gone needs no space
                with findings.part():
                    wanted[mount_holding(host, disk.source).target] += capacity(host, domain, disk)
    return dict(wanted)


def capacity(host: Host, domain: Domain, disk: Disk) -> int:
    """Return the size of a disk as its guest sees it: by libvirt while it runs, else by the image."""
    if domain.running:
        told = domain.stats.blocks.get(disk.target, {}).get("capacity", "")
        if told.isdigit():
            return int(told)
    if disk.type == "volume":
        raise EvidenceMissing(Cause.SKIPPED, f"the size of the volume {disk.source} of a guest that is off is not asked", "images")
    if disk.format == "raw":
        return image(host, disk.source).size_bytes
    if magic_of(host, disk.source) == QCOW2:
        return header_of(host, disk.source).virtual_bytes
    raise EvidenceMissing(Cause.MISSING, f"the virtual size of {disk.source} is not known", "images")


@condition
def is_plain_file(host: Host, disk: Disk) -> str | None:
    """Hold for images that could be allocated in full: files of their own, not trimmed."""
    if disk.type != "file":
        return f"a disk of type {disk.type}"
    if disk.discard == "unmap":
        return "discard='unmap' frees what the guest deletes"
    layered = disk.backing
    if disk.format == "qcow2" and not disk.chain_told and magic_of(host, disk.source) == QCOW2:
        layered = (header_of(host, disk.source).backing,)
    return "an image on a backing file" if any(layered) else None


@check(
    "KVM-DSK-011",
    title="Critical image files are preallocated",
    severity=Severity.INFO,
    reads=("virsh", "domain", "images", "domstats"),
    params={"prealloc_pct": Number(95, 1, 100)},
    applies=all_of(is_critical, is_a_disk, is_writable, is_plain_file),
)
def test_image_is_preallocated(host: Host, domain: Domain, disk: Disk, params: Params) -> None:
    """A write of a critical guest finds its place ready.

    What it checks
        The image file takes at least prealloc_pct of the size that the guest sees.

    Why it matters
        Making room at the first write costs time, and fails when the file system is full.

    How to fix
        now: raw images: fallocate -l SIZE IMAGE (keeps what is there)
        after a reboot: make images with qemu-img create -o preallocation=falloc, or virsh vol-create-as --allocation SIZE
        roll back: fallocate --dig-holes IMAGE with the guest off, or fstrim in the guest where the disk passes discard on, gives
            the space back
        verify: stat -c '%b %B %s' IMAGE

    When not to
        Thin storage on purpose: say so with discard='unmap'.

    References
        https://www.qemu.org/docs/master/tools/qemu-img.html
    """
    size = capacity(host, domain, disk)
    allocated = image(host, disk.source).allocated_bytes
    if size <= 0:
        raise EvidenceMissing(Cause.EMPTY, f"{domain}: disk {disk.target} has no size", "images")
    percent = 100 * allocated / size
    assert percent >= params.prealloc_pct, (
        f"{domain}: disk {disk.target} has {percent:.0f} % of its size allocated, expected {params.prealloc_pct} % or more."
    )
    note(f"{percent:.0f} % allocated")


PAGE = 4096
#: Partitions below this hold a boot loader or other partitions.
SMALL_PARTITION = 2 * 2**20


@check(
    "KVM-DSK-012",
    title="Host block devices and partitions are aligned",
    severity=Severity.LOW,
    reads=("block_devices",),
)
def test_partitions_are_aligned(host: Host) -> None:
    """Partitions begin where blocks of the disk begin.

    What it checks
        alignment_offset of devices and partitions is 0, and each partition starts at a multiple of the disk's physical block,
        4 KiB at least. Not at a multiple of the optimal I/O size of a RAID (where that is a multiple of 4 KiB): a warning.
        Partitions below 2 MiB are left out. Partitions within guests are looked at from within.

    Why it matters
        One misaligned write becomes two, each read before it is written.

    How to fix
        now: nothing can be done without moving the data
        after a reboot: make the partition anew at 1 MiB: parted -a optimal
        roll back: keep the data until the new partition is tried
        verify: cat /sys/block/sda/sda1/start /sys/block/sda/sda1/alignment_offset

    When not to
        Disks of a few cold files.

    References
        https://docs.kernel.org/admin-guide/abi-stable.html
        https://man7.org/linux/man-pages/man8/parted.8.html
    """
    devices = block_devices(host)
    if not devices:
        raise EvidenceMissing(Cause.MISSING, "sysfs shows no block device", "block_devices")
    with Findings() as findings:
        for name, device in sorted(devices.items()):
            parent = devices.get(device.parent)
            if device.parent and device.size_bytes < SMALL_PARTITION:
                continue
            findings.fail_if(
                device.alignment_offset not in (0, None),
                f"{host}: {name} has alignment_offset {device.alignment_offset}, expected 0.",
            )
            if device.start_bytes is None or parent is None:
                continue
            block = max(parent.physical_block_bytes or 0, PAGE)
            optimal = parent.optimal_io_bytes or 0
            if device.start_bytes % block:
                findings.fail(f"{host}: {name} starts at byte {device.start_bytes}, expected a multiple of {block}.")
            elif optimal and optimal % PAGE == 0 and device.start_bytes % optimal:
                findings.warn(f"{host}: {name} starts at byte {device.start_bytes}, not at a multiple of the optimal {optimal}.")
        partitions = sum(device.start_bytes is not None for device in devices.values())
        note(f"{len(devices) - partitions} devices, {partitions} partitions")


#: I/O errors in the kernel's log, with the device that they are of.
IO_ERROR = re.compile(
    r"(?:I/O error,? (?:on )?dev(?:ice)?"
    r"|(?:critical [a-z ]+|timeout|recoverable transport|protection|device offline) error, dev) ([\w!.-]+)"
)
#: The kernel names the path (nvme0c1n1) in errors of a namespace (nvme0n1) that another path could not mend.
NVME_PATH = re.compile(r"^(nvme\d{1,5})c\d{1,5}(n\d{1,5})$", re.ASCII)
PAUSED, IO_REASON = 3, 5


@check(
    "KVM-DSK-013",
    title="No disk of a guest is in error, and the error policy is deliberate",
    severity=Severity.HIGH,
    reads=(
        *("virsh", "domstats", "domblkerror", "kernel_log", "now", "mdstat"),
        *("images", "mounts", "block_devices", "dm_maps", "dm_slaves", "objects", "df", "domain"),
    ),
    params={
        "allowed_policies": Items((None, "enospace", "stop", "report"), Choice(None, "enospace", "stop", "report"), least=1),
        "window_h": Whole(168, 1, 8784),
    },
    applies=is_a_disk,
)
def test_disk_is_without_error(host: Host, domain: Domain, disk: Disk, params: Params) -> None:
    """The disk works, and what happens when it does not was thought about.

    What it checks
        QEMU counts no error of the disk, and the guest is not paused by one. In the last window_h hours the kernel told of no I/O
        error of a device below the image; errors of a single path of a multipath map are a warning. No software RAID below it is
        degraded. error_policy and rerror_policy, saved and in force, are among allowed_policies; ignore never is. What is
        below ZFS and below volumes of LUN pools is not asked, and unknown.

    Why it matters
        A guest that is paused by a full or lost disk looks like a running one to all but its users. With ignore, it goes on with
        what it could not write.

    How to fix
        now: mend the storage, then virsh resume $DOM
        after a reboot: virsh edit $DOM: <driver ... error_policy='stop' rerror_policy='stop'/> on shared storage
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change; a repair of the
            storage is not undone
        verify: virsh domblkerror $DOM; virsh domstate --reason $DOM; journalctl -k -g 'I/O error'

    When not to
        Nothing speaks for a disk in error.

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
        https://libvirt.org/manpages/virsh.html#domblkerror
    """
    who = f"{domain}: disk {disk.target}"
    allowed = " or ".join(str(item or "not set") for item in params.allowed_policies)
    with Findings() as findings:
        policies = {(key, disk.attributes.get(key)): "" for key in ("error_policy", "rerror_policy")}
        if domain.running:
            with findings.part():
                for live in domain.live.disks:
                    if live.target == disk.target:
                        for key in ("error_policy", "rerror_policy"):
                            policies.setdefault((key, live.attributes.get(key)), " now, while it runs")
        for (key, policy), when in policies.items():
            if policy == "ignore" or policy not in params.allowed_policies:
                findings.fail(f"{who} has {key} {policy or 'not set'}{when}, expected {allowed}.")
        if domain.running:
            with findings.part():
                answered(host, "domblkerror")
                error = host.evidence.parsed(f"domblkerror{KEY_SEPARATOR}{domain.uuid}", parse_blkerror).get(disk.target)
                findings.fail_if(error is not None, f"{who} is in error: {error}.")
            with findings.part():
                findings.fail_if(_paused_by_an_error(domain), f"{domain} is paused by an I/O error.")
        _errors_on_the_host(host, who, disk, params, findings)


def _paused_by_an_error(domain: Domain) -> bool:
    state = domain.stats.number("state.state")
    if state is None:
        raise EvidenceMissing(Cause.MISSING, f"libvirt does not tell the state of {domain}", "domstats")
    return state == PAUSED and domain.stats.number("state.reason") == IO_REASON


def _errors_on_the_host(host: Host, who: str, disk: Disk, params: Params, findings: Findings) -> None:
    if disk.type == "volume":
        device = device_of_volume(host, pool_of(host, disk), disk.source)
    elif disk.type in ("file", "block"):
        device = device_of(host, disk.source)
    else:
        return
    if not device:
        return
    below = with_all_below(host, device)
    for name in below:
        if array := array_of(host, name):
            findings.fail_if(
                array.degraded,
                f"{who} lies on {name}, {array.state} with {array.working} of {array.wanted} members.",
            )
    since = now_s(host) - params.window_h * 3600
    errors = Counter(
        name
        for item in kernel_log(host)
        if item.time_s >= since and (match := IO_ERROR.search(item.text)) and (name := NVME_PATH.sub(r"\1\2", match[1])) in below
    )
    paths = {path for item in dm_maps(host) if item.multipath for path in item.slaves}
    for name, count in sorted(errors.items()):
        report = findings.warn if name in paths else findings.fail
        what = f"{name}, a path below it" if name in paths else name
        report(f"{who}: {count} I/O errors of {what} in {params.window_h} hours.")
    demand_kernel_log_since(host, since)
    demand_whole_kernel_log(host)


NO_BARRIERS = ("nobarrier", "barrier=0", "barrier=none")
STATE = "/var/lib/libvirt"


@check(
    "KVM-DSK-014",
    title="Write barriers and cache flushes are not disabled under images",
    severity=Severity.MEDIUM,
    reads=("images", "objects", "mounts", "df", "block_devices", "device_places", "scsi_disk"),
)
def test_flushes_reach_the_disk(host: Host) -> None:
    """What a guest has flushed is on the disk.

    What it checks
        No file system with images, a pool or libvirt's state is mounted with nobarrier or barrier=0. The kernel's view of each
        disk's cache (queue/write_cache) does not say "write through" while the disk itself has a write-back cache, and no
        cache_type was set by hand ("temporary"). Disks without a cache are fine; NVMe is not judged.

    Why it matters
        Without flushes, a power cut destroys file systems of guests that did everything right.

    How to fix
        now: mount -o remount,barrier=1 PLACE; echo 'write back' > /sys/block/sda/queue/write_cache
        after a reboot: take nobarrier and barrier=0 out of /etc/fstab, and look for a udev rule that sets write_cache
        roll back: mount -o remount,barrier=0 PLACE; the former value in write_cache and the former /etc/fstab
        verify: grep -E 'nobarrier|barrier=0' /proc/mounts; grep . /sys/block/*/queue/write_cache

    When not to
        Arrays and controllers whose cache has a battery or flash, when they do not say so themselves.

    References
        https://docs.kernel.org/block/writeback_cache_control.html
        https://docs.kernel.org/admin-guide/ext4.html
    """
    with Findings() as findings:
        for target in _targets_with_data(host, findings):
            mount = mount_at(host, target)
            bad = [option for option in mount.options if option in NO_BARRIERS] if mount else []
            findings.fail_if(bool(bad), f"{host}: {target} is mounted with {', '.join(bad)}, expected barriers.")
        for name, device in sorted(block_devices(host).items()):
            if device.parent or name.startswith("nvme"):
                continue
            scsi = scsi_disk(host, name) if lun_of(host, name) else None
            own = scsi.cache_type if scsi else device.cache_type
            findings.fail_if(own.startswith("temporary"), f"{host}: cache_type of {name} was set by hand: {own}.")
            findings.fail_if(
                own.startswith("write back") and device.write_cache == "write through",
                f"{host}: {name} has a write-back cache, but its write_cache is write through: flushes are dropped.",
            )


def _targets_with_data(host: Host, findings: Findings) -> list[str]:
    """Return the mount points of the file systems that hold images, pools and the state of libvirt."""
    targets = {mount_of_directory(host, STATE)}
    try:
        targets |= {mount_holding(host, path).target for path, stat in image_stats(host).items() if not stat.block_device}
        targets |= {
            mount_of_directory(host, pool.target) for pool, _ in storage_pools(host).values() if pool.type in DIRECTORY_POOLS
        }
        demand_images_seen(host)
    except EvidenceMissing as missing:
        findings.unknown(missing)
    return sorted(targets)
