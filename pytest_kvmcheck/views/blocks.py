"""Facts about block devices: what lies on what, and what the disks below an image say of themselves."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.blockdev import BlockDevice, ScsiDisk, parse_block_devices, parse_scsi_disks
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.mdstat import Array, parse_mdstat
from pytest_kvmcheck.facts.mounts import Mount
from pytest_kvmcheck.facts.pool import Pool
from pytest_kvmcheck.facts.scsi import parse_slaves
from pytest_kvmcheck.views.domains import storage_pools
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.images import image, mount_at, mount_holding, mount_of_directory
from pytest_kvmcheck.views.network import device_places
from pytest_kvmcheck.views.storage import dm_maps

#: Block major of software RAID (MD_MAJOR).
_MD_MAJOR = 9


@fact
def block_devices(host: Host) -> dict[str, BlockDevice]:
    """Block devices and partitions by name."""
    files = host.evidence.files("block_devices")
    files.demand_all_readable()
    return parsing("block_devices", lambda _: parse_block_devices(files), "")


@fact
def _scsi_disks(host: Host) -> dict[str, ScsiDisk]:
    if host.evidence.record("scsi_disk").cause is Cause.MISSING:
        return {}
    return host.evidence.parsed("scsi_disk", parse_scsi_disks)


@fact
def slaves(host: Host) -> dict[str, tuple[str, ...]]:
    """The devices right below each device-mapper map and RAID array."""
    return host.evidence.parsed("dm_slaves", parse_slaves)


def lun_of(host: Host, disk: str) -> str:
    """Return host:channel:target:lun of a SCSI disk, empty for others."""
    way = device_places(host).paths.get("block", {}).get(disk, "").split("/")
    return way[-3] if len(way) > 3 and way[-2] == "block" and way[-3].count(":") == 3 else ""


def scsi_disk(host: Host, disk: str) -> ScsiDisk | None:
    """Return what the SCSI disk *disk* (sda) says of itself, None for others."""
    return _scsi_disks(host).get(lun_of(host, disk))


def device_by_number(host: Host, number: tuple[int, int] | None) -> str:
    """Return the name of the block device of this number. Raises :class:`EvidenceMissing`."""
    for device in block_devices(host).values():
        if device.number == number:
            return device.name
    raise EvidenceMissing(Cause.MISSING, f"no block device has the number {number}", "block_devices")


def device_of(host: Host, path: str) -> str:
    """Return the block device that the image at *path* is, or whose file system holds it; empty for file systems of no device."""
    stat = image(host, path)
    if stat.block_device:
        return device_by_number(host, stat.device)
    return _device_of_mount(host, mount_holding(host, path))


def _device_of_mount(host: Host, mount: Mount) -> str:
    if mount.type == "zfs":
        raise EvidenceMissing(Cause.SKIPPED, f"which devices are below the ZFS pool of {mount.source} is not asked", "mounts")
    return device_named(host, mount.source)


def device_named(host: Host, source: str) -> str:
    """Return the block device called *source* (``/dev/sda2``, ``/dev/mapper/vg-lv``, ``/dev/vg/lv``); empty for no device."""
    if not source.startswith("/dev/"):
        return ""
    parts = source.split("/")[2:]
    name = parts[-1]
    if len(parts) == 2:
        known = name if parts[0] == "mapper" else "-".join(part.replace("-", "--") for part in parts)
        name = next((item.device for item in dm_maps(host) if item.name == known), name if parts[0] == "mapper" else "")
    if name not in block_devices(host):
        raise EvidenceMissing(Cause.MISSING, f"{source} is no block device that sysfs shows", "block_devices")
    return name


#: Pools that are a directory on a file system, and those of which the kernel has no block device.
DIRECTORY_POOLS = ("dir", "fs", "netfs")
NETWORK_POOLS = ("rbd", "gluster", "sheepdog", "iscsi-direct", "vstorage")


def pool_of(host: Host, disk: Disk) -> Pool:
    """Return the storage pool of a disk of type volume. Raises :class:`EvidenceMissing`."""
    try:
        return storage_pools(host)[disk.pool][0]
    except KeyError:
        raise EvidenceMissing(Cause.MISSING, f"libvirt knows no pool {disk.pool}", "objects") from None


def device_of_volume(host: Host, pool: Pool, volume: str) -> str:
    """Return the block device that a volume of *pool* is, or whose file system holds it; empty for one of no device.

    Raises :class:`EvidenceMissing` for pools of disks and LUNs, whose volumes have names of libvirt's own.
    """
    if pool.type in NETWORK_POOLS:
        return ""
    if pool.type in DIRECTORY_POOLS:
        mount = mount_at(host, mount_of_directory(host, pool.target))
        return _device_of_mount(host, mount) if mount else ""
    if pool.type == "logical":
        return device_named(host, f"{pool.target}/{volume}")
    raise EvidenceMissing(Cause.SKIPPED, f"where the volume {volume} of the pool {pool.name} lies is not asked", "objects")


def with_all_below(host: Host, device: str) -> list[str]:
    """Return *device* and all devices below it: slaves of maps and arrays, and the disks of partitions."""
    found: list[str] = []
    waiting = [device] if device else []
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found.append(name)
        waiting += slaves(host).get(name, ())
        known = block_devices(host).get(name)
        if known and known.parent:
            waiting.append(known.parent)
    return found


def on_thin_lun(host: Host, device: str) -> bool:
    """Whether all SCSI disks below *device* are thin provisioned, and it takes discards."""
    disks = [name for name in with_all_below(host, device) if lun_of(host, name)]
    top = block_devices(host).get(device)
    if not disks or top is None:
        return False
    told = [scsi_disk(host, name) for name in disks]
    return bool(top.discard_max_bytes) and all(item is not None and item.thin for item in told)


def in_thin_pool(host: Host, device: str) -> bool:
    """Whether *device* is a logical volume in a thin pool."""
    pools = {item.device for item in dm_maps(host) if item.uuid.startswith("LVM-") and item.uuid.endswith("-tpool")}
    return bool(pools & set(slaves(host).get(device, ())))


@fact
def arrays(host: Host) -> dict[str, Array]:
    """Software RAID arrays by name; none when the kernel has no such driver."""
    if host.evidence.record("mdstat").cause is Cause.MISSING:
        return {}
    return host.evidence.parsed("mdstat", parse_mdstat)


def array_of(host: Host, device: str) -> Array | None:
    """Return the software RAID array that *device* is, None for other devices. Raises :class:`EvidenceMissing`."""
    found = arrays(host).get(device)
    known = block_devices(host).get(device)
    if found is None and known and known.number[0] == _MD_MAJOR and not known.parent:
        raise EvidenceMissing(Cause.MISSING, f"the kernel tells no state of the array {device}", "mdstat")
    return found
