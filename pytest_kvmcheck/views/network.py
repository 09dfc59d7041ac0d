"""Facts about the network: names and addresses, devices, routes, and the PCI devices behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.ethtool import parse_count, parse_fastest
from pytest_kvmcheck.facts.iplink import Link, parse_links
from pytest_kvmcheck.facts.iproute import Interface, Route, Rule, egress, parse_interfaces, parse_routes, parse_rules
from pytest_kvmcheck.facts.names import Lookup, loopback, parse_addresses, parse_entries, parse_getent, parse_hosts, parse_sources
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


@dataclass(frozen=True)
class OwnName:
    """What the host takes for its own name, by its files: the full name, its addresses, and how they are called."""

    full: str
    addresses: tuple[str, ...]
    called: dict[str, tuple[str, ...]]


#: Sources of names that know guests and containers, or only names that end with .local.
_BESIDE = ("mymachines", "libvirt", "libvirt_guest", "mdns", "mdns4", "mdns6", "mdns_minimal", "mdns4_minimal", "mdns6_minimal")


def lookups_were_asked(host: Host) -> bool:
    """Whether the host was asked what its name resolves to: that may go out to DNS, so it is done on request only."""
    with host.evidence.quietly():
        try:
            return host.evidence.record("name_lookup").cause is not Cause.SKIPPED
        except EvidenceMissing:
            return False


@fact
def host_name(host: Host) -> str:
    """The name that the kernel has for the host."""
    name = host.evidence.text("hostname").strip()
    if not name or len(name.split()) != 1:
        raise EvidenceMissing(Cause.UNPARSABLE, f"not a host name: {name[:60]!r}", "hostname")
    return name


@fact
def own_name(host: Host) -> OwnName:
    """What the host's files say of its own name, as the resolver reads them.

    Source: nsswitch.conf(5), hosts(5), nss-myhostname(8). Raises :class:`EvidenceMissing` when only DNS, or another service, can
    tell.
    """
    name = host_name(host)
    conf = host.evidence.files("name_service").get("/etc/nsswitch.conf", "")
    sources = parsing("name_service", parse_sources, conf)
    text = host.evidence.files("etc_hosts").get("/etc/hosts", "")
    entries = parsing("etc_hosts", parse_entries, text)
    mine = [entry for entry in entries if name.lower() in map(str.lower, entry.names)]
    for source in sources:
        # systemd-resolved reads /etc/hosts too.
        if mine and source in ("files", "resolve"):
            found = tuple(dict.fromkeys(entry.address for entry in mine))
            called: dict[str, tuple[str, ...]] = {}
            for entry in entries:
                called.setdefault(entry.address, entry.names)
            return OwnName(mine[0].names[0], found, {address: called[address] for address in found})
        if source == "myhostname":
            found = tuple(sorted(address for address in addresses(host) if not loopback(address))) or ("127.0.0.2",)
            return OwnName(name, found, dict.fromkeys(found, (name,)))
        if source in ("files", "resolve", *_BESIDE) and not (source.startswith("mdns") and name.lower().endswith(".local")):
            continue
        break
    who = "DNS" if "dns" in sources or "resolve" in sources else " or ".join(sources)[:80]
    with host.evidence.quietly():
        asked = "name_lookup" in host.evidence.records
    why = ", and it is asked only with --kvmcheck-active" if asked else ""
    seen = f"/etc/hosts does not name {name}: only {who} can tell what it resolves to{why}"
    raise EvidenceMissing(Cause.SKIPPED if asked else Cause.NOT_COLLECTED, seen, "name_lookup")


def full_name(host: Host) -> str:
    """The host's full name: by ``hostname -f`` where that was asked, else by the files; the plain one where only DNS knows more."""
    with host.evidence.quietly():
        record = host.evidence.records.get("hostname_fqdn")
    if record and record.cause not in (Cause.SKIPPED, Cause.NOT_COLLECTED):
        return host.evidence.text("hostname_fqdn").strip()
    if "." in host_name(host):
        return host_name(host)
    try:
        return own_name(host).full
    except EvidenceMissing as missing:
        if missing.cause in (Cause.SKIPPED, Cause.NOT_COLLECTED):
            return host_name(host)
        raise


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
