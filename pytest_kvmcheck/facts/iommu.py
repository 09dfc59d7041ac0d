r"""IOMMU groups: ``/sys/kernel/iommu_groups``.

Source: https://docs.kernel.org/driver-api/vfio.html, Documentation/ABI/testing/sysfs-kernel-iommu_groups. The first line is
``groups``, or ``none`` where the kernel has no such directory; then ``12/devices/0000:3b:00.0`` and ``12/type:DMA-FQ``.

>>> groups = parse_iommu("groups\n12/devices/0000:3b:00.0\n12/devices/0000:3b:00.1\n12/type:identity\n")
>>> groups[12].type, sorted(groups[12].devices)
('identity', ['0000:3b:00.0', '0000:3b:00.1'])
>>> parse_iommu("groups\n")
{}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_LINE = re.compile(r"(?P<group>\d{1,9})/(?:devices/(?P<device>[\w:.,@+-]+)|type:(?P<type>[\w-]+))", re.ASCII)


@dataclass(frozen=True)
class Group:
    """Devices that can only be assigned together. ``type`` is identity (untranslated), DMA, DMA-FQ, or empty on old kernels."""

    type: str
    devices: frozenset[str]


@empty_is_an_answer("no IOMMU is active")
def parse_iommu(text: str) -> dict[int, Group]:
    """Return the groups by number. Raises :class:`ParseError`."""
    head, *lines = text.splitlines() or [""]
    if head not in ("groups", "none") or (head == "none" and lines):
        raise ParseError(f"not a list of IOMMU groups: {head[:60]!r}")
    types: dict[int, str] = {}
    devices: dict[int, set[str]] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if not match:
            raise ParseError(f"not a line of the IOMMU groups: {line[:60]!r}")
        number = int(match["group"])
        devices.setdefault(number, set())
        if match["device"]:
            devices[number].add(match["device"])
        else:
            types[number] = match["type"]
    return {number: Group(types.get(number, ""), frozenset(found)) for number, found in sorted(devices.items())}
