r'''PCI devices, and where network and block devices hang on the PCI bus: sysfs.

Source: https://docs.kernel.org/PCI/sysfs-pci.html and Documentation/ABI/testing/sysfs-bus-pci. ``ls -l`` of directories full of
links tells the way from the root of the bus to each device. Unlike other files, those of PCI devices have colons in their
names. Speeds read ``8.0 GT/s PCIe``, ``8 GT/s``, ``Unknown`` or
``Unknown speed``, by kernel; a width of 0 or 255 means that there is no link.

>>> text = """/sys/bus/pci/devices/0000:3b:00.0/class:0x020000
... /sys/bus/pci/devices/0000:3b:00.0/numa_node:1
... /sys/bus/pci/devices/0000:3b:00.0/uevent:DRIVER=ice
... /sys/bus/pci/devices/0000:3b:00.0/uevent:PCI_ID=8086:1592
... /sys/bus/pci/devices/0000:3b:00.0/current_link_speed:8.0 GT/s PCIe
... /sys/bus/pci/devices/0000:3b:00.0/current_link_width:8
... /sys/bus/pci/devices/0000:3b:00.0/max_link_width:16
... /sys/bus/pci/devices/0000:3b:00.0/sriov_numvfs:4
... """
>>> card = parse_pci(text)["0000:3b:00.0"]
>>> card.class_code, card.numa_node, card.driver, card.id, card.speed_gt, card.width, card.max_width, card.vfs
(131072, 1, 'ice', '8086:1592', 8.0, 8, 16, 4)
>>> places = parse_places("""/sys/bus/pci/devices:
... total 0
... lrwxrwxrwx 1 root root 0 Nov 25 03:41 0000:3b:00.0 -> ../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0
...
... /sys/class/net:
... total 0
... -rw-r--r-- 1 root root 4096 Nov 25 03:41 bonding_masters
... lrwxrwxrwx 1 root root 0 Nov 25 03:41 eno1 -> ../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/net/eno1
... lrwxrwxrwx 1 root root 0 Nov 25 03:41 br0 -> ../../devices/virtual/net/br0
... lrwxrwxrwx 1 root root 0 Nov 25 03:41 /sys/bus/pci/devices/0000:3b:00.0/virtfn1 -> ../0000:3b:01.1
... """)
>>> places.pci_of("net", "eno1"), places.pci_of("net", "br0"), places.physical("eno1"), places.physical("br0")
('0000:3b:00.0', '', True, False)
>>> places.parent("0000:3b:00.0"), places.functions
('0000:3a:00.0', {'0000:3b:01.1': ('0000:3b:00.0', 1)})
'''

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_ADDRESS = r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
_LINE = re.compile(rf"/sys/bus/pci/devices/({_ADDRESS})/(\w+):(.*)")
_HEAD = re.compile(r"(/\S+):")
_ENTRY = re.compile(r"[-bcdlps][-rwxsStT]{9}[.+@]? .*? (\S+)(?: -> (\S+))?")
_VIRTFN = re.compile(rf"/sys/bus/pci/devices/({_ADDRESS})/virtfn(\d{{1,5}})")


@dataclass(frozen=True)
class PciDevice:
    """A PCI device. Speeds are GT/s a lane; speed and width are None when there is no link, ``numa_node`` when no node is told."""

    address: str
    class_code: int
    numa_node: int | None
    driver: str
    id: str
    speed_gt: float | None
    max_speed_gt: float | None
    width: int | None
    max_width: int | None
    vfs: int | None
    total_vfs: int | None

    def is_a(self, *classes: int) -> bool:
        """Whether its class is one of *classes*, each of one byte (0x02) or two (0x0108)."""
        return any(self.class_code >> (16 if code < 0x100 else 8) == code for code in classes)


@dataclass(frozen=True)
class Places:
    """The ways to devices by kind (``net``, ``block``, ``pci``) and name; ``functions`` maps a VF to its PF and its number."""

    paths: Mapping[str, Mapping[str, str]]
    functions: Mapping[str, tuple[str, int]]

    def pci_of(self, kind: str, name: str) -> str:
        """Return the address of the PCI device that the device *name* is of, empty when it is of none or not there."""
        found = re.findall(rf"/({_ADDRESS})(?=/)", self.paths.get(kind, {}).get(name, ""))
        return str(found[-1]) if found else ""

    def parent(self, address: str) -> str:
        """Return the address of the port above the PCI device *address*, empty when it is on the root bus."""
        found = re.findall(rf"/({_ADDRESS})(?=/)", self.paths.get("pci", {}).get(address, ""))
        return str(found[-1]) if found else ""

    def physical(self, name: str) -> bool:
        """Whether the network device *name* is hardware (or what a hypervisor offers for it), not made by the kernel."""
        path = self.paths.get("net", {}).get(name, "")
        return bool(path) and "/devices/virtual/" not in path


@empty_is_an_answer("the host has no PCI bus")
def parse_pci(text: str) -> dict[str, PciDevice]:
    """Return the PCI devices by address, sorted, from the output of ``grep -H``. Raises :class:`ParseError`."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            fields = found.setdefault(match[1], {})
            fields[match[2]] = f"{fields[match[2]]}\n{match[3]}" if match[2] in fields else match[3]
        elif line.strip():
            raise ParseError(f"not a file of a PCI device: {line[:60]!r}")
    return {address: _device(address, found[address]) for address in sorted(found)}


def _device(address: str, fields: Mapping[str, str]) -> PciDevice:
    code = re.fullmatch(r"0x([0-9a-f]{6})", fields.get("class", ""))
    if not code:
        raise ParseError(f"the class of {address} is not one: {fields.get('class', '')[:40]!r}")
    uevent = {}
    for line in fields.get("uevent", "").splitlines():
        key, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Z_]+", key):
            raise ParseError(f"not the uevent of {address}: {line[:40]!r}")
        uevent[key] = value
    node = _number(fields, "numa_node")
    return PciDevice(
        address,
        int(code[1], 16),
        None if node is None or node < 0 else node,
        uevent.get("DRIVER", ""),
        uevent.get("PCI_ID", ""),
        _speed(fields, "current_link_speed"),
        _speed(fields, "max_link_speed"),
        _width(fields, "current_link_width"),
        _width(fields, "max_link_width"),
        _number(fields, "sriov_numvfs"),
        _number(fields, "sriov_totalvfs"),
    )


def _number(fields: Mapping[str, str], name: str) -> int | None:
    if name not in fields:
        return None
    if not re.fullmatch(r"-?\d{1,6}", fields[name], re.ASCII):
        raise ParseError(f"{name} is not a number: {fields[name][:40]!r}")
    return int(fields[name])


def _width(fields: Mapping[str, str], name: str) -> int | None:
    number = _number(fields, name)
    return None if number in (None, 0, 255) else number


def _speed(fields: Mapping[str, str], name: str) -> float | None:
    if name not in fields or fields[name] in ("Unknown", "Unknown speed"):
        return None
    match = re.fullmatch(r"(\d{1,3}(?:\.\d)?) GT/s(?: PCIe)?", fields[name], re.ASCII)
    if not match:
        raise ParseError(f"{name} is not a speed: {fields[name][:40]!r}")
    return float(match[1])


_KINDS = {"/sys/class/net": "net", "/sys/class/block": "block", "/sys/bus/pci/devices": "pci"}


def parse_places(text: str) -> Places:
    """Return the ways to devices in the output of ``ls -l``. Raises :class:`ParseError`."""
    paths: dict[str, dict[str, str]] = {}
    functions: dict[str, tuple[str, int]] = {}
    kind = ""
    for line in text.splitlines():
        if head := _HEAD.fullmatch(line):
            kind = _KINDS.get(head[1], "")
            if not kind:
                raise ParseError(f"not a directory that was asked for: {line[:60]!r}")
            paths.setdefault(kind, {})
            continue
        if not line or re.fullmatch(r"total \d+", line):
            continue
        entry = _ENTRY.fullmatch(line)
        if not entry:
            raise ParseError(f"not a line of ls: {line[:60]!r}")
        name, target = entry.groups()
        if virtual := _VIRTFN.fullmatch(name):
            functions[(target or "").rpartition("/")[2]] = (virtual[1], int(virtual[2]))
        elif target and kind:
            paths[kind][name] = target
    if "net" not in paths:
        raise ParseError("ls shows no network devices, not even the loopback")
    return Places(paths, functions)
