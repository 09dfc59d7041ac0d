"""Facts about storage over a network: iSCSI, NVMe, NFS and Fibre Channel, and the ways to their peers."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.fchost import Fc, parse_fc
from pytest_kvmcheck.facts.iproute import Route
from pytest_kvmcheck.facts.iscsi import Node, Session, parse_nodes, parse_sessions
from pytest_kvmcheck.facts.mounts import Mount
from pytest_kvmcheck.facts.nvme import Nvme, parse_nvme
from pytest_kvmcheck.facts.ping import Ping, parse_ping, parse_way
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.network import device_places, interfaces, routes, routes6
from pytest_kvmcheck.views.system import mounts

NFS = ("nfs", "nfs4")
ORDINARY_MTU = 1500


@fact
def sessions(host: Host) -> tuple[Session, ...]:
    """ISCSI sessions; none on a kernel without iSCSI."""
    if host.evidence.record("iscsi").cause is Cause.MISSING:
        return ()
    return host.evidence.parsed("iscsi", parse_sessions)


@fact
def nodes(host: Host) -> tuple[Node, ...]:
    """ISCSI targets on record; none where there are no records."""
    if host.evidence.record("iscsi_nodes").cause is Cause.MISSING:
        return ()
    return host.evidence.parsed("iscsi_nodes", parse_nodes)


@fact
def nvme(host: Host) -> Nvme:
    """NVMe controllers; none on a kernel without NVMe."""
    files = host.evidence.files("nvme")
    files.demand_all_readable()
    return parsing("nvme", lambda _: parse_nvme(files), "")


@fact
def fibre(host: Host) -> Fc:
    """Fibre Channel ports; none on a host without."""
    if host.evidence.record("fc_hosts").cause is Cause.MISSING:
        return Fc({}, {})
    return host.evidence.parsed("fc_hosts", parse_fc)


@fact
def fibre_later(host: Host) -> Fc:
    """Counters of the Fibre Channel ports, second sample."""
    return host.evidence.parsed("fc_hosts_later", parse_fc)


@fact
def nfs_mounts(host: Host) -> tuple[Mount, ...]:
    """Mounted NFS."""
    return tuple(item for item in mounts(host) if item.type in NFS)


@dataclass(frozen=True)
class Peer:
    """Another end of IP storage: ``kind`` is iscsi, nvme or nfs; ``target`` the IQN, NQN or mount point."""

    kind: str
    target: str
    address: str

    def __str__(self) -> str:
        return f"{self.kind} {self.address}"


@fact
def block_peers(host: Host) -> tuple[Peer, ...]:
    """Portals of iSCSI and of NVMe over TCP and RDMA, sorted."""
    found = {Peer("iscsi", session.target, address) for session in sessions(host) for address in session.portals}
    for subsystem, controllers in nvme(host).fabrics.items():
        found |= {
            Peer("nvme", subsystem, item.target_address)
            for item in controllers
            if item.transport in ("tcp", "rdma") and item.target_address
        }
    return tuple(sorted((peer for peer in found if _is_ip(peer.address)), key=lambda peer: (peer.kind, peer.target, peer.address)))


@fact
def storage_peers(host: Host) -> tuple[Peer, ...]:
    """All peers of IP storage: portals and NFS servers."""
    nfs = {Peer("nfs", item.target, item.option("addr") or "") for item in nfs_mounts(host)}
    return (*block_peers(host), *sorted((peer for peer in nfs if _is_ip(peer.address)), key=lambda peer: peer.target))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Probe:
    """The way to a peer, and what came back of large and of ordinary packets; None when its MTU is not above the ordinary."""

    device: str
    mtu: int
    full: Ping | None
    control: Ping | None


def asked_actively(host: Host) -> bool:
    """Whether active probes were asked for."""
    return host.evidence.record("storage_ping").cause is not Cause.SKIPPED


def pinged(host: Host, peer: Peer) -> Probe:
    """Return what the pings to *peer* gave. Raises :class:`EvidenceMissing`."""
    host.evidence.head("storage_ping")
    place = f"storage_ping{KEY_SEPARATOR}{peer.address}"
    device, mtu = host.evidence.parsed(f"{place}/way", parse_way)
    if mtu <= ORDINARY_MTU:
        return Probe(device, mtu, None, None)
    full, control = (host.evidence.parsed(f"{place}/{what}", parse_ping) for what in ("full", "control"))
    return Probe(device, mtu, full, control)


def by_target(peers: tuple[Peer, ...]) -> dict[tuple[str, str], list[Peer]]:
    """Return the peers by kind and target."""
    found: dict[tuple[str, str], list[Peer]] = {}
    for peer in peers:
        found.setdefault((peer.kind, peer.target), []).append(peer)
    return found


def route_to(host: Host, address: str) -> Route:
    """Return the route to *address* by the main table. Raises :class:`EvidenceMissing` when no device leads there."""
    target = ipaddress.ip_address(address.partition("%")[0])
    fitting = [
        (-(route.network.prefixlen if route.network else 0), route.metric, number, route)
        for number, route in enumerate(routes6(host) if target.version == 6 else routes(host))
        if route.network is None or (route.network.version == target.version and target in route.network)
    ]
    if not fitting or not min(fitting)[3].devices:
        raise EvidenceMissing(Cause.MISSING, f"no route leads to {address}", "ip_route6" if target.version == 6 else "ip_route")
    return min(fitting)[3]


def egress_of(host: Host, peer: Peer) -> str:
    """Return the device by which packets to *peer* leave; an address of the host itself is reached by lo."""
    if any(item.address == peer.address for item in interfaces(host)):
        return "lo"
    return route_to(host, peer.address).devices[0]


def way_of(host: Host, disk: str) -> str:
    """Return the place of a block device in sysfs, from which its adapter, session and remote port can be read."""
    way = device_places(host).paths.get("block", {}).get(disk, "")
    if not way:
        raise EvidenceMissing(Cause.MISSING, f"the place of {disk} in sysfs is not known", "device_places")
    return way


def session_of(host: Host, disk: str) -> Session | None:
    """Return the iSCSI session of a disk, None for other disks."""
    match = re.search(r"/(session\d+)/", way_of(host, disk))
    return next((item for item in sessions(host) if match and item.name == match[1]), None)


def remote_port_of(host: Host, disk: str) -> str:
    """Return the name of the Fibre Channel port behind a disk, empty for other disks and where it is not told."""
    match = re.search(r"/(rport-[\d:-]+)/", way_of(host, disk))
    return fibre(host).remote.get(match[1], "") if match else ""


def on_a_san(host: Host, disk: str) -> bool:
    """Whether a SCSI disk is reached by iSCSI or Fibre Channel."""
    return bool(re.search(r"/(?:session\d+|rport-[\d:-]+)/", way_of(host, disk)))


def adapter_of(host: Host, disk: str) -> str:
    """Return the initiator port of a disk: for iSCSI the network device, else the PCI function, or the adapter by its bus."""
    session = session_of(host, disk)
    if session:
        devices = {egress_of(host, Peer("iscsi", session.target, address)) for address in session.portals}
        return "+".join(sorted(devices))
    address = device_places(host).pci_of("block", disk)
    if address:
        return address
    match = re.search(r"/([^/]+)/host\d+/", way_of(host, disk))
    if not match:
        raise EvidenceMissing(Cause.MISSING, f"the adapter of {disk} cannot be told from its place in sysfs", "device_places")
    return match[1]
