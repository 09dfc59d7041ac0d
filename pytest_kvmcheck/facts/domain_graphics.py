"""Consoles in the definition of a domain: ``<graphics>``.

Source: https://libvirt.org/formatdomain.html#graphical-framebuffers

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> read_graphics(parse_xml("<graphics type='vnc' port='5900' autoport='yes' listen='0.0.0.0'/>", "graphics")).listens
(('address', '0.0.0.0'),)
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from pytest_kvmcheck.facts.xmltext import integer


@dataclass(frozen=True)
class Graphics:
    """A graphics device. ``listens`` are pairs of listen type and address, of a network that has none yet its name.

    Ports are None when there is none.
    """

    type: str
    port: int | None
    tls_port: int | None
    autoport: bool
    listens: tuple[tuple[str, str], ...]


def _by_net(listen: ET.Element) -> bool:
    """Whether the address is that of a network, and not known before the start."""
    return listen.get("type") == "network"


def read_graphics(item: ET.Element) -> Graphics:
    """Return the console that *item* describes."""

    def port(name: str) -> int | None:
        number = integer(item.get(name), f"graphics/@{name}", -1)
        return number if number > 0 else None

    listens = [
        (
            listen.get("type", ""),
            listen.get("address", "") or (f"the network {listen.get('network', '')}" if _by_net(listen) else ""),
        )
        for listen in item.findall("listen")
    ]
    if not listens and item.get("listen"):
        listens = [("address", item.get("listen", ""))]
    return Graphics(item.get("type", ""), port("port"), port("tlsPort"), item.get("autoport") == "yes", tuple(listens))
