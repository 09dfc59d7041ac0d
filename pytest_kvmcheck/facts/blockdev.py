r"""Block devices and their partitions by sysfs.

Source: Documentation/ABI/stable/sysfs-block, Documentation/block/writeback_cache_control.rst. ``start`` and ``size`` are sectors
of 512 bytes whatever the device's own. ``alignment_offset`` is -1 for a device that is misaligned. Namespaces of NVMe have a WWID
here. Their single paths (nvme0c1n1) stand there too while the kernel does multipath itself: hidden, without a number.

>>> files = {"/sys/block/sda/dev": "8:0\n", "/sys/block/sda/size": "131072\n", "/sys/block/sda/sda1/dev": "8:1\n",
...          "/sys/block/sda/sda1/start": "2048\n", "/sys/block/sda/sda1/size": "129024\n",
...          "/sys/block/sda/sda1/alignment_offset": "0\n", "/sys/block/sda/queue/optimal_io_size": "0\n",
...          "/sys/block/sda/queue/write_cache": "write back\n"}
>>> devices = parse_block_devices(files)
>>> devices["sda1"].parent, devices["sda1"].start_bytes, devices["sda"].number, devices["sda"].write_cache
('sda', 1048576, (8, 0), 'write back')
>>> files = {"/sys/block/nvme0n1/dev": "259:0\n", "/sys/block/nvme0n1/wwid": "uuid.5e1a\n", "/sys/block/nvme0c0n1/size": "8\n"}
>>> [device.wwid for device in parse_block_devices(files).values()]
['uuid.5e1a']
>>> parse_scsi_disks("/sys/class/scsi_disk/0:0:0:0/thin_provisioning:1\n/sys/class/scsi_disk/0:0:0:0/cache_type:write back\n")
{'0:0:0:0': ScsiDisk(thin=True, cache_type='write back')}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

SECTOR = 512

#: A path of an NVMe namespace, below what can be opened (nvme0n1).
_NVME_PATH = re.compile(r"nvme\d{1,5}c\d{1,5}n\d{1,5}", re.ASCII)


@dataclass(frozen=True)
class BlockDevice:
    """A block device, or a partition of ``parent``. None and empty is what the kernel does not tell."""

    name: str
    number: tuple[int, int]
    parent: str
    size_bytes: int
    start_bytes: int | None
    alignment_offset: int | None
    physical_block_bytes: int | None
    optimal_io_bytes: int | None
    discard_max_bytes: int | None
    write_cache: str
    cache_type: str
    wwid: str = ""


@dataclass(frozen=True)
class ScsiDisk:
    """What the SCSI disk itself says: thin provisioned or not, and its cache."""

    thin: bool | None
    cache_type: str


@empty_is_an_answer("there is no block device")
def parse_block_devices(files: Mapping[str, str]) -> dict[str, BlockDevice]:
    """Return devices and partitions by name. Raises :class:`ParseError`."""
    fields: dict[tuple[str, str], dict[str, str]] = {}
    for path, text in files.items():
        match = re.fullmatch(r"/sys/block/([^/]+)/(?:(?!queue/)([^/]+)/)?((?:queue/)?[a-z_]+)", path)
        if match:
            own = fields.setdefault((match[2] or match[1], match[1] if match[2] else ""), {})
            own[match[3].removeprefix("queue/")] = text.strip()
        else:
            raise ParseError(f"not a file of a block device: {path[:60]!r}")
    found = {}
    for (name, parent), told in fields.items():
        number = re.fullmatch(r"(\d{1,8}):(\d{1,8})", told.get("dev", ""), re.ASCII)
        if not number:
            if "dev" not in told and (parent or _NVME_PATH.fullmatch(name)):  # no partition, or hidden
                _whole(told, "size")
                continue
            raise ParseError(f"{name[:40]!r} has no device number: {told.get('dev', '')[:40]!r}")
        found[name] = BlockDevice(
            name,
            (int(number[1]), int(number[2])),
            parent,
            (_whole(told, "size") or 0) * SECTOR,
            None if (start := _whole(told, "start")) is None else start * SECTOR,
            _whole(told, "alignment_offset"),
            _whole(told, "physical_block_size"),
            _whole(told, "optimal_io_size"),
            _whole(told, "discard_max_bytes"),
            _words(told, "write_cache"),
            _words(told, "cache_type"),
            _wwid(told),
        )
    return found


def _wwid(told: Mapping[str, str]) -> str:
    text = told.get("wwid", "")
    if text and not re.fullmatch(r"[a-z]{2,5}\.[!-~](?:[ -~]*[!-~])?", text):
        raise ParseError(f"not a WWID: {text[:40]!r}")
    return text


def _whole(told: Mapping[str, str], name: str) -> int | None:
    if name not in told:
        return None
    if not re.fullmatch(r"-?\d{1,20}", told[name], re.ASCII):
        raise ParseError(f"{name} is not a number: {told[name][:40]!r}")
    return int(told[name])


def _words(told: Mapping[str, str], name: str) -> str:
    text = told.get(name, "")
    if not re.fullmatch(r"[a-z ,()]{0,40}", text):
        raise ParseError(f"{name} is not the mode of a cache: {text[:40]!r}")
    return text


@empty_is_an_answer("there is no SCSI disk")
def parse_scsi_disks(text: str) -> dict[str, ScsiDisk]:
    """Return the SCSI disks by host:channel:target:lun. Raises :class:`ParseError`."""
    fields: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"/sys/class/scsi_disk/(\d+:\d+:\d+:\d+)/(thin_provisioning|cache_type):(.*)", line)
        if not match:
            raise ParseError(f"not a file of a SCSI disk: {line[:60]!r}")
        fields.setdefault(match[1], {})[match[2]] = match[3].strip()
    return {
        name: ScsiDisk(
            None if (thin := _whole(told, "thin_provisioning")) is None else thin == 1,
            _words(told, "cache_type"),
        )
        for name, told in fields.items()
    }
