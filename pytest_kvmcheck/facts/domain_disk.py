"""Disks in the definition of a domain: ``<disk>``.

Source: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> text = '''<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' io='native' error_policy='stop'/>
... <source file='/img/top.qcow2'/><backingStore type='file'><format type='raw'/><source file='/img/base.raw'/></backingStore>
... <target dev='vda' bus='virtio'/><iotune><total_iops_sec>500</total_iops_sec></iotune></disk>'''
>>> disk = read_disk(parse_xml(text, "disk"))
>>> disk.target, disk.source, disk.backing, disk.iotune["total_iops_sec"], disk.attributes["error_policy"]
('vda', '/img/top.qcow2', ('/img/base.raw',), 500, 'stop')
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_kvmcheck.facts.domain_devices import pci_address
from pytest_kvmcheck.facts.xmltext import attribute, integer


@dataclass(frozen=True)
class Disk:
    """A disk of the guest. Attributes that the XML leaves out are empty strings.

    ``attributes`` are those of ``<driver>``; ``backing`` are the sources below the active image, nearest first, as far as
    the XML tells: ``chain_told`` is False where it does not (the saved definition of a stopped guest often); ``iothreads`` are
    the ids of an iothread mapping; ``secrets`` the UUIDs (or the use) of those that open it; ``pci`` the address of
    an NVMe drive of the host.
    """

    target: str
    device: str
    type: str
    bus: str
    source: str
    protocol: str
    format: str
    cache: str
    io: str
    iothread: str
    discard: str
    queues: str
    readonly: bool
    shareable: bool
    controller: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    pool: str = ""
    backing: tuple[str, ...] = ()
    iotune: Mapping[str, int] = field(default_factory=dict)
    iothreads: tuple[str, ...] = ()
    rawio: bool = False
    secrets: tuple[str, ...] = ()
    chain_told: bool = False
    pci: str = ""

    @property
    def is_disk(self) -> bool:
        """False for CD-ROM and floppy drives."""
        return self.device in ("disk", "lun")

    @property
    def effective_cache(self) -> str:
        """The cache mode in force: QEMU's default is writeback."""
        return self.cache if self.cache not in ("", "default") else "writeback"


def read_disk(disk: ET.Element) -> Disk:
    """Return the disk that *disk* describes."""
    driver = disk.find("driver")
    attributes = dict(driver.attrib) if driver is not None else {}
    kind = disk.get("type", "")
    source = disk.find("source")
    return Disk(
        target=attribute(disk, "target", "dev"),
        device=disk.get("device", "disk"),
        type=kind,
        bus=attribute(disk, "target", "bus"),
        source=_place(source),
        protocol=source.get("protocol", "") if source is not None else "",
        format=attributes.get("type", ""),
        cache=attributes.get("cache", ""),
        io=attributes.get("io", ""),
        iothread=attributes.get("iothread", ""),
        discard=attributes.get("discard", ""),
        queues=attributes.get("queues", ""),
        readonly=disk.find("readonly") is not None,
        shareable=disk.find("shareable") is not None,
        controller=integer(attribute(disk, "address", "controller") or None, "address/@controller", 0),
        attributes=attributes,
        pool=source.get("pool", "") if source is not None else "",
        backing=_backing(disk),
        iotune={
            item.tag: integer(item.text, f"iotune/{item.tag}") for item in disk.findall("iotune/*") if item.tag != "group_name"
        },
        secrets=tuple(
            item.get("uuid", "").lower() or item.get("usage", "")
            for path in ("auth/secret", "encryption/secret", "source/auth/secret", "source/encryption/secret")
            for item in disk.findall(path)
        ),
        iothreads=tuple(item.get("id", "") for item in disk.findall("driver/iothreads/iothread")),
        rawio=disk.get("rawio") == "yes",
        chain_told=disk.find("backingStore") is not None,
        pci=pci_address(disk.find("source/address")) if kind == "nvme" else "",
    )


def _place(source: ET.Element | None) -> str:
    """Return where the image is: a file, device, volume, directory, or the name at a server."""
    if source is None:
        return ""
    return next((source.get(key, "") for key in ("file", "dev", "volume", "dir", "name") if source.get(key)), "")


def _backing(disk: ET.Element) -> tuple[str, ...]:
    chain = []
    layer = disk.find("backingStore")
    while layer is not None and layer.find("source") is not None:
        chain.append(_place(layer.find("source")))
        layer = layer.find("backingStore")
    return tuple(chain)
