"""SCSI disks and device-mapper maps by sysfs.

Source: Documentation/ABI/testing/sysfs-block-device, sysfs-block-dm. A WWID on several sdX is one LUN with several paths; a
map whose uuid starts with ``mpath-`` is a multipath map.

>>> parse_wwids({"/sys/block/sda/device/wwid": "naa.6001\\n", "/sys/block/sdb/device/wwid": "naa.6001\\n"})
{'naa.6001': ('sda', 'sdb')}
>>> files = {"/sys/block/dm-0/dm/name": "mpatha\\n", "/sys/block/dm-0/dm/uuid": "mpath-36001\\n"}
>>> parse_dm_maps(files, "/sys/block/dm-0/slaves/sda\\n")
(DmMap(device='dm-0', name='mpatha', uuid='mpath-36001', slaves=('sda',)),)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

#: Kind of the identifier, dot, identifier (drivers/scsi/scsi_lib.c: scsi_vpd_lun_id).
_WWID = re.compile(r"[a-z][a-z0-9]{1,5}\.[ -~]+")


@dataclass(frozen=True)
class DmMap:
    """A device-mapper map and the devices below it."""

    device: str
    name: str
    uuid: str
    slaves: tuple[str, ...]

    @property
    def multipath(self) -> bool:
        """Whether it is a multipath map."""
        return self.uuid.startswith("mpath-")


@empty_is_an_answer("no SCSI disk has a WWID")
def parse_wwids(files: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the SCSI disks by WWID, sorted; disks without a WWID are left out. Raises :class:`ParseError`."""
    found: dict[str, list[str]] = {}
    for path, text in sorted(files.items()):
        match = re.fullmatch(r"/sys/block/(sd[a-z]+)/device/wwid", path)
        if match and text.strip():
            if not _WWID.fullmatch(text.strip()):
                raise ParseError(f"{path} is not a WWID: {text.strip()[:60]!r}")
            found.setdefault(text.strip(), []).append(match[1])
    return {wwid: tuple(disks) for wwid, disks in found.items()}


@empty_is_an_answer("no device lies on others")
def parse_slaves(text: str) -> dict[str, tuple[str, ...]]:
    """Return the devices below each device-mapper map and RAID array, sorted. Raises :class:`ParseError`.

    >>> parse_slaves("/sys/block/dm-0/slaves/sdb\\n/sys/block/dm-0/slaves/sda\\n/sys/block/md0/slaves/nvme0n1p2\\n")
    {'dm-0': ('sda', 'sdb'), 'md0': ('nvme0n1p2',)}
    """
    below: dict[str, list[str]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"/sys/block/([^/]+)/slaves/([^/]+)", line)
        if not match:
            raise ParseError(f"not a slave of a block device: {line[:80]!r}")
        below.setdefault(match[1], []).append(match[2])
    return {name: tuple(sorted(found)) for name, found in below.items()}


@empty_is_an_answer("there is no device-mapper map")
@takes_any_line("a map may have any name")
def parse_dm_maps(files: Mapping[str, str], slaves: str) -> tuple[DmMap, ...]:
    """Return the device-mapper maps, sorted by name. Raises :class:`ParseError` for a list of slaves that is none."""
    below = parse_slaves(slaves)
    maps = []
    for path, text in files.items():
        match = re.fullmatch(r"/sys/block/(dm-\d+)/dm/name", path)
        if match:
            uuid = files.get(f"/sys/block/{match[1]}/dm/uuid", "").strip()
            if not text.strip() or not (text.strip() + uuid).isprintable():
                raise ParseError(f"{path} and its uuid are no names: {text.strip()[:40]!r}, {uuid[:40]!r}")
            maps.append(DmMap(match[1], text.strip(), uuid, below.get(match[1], ())))
    return tuple(sorted(maps, key=lambda item: item.name))
