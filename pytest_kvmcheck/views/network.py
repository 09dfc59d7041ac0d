"""Facts about the network: names and addresses, devices, routes, and the PCI devices behind them."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.ethtool import parse_count, parse_fastest
from pytest_kvmcheck.facts.iplink import Link, parse_links
from pytest_kvmcheck.facts.iproute import Interface, Route, Rule, egress, parse_interfaces, parse_routes, parse_rules
from pytest_kvmcheck.facts.names import Lookup, parse_addresses, parse_getent, parse_hosts
from pytest_kvmcheck.facts.pci import PciDevice, Places, parse_pci, parse_places
from pytest_kvmcheck.facts.team import Team, parse_team
from pytest_kvmcheck.views.host import Host, fact


@fact
def addresses(host: Host) -> frozenset[str]:
    """All addresses that are configured on the host."""
    return host.evidence.parsed("ip_addr", parse_addresses)


@fact
def static_names(host: Host) -> dict[str, tuple[str, ...]]:
    """Addresses by name in /etc/hosts."""
    files = host.evidence.files("etc_hosts")
    return parsing("etc_hosts", parse_hosts, files.need("/etc/hosts"))


def lookup(host: Host, what: str) -> Lookup:
    """Return an answer of getent about the host's own name: ``addresses``, ``dns`` or ``reverse/ADDRESS``."""
    host.evidence.head("name_lookup")
    return host.evidence.parsed(f"name_lookup{KEY_SEPARATOR}{what}", parse_getent)


@fact
def links(host: Host) -> dict[str, Link]:
    """Network devices by name."""
    return host.evidence.parsed("ip_link", parse_links)


@fact
def interfaces(host: Host) -> tuple[Interface, ...]:
    """Addresses of the host with their devices."""
    return host.evidence.parsed("ip_addr", parse_interfaces)


@fact
def routes(host: Host) -> tuple[Route, ...]:
    """IPv4 routes of the main table."""
    return host.evidence.parsed("ip_route", parse_routes)


@fact
def routes6(host: Host) -> tuple[Route, ...]:
    """IPv6 routes of the main table; none when the kernel knows no IPv6."""
    return host.evidence.parsed("ip_route6", parse_routes)


@fact
def rules(host: Host) -> tuple[Rule, ...]:
    """The routing policy."""
    return host.evidence.parsed("ip_rule", parse_rules)


def setting(host: Host, path: str) -> int | None:
    """Return the number in /proc/sys/net/*path*, None when the kernel has no such setting."""
    files = host.evidence.files("net_settings")
    files.need("/proc/sys/net/ipv4/ip_forward")
    text = files.get(f"/proc/sys/net/{path}")
    return None if text is None else parsing("net_settings", parse_count, text)


def nic_file(host: Host, name: str, file: str) -> str | None:
    """Return the *file* of the physical network device *name*, None where the kernel refuses to tell (the device is down)."""
    files = host.evidence.files("nic_state")
    files.need(f"/sys/class/net/{name}/statistics/rx_packets")
    text = files.get(f"/sys/class/net/{name}/{file}")
    return None if text is None else text.strip()


def nic_count(host: Host, name: str, file: str) -> int | None:
    """Return the number in the *file* of the physical network device *name*, None where the kernel refuses to tell."""
    text = nic_file(host, name, file)
    return None if text is None else parsing("nic_state", parse_count, text)


def fastest_mode(host: Host, name: str) -> int:
    """Return the fastest link mode (Mbit/s) that the card supports by ethtool, 0 when nobody tells."""
    if host.evidence.record("ethtool").cause is Cause.MISSING:
        return 0
    host.evidence.head("ethtool")
    if f"ethtool{KEY_SEPARATOR}{name}" not in host.evidence.records:
        return 0
    return host.evidence.parsed(f"ethtool{KEY_SEPARATOR}{name}", parse_fastest)


def team(host: Host, name: str) -> Team:
    """Return the state of a team by its daemon."""
    host.evidence.head("teams")
    return host.evidence.parsed(f"teams{KEY_SEPARATOR}{name}", parse_team)


def egress_to(host: Host, address: str) -> str:
    """Return the device by which packets to *address* leave the host, empty when no route leads there."""
    return egress(routes6(host) if ":" in address else routes(host), address)


@fact
def pci_devices(host: Host) -> dict[str, PciDevice]:
    """PCI devices by address, sorted; empty on a host without PCI."""
    return host.evidence.parsed("pci", parse_pci)


@fact
def device_places(host: Host) -> Places:
    """Where network, block and PCI devices hang on the PCI bus."""
    return host.evidence.parsed("device_places", parse_places)


def ports(host: Host, master: str) -> list[Link]:
    """Return the devices that are enslaved to *master*: ports of a bridge, members of a bond."""
    return [link for link in links(host).values() if link.master == master]


def below(host: Host, name: str) -> Iterator[Link]:
    """Yield the device *name* and all that its packets pass through below it: VLANs, bonds, ports of bridges, hardware."""
    known = links(host)
    waiting, seen = [name], set[str]()
    while waiting:
        link = known.get(waiting.pop())
        if link is None or link.name in seen:
            continue
        seen.add(link.name)
        yield link
        waiting += [port.name for port in ports(host, link.name)]
        if link.lower:
            waiting.append(link.lower)


def physical(host: Host, name: str) -> bool:
    """Whether the network device *name* is hardware, or what a hypervisor offers for it."""
    return device_places(host).physical(name)


def uplinks(host: Host, name: str) -> list[Link]:
    """Return the physical devices by which the device *name* (a bridge, bond, VLAN ...) reaches the wire, sorted by name."""
    return sorted((link for link in below(host, name) if physical(host, link.name)), key=lambda link: link.name)


def pci_of(host: Host, kind: str, name: str) -> PciDevice | None:
    """Return the PCI device of the network (``net``) or block device (``block``) *name*, None when it is of none."""
    return pci_devices(host).get(device_places(host).pci_of(kind, name))


#: Classes of PCI devices whose links and functions matter: network, NVMe, RAID, SAS and Fibre Channel adapters, GPUs.
CARDS = (0x02, 0x0108, 0x0104, 0x0107, 0x0C04, 0x03, 0x12)


@fact
def cards(host: Host) -> tuple[PciDevice, ...]:
    """PCI devices that carry data (``CARDS``), sorted by address, without virtual functions."""
    functions = device_places(host).functions
    return tuple(item for item in pci_devices(host).values() if item.is_a(*CARDS) and item.address not in functions)


@fact
def uplinks_in_use(host: Host) -> tuple[Link, ...]:
    """Physical network devices that carry something, sorted by name: a port, a member, with an address, or below another device.

    One that is a port counts even when it is down. Virtual functions are not among them.
    """
    known = links(host)
    places = device_places(host)
    addressed = {item.device for item in interfaces(host) if item.scope == "global"}
    carrying = {link.lower for link in known.values()}
    found = []
    for name in sorted(known):
        link = known[name]
        used = link.master or name in carrying or (link.up and name in addressed)
        if used and places.physical(name) and places.pci_of("net", name) not in places.functions:
            found.append(link)
    return tuple(found)
