"""Networks of libvirt: ``virsh net-dumpxml`` and ``net-info``.

Source: https://libvirt.org/formatnetwork.html, https://libvirt.org/manpages/virsh.html#net-info

>>> net = parse_network("<network><name>lab</name><uuid>u</uuid><forward mode='nat'/><bridge name='virbr0' stp='on'/>"
...                     "<mtu size='9000'/><portgroup name='web' default='yes'/><ip address='192.0.2.1' netmask='255.255.255.0'/>"
...                     "</network>")
>>> net.name, net.forward_mode, net.bridge, net.mtu, net.portgroups, net.routed
('lab', 'nat', 'virbr0', 9000, ('web',), True)
>>> parse_network("<network><name>isolated</name></network>").forward_mode
'none'
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.xmltext import attribute, integer, parse_xml


@dataclass(frozen=True)
class VirtNetwork:
    """A network of libvirt. ``forward_mode`` is ``none`` for an isolated one; ``mtu`` is None when the XML does not say."""

    name: str
    uuid: str
    forward_mode: str
    forward_devices: tuple[str, ...]
    bridge: str
    bridge_stp: str
    virtualport: str
    mtu: int | None
    vlans: tuple[int, ...]
    portgroups: tuple[str, ...]
    families: tuple[str, ...]
    addresses: tuple[str, ...]

    @property
    def routed(self) -> bool:
        """Whether packets of guests leave by the host's own routing."""
        return self.forward_mode in ("nat", "route", "open")


def parse_network(text: str) -> VirtNetwork:
    """Return the network that ``net-dumpxml`` describes. Raises :class:`ParseError`."""
    root = parse_xml(text, "network")
    name = root.findtext("name") or ""
    if not name:
        raise ParseError("a <network> without a name")
    forward = root.find("forward")
    mtu = attribute(root, "mtu", "size")
    devices = [forward.get("dev", "")] if forward is not None else []
    devices += [item.get("dev", "") for item in root.findall("forward/interface")]
    ips = root.findall("ip")
    return VirtNetwork(
        name=name,
        uuid=(root.findtext("uuid") or "").strip(),
        forward_mode=forward.get("mode", "nat") if forward is not None else "none",
        forward_devices=tuple(dict.fromkeys(filter(None, devices))),
        bridge=attribute(root, "bridge", "name"),
        bridge_stp=attribute(root, "bridge", "stp"),
        virtualport=attribute(root, "virtualport", "type"),
        mtu=integer(mtu, "mtu/@size") if mtu else None,
        vlans=tuple(integer(tag.get("id"), "vlan/tag/@id") for tag in root.findall("vlan/tag")),
        portgroups=tuple(item.get("name", "") for item in root.findall("portgroup")),
        families=tuple(item.get("family", "ipv4") for item in ips),
        addresses=tuple(item.get("address", "") for item in ips),
    )
