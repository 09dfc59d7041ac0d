"""Storage that several hosts can reach: LUNs by their WWID, file systems by their source, pools by their name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.mounts import Mount, mount_of
from pytest_kvmcheck.views.backing import kernel_name
from pytest_kvmcheck.views.blocks import block_devices, device_of, with_all_below
from pytest_kvmcheck.views.domains import storage_pools
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.storage import dm_maps, wwids
from pytest_kvmcheck.views.system import mounts

#: File systems that several hosts mount at once.
SHARED_TYPES = (
    *("nfs", "nfs4", "ceph", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "glusterfs", "gfs2", "ocfs2", "gpfs", "lustre"),
    *("beegfs", "cifs", "smb3", "fuse.sshfs", "fuse.moosefs", "fuse.lizardfs"),
)

#: Pools whose storage is behind a network or a fabric.
SHARED_POOLS = ("netfs", "iscsi", "iscsi-direct", "scsi", "mpath", "rbd", "gluster", "sheepdog", "vstorage")


@dataclass(frozen=True)
class Lun:
    """A LUN as one host sees it. ``paths`` is how many SCSI disks it is; ``mapped`` tells whether multipath holds it."""

    wwid: str
    size_bytes: int
    paths: int
    names: frozenset[str]
    mapped: bool


def plain_wwid(text: str) -> str:
    """Return a WWID without what tells its kind: multipath, udev and the kernel each write it in another way.

    >>> plain_wwid("naa.6001405aaaa"), plain_wwid("mpath-36001405aaaa"), plain_wwid("0x6001405aaaa")
    ('6001405aaaa', '6001405aaaa', '6001405aaaa')
    """
    text = text.strip().lower().removeprefix("mpath-")
    if match := re.fullmatch(r"(?:naa\.|0x|3)([0-9a-f]{8,32})", text):
        return match[1]
    return text.removeprefix("eui.")


@fact
def luns(host: Host) -> dict[str, Lun]:
    """The LUNs that the host sees, by WWID."""
    devices = block_devices(host)
    found = {}
    for wwid, disks in wwids(host).items():
        size = max((devices[disk].size_bytes for disk in disks if disk in devices), default=0)
        found[plain_wwid(wwid)] = Lun(plain_wwid(wwid), size, len(disks), frozenset(disks), False)
    for item in dm_maps(host):
        if item.multipath:
            wwid = plain_wwid(item.uuid)
            size = devices[item.device].size_bytes if item.device in devices else 0
            found[wwid] = Lun(wwid, size, len(item.slaves), frozenset({item.name, item.device, *item.slaves}), True)
    for name, device in devices.items():
        wwid = plain_wwid(device.wwid)
        if wwid and wwid not in found:
            found[wwid] = Lun(wwid, device.size_bytes, 1, frozenset({name}), False)
    return found


def luns_below(host: Host, path: str) -> tuple[tuple[str, ...], str]:
    """Return the WWIDs of the LUNs that the block device at *path* lies on, and which part of them it is.

    The part is the same on every host: the number of a partition, the uuid of a logical volume; empty for the LUN itself.
    Local devices lie on none. Raises :class:`EvidenceMissing` for a name that leads nowhere we can see.
    """
    if wwid := lun_named(host, path):
        return (wwid,), ""
    name = kernel_name(host, path)
    if name not in block_devices(host):
        name = device_of(host, path)
    below = set(with_all_below(host, name))
    found = sorted(lun.wwid for lun in luns(host).values() if lun.names & below)
    nameless = next((item for item in sorted(below) if re.fullmatch(r"nvme\d+n\d+", item, re.ASCII)), "")
    if not found and nameless:
        raise EvidenceMissing(Cause.MISSING, f"the kernel does not tell the WWID of {nameless} below {path}", "block_devices")
    if not found or any(name in luns(host)[wwid].names for wwid in found):
        return tuple(found), ""
    return tuple(found), _part(host, name)


def _part(host: Host, name: str) -> str:
    uuid = next((item.uuid for item in dm_maps(host) if item.device == name), "")
    if match := re.match(r"part(\d+)-mpath-", uuid):
        return f"partition {int(match[1])}"
    device = block_devices(host)[name]
    if device.parent:
        return f"partition {device.name.removeprefix(device.parent).lstrip('p')}"
    return uuid or name


def lun_named(host: Host, path: str) -> str:
    """Return the WWID of the LUN that the path of a block device leads to, empty for local and unknown devices."""
    name = path.rpartition("/")[2]
    if path.startswith("/dev/disk/by-id/"):
        match = re.fullmatch(r"(?:scsi-|wwn-|dm-uuid-|nvme-)(.+)", name)
        if match:
            wwid = plain_wwid(match[1])
            return wwid if wwid in luns(host) else ""
        name = name.removeprefix("dm-name-")
    elif not re.fullmatch(r"/dev/(?:mapper/)?[^/]+", path):
        return ""
    return next((lun.wwid for lun in luns(host).values() if name in lun.names), "")


def names_wwid(path: str) -> bool:
    """Whether the path of a block device holds the WWID itself."""
    return path.startswith(("/dev/disk/by-id/scsi-", "/dev/disk/by-id/wwn-", "/dev/disk/by-id/dm-uuid-"))


def shared_mount(host: Host, path: str) -> Mount | None:
    """Return the shared file system that holds the file at *path*, None when it is local."""
    mount = mount_of(path, mounts(host))
    return mount if mount and mount.type in SHARED_TYPES else None


def mount_terms(mount: Mount) -> tuple[str, str, str, str]:
    """Return what has to be equal on all hosts: source, type, version of the protocol, hard or soft."""
    kind = {"nfs4": "nfs"}.get(mount.type, mount.type)
    return mount.source, kind, mount.option("vers") or "", "soft" if mount.has("soft") else "hard"


def is_block(disk: Disk) -> bool:
    """Whether the disk's source is a block device of the host; one that is given as a file is it too."""
    return disk.type in ("block", "file") and disk.source.startswith("/dev/")


def identity(host: Host, disk: Disk) -> tuple[str, ...]:
    """Return what the disk's data are, the same on every host that can reach them; empty when they have no source."""
    if not disk.source:
        return ()
    if disk.type == "network":
        return ("network", disk.protocol, disk.source)
    if disk.type == "volume":
        return _volume(host, disk)
    return _block(host, disk.source) if is_block(disk) else _file(host, disk.source)


def _block(host: Host, path: str) -> tuple[str, ...]:
    # The kernel's RBD: udev names the device after pool and image, as QEMU's own names it.
    if match := re.fullmatch(r"/dev/rbd(?:-pve/[0-9a-f-]+)?/(.+/.+)", path):
        return ("network", "rbd", match[1])
    wwids, part = luns_below(host, path)
    return ("LUN", wwids[0], part) if wwids else ("device", host.name, path)


def _file(host: Host, path: str) -> tuple[str, ...]:
    mount = shared_mount(host, path)
    return ("file", mount.source, path.removeprefix(mount.target)) if mount else ("file", host.name, path)


def _volume(host: Host, disk: Disk) -> tuple[str, ...]:
    """Return what the volume of a pool is: the definition of the domain names the pool only."""
    known = storage_pools(host).get(disk.pool)
    if known is None:
        raise EvidenceMissing(Cause.MISSING, f"libvirt has no pool {disk.pool[:40]!r}", "objects")
    pool = known[0]
    if pool.type == "rbd" and pool.source:
        return ("network", "rbd", f"{pool.source[-1]}/{disk.source}")
    if pool.type in ("iscsi", "iscsi-direct"):
        return ("network", "iscsi", *pool.source, disk.source)
    path = f"{pool.target.rstrip('/')}/{disk.source}"
    return _block(host, path) if path.startswith("/dev/") else _file(host, path)
