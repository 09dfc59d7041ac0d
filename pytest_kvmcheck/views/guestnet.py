"""How guests reach the network: the bridges and cards that domains and libvirt's networks use, and what lies below them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR
from pytest_kvmcheck.facts.iplink import Link
from pytest_kvmcheck.facts.iproute import Route
from pytest_kvmcheck.facts.netfilter import Chain, Zone, parse_iptables, parse_nft, parse_zones
from pytest_kvmcheck.facts.ovs import OvsBridge, parse_ovs
from pytest_kvmcheck.facts.peers import of_mounts, parse_peers
from pytest_kvmcheck.views.domains import domains, networks
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.network import links, ports, routes, routes6
from pytest_kvmcheck.views.system import mounts

#: Kinds of devices below a bridge that lead nowhere by themselves: taps of guests.
TAPS = ("tun", "macvtap")


@dataclass
class GuestBridge:
    """A bridge that guests are or will be plugged into.

    ``isolated``: a network of libvirt keeps it, without an uplink. ``switch``: it belongs to Open vSwitch, by the definitions.
    """

    name: str
    isolated: bool
    users: list[str] = field(default_factory=list)
    switch: bool = False


@fact
def guest_bridges(host: Host) -> dict[str, GuestBridge]:
    """Bridges of domains and of active networks of libvirt, by name."""
    found: dict[str, GuestBridge] = {}
    known = networks(host)
    for network, info in known.values():
        if info.active and network.bridge:
            isolated = network.forward_mode != "bridge"
            users = [f"network {network.name}"]
            found[network.bridge] = GuestBridge(network.bridge, isolated, users, network.virtualport == "openvswitch")
    for domain in domains(host):
        for xml in (domain.saved, *((domain.live,) if domain.running else ())):
            for nic in xml.nics:
                if nic.type == "bridge" and nic.source:
                    entry = found.setdefault(nic.source, GuestBridge(nic.source, False))
                    entry.switch = entry.switch or nic.virtualport == "openvswitch"
                    if domain.name not in entry.users:
                        entry.users.append(domain.name)
    return found


@fact
def guest_parents(host: Host) -> frozenset[str]:
    """Cards of the host that macvtaps of domains and networks of libvirt stand on."""
    found = {device for network, info in networks(host).values() if info.active for device in network.forward_devices}
    for domain in domains(host):
        for xml in (domain.saved, *((domain.live,) if domain.running else ())):
            found |= {nic.device for nic in xml.nics if nic.type == "direct" and nic.device}
    return frozenset(found)


@fact
def switches(host: Host) -> dict[str, OvsBridge]:
    """Switches of Open vSwitch by name."""
    return {item.name: item for item in host.evidence.parsed("ovs", parse_ovs)}


def segment(host: Host, device: str) -> frozenset[str]:
    """Return the devices that stand for the network that *device* is in: of a bridge its ports but the taps, otherwise itself."""
    link = links(host).get(device)
    if link is not None and link.kind == "bridge":
        return frozenset(port.name for port in ports(host, device) if port.kind not in TAPS) or frozenset({device})
    if link is not None and link.kind == "openvswitch":
        members = switches(host)[device].interfaces if device in switches(host) else ()
        return frozenset(item.name for item in members if item.type == "" and not _is_tap(host, item.name)) or frozenset({device})
    return frozenset({device})


def _is_tap(host: Host, name: str) -> bool:
    link = links(host).get(name)
    return link is not None and link.kind in TAPS


def default_devices(host: Host) -> frozenset[str]:
    """Return the devices of the default routes, IPv4 before IPv6."""

    def chosen(found: tuple[Route, ...]) -> frozenset[str]:
        best = min((route.metric for route in found if route.default), default=0)
        return frozenset(name for route in found if route.default and route.metric == best for name in route.devices)

    return chosen(routes(host)) or chosen(routes6(host))


@fact
def storage_peers(host: Host) -> tuple[str, ...]:
    """Addresses of the servers that the host's storage is on: iSCSI, NVMe over TCP, NFS, SMB and Ceph mounts."""
    block = host.evidence.parsed("storage_peers", parse_peers)
    return tuple(sorted({*block, *of_mounts(mounts(host))}))


@fact
def filter_chains(host: Host) -> tuple[Chain, ...]:
    """Chains of the packet filter that hang on a hook, by nftables (iptables-nft included) and the older iptables."""
    found: list[Chain] = []
    for family in ("ip", "ip6"):
        host.evidence.head("iptables")
        found += host.evidence.parsed(f"iptables{KEY_SEPARATOR}{family}", lambda text, family=family: parse_iptables(text, family))  # type: ignore[misc]
    if host.evidence.record("nftables").cause is not Cause.SKIPPED:  # without the module there are no rules
        found += host.evidence.parsed("nftables", parse_nft)
    return tuple(found)


@fact
def zones(host: Host) -> tuple[Zone, ...] | None:
    """Zones of firewalld, None when it does not run."""
    if host.evidence.record("firewalld").cause is Cause.SKIPPED:
        return None
    return host.evidence.parsed("firewalld", parse_zones)


def uplink_ports(host: Host, bridge: str) -> list[Link]:
    """Return the ports of the bridge that lead out of the host: all but the taps of guests and dummies."""
    return [port for port in ports(host, bridge) if port.kind not in (*TAPS, "dummy")]


def needed(host: Host, name: str) -> Link:
    """Return the network device *name*; one that is not there is :class:`EvidenceMissing`."""
    try:
        return links(host)[name]
    except KeyError:
        raise EvidenceMissing(Cause.MISSING, f"there is no network device {name}", "ip_link") from None
