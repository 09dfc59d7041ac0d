"""Devices besides disks, cards and consoles in the definition of a domain: balloon, entropy, serial lines, assigned devices.

Source: https://libvirt.org/formatdomain.html#devices

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> text = '''<domain><devices><memballoon model='virtio'><stats period='10'/></memballoon>
... <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><serial type='pty'/>
... <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>
... <hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source><address domain='0x0000' bus='0x3b'
... slot='0x02' function='0x1'/></source></hostdev></devices></domain>'''
>>> devices = read_devices(parse_xml(text, "domain"))
>>> devices.balloon.model, devices.balloon.period_s, devices.rngs[0].backend, devices.hostdevs[0].pci
('virtio', 10, '/dev/urandom', '0000:3b:02.1')
>>> [(line.kind, line.type) for line in devices.characters], devices.agent.state
([('serial', 'pty'), ('channel', 'unix')], 'connected')
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.xmltext import attribute, integer

#: The channel by which libvirt talks to the QEMU guest agent.
AGENT_CHANNEL = "org.qemu.guest_agent.0"


@dataclass(frozen=True)
class Balloon:
    """The memory balloon. ``period_s`` is how often the guest reports its memory, 0 for never."""

    model: str
    period_s: int


@dataclass(frozen=True)
class Rng:
    """An entropy device. ``backend`` is a file, or what the XML says of another kind of source."""

    model: str
    backend_model: str
    backend: str
    has_rate: bool


@dataclass(frozen=True)
class Character:
    """A console, serial line or channel. ``kind`` is the element, ``name`` and ``state`` are of a channel's target."""

    kind: str
    type: str
    target_type: str
    name: str
    state: str


@dataclass(frozen=True)
class HostDevice:
    """A device of the host that the guest owns. ``pci`` is its address there, empty for other than PCI devices.

    One of ``teaming`` transient is unplugged while the guest migrates or is saved.
    """

    type: str
    mode: str
    pci: str
    managed: bool
    driver: str
    teaming: str = ""


@dataclass(frozen=True)
class Devices:
    """Devices of the guest. ``balloon`` is None when the XML does not speak of one (libvirt then adds it at define)."""

    balloon: Balloon | None
    rngs: tuple[Rng, ...]
    characters: tuple[Character, ...]
    hostdevs: tuple[HostDevice, ...]
    inputs: tuple[tuple[str, str], ...]
    watchdogs: tuple[tuple[str, str], ...]
    tpms: tuple[str, ...]

    @property
    def agent(self) -> Character | None:
        """The channel of the guest agent."""
        return next((item for item in self.characters if item.kind == "channel" and item.name == AGENT_CHANNEL), None)


def pci_address(element: ET.Element | None) -> str:
    """Return a PCI address as sysfs writes it (0000:3b:02.1), empty without one. Raises :class:`ParseError`."""
    if element is None:
        return ""
    try:
        parts = [int(element.get(name, "0x0"), 0) for name in ("domain", "bus", "slot", "function")]
    except ValueError:
        raise ParseError(f"not a PCI address: {dict(element.attrib)!r}"[:200]) from None
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)


def read_devices(domain: ET.Element) -> Devices:
    """Return the devices of *domain*. Raises :class:`ParseError`."""
    balloon = domain.find("devices/memballoon")
    return Devices(
        balloon=Balloon(
            balloon.get("model", ""), integer(attribute(balloon, "stats", "period") or None, "memballoon/stats/@period", 0)
        )
        if balloon is not None
        else None,
        rngs=tuple(
            Rng(
                item.get("model", ""),
                attribute(item, "backend", "model"),
                (item.findtext("backend") or "").strip(),
                item.find("rate") is not None,
            )
            for item in domain.findall("devices/rng")
        ),
        characters=tuple(
            Character(
                kind,
                item.get("type", ""),
                attribute(item, "target", "type"),
                attribute(item, "target", "name"),
                attribute(item, "target", "state"),
            )
            for kind in ("serial", "console", "channel")
            for item in domain.findall(f"devices/{kind}")
        ),
        hostdevs=tuple(_hostdev(item) for item in domain.findall("devices/hostdev")),
        inputs=tuple((item.get("type", ""), item.get("bus", "")) for item in domain.findall("devices/input")),
        watchdogs=tuple((item.get("model", ""), item.get("action", "")) for item in domain.findall("devices/watchdog")),
        tpms=tuple(item.get("model", "") for item in domain.findall("devices/tpm")),
    )


def _hostdev(item: ET.Element) -> HostDevice:
    kind = item.get("type", "")
    return HostDevice(
        kind,
        item.get("mode", ""),
        pci_address(item.find("source/address")) if kind == "pci" else "",
        item.get("managed") == "yes",
        attribute(item, "driver", "name"),
        attribute(item, "teaming", "type"),
    )
