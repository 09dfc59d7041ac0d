"""Network cards in the definition of a domain: ``<interface>``.

Source: https://libvirt.org/formatdomain.html#network-interfaces

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> text = '''<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet0'/>
... <model type='virtio'/><driver name='vhost' queues='4'/></interface>'''
>>> nic = read_nic(parse_xml(text, "interface"), 0)
>>> nic.name, nic.source, nic.tap, nic.queues
('52:54:00:00:00:01', 'br0', 'vnet0', 4)
>>> text = '''<interface type='hostdev'><mac address='52:54:00:00:00:02'/><source><address type='pci' domain='0x0000' bus='0x3b'
... slot='0x02' function='0x1'/></source></interface>'''
>>> read_nic(parse_xml(text, "interface"), 1).pci
'0000:3b:02.1'
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_kvmcheck.facts.domain_devices import pci_address
from pytest_kvmcheck.facts.xmltext import attribute, integer


@dataclass(frozen=True)
class Nic:
    """A network card of the guest. ``name`` is its MAC address, the one identity every card has.

    ``device`` is the host's device that a macvtap stands on, ``mode`` how (``passthrough`` takes all of it); ``pci`` is the
    address of an assigned function; ``filter`` the nwfilter that its packets pass. A card of ``teaming`` transient is
    unplugged while the guest migrates or is saved.
    """

    name: str
    type: str
    model: str
    driver: str
    queues: int
    source: str
    tap: str
    trust_guest_rx_filters: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    mtu: int | None = None
    device: str = ""
    mode: str = ""
    pci: str = ""
    filter: str = ""
    portgroup: str = ""
    virtualport: str = ""
    teaming: str = ""


def read_nic(nic: ET.Element, index: int) -> Nic:
    """Return the card that *nic*, the *index*-th of its domain, describes."""
    driver = nic.find("driver")
    source = nic.find("source")
    place = ""
    if source is not None:
        place = next((source.get(key, "") for key in ("network", "bridge", "dev") if source.get(key)), "")
    return Nic(
        name=attribute(nic, "mac", "address") or f"nic{index}",
        type=nic.get("type", ""),
        model=attribute(nic, "model", "type"),
        driver=driver.get("name", "") if driver is not None else "",
        queues=integer(driver.get("queues") if driver is not None else None, "driver/@queues", 1),
        source=place,
        tap=attribute(nic, "target", "dev"),
        trust_guest_rx_filters=nic.get("trustGuestRxFilters") == "yes",
        attributes=dict(driver.attrib) if driver is not None else {},
        mtu=integer(size, "mtu/@size") if (size := attribute(nic, "mtu", "size")) else None,
        device=attribute(nic, "source", "dev"),
        mode=attribute(nic, "source", "mode"),
        pci=pci_address(nic.find("source/address")) if nic.get("type") == "hostdev" else "",
        filter=attribute(nic, "filterref", "filter"),
        portgroup=attribute(nic, "source", "portgroup"),
        virtualport=attribute(nic, "virtualport", "type"),
        teaming=attribute(nic, "teaming", "type"),
    )
