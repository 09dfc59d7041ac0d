"""Checks of the network."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Items, Number, Params, Severity, Table, Text, Whole, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domain_nic import Nic
from pytest_kvmcheck.facts.exitcode import TIMED_OUT
from pytest_kvmcheck.facts.iplink import Link
from pytest_kvmcheck.facts.iproute import Interface
from pytest_kvmcheck.facts.listeners import Listener, parse_listeners
from pytest_kvmcheck.facts.listing import parse_paths
from pytest_kvmcheck.facts.names import Lookup, loopback
from pytest_kvmcheck.facts.netfilter import Zone
from pytest_kvmcheck.facts.pci import PciDevice
from pytest_kvmcheck.findings import compared
from pytest_kvmcheck.parameters import Either
from pytest_kvmcheck.views.cpu import cmdline
from pytest_kvmcheck.views.domains import Domain, domains, networks, owners_of_macs, storage_pools
from pytest_kvmcheck.views.guestnet import (
    TAPS,
    default_devices,
    filter_chains,
    guest_bridges,
    guest_parents,
    segment,
    storage_peers,
    switches,
    uplink_ports,
    zones,
)
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import sysctl_conf
from pytest_kvmcheck.views.network import (
    addresses,
    device_places,
    egress_to,
    fastest_mode,
    host_name,
    interfaces,
    links,
    lookup,
    lookups_were_asked,
    nic_count,
    nic_file,
    own_name,
    pci_devices,
    physical,
    ports,
    rules,
    setting,
    static_names,
    team,
)
from pytest_kvmcheck.views.processes import vhost_of
from pytest_kvmcheck.views.services import managers, qemu_conf, unit
from pytest_kvmcheck.views.system import modprobe
from pytest_kvmcheck.views.time import virtualization

#: Interfaces whose packets the kernel's vhost-net can carry.
VHOST_TYPES = ("network", "bridge", "direct", "ethernet")

#: The exit code of getent for a name that does not exist.
NO_SUCH_NAME = 2


def _carried(nic: Nic) -> bool:
    return nic.model.startswith("virtio") and nic.type in VHOST_TYPES


@condition
def vhost_possible(domain: Domain, nic: Nic) -> str | None:
    """Hold for virtio cards of running, accelerated domains."""
    if not _carried(nic):
        return f"a {nic.type} interface of model {nic.model or 'none'}"
    if domain.saved.type != "kvm":
        return f"{domain} is emulated (type {domain.saved.type})"
    return None if domain.running else f"{domain} is off"


@check(
    "KVM-NET-003",
    title="vhost-net serves virtio network cards",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "vhost_net", "qemu_process", "qemu_vhost"),
    applies=vhost_possible,
)
def test_vhost_net(host: Host, domain: Domain, nic: Nic) -> None:
    """Packets of the guest pass through the kernel, not through QEMU's main loop.

    What it checks
        /dev/vhost-net exists, the card does not ask for driver qemu, and the running QEMU holds as many vhost-net descriptors as
        its virtio cards have queues. Without root, its vhost threads are counted instead.

    Why it matters
        Otherwise every packet costs trips through user space.

    How to fix
        now: modprobe vhost_net
        after a reboot: echo vhost_net > /etc/modules-load.d/vhost.conf; remove <driver name='qemu'/>; restart the guest
        roll back: modprobe -r vhost_net with no guest running; remove the file; virsh define FILE, with what virsh dumpxml
            --inactive $DOM had written to FILE before the change
        verify: ls -l /dev/vhost-net; ls -l /proc/$$(pgrep -f guest=NAME)/fd | grep vhost

    When not to
        Interfaces of type user, vhost-user, vdpa and hostdev go other ways and are not judged.

    References
        https://libvirt.org/formatdomain.html#setting-nic-driver-specific-options
    """
    with Findings() as findings:
        nodes = host.evidence.parsed("vhost_net", parse_paths)
        findings.fail_if("/dev/vhost-net" not in nodes, f"{host}: /dev/vhost-net is not there.")
        findings.fail_if(nic.driver == "qemu", f"{domain}: network card {nic.name} has driver qemu, expected vhost.")
        wanted = _queues(domain.live)
        found = vhost_of(domain)
        count = found.threads if found.descriptors is None else found.descriptors
        if count < wanted:
            findings.fail(f"{domain}: its QEMU has {count} vhost-net queues, expected {wanted}.")


#: What a network of the host may be for.
ROLES = ("management", "guest", "storage", "migration")


def _queues(xml: DomainXml) -> int:
    return sum(max(1, nic.queues) for nic in xml.nics if _carried(nic) and nic.driver != "qemu")


def _networks_of(host: Host, roles: Mapping[str, object], findings: Findings) -> dict[str, dict[str, frozenset[str]]]:
    """Return, by role and device, the ports and VLANs that stand for its network. A role without devices is left out."""

    def migration() -> frozenset[str]:
        place = str(qemu_conf(host).get("migration_address") or qemu_conf(host).get("migration_host") or "")
        if place in ("", "0.0.0.0", "::", "localhost"):  # noqa: S104 - then the kernel chooses by its routes
            return default_devices(host)
        mine = frozenset(item.device for item in interfaces(host) if item.address == place)
        if not mine:
            raise EvidenceMissing(Cause.MISSING, f"the migration address {place} is no address of this host", "qemu_conf")
        return mine

    derived: dict[str, Callable[[], frozenset[str]]] = {
        "management": lambda: default_devices(host),
        "guest": lambda: frozenset(name for name, use in guest_bridges(host).items() if not use.isolated) | guest_parents(host),
        "storage": lambda: frozenset(egress_to(host, peer) for peer in storage_peers(host)) - {""},
        "migration": migration,
    }
    found: dict[str, dict[str, frozenset[str]]] = {}
    for role, derive in derived.items():
        try:
            given = roles.get(role)
            devices = derive() if given is None else frozenset([given] if isinstance(given, str) else map(str, _listed(given)))
            if devices:
                found[role] = {device: segment(host, device) for device in sorted(devices)}
        except EvidenceMissing as missing:
            findings.unknown(missing)
    return found


def _listed(given: object) -> Iterable[object]:
    return given if isinstance(given, list | tuple) else [given]


@condition
def shares_something(host: Host) -> str | None:
    """Hold for hosts with bridged guests or storage behind IP."""
    if any(not use.isolated for use in guest_bridges(host).values()) or guest_parents(host) or storage_peers(host):
        return None
    return "no bridged guests and no storage behind IP"


@check(
    "KVM-NET-001",
    title="Guest, management, migration and storage traffic use separate networks",
    severity=Severity.LOW,
    reads=(
        *("virsh", "domain", "objects", "ip_link", "ip_addr", "ip_route", "ip_route6"),
        *("storage_peers", "mounts", "qemu_conf"),
    ),
    params={
        "must_differ": Items(
            [["management", "guest"], ["migration", "storage"]], Items((), Choice(*ROLES), least=2, most=2), least=1
        ),
        "roles": Table(None, Choice(*ROLES), Either(Text(""), Items((), Text(""), least=1))),
    },
    applies=shares_something,
)
def test_networks_are_separate(host: Host, params: Params) -> None:
    """A migration, a backup or a storm of one guest does not stall everybody else.

    What it checks
        Of each pair of roles in must_differ that this host has, the networks lie on different ports, bonds or VLANs. Management
        is the device of the default route; guest the bridges and the parents of macvtaps that domains and networks of libvirt
        use; storage the way to the servers of iSCSI, NVMe over TCP, NFS, SMB and Ceph; migration the device with
        migration_address (or migration_host) of qemu.conf, without one management. roles names devices instead:
        {storage: [bond1]}. Backup traffic cannot be told from the host.

    Why it matters
        One path for everything is the usual flaw of a KVM host: a single live migration fills the uplink of all guests.

    How to fix
        now: add a VLAN or a card for the role; give it an address in a network of its own
        after a reboot: the same by NetworkManager, netplan, ifupdown or networkd; migration_address in /etc/libvirt/qemu.conf
        roll back: the former configuration of the network; ip link and ip addr show what runs, note it before; the former
            migration_address
        verify: ip -br link; ip route get STORAGE-SERVER

    When not to
        Small hosts with two cards in one bond: let roles or must_differ say so, or bound the bandwidth of migrations
        (virsh migrate-setspeed).

    References
        https://libvirt.org/migration.html
        https://libvirt.org/drvqemu.html
    """
    with Findings() as findings:
        known = _networks_of(host, params.roles or {}, findings)
        judged = 0
        for one, other in params.must_differ:
            if one not in known or other not in known:
                continue
            judged += 1
            for device, mine in known[one].items():
                for rival, theirs in known[other].items():
                    if not mine & theirs:
                        continue
                    shared = links(host).get(device)
                    if device == rival and shared is not None and shared.data.get("vlan_filtering"):
                        why = f"{device} keeps {one} and {other} apart by VLANs, or not: that is not read"
                        findings.unknown(EvidenceMissing(Cause.NOT_COLLECTED, why, "ip_link"))
                        continue
                    through = ", ".join(sorted(mine & theirs))
                    findings.fail(f"{host}: {one} ({device}) and {other} ({rival}) share {through}; expected separate networks.")
        if not judged:
            findings.unknown(EvidenceMissing(Cause.MISSING, "no pair of roles could be found on this host", "ip_route"))


def _kept(host: Host, name: str, value: int) -> bool:
    """Whether sysctl.d sets *name* (of any of its interfaces) to *value* or more at boot."""
    pattern = re.compile(rf"net\.ipv4\.conf\..+\.{name}")
    found = [text for key, text in sysctl_conf(host).items() if pattern.fullmatch(key.replace("/", "."))]
    return any(text.isdigit() and int(text) >= value for text in found)


def _vrf(known: Mapping[str, Link], name: str) -> str:
    master = known[name].master if name in known else ""
    return master if master in known and known[master].kind == "vrf" else ""


def _addressed(host: Host) -> list[Interface]:
    """Return the IPv4 addresses, but of the loopback, of devices that are up."""
    known = links(host)
    found = [item for item in interfaces(host) if item.network.version == 4 and item.scope != "host"]
    return [item for item in found if item.device in known and known[item.device].up and known[item.device].type != "loopback"]


@condition
def several_interfaces(host: Host) -> str | None:
    """Hold for hosts with addresses on two devices or more."""
    return None if len({item.device for item in _addressed(host)}) > 1 else "fewer than two interfaces have an IPv4 address"


@check(
    "KVM-NET-002",
    title="Hosts with several network cards in one subnet control ARP",
    severity=Severity.MEDIUM,
    reads=("ip_addr", "ip_link", "ip_rule", "net_settings", "sysctl_files"),
    applies=several_interfaces,
)
def test_arp_is_controlled(host: Host) -> None:
    """Each address is answered for by the interface that has it.

    What it checks
        No IPv4 subnet has addresses on two devices (addresses /32, devices that are down and other VRFs left out). Where one
        has, each of the devices has arp_ignore 1 or more and arp_announce 2, or arp_filter with a rule of ``ip rule`` for each
        of its addresses; of ``all`` and the device's own setting the greater one counts. Settings that no file of sysctl.d
        keeps are a warning.

    Why it matters
        Linux answers ARP requests for any of its addresses on any of its interfaces: packets come in on the wrong card, and
        switches and firewalls drop them.

    How to fix
        now: sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
        after a reboot: the same two lines in /etc/sysctl.d/90-arp.conf; better: one subnet an interface, or a bond
        roll back: sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0
        verify: grep . /proc/sys/net/ipv4/conf/*/arp_ignore; from a neighbour: arping -c 3 ADDRESS shows one MAC address

    When not to
        arp_filter alone breaks replies where no source routing exists: prefer the pair. iSCSI with one subnet for all ports
        is the usual case in which the subnet cannot be split.

    References
        https://docs.kernel.org/networking/ip-sysctl.html
        http://linux-ip.net/html/ether-arp.html#ether-arp-flux
    """
    known = links(host)
    subnets: dict[tuple[str, str], list[Interface]] = {}
    for item in _addressed(host):
        if item.network.prefixlen < 32:
            subnets.setdefault((_vrf(known, item.device), str(item.network)), []).append(item)
    with Findings() as findings:
        for (_, subnet), members in sorted(subnets.items()):
            devices = sorted({item.device for item in members})
            if len(devices) < 2:
                continue
            kept = True
            for name in devices:
                ignore, announce, filtering = (_arp(host, name, key) for key in ("arp_ignore", "arp_announce", "arp_filter"))
                if ignore >= 1 and announce == 2:
                    kept = kept and _kept(host, "arp_ignore", 1) and _kept(host, "arp_announce", 2)
                    continue
                ruled = all(_has_rule(host, item) for item in members if item.device == name) if filtering else False
                if filtering and ruled:
                    kept = kept and _kept(host, "arp_filter", 1)
                    continue
                findings.fail(
                    f"{host}: {subnet} is on {' and '.join(devices)}; {name} has arp_ignore {ignore} and arp_announce {announce},"
                    f" expected 1 and 2{', and arp_filter without a rule for its address' if filtering else ''}."
                )
            findings.warn_if(not kept, f"{host}: what controls ARP of {subnet} is set now, but by no file of sysctl.d.")


def _arp(host: Host, name: str, key: str) -> int:
    found = [setting(host, f"ipv4/conf/{place}/{key}") for place in ("all", name)]
    if None in found:
        raise EvidenceMissing(Cause.MISSING, f"{key} of {name} is not told", "net_settings")
    return max(number for number in found if number is not None)


def _has_rule(host: Host, item: Interface) -> bool:
    """Whether packets from the address have a routing table of their own."""
    for rule in rules(host):
        if rule.source == "all" or rule.table in ("local", "main", "default"):
            continue
        try:
            if ipaddress.ip_address(item.address) in ipaddress.ip_network(rule.source, strict=False):
                return True
        except ValueError:
            continue
    return False


_ZCOPYTX = "experimental_zcopytx"


@condition
def vhost_net_used(host: Host) -> str | None:
    """Hold where vhost_net is loaded, or its options are set."""
    if "/sys/module/vhost_net" in host.evidence.parsed("vhost_net", parse_paths) or _zcopytx_configured(host):
        return None
    return "vhost_net is neither loaded nor configured"


def _zcopytx_configured(host: Host) -> dict[str, str]:
    """Return the values that will hold when the module is loaded next, by where they are set."""
    found = {}
    option = modprobe(host).option("vhost_net", _ZCOPYTX)
    if option is not None:
        found["modprobe.d"] = option
    given = values(cmdline(host), f"vhost_net.{_ZCOPYTX}")
    if given:
        found["the kernel command line"] = given[-1]
    return found


@check(
    "KVM-NET-004",
    title="The zero-copy transmit switch of vhost-net is off",
    severity=Severity.LOW,
    reads=("vhost_net", "vhost_zcopytx", "modprobe_conf", "cmdline"),
    applies=vhost_net_used,
)
def test_zero_copy_is_off(host: Host) -> None:
    """A guest's packets do not wait for those of another one.

    What it checks
        /sys/module/vhost_net/parameters/experimental_zcopytx is 0, or the kernel has no such parameter, and neither an option
        in modprobe.d nor the kernel command line sets it to 1.

    Why it matters
        A buffer that is still in use further down holds up all packets behind it. Linux turned it off in 5.3 for that reason,
        and the stable kernels and RHEL before; older books still recommend it.

    How to fix
        now: with no guest running: modprobe -r vhost_net && modprobe vhost_net experimental_zcopytx=0
        after a reboot: take experimental_zcopytx=1 out of /etc/modprobe.d and of the kernel command line
        roll back: the former line in /etc/modprobe.d, and load the module anew with no guest running
        verify: cat /sys/module/vhost_net/parameters/experimental_zcopytx

    When not to
        Never by default; measure before you turn it on for a single tenant with large packets.

    References
        https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/commit/?id=098eadce3c622c07b328d0a43dda379b38cf7c5e
    """
    with Findings() as findings:
        for place, value in _zcopytx_configured(host).items():
            findings.fail_if(value != "0", f"{host}: {place} sets {_ZCOPYTX} of vhost_net to {value}, expected 0.")
        text = host.evidence.files("vhost_zcopytx").get(f"/sys/module/vhost_net/parameters/{_ZCOPYTX}")
        if text is not None:
            findings.fail_if(text.strip() != "0", f"{host}: vhost_net runs with {_ZCOPYTX} {text.strip()}, expected 0.")


@condition
def virtio_card(nic: Nic) -> str | None:
    """Hold for virtio network cards."""
    return None if nic.model.startswith("virtio") else f"a card of model {nic.model or 'none'}"


def _queue_problem(nic: Nic, vcpus: int, limit: int) -> str:
    bound = min(vcpus, limit)
    if "queues" in nic.attributes and not 1 <= nic.queues <= bound:
        return f"has {nic.queues} queues, expected 1 to {bound} ({vcpus} vCPUs)"
    return ""


@check(
    "KVM-NET-005",
    title="The number of virtio-net queues fits the vCPUs",
    severity=Severity.LOW,
    reads=("virsh", "domain", "ip_link"),
    params={"max_queues": Whole(8, 1, 256)},
    applies=virtio_card,
)
def test_queues_fit(host: Host, domain: Domain, nic: Nic, params: Params) -> None:
    """Network cards have as many queues as the guest can use, and uses them.

    What it checks
        queues of the card is not set, or from 1 to the number of vCPUs and at most max_queues; in the saved definition and, when
        the guest runs, in the live one. A domain with the tag network-heavy and four vCPUs or more has two queues at least.
        Queues of the tap device that the guest has not switched on are a warning.

    Why it matters
        Queues beyond the vCPUs cost memory and a kernel thread each; a single queue binds the network of a wide guest to one CPU.

    How to fix
        now: nothing, the card is built at start; in a Linux guest with idle queues: ethtool -L eth0 combined N
        after a reboot: virsh edit $DOM: <driver name='vhost' queues='N'/> with N the vCPUs, 8 at most; restart the guest
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change; ethtool -L eth0
            combined with the former count in the guest
        verify: ip -d link show type tun; ethtool -l eth0 in the guest

    When not to
        A guest that is still starting has not switched on its queues yet. The tap driver takes 256 queues: raise max_queues
        where a measurement shows the gain.

    References
        https://libvirt.org/formatdomain.html#setting-nic-driver-specific-options
    """
    with Findings() as findings:
        problem = _queue_problem(nic, domain.saved.vcpus, params.max_queues)
        findings.fail_if(bool(problem), f"{domain}: card {nic.name} {problem}.")
        heavy = "network-heavy" in domain.tags and domain.saved.vcpus >= 4
        findings.fail_if(
            heavy and nic.queues < 2,
            f"{domain}: card {nic.name} has {nic.queues} queue, expected 2 or more of a network-heavy guest.",
        )
        if not domain.running:
            return
        live = next((item for item in domain.live.nics if item.name == nic.name), None)
        if live is None:
            note(f"{nic.name} is not plugged in now")
            return
        problem = _queue_problem(live, domain.live.vcpus, params.max_queues)
        findings.fail_if(bool(problem), f"{domain}: card {nic.name} of the running guest {problem}.")
        if live.queues > 1 and live.tap and live.type in ("network", "bridge", "ethernet"):
            tap = links(host).get(live.tap)
            if tap is None:
                raise EvidenceMissing(Cause.MISSING, f"the tap device {live.tap} of {domain} cannot be seen", "ip_link")
            idle = parsing("ip_link", tap.number, "numdisabled")
            if idle is None:
                raise EvidenceMissing(Cause.MISSING, f"ip does not tell the queues of {live.tap}", "ip_link")
            findings.warn_if(idle > 0, f"{domain}: the guest does not use {idle} of the {live.queues} queues of {nic.name}.")


ACTIVE_BACKUP, BROADCAST = "active-backup", "broadcast"
#: Modes in which ARP monitoring does not work.
NO_ARP = ("802.3ad", "balance-tlb", "balance-alb")


def _bonds(host: Host) -> list[Link]:
    """Return the bonds and teams that have ports or are up; the empty bond0 that loading the module makes is none."""
    known = links(host).values()
    return [link for link in known if link.kind in ("bond", "team") and (link.up or ports(host, link.name))]


@condition
def has_bonds(host: Host) -> str | None:
    """Hold for hosts with bonds or teams in use."""
    return None if _bonds(host) else "no bond or team"


@check(
    "KVM-NET-006",
    title="Bonds and teams are fully up",
    severity=Severity.HIGH,
    reads=("ip_link", "nic_state", "teams"),
    params={"min_slaves": Whole(2, 1, 16)},
    applies=has_bonds,
)
def test_bonds_are_up(host: Host, params: Params) -> None:
    """Every link of a bond carries, so that the next failure is survived.

    What it checks
        Each bond in use has min_slaves members or more, all of them with mii_status UP; it watches its links by miimon, or by
        arp_interval where the mode allows that. With 802.3ad all members are in the active aggregator and the partner has an
        address. Modes that spread packets have members of one speed. Of a team the same is asked of its daemon (teamdctl, as
        root); ports without carrier fail in any case. Bonds of Open vSwitch are not judged here.

    Why it matters
        A bond with one dead member works, and nobody looks, until the other one dies.

    How to fix
        now: look at /proc/net/bonding/BOND; mend cable, transceiver or the LACP of the switch; ip link set MEMBER up
        after a reboot: BONDING_OPTS, nmcli connection modify BOND +bond.options miimon=100, netplan parameters or networkd [Bond]
        roll back: the former configuration of the network; ip link and ip addr show what runs, note it before
        verify: ip -d link show type bond; cat /proc/net/bonding/*

    When not to
        A bond of one member that waits for its second card: set min_slaves to 1 until it is there.

    References
        https://docs.kernel.org/networking/bonding.html
    """
    with Findings() as findings:
        for bond in _bonds(host):
            members = ports(host, bond.name)
            findings.fail_if(
                len(members) < params.min_slaves,
                f"{host}: {bond.name} has {len(members)} members, expected {params.min_slaves} or more.",
            )
            findings.fail_if(not bond.up, f"{host}: {bond.name} is down.")
            if bond.kind == "team":
                try:
                    _judge_team(host, bond, members, findings)
                except EvidenceMissing as missing:
                    findings.unknown(missing)
                continue
            _judge_bond(host, bond, members, findings)


def _judge_team(host: Host, bond: Link, members: list[Link], findings: Findings) -> None:
    dead = [member.name for member in members if not member.carrier]
    findings.fail_if(bool(dead), f"{host}: {', '.join(dead)} of {bond.name} has no carrier.")
    state = team(host, bond.name)
    down = [name for name, port in sorted(state.ports.items()) if not port.up and name not in dead]
    findings.fail_if(bool(down), f"{host}: {', '.join(down)} of {bond.name} is down, by its daemon.")
    outside = [member.name for member in members if member.name not in state.ports]
    findings.fail_if(bool(outside), f"{host}: the daemon of {bond.name} does not know {', '.join(outside)}.")
    if state.runner == "lacp":
        apart = {port.aggregator for port in state.ports.values()}
        findings.fail_if(None in apart or len(apart) > 1, f"{host}: not all members of {bond.name} are in one aggregator of LACP.")
    speeds = {port.speed_mbit for port in state.ports.values() if port.up}
    unequal = len(speeds) > 1 and state.runner not in ("activebackup", "broadcast")
    findings.fail_if(unequal, f"{host}: the members of {bond.name} ({state.runner}) differ in speed.")


def _judge_bond(host: Host, bond: Link, members: list[Link], findings: Findings) -> None:
    mode = bond.data.get("mode")
    if not isinstance(mode, str) or "miimon" not in bond.data:
        findings.unknown(EvidenceMissing(Cause.MISSING, f"ip does not tell mode and miimon of {bond.name}", "ip_link"))
        return
    for member in members:
        state = member.slave_data.get("mii_status")
        if state is None:
            findings.unknown(EvidenceMissing(Cause.MISSING, f"ip does not tell mii_status of {member.name}", "ip_link"))
        elif state != "UP":
            findings.fail(f"{host}: {member.name} of {bond.name} has mii_status {state}, expected UP.")
    by_arp = mode not in NO_ARP and bool(bond.data.get("arp_interval"))
    findings.fail_if(not bond.data["miimon"] and not by_arp, f"{host}: {bond.name} does not watch its links: miimon is 0.")
    if mode == "802.3ad":
        _judge_lacp(host, bond, members, findings)
    if mode not in (ACTIVE_BACKUP, BROADCAST):
        speeds = {}
        for member in members:
            if member.carrier:
                speeds[member.name] = nic_count(host, member.name, "speed")
        if None in speeds.values():
            findings.unknown(EvidenceMissing(Cause.MISSING, f"the speed of a member of {bond.name} is not told", "nic_state"))
        elif len(set(speeds.values())) > 1:
            told = ", ".join(f"{name} {speed}" for name, speed in sorted(speeds.items()))
            findings.fail(f"{host}: the members of {bond.name} ({mode}) differ in speed: {told} Mbit/s.")


def _judge_lacp(host: Host, bond: Link, members: list[Link], findings: Findings) -> None:
    info = bond.data.get("ad_info")
    if not isinstance(info, dict) or not {"aggregator", "num_ports", "partner_mac"} <= set(info):
        findings.unknown(EvidenceMissing(Cause.MISSING, f"ip does not tell ad_info of {bond.name}", "ip_link"))
        return
    findings.fail_if(
        not str(info["partner_mac"]).strip("0:"), f"{host}: {bond.name} has no LACP partner (its address is {info['partner_mac']})."
    )
    outside = [item.name for item in members if item.slave_data.get("ad_aggregator_id") != info["aggregator"]]
    if outside or info["num_ports"] != len(members):
        told = f"; {', '.join(outside)} not" if outside else ""
        findings.fail(f"{host}: {bond.name} has {info['num_ports']} of {len(members)} members in its aggregator{told}.")


@condition
def real_card(host: Host, uplink: Link) -> str | None:
    """Hold for network cards that are hardware, not what a hypervisor offers."""
    path = device_places(host).paths["net"].get(uplink.name, "")
    return f"{uplink.name} is a card that a hypervisor offers" if re.search(r"/(virtio\d|vif-|vmbus|VMBUS)", path) else None


@check(
    "KVM-NET-007",
    title="Uplinks have link, full duplex, the agreed speed and no errors",
    severity=Severity.MEDIUM,
    reads=("ip_link", "ip_addr", "device_places", "nic_state", "ethtool"),
    params={"min_speed_mbit": Whole(None, 10, 1_600_000), "max_error_ppm": Number(100, 0, 10_000)},
    applies=real_card,
)
def test_uplink_is_sound(host: Host, uplink: Link, params: Params) -> None:
    """The cards that carry the host's and the guests' packets do so at full speed.

    What it checks
        A physical network card in use (a port of a bridge or bond, below a VLAN or macvtap, or up with an address) has a carrier,
        full duplex, and min_speed_mbit when that is given. Received and transmit errors and missed packets since the driver was
        loaded are at most max_error_ppm of all packets. A speed below the fastest mode that the card supports, and more drops
        than that, are warnings: drops also count frames of protocols that nobody here speaks. Virtual functions are not judged.

    Why it matters
        A port that fell back to 1 Gbit/s, or loses frames, throttles every guest behind it.

    How to fix
        now: ethtool CARD; mend cable or transceiver; ethtool -r CARD starts the negotiation anew; ethtool -G CARD rx 4096 for
            missed packets
        after a reboot: ring sizes by a udev rule, nmcli ethtool.ring-rx or a systemd .link file (RxBufferSize=)
        roll back: ethtool -G CARD with the former sizes, which ethtool -g CARD told before; the former rule or .link file
        verify: grep . /sys/class/net/CARD/speed /sys/class/net/CARD/duplex /sys/class/net/CARD/statistics/*err*

    When not to
        A 25 Gbit/s card on a 10 Gbit/s switch is sound: the warning can be waived. How often the carrier changed cannot be
        compared with an earlier run; the number is noted.

    References
        https://docs.kernel.org/networking/statistics.html
        https://man7.org/linux/man-pages/man8/ethtool.8.html
    """
    name = uplink.name
    with Findings() as findings:
        link = links(host)[name]
        if not link.up:
            findings.fail(f"{host}: {name} is down{f', though it is a port of {link.master}' if link.master else ''}.")
            return
        if not link.carrier:
            findings.fail(f"{host}: {name} has no carrier{f', though it is a port of {link.master}' if link.master else ''}.")
            return
        duplex, speed = nic_file(host, name, "duplex"), nic_count(host, name, "speed")
        if duplex is None or speed is None:
            raise EvidenceMissing(Cause.MISSING, f"speed and duplex of {name} are not told", "nic_state")
        if duplex == "unknown" or speed <= 0:
            findings.unknown(EvidenceMissing(Cause.EMPTY, f"the driver of {name} does not know speed and duplex", "nic_state"))
        else:
            findings.fail_if(duplex != "full", f"{host}: {name} has {duplex} duplex, expected full.")
            wanted = params.min_speed_mbit or 0
            findings.fail_if(speed < wanted, f"{host}: {name} runs at {speed} Mbit/s, expected {wanted}.")
            fastest = fastest_mode(host, name)
            findings.warn_if(wanted <= speed < fastest, f"{host}: {name} runs at {speed} Mbit/s, it could do {fastest}.")
        packets = _sum(host, name, "rx_packets", "tx_packets")
        errors = _sum(host, name, "rx_errors", "rx_missed_errors", "tx_errors")
        if errors * 10**6 > params.max_error_ppm * packets:
            findings.fail(f"{host}: {name} has {errors} errors in {packets} packets, more than {params.max_error_ppm} per million.")
        drops = _sum(host, name, "rx_dropped", "tx_dropped")
        if drops * 10**6 > params.max_error_ppm * packets:
            findings.warn(f"{host}: {name} dropped {drops} of {packets} packets, more than {params.max_error_ppm} per million.")
        note(f"{speed} Mbit/s, carrier changed {nic_file(host, name, 'carrier_changes') or 'an unknown number of'} times")


def _sum(host: Host, name: str, *files: str) -> int:
    total = 0
    for file in files:
        count = nic_count(host, name, f"statistics/{file}")
        if count is None:
            raise EvidenceMissing(Cause.MISSING, f"{file} of {name} is not told", "nic_state")
        total += count
    return total


#: Classes of devices that lower their link while idle: GPUs and NVMe.
IDLERS = (0x03, 0x0108, 0x12)


@condition
def has_link(host: Host, pci_device: PciDevice) -> str | None:
    """Hold for devices with a PCIe link, on real hardware."""
    kind = virtualization(host)
    if kind != "none":
        return f"the host is a virtual machine ({kind})"
    if pci_device.width is None or pci_device.max_width is None:
        return f"{pci_device.address} has no PCIe link of its own"
    return None


@check(
    "KVM-NET-008",
    title="PCIe devices run at their full link width and speed",
    severity=Severity.MEDIUM,
    reads=("detect_virt", "pci", "device_places"),
    applies=has_link,
)
def test_link_is_full(host: Host, pci_device: PciDevice) -> None:
    """Cards get all the lanes and the generation that they and their slot can do.

    What it checks
        Of network cards, NVMe, RAID, SAS and Fibre Channel adapters, GPUs and accelerators: the link has the width and the speed
        (GT/s) that the device and the port above both support. GPUs and NVMe slow their link down while idle: of those, less
        speed is only a warning. A slot that is narrower or slower than its card is noted.

    Why it matters
        A card in the wrong slot, or badly seated, loses half its bandwidth or more, and nothing else shows it.

    How to fix
        now: power the host down, seat the card anew or move it to a slot with enough lanes of a CPU; look at bifurcation in the
            firmware's setup
        after a reboot: it holds
        roll back: seat the card where it was; the former setting in the firmware
        verify: lspci -vv -s ADDRESS | grep -E 'LnkCap|LnkSta' as root

    When not to
        Links that the firmware keeps slow to save power on purpose.

    References
        https://docs.kernel.org/PCI/sysfs-pci.html
        https://man7.org/linux/man-pages/man8/lspci.8.html
    """
    device = pci_devices(host).get(pci_device.address, pci_device)
    port = pci_devices(host).get(device_places(host).parent(device.address))
    with Findings() as findings:
        for what, found, own, above in (
            ("lanes", device.width, device.max_width, port.max_width if port else None),
            ("GT/s", device.speed_gt, device.max_speed_gt, port.max_speed_gt if port else None),
        ):
            if found is None or own is None:
                findings.unknown(EvidenceMissing(Cause.MISSING, f"{device.address} does not tell its {what}", "pci"))
                continue
            wanted = min(own, above) if above is not None else own
            if found < wanted:
                idles = what == "GT/s" and device.is_a(*IDLERS)
                report = findings.warn if idles else findings.fail
                report(f"{host}: {device.address} ({device.driver or 'no driver'}) runs at {found:g} {what}, expected {wanted:g}.")
            elif above is not None and above < own:
                note(f"its port offers {above:g} of {own:g} {what}")


def _uses_of(domain: Domain) -> list[tuple[str, bool]]:
    """Return the PCI addresses that the domain is given, and whether it has them now."""
    found = dict.fromkeys(_assigned(domain.saved), False)
    if domain.running:
        found |= dict.fromkeys(_assigned(domain.live), True)
    return sorted(found.items())


def _assigned(xml: DomainXml) -> list[str]:
    return [pci for pci in (*(item.pci for item in xml.devices.hostdevs), *(nic.pci for nic in xml.nics)) if pci]


def _family(host: Host, card: PciDevice) -> dict[str, int]:
    """Return the numbers of the virtual functions of *card* by address."""
    return {vf: number for vf, (pf, number) in device_places(host).functions.items() if pf == card.address}


def _lost_to(host: Host, card: PciDevice, address: str) -> bool:
    """Whether *address*, at which there is no device, must have been a function of *card*: the first such card of its bus."""
    if address in pci_devices(host) or address.rpartition(":")[0] != card.address.rpartition(":")[0]:
        return False
    family = [item for item in pci_devices(host).values() if item.total_vfs and _same_bus(item.address, address)]
    return bool(family) and family[0].address == card.address


def _same_bus(one: str, other: str) -> bool:
    return one.rpartition(":")[0] == other.rpartition(":")[0]


@condition
def has_functions(host: Host, pci_device: PciDevice) -> str | None:
    """Hold for network cards with virtual functions, or with domains that want some."""
    if not pci_device.is_a(0x02) or not pci_device.total_vfs:
        return f"{pci_device.address} is no network card with virtual functions"
    if pci_device.vfs:
        return None
    for domain in domains(host):
        if any(_lost_to(host, pci_device, address) for address, _ in _uses_of(domain)):
            return None
    return f"{pci_device.address} has no virtual functions, and no domain wants any"


@check(
    "KVM-NET-009",
    title="SR-IOV virtual functions are created at boot and safe",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "pci", "device_places", "ip_link", "sriov_conf"),
    applies=has_functions,
)
def test_functions_are_safe(host: Host, pci_device: PciDevice) -> None:
    """Guests get the virtual functions that they are defined with, and cannot pretend to be somebody else.

    What it checks
        Every virtual function of this card that a domain names exists. Those that running domains have: the card checks their
        source addresses (spoofchk on), does not trust them unless the domain has the tag trusted, and their MAC address is set.
        No file that creates virtual functions at boot (udev, systemd, modprobe.d, ifupdown, netplan, tmpfiles, NetworkManager)
        is a warning; tools of the driver and of the site are not seen.

    Why it matters
        Functions that somebody created by echo are gone after a reboot, and the guests do not start. A trusted function, or one
        without spoofchk, can read and forge what belongs to others.

    How to fix
        now: echo N > /sys/bus/pci/devices/ADDRESS/sriov_numvfs; ip link set CARD vf NUMBER spoofchk on trust off
        after a reboot: nmcli connection modify CARD sriov.total-vfs N, or a udev rule: ACTION=="add", SUBSYSTEM=="net",
            ENV{ID_NET_DRIVER}=="ice", ATTR{device/sriov_numvfs}="N"; hand functions out by a network of libvirt (mode hostdev)
        roll back: echo 0 > /sys/bus/pci/devices/ADDRESS/sriov_numvfs, with no guest on them
        verify: ip -d link show CARD; cat /sys/bus/pci/devices/ADDRESS/sriov_numvfs

    When not to
        Functions for DPDK routers and firewalls need trust: tag their domains trusted. In switchdev mode the card tells nothing
        of its functions: the answer is unknown.

    References
        https://libvirt.org/formatdomain.html#network-interfaces
        https://docs.kernel.org/PCI/pci-iov-howto.html
    """
    card = pci_devices(host).get(pci_device.address, pci_device)
    numbers = _family(host, card)
    with Findings() as findings:
        for domain in domains(host):
            for address, now in _uses_of(domain):
                if _lost_to(host, card, address):
                    findings.fail(f"{host}: {domain} is defined with {address}, and {card.address} has {card.vfs or 0} functions.")
                elif address in numbers and now:
                    _judge_function(host, card, domain, numbers[address], findings)
        if not host.evidence.parsed("sriov_conf", parse_paths):
            findings.warn(f"{host}: no file creates the virtual functions of {card.address} at boot.")


def _judge_function(host: Host, card: PciDevice, domain: Domain, number: int, findings: Findings) -> None:
    if card.is_a(0x0207):  # InfiniBand has no MAC addresses to forge
        return
    places = device_places(host)
    mine = [link for link in links(host).values() if places.pci_of("net", link.name) == card.address]
    found = [vf for link in mine for vf in link.vfs or () if vf.number == number]
    if not found:
        why = f"{card.address} tells nothing of its function {number}"
        findings.unknown(EvidenceMissing(Cause.MISSING, why, "ip_link"))
        return
    function, where = found[0], f"{host}: function {number} of {card.address}, which {domain} has,"
    if function.spoofchk is None or (function.trust is None and "trusted" not in domain.tags):
        why = f"the driver of {card.address} does not tell spoofchk and trust"
        findings.unknown(EvidenceMissing(Cause.MISSING, why, "ip_link"))
    findings.fail_if(function.spoofchk is False, f"{where} has spoofchk off, expected on.")
    findings.fail_if(function.trust is True and "trusted" not in domain.tags, f"{where} is trusted, expected trust off.")
    findings.fail_if(not function.mac.strip("0:"), f"{where} has the MAC address {function.mac or 'none'}.")


@condition
def has_bridges(host: Host) -> str | None:
    """Hold for hosts with guests on bridges."""
    return None if guest_bridges(host) else "no guest on a bridge"


@check(
    "KVM-NET-010",
    title="Bridges and switches of guests are up and correctly built",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "objects", "ip_link", "ip_addr", "ovs"),
    params={"allowed_isolated": Items((), Text(""))},
    applies=has_bridges,
)
def test_bridges_are_built(host: Host, params: Params) -> None:
    """Guests that start here, or come here, find their bridge, and a way out of it.

    What it checks
        Every bridge that a domain names, or an active network of libvirt stands on, exists and, but for switches of Open vSwitch,
        is up. Unless it is isolated (a
        network of mode nat, route, open or none, or named in allowed_isolated) it has a port that leads out (card, bond, VLAN,
        tunnel) with a carrier, in state forwarding, and without a global address of its own. Spanning tree is off, or its
        forward delay below 15 s (otherwise a warning). No interface of Open vSwitch reports an error.

    Why it matters
        A missing bridge is the commonest reason why a migrated guest does not start. The bridge's own carrier proves nothing:
        the taps of guests keep it up while the uplink is dead.

    How to fix
        now: ip link set BRIDGE up; ip link set CARD master BRIDGE; ip addr del ADDRESS dev CARD; ovs-vsctl del-port STALE
        after a reboot: the profile of NetworkManager, netplan, ifupdown (bridge_ports) or networkd
        roll back: the former configuration of the network; ip link and ip addr show what runs, note it before
        verify: ip -d link show type bridge; bridge link; ovs-vsctl show

    When not to
        A bridge for guests that shall only reach each other: name it in allowed_isolated.

    References
        https://docs.kernel.org/networking/bridge.html
        https://www.openvswitch.org/support/dist-docs/ovs-vsctl.8.txt
    """
    addressed = {item.device for item in interfaces(host) if item.scope == "global"}
    with Findings() as findings:
        for name, use in sorted(guest_bridges(host).items()):
            users = ", ".join(use.users[:3]) + (f" and {len(use.users) - 3} more" if len(use.users) > 3 else "")
            link = links(host).get(name)
            if link is None:
                findings.fail(f"{host}: the bridge {name} of {users} does not exist.")
                continue
            switch = link.kind == "openvswitch" or use.switch  # one in user space (DPDK) shows as a tap
            # What the host itself plugs into a switch is down by nature while it has no address there: br-int of OpenStack.
            findings.fail_if(not link.up and not switch, f"{host}: the bridge {name} of {users} is down.")
            isolated = use.isolated or name in params.allowed_isolated
            try:
                if switch:
                    _judge_switch(host, name, isolated, findings)
                elif link.kind == "bridge":
                    _judge_bridge(host, link, isolated, addressed, findings)
                else:
                    findings.fail(f"{host}: {name} of {users} is no bridge{f' but a {link.kind}' if link.kind else ''}.")
            except EvidenceMissing as missing:
                findings.unknown(missing)


def _judge_bridge(host: Host, bridge: Link, isolated: bool, addressed: set[str], findings: Findings) -> None:
    stp, delay = parsing("ip_link", bridge.number, "stp_state"), parsing("ip_link", bridge.number, "forward_delay")
    if stp is None or delay is None:
        raise EvidenceMissing(Cause.MISSING, f"ip does not tell stp_state and forward_delay of {bridge.name}", "ip_link")
    if stp and delay >= 1500:
        findings.warn(f"{host}: {bridge.name} runs spanning tree with a forward delay of {delay / 100:g} s: guests wait for it.")
    if isolated:
        return
    out = uplink_ports(host, bridge.name)
    findings.fail_if(not out, f"{host}: {bridge.name} has no port that leads out.")
    for port in out:
        state = port.slave_data.get("state")
        if not port.carrier:
            findings.fail(f"{host}: {port.name}, the uplink of {bridge.name}, {'has no carrier' if port.up else 'is down'}.")
        elif state is None:
            findings.unknown(EvidenceMissing(Cause.MISSING, f"ip does not tell the state of the port {port.name}", "ip_link"))
        elif state != "forwarding":
            findings.fail(f"{host}: {port.name}, the uplink of {bridge.name}, is {state}, expected forwarding.")
        where = f"{host}: {port.name}, a port of {bridge.name},"
        findings.fail_if(port.name in addressed, f"{where} has an address of its own, which belongs to the bridge.")


def _judge_switch(host: Host, name: str, isolated: bool, findings: Findings) -> None:
    switch = switches(host).get(name)
    if switch is None:
        raise EvidenceMissing(Cause.MISSING, f"ovs-vsctl does not tell of {name}", "ovs")
    out = []
    for item in switch.interfaces:
        findings.fail_if(bool(item.error), f"{host}: interface {item.name} of {name}: {item.error}.")
        link = links(host).get(item.name)
        guest = item.type.startswith("dpdkvhostuser") or (link is not None and link.kind in TAPS)
        if item.type == "internal" or item.error or guest:
            continue
        out.append(item)
        dead = item.type in ("", "dpdk") and item.link_state != "up"
        findings.fail_if(
            dead and not isolated, f"{host}: {item.name}, the uplink of {name}, has link state {item.link_state or '?'}."
        )
    findings.fail_if(not out and not isolated, f"{host}: {name} has no port that leads out.")


@condition
def has_linux_bridges(host: Host) -> str | None:
    """Hold for hosts with guests on bridges of the kernel."""
    return None if _linux_bridges(host) else "no guest on a Linux bridge"


def _linux_bridges(host: Host) -> list[Link]:
    known = links(host)
    return [known[name] for name in sorted(guest_bridges(host)) if name in known and known[name].kind == "bridge"]


_NF_CALLS = ("iptables", "ip6tables", "arptables")


@check(
    "KVM-NET-011",
    title="Bridged guest traffic does not pass the host's packet filter by accident",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "objects", "ip_link", "net_settings", "managers", "iptables", "nftables"),
    params={"allow_nf": False},
    applies=has_linux_bridges,
)
def test_bridges_bypass_the_filter(host: Host, params: Params) -> None:
    """Frames between a guest and its network do not meet rules that were written for the host.

    What it checks
        br_netfilter is not loaded, or bridge-nf-call-* and the nf_call_* of each guest bridge are 0: each of the two acts alone.
        A 1 is right where a domain has a filterref, OpenStack manages the host, or allow_nf says so (containers); then a
        chain at hook forward that refuses what it does not know is a warning, and without root the answer is unknown.

    Why it matters
        Otherwise a firewall of the host drops frames of guests silently; loading a container engine is enough for that.

    How to fix
        now: sysctl -w net.bridge.bridge-nf-call-iptables=0, the same for ip6tables and arptables;
            ip link set BRIDGE type bridge nf_call_iptables 0 nf_call_ip6tables 0 nf_call_arptables 0
        after a reboot: the settings in /etc/sysctl.d, and a udev rule that applies them when the module comes: ACTION=="add",
            SUBSYSTEM=="module", KERNEL=="br_netfilter", RUN+="/sbin/sysctl -p /etc/sysctl.d/bridge.conf"
        roll back: sysctl -w net.bridge.bridge-nf-call-iptables=1
        verify: grep . /proc/sys/net/bridge/bridge-nf-call-*; ip -d link show type bridge | grep nf_call

    When not to
        Container networks and libvirt's nwfilter need the 1; rules that accept forwarded frames of bridges make it harmless:
        iptables -I FORWARD -m physdev --physdev-is-bridged -j ACCEPT.

    References
        https://wiki.libvirt.org/Net.bridge.bridge-nf-call_and_sysctl.conf.html
        https://docs.kernel.org/networking/ip-sysctl.html
    """
    with Findings() as findings:
        calls = {name: setting(host, f"bridge/bridge-nf-call-{name}") for name in _NF_CALLS}
        if all(value is None for value in calls.values()):
            return  # without br_netfilter the nf_call_* of a bridge do nothing
        acting = [f"bridge-nf-call-{name}" for name, value in calls.items() if value]
        for bridge in _linux_bridges(host):
            told = {name: parsing("ip_link", bridge.number, f"nf_call_{name}") for name in _NF_CALLS}
            if None in told.values():
                findings.unknown(EvidenceMissing(Cause.MISSING, f"ip does not tell nf_call_iptables of {bridge.name}", "ip_link"))
            acting += [f"nf_call_{name} of {bridge.name}" for name, value in told.items() if value]
        if not acting:
            return
        filtered = [domain.name for domain in domains(host) if any(nic.filter for nic in domain.saved.nics)]
        if not (params.allow_nf or filtered or "OpenStack" in managers(host)):
            findings.fail(f"{host}: bridged frames pass the host's packet filter: {', '.join(acting)} is 1, expected 0.")
            return
        refusing = [chain for chain in filter_chains(host) if chain.hook == "forward" and chain.refuses]
        if refusing:
            chain = f"{refusing[0].family} {refusing[0].table} {refusing[0].name}"
            findings.warn(f"{host}: bridged frames pass the packet filter, whose chain {chain} refuses what it does not know.")


@check(
    "KVM-NET-012",
    title="IP forwarding is on when libvirt routes, and off otherwise by policy",
    severity=Severity.LOW,
    reads=("objects", "net_settings", "sysctl_files"),
    params={"forward_policy": Choice("any", "off"), "router": False},
)
def test_forwarding(host: Host, params: Params) -> None:
    """The host routes when somebody needs it, and does not join networks otherwise.

    What it checks
        While a network of libvirt of mode nat, route or open is active, ip_forward is 1 if it has an IPv4 address, and IPv6
        forwarding if it has an IPv6 one. While none is: with forward_policy any everything goes; with off both are 0, and
        sysctl.d does not turn them on at the next boot, unless something else here routes (router: containers, OVN, L3 agents).

    Why it matters
        Without forwarding the guests of a NAT network are cut off. A host with feet in several networks that forwards without
        a filter joins what was meant to be apart.

    How to fix
        now: sysctl -w net.ipv4.ip_forward=1, or virsh net-destroy and net-start, which sets it; or =0 where nothing routes
        after a reboot: the same in /etc/sysctl.d; libvirt sets it by itself when it starts such a network
        roll back: sysctl -w net.ipv4.ip_forward with the former value; the former file in /etc/sysctl.d
        verify: sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding

    When not to
        Hosts that route for containers, OVN or OpenStack's L3 agent: router, with forward_policy any.
        libvirt refuses IPv6 forwarding where the host takes its own routes from router advertisements (accept_ra=1).

    References
        https://libvirt.org/firewall.html
        https://libvirt.org/formatnetwork.html#connectivity
    """
    routed = [network for network, info in networks(host).values() if info.active and network.routed]
    with Findings() as findings:
        for family, path, name in (
            ("ipv4", "ipv4/ip_forward", "net.ipv4.ip_forward"),
            ("ipv6", "ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
        ):
            value = setting(host, path) or 0
            wanting = [network.name for network in routed if family in network.families]
            if wanting:
                findings.fail_if(value != 1, f"{host}: {name} is {value}, and the network {', '.join(wanting)} needs 1.")
            elif not routed and params.forward_policy == "off" and not params.router:
                findings.fail_if(value != 0, f"{host}: {name} is {value} and nothing of libvirt routes here, expected 0.")
                at_boot = sysctl_conf(host).get(name, sysctl_conf(host).get(name.replace(".", "/"), "0"))
                findings.fail_if(at_boot not in ("0", ""), f"{host}: sysctl.d sets {name} to {at_boot} at boot, expected 0.")


@condition
def refers_to_objects(domain: Domain) -> str | None:
    """Hold for domains that name networks or pools of libvirt."""
    nets, pools = _references(domain)
    return None if nets or pools else f"{domain} names no network or pool of libvirt"


def _references(domain: Domain) -> tuple[list[str], list[str]]:
    nets = {nic.source for nic in domain.saved.nics if nic.type == "network" and nic.source}
    return sorted(nets), sorted({disk.pool for disk in domain.saved.disks if disk.type == "volume" and disk.pool})


@check(
    "KVM-NET-013",
    title="Networks and pools that domains refer to exist, run and start by themselves",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "objects"),
    applies=refers_to_objects,
)
def test_networks_and_pools_are_there(host: Host, domain: Domain) -> None:
    """What a guest is plugged into is there before the guest is.

    What it checks
        Each network and each pool that the saved definition names exists. It is active when the domain runs or starts with the
        host, and starts with the host when the domain does; when the domain does not, a missing autostart is a warning.

    Why it matters
        After a reboot the guests that should start fail, because their network is not up.

    How to fix
        now: virsh net-start NETWORK; virsh pool-start POOL
        after a reboot: virsh net-autostart NETWORK; virsh pool-autostart POOL
        roll back: virsh net-autostart --disable NETWORK
        verify: virsh net-list --all; virsh pool-list --all

    When not to
        Networks that a platform defines just before it starts a guest (oVirt) are up whenever they are needed: waive the warning.

    References
        https://libvirt.org/formatdomain.html#virtual-network
        https://libvirt.org/manpages/virsh.html#net-autostart
    """
    nets, pools = _references(domain)
    needed = domain.running or domain.autostart
    with Findings() as findings:
        for kind, names, known in (
            ("network", nets, {name: info for name, (_, info) in networks(host).items()} if nets else {}),
            ("pool", pools, {name: info for name, (_, info) in storage_pools(host).items()} if pools else {}),
        ):
            for name in names:
                info = known.get(name)
                if info is None:
                    findings.fail(f"{domain}: its {kind} {name} does not exist.")
                    continue
                if needed and not info.active:
                    why = "the domain runs" if domain.running else "the domain starts with the host"
                    findings.fail(f"{domain}: its {kind} {name} is not active, and {why}.")
                if not info.autostart:
                    report = findings.fail if domain.autostart else findings.warn
                    also = ", as the domain does" if domain.autostart else ""
                    report(f"{domain}: its {kind} {name} does not start with the host{also}.")


#: TCP ports that peers and clients must reach, by role: ranges of which one in each tuple is enough.
_PORTS = {
    "kvm": (((22, 22), (16514, 16514)), ((49152, 49215),)),
    "ovirt": (((22, 22), (16514, 16514)), ((49152, 49215),), ((54321, 54321),), ((5900, 6923),)),
    "openstack": (((22, 22), (16514, 16514)), ((49152, 49215),), ((5900, 5999),)),
}
#: What services of firewalld stand for; those not named here may stand for anything.
_SERVICES = {
    "ssh": ((22, 22),),
    "libvirt-tls": ((16514, 16514),),
    "libvirt": ((16509, 16509),),
    "vnc-server": ((5900, 5903),),
    "vdsm": ((54321, 54321), (5900, 6923), (49152, 49216)),
    **dict.fromkeys(
        ("cockpit", "dhcpv6-client", "dhcpv6", "mdns", "samba-client", "ntp", "dns", "dhcp", "tftp", "http", "https"), ()
    ),
}
#: Zones that libvirt and container engines make for their own bridges.
_INNER_ZONES = ("libvirt", "libvirt-routed", "docker", "podman")
_CONSOLES = range(5900, 6924)


@check(
    "KVM-NET-015",
    title="The packet filter exists and admits only the ports of the host's role",
    severity=Severity.MEDIUM,
    reads=("systemd_units", "listeners", "ip_addr", "iptables", "nftables", "firewalld"),
    params={"role": Choice("kvm", "ovirt", "openstack"), "external_filter": False},
)
def test_packet_filter(host: Host, params: Params) -> None:
    """Strangers reach nothing on the host but what its role needs, and the peers reach that.

    What it checks
        firewalld runs with a zone that refuses something, or for IPv4, and for IPv6 where the host has a global address, a chain
        at hook input refuses what no rule knows (its policy or last rule), unless external_filter says that another device does.
        libvirt does not listen on 16509 beyond loopback. The zones of firewalld admit ssh or 16514, and the migration ports 49152
        to 49215; with role ovirt also 54321 and the consoles 5900 to 6923, with openstack 5900 to 5999. TLS of libvirt and
        consoles that listen and that a zone admits from everywhere are a warning. Rules of nftables and iptables are not judged
        port by port: there the answer is unknown, as whether the ports can be reached. Connecting to them from outside is not
        part of this check.

    Why it matters
        Closed migration ports show up at the worst moment; open ones can be attacked.

    How to fix
        now: firewall-cmd --add-service=libvirt-tls --add-port=49152-49215/tcp; or a rule per source: firewall-cmd
            --add-rich-rule='rule family=ipv4 source address=NET port port=49152-49215 protocol=tcp accept'
        after a reboot: the same with --permanent; ufw and nftables: rules in /etc/ufw or /etc/nftables.conf
        roll back: firewall-cmd --reload
        verify: firewall-cmd --list-all; from a peer: nc -vz HOST 16514

    When not to
        Hosts whose switches or hypervisor network filter for them: set external_filter.

    References
        https://libvirt.org/firewall.html
        https://gitlab.com/libvirt/libvirt/-/blob/master/src/qemu/qemu.conf.in
        https://firewalld.org/documentation/
    """
    with Findings() as findings:
        listening = []
        try:
            listening = [item for item in host.evidence.parsed("listeners", parse_listeners) if not item.loopback]
        except EvidenceMissing as missing:
            findings.unknown(missing)
        for item in listening:
            findings.fail_if(item.port == 16509, f"{host}: libvirt listens on plain TCP, {item.address}:16509.")
        if unit(host, "firewalld.service").active:
            known = zones(host)
            if known is None:
                raise EvidenceMissing(Cause.SKIPPED, "firewalld runs, and was not asked for its zones", "firewalld")
            active = [zone for zone in known if zone.active and zone.name not in _INNER_ZONES]
            cards = [zone for zone in active if zone.interfaces]
            if cards and all(zone.target == "ACCEPT" for zone in cards) and not params.external_filter:
                told = " and ".join(f"{zone.name} whatever comes by {', '.join(zone.interfaces)}" for zone in cards)
                findings.fail(f"{host}: firewalld refuses nothing: it accepts in zone {told}.")
            _judge_zones(host, active, params.role, listening, findings)
            return
        chains = [chain for chain in filter_chains(host) if chain.hook == "input"]
        versions = {item.network.version for item in interfaces(host) if item.scope == "global"} or {4}
        refused = {version for version in (4, 6) if any(chain.refuses and chain.covers(version) for chain in chains)}
        for version in sorted(versions - refused):
            if not params.external_filter:
                findings.fail(f"{host}: no packet filter for IPv{version}: what no rule knows is accepted at input.")
        if versions & refused:
            why = "which ports the rules of nftables or iptables admit is not known"
            findings.unknown(EvidenceMissing(Cause.NOT_COLLECTED, why, "nftables"))


def _judge_zones(host: Host, outer: list[Zone], role: str, listening: list[Listener], findings: Findings) -> None:
    if not outer:
        raise EvidenceMissing(Cause.EMPTY, "firewalld has no active zone for the host's own cards", "firewalld")
    unclear = sorted({name for zone in outer for name in zone.services if name not in _SERVICES})
    for choice in _PORTS[role]:
        if any(_admits(zone, first, last) for zone in outer for first, last in choice):
            continue
        told = " or ".join(f"{first}-{last}" if last > first else str(first) for first, last in choice)
        if unclear:
            why = f"whether {told} is admitted by the services {', '.join(unclear)} is not known"
            findings.unknown(EvidenceMissing(Cause.NOT_COLLECTED, why, "firewalld"))
        else:
            findings.fail(f"{host}: no zone of firewalld admits TCP {told}, which the role {role} needs.")
    for item in listening:
        if (item.port != 16514 and item.port not in _CONSOLES) or (role != "kvm" and item.port in _CONSOLES):
            continue
        wide = [zone.name for zone in outer if not zone.sources and _plainly(zone, item.port)]
        findings.warn_if(bool(wide), f"{host}: port {item.port} listens, and zone {', '.join(wide)} admits it from everywhere.")


def _ranges(zone: Zone) -> set[int]:
    found = {port for first, last in zone.ports for port in range(first, last + 1)}
    return found | {port for name in zone.services for first, last in _SERVICES.get(name, ()) for port in range(first, last + 1)}


def _admits(zone: Zone, first: int, last: int) -> bool:
    return zone.target == "ACCEPT" or set(range(first, last + 1)) <= _ranges(zone)


def _plainly(zone: Zone, port: int) -> bool:
    """Whether the zone admits *port* without a rich rule that names sources."""
    by_rule = any("source " in rule and str(port) in rule for rule in zone.rich_rules)
    return _admits(zone, port, port) and not by_rule


_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@check(
    "KVM-NET-016",
    title="MAC addresses of guests are unique",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "ip_link", "device_places"),
    params={"allow": Items((), Text("", "(?i:[0-9a-f]{2}(:[0-9a-f]{2}){5})", "a MAC address"))},
    compares=True,
)
def test_mac_is_unique(host: Host, domain: Domain, nic: Nic, params: Params) -> None:
    """No two network cards answer to one address.

    What it checks
        The MAC address of the card occurs in no other domain of this host and its cluster, and once in its own; no physical card,
        bond or bridge of the host has it, but for the parent of a macvtap in passthrough mode, which takes over the guest's. It
        is no multicast address. Addresses in allow are left out. A domain that is defined on two hosts (one UUID) is one domain.

    Why it matters
        A copied definition makes the tables of the switches flap, and packets get lost at random.

    How to fix
        now: nothing, the card is built at start; unplug one: virsh domif-setlink $DOM MAC down
        after a reboot: virsh edit $DOM: take the <mac> line out and libvirt makes a new one; mend the network of the clone inside
        roll back: virsh domif-setlink $DOM MAC up; virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE
            before the change
        verify: virsh dumpxml --inactive $DOM | grep -i 'mac address'

    When not to
        A stopped copy for disaster recovery keeps the address on purpose: put it into allow.

    References
        https://libvirt.org/formatdomain.html#network-interfaces
    """
    mac = nic.name.lower()
    if mac in {str(item).lower() for item in params.allow}:
        note(f"{mac} is allowed twice")
        return
    if not _MAC.fullmatch(mac):
        raise EvidenceMissing(Cause.MISSING, f"the card {nic.name} of {domain} has no MAC address", f"domain:{domain.uuid}/saved")
    with Findings() as findings:
        findings.fail_if(bool(int(mac[:2], 16) & 1), f"{domain}: {mac} is a multicast address.")
        mine = sum(item.name.lower() == mac for item in domain.saved.nics)
        findings.fail_if(mine > 1, f"{domain}: {mine} of its cards have the address {mac}.")
        owners, missing = owners_of_macs(host)
        findings.unknown(missing)
        for other in owners.get(mac, ()):
            findings.fail_if(other.uuid != domain.uuid, f"{domain}: its address {mac} is that of {other} too.")
        for peer, (owners, untold) in compared(host.peers, owners_of_macs).items():
            if untold:
                note(f"not compared with all domains of {peer}: {untold.detail}")
            for other in owners.get(mac, ()):
                findings.fail_if(other.uuid != domain.uuid, f"{domain}: its address {mac} is that of {other} on {peer} too.")
        for link in links(host).values():
            if link.address == mac and (link.kind in ("bond", "team", "bridge") or physical(host, link.name)):
                findings.fail_if(
                    not _takes_over(domain, nic, link), f"{domain}: its address {mac} is that of {link.name} of the host."
                )


def _takes_over(domain: Domain, nic: Nic, link: Link) -> bool:
    """Whether the card has taken over the host's *link*: a macvtap in passthrough mode, or a virtual function."""
    cards = [nic, *(item for item in (domain.live.nics if domain.running else ()) if item.name == nic.name)]
    if any(card.type == "direct" and card.mode == "passthrough" and card.device == link.name for card in cards):
        return True
    address = device_places(domain.host).pci_of("net", link.name)
    return bool(address) and any(card.pci == address for card in cards)


def _answered(answer: Lookup, what: str) -> Lookup:
    """Return *answer*, unless it never came: a resolver that is silent proves nothing about the name."""
    if answer.rc == TIMED_OUT:
        raise EvidenceMissing(Cause.TIMEOUT, f"the lookup of {what} timed out", "name_lookup")
    return answer


@check(
    "KVM-NET-014",
    title="The host name resolves to an address of this host",
    severity=Severity.HIGH,
    reads=("hostname", "hostname_fqdn", "name_lookup", "name_service", "ip_addr", "etc_hosts"),
    params={"require_fqdn": False},
    compares=True,
)
def test_host_name_resolves(host: Host, params: Params) -> None:
    """The name that libvirt hands to a migrating guest leads back to this host.

    What it checks
        The host's full name is not localhost; it resolves only to addresses of this host that are not loopback; their reverse
        lookup gives the name back; neither its own /etc/hosts nor those of its cluster contradict that. A name without a domain
        is a warning, or fails with require_fqdn. Without --kvmcheck-active nobody asks DNS: what /etc/hosts says of the name is
        judged, or nss-myhostname makes of it; a name that only DNS knows is unknown. With it, ``hostname -f`` and getent are
        asked on the host. What DNS tells the other hosts is not asked.

    Why it matters
        libvirt gives its own host name to the source of a migration: with localhost, or a stale address, migration fails.

    How to fix
        now: hostnamectl set-hostname NAME.DOMAIN; take the line 127.0.1.1 out of /etc/hosts
        after a reboot: create A, AAAA and PTR records; or set migration_host in /etc/libvirt/qemu.conf
        roll back: hostnamectl set-hostname with the former name; the former /etc/hosts; libvirt's daemon is told by a restart
        verify: getent ahosts $$(hostname -f)

    When not to
        A single host without migration can live with less.

    References
        https://libvirt.org/migration.html
    """
    asked = lookups_were_asked(host)
    with Findings() as findings:
        if asked:
            record = host.evidence.whole("hostname_fqdn")
            if record.rc:
                findings.fail(f"{host}: hostname -f fails: {record.complaint}.")
                return
            name = record.stdout.strip()
            if not name or len(name.split()) != 1:
                raise EvidenceMissing(Cause.UNPARSABLE, f"not a host name: {name[:60]!r}", "hostname_fqdn")
        else:
            name = host_name(host)
        if name == "localhost" or name.startswith("localhost."):
            findings.fail(f"{host}: its name is {name}.")
            return
        if not asked:
            name = own_name(host).full
            note("what DNS says of it was not asked (--kvmcheck-active)")
        if "." not in name:
            report = findings.fail if params.require_fqdn else findings.warn
            report(f"{host}: its name {name} has no domain.")
        found = _answered(lookup(host, "addresses"), name).addresses if asked else own_name(host).addresses
        if not found:
            findings.fail(f"{host}: its name {name} does not resolve.")
            return
        inside = [address for address in found if loopback(address)]
        findings.fail_if(bool(inside), f"{host}: {name} resolves to the loopback address {', '.join(inside)}.")
        foreign = [address for address in found if address not in addresses(host) and address not in inside]
        findings.fail_if(bool(foreign), f"{host}: {name} resolves to {', '.join(foreign)}, which is not an address of this host.")
        for address in found:
            if address in inside or address in foreign:
                continue
            back = _answered(lookup(host, f"reverse/{address}"), address).names if asked else own_name(host).called[address]
            if name.lower() not in (called.lower() for called in back):
                findings.fail(f"{host}: {address} is called {', '.join(back) or 'nothing'} in reverse, expected {name}.")
        if asked:
            dns, static = _answered(lookup(host, "dns"), f"{name} by DNS"), static_names(host).get(name.lower(), ())
            if dns.addresses and static and not set(static) <= set(dns.addresses):
                findings.fail(f"{host}: /etc/hosts gives {', '.join(static)} for {name}, DNS {', '.join(dns.addresses)}.")
        for peer, names in compared(host.peers, static_names).items():
            for known in sorted({name.lower(), name.lower().partition(".")[0]} & names.keys()):
                wrong = [address for address in names[known] if loopback(address) or address not in addresses(host)]
                findings.fail_if(
                    bool(wrong), f"{host}: /etc/hosts of {peer} gives {', '.join(wrong)} for {known}, which is not {host}."
                )
