"""What hardware of the host serves a guest: the PCI devices behind its disks, cards and assigned devices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.domain_nic import Nic
from pytest_kvmcheck.facts.pci import PciDevice
from pytest_kvmcheck.views.blocks import DIRECTORY_POOLS, NETWORK_POOLS, pool_of, slaves
from pytest_kvmcheck.views.domains import networks
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.network import below, device_places, links, pci_devices, pci_of, uplinks
from pytest_kvmcheck.views.storage import dm_maps

#: What a guest's device is, and the PCI device behind it, or why that is not known.
Served = tuple[str, PciDevice | EvidenceMissing]


def pci_behind(host: Host, xml: DomainXml) -> Iterator[Served]:
    """Yield the PCI devices behind the domain that *xml* defines. Images in files, and cards of NAT networks, have none."""
    for address in [device.pci for device in xml.devices.hostdevs if device.pci]:
        yield _assigned(host, address)
    if any(device.type == "mdev" for device in xml.devices.hostdevs):
        why = "which card is behind a mediated device is not asked"
        yield "mediated device", EvidenceMissing(Cause.SKIPPED, why, "domain")
    for nic in xml.nics:
        yield from _behind_nic(host, nic)
    for disk in xml.disks:
        yield from _behind_disk(host, disk)


def _assigned(host: Host, address: str) -> Served:
    found = pci_devices(host).get(address)
    return f"assigned device {address}", found or EvidenceMissing(Cause.MISSING, f"the host has no PCI device {address}", "pci")


def _behind_nic(host: Host, nic: Nic) -> Iterator[Served]:
    if nic.pci:
        yield _assigned(host, nic.pci)
        return
    if nic.type == "vhostuser":
        yield nic.name, EvidenceMissing(Cause.MISSING, f"which card is behind {nic.name} is known to its switch only", "domain")
        return
    if nic.type == "vdpa":
        yield nic.name, EvidenceMissing(Cause.SKIPPED, f"which card is behind {nic.name}, a vDPA device, is not asked", "domain")
        return
    for start in _starts(host, nic):
        for link in below(host, start):
            if link.kind == "openvswitch":
                why = f"which card is behind {link.name} is known to Open vSwitch only"
                yield nic.name, EvidenceMissing(Cause.MISSING, why, "ip_link")
        for link in uplinks(host, start):
            found = pci_of(host, "net", link.name)
            if found:
                yield f"{link.name} behind {nic.name}", found


def _starts(host: Host, nic: Nic) -> list[str]:
    """Return the host's devices that the card's packets come to first."""
    if nic.type == "network":
        network = networks(host).get(nic.source)
        if network is None:
            raise EvidenceMissing(Cause.MISSING, f"libvirt has no network {nic.source[:40]!r}", "objects")
        return [network[0].bridge] if network[0].bridge else list(network[0].forward_devices)
    if nic.type in ("bridge", "direct"):
        return [nic.device or nic.source]
    if nic.type == "ethernet" and nic.tap:
        link = links(host).get(nic.tap)
        return [link.master] if link and link.master else []
    return []


def _behind_disk(host: Host, disk: Disk) -> Iterator[Served]:
    if disk.pci:
        yield _assigned(host, disk.pci)
    source = disk.source
    if disk.type == "volume":
        pool = pool_of(host, disk)
        if pool.type in (*DIRECTORY_POOLS, *NETWORK_POOLS):
            return
        if pool.type != "logical":
            why = f"where the volume {disk.source} of the pool {disk.pool} lies is not asked"
            yield disk.target, EvidenceMissing(Cause.SKIPPED, why, "objects")
            return
        source = f"{pool.target}/{disk.source}"
    elif disk.type != "block" or not disk.source:
        return
    names = device_places(host).paths.get("block", {})
    waiting, seen = [kernel_name(host, source)], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        lower = slaves(host).get(name, ()) or _nvme_paths(name, names)
        waiting += lower
        if lower:
            continue
        if name not in names:
            why = f"{source[:60]} of {disk.target} is no block device that can be traced"
            yield disk.target, EvidenceMissing(Cause.MISSING, why, "device_places")
        elif "/virtual/" in names[name]:
            yield disk.target, EvidenceMissing(Cause.MISSING, f"what is below {name} cannot be seen", "device_places")
        elif found := pci_of(host, "block", name):
            yield f"{name} behind {disk.target}", found


def _nvme_paths(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the hidden paths (nvme0c1n1) of an NVMe namespace (nvme0n1) that the kernel does multipath for.

    >>> _nvme_paths("nvme0n1", ["nvme0n1", "nvme0c0n1", "nvme0c1n1", "nvme0c0n12"])
    ('nvme0c0n1', 'nvme0c1n1')
    """
    whole = re.fullmatch(r"(nvme\d{1,5})(n\d{1,5})(?:p\d{1,3})?", name, re.ASCII)
    if not whole:
        return ()
    return tuple(path for path in names if re.fullmatch(rf"{whole[1]}c\d{{1,5}}{whole[2]}", path, re.ASCII))


def kernel_name(host: Host, path: str) -> str:
    """Return the kernel's name of the block device at *path*: of maps and logical volumes too; else *path* itself."""
    parts = path.removeprefix("/dev/").split("/")
    if len(parts) == 1:
        return parts[0]
    if len(parts) != 2:
        return path
    name = parts[1] if parts[0] == "mapper" else "-".join(part.replace("-", "--") for part in parts)
    return next((item.device for item in dm_maps(host) if item.name == name), path)
