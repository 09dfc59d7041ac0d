"""What a guest needs of the host that it moves to: CPU, page sizes, memory; and what hosts offer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.facts.clock import ClockSample, Trip, parse_clock, parse_trip
from pytest_kvmcheck.facts.cputopology import CpuPlace
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domcapabilities import DomainCapabilities, parse_domcapabilities
from pytest_kvmcheck.facts.microcode import Signature, parse_microcode
from pytest_kvmcheck.views.cpu import cpu_topology, cpuinfo, online_cpus
from pytest_kvmcheck.views.domains import Domain, domains
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import default_page_bytes, meminfo, node_pools, pools
from pytest_kvmcheck.views.placement import node_of_cpu


def definition_to_move(domain: Domain) -> DomainXml:
    """Return what another host would have to take over: the live definition of a running domain, else the saved one."""
    return domain.live if domain.running else domain.saved


def stays(domain: Domain) -> str:
    """Return why the domain does not move to other hosts, empty when it may."""
    xml = definition_to_move(domain)
    if "local" in domain.tags:
        return "tagged local"
    if xml.devices.hostdevs:
        return "it has assigned devices"
    return ""


def moving_domains(host: Host) -> list[Domain]:
    """Return the domains that may move to other hosts: not tagged local, and without assigned devices."""
    return [domain for domain in domains(host) if not stays(domain)]


@fact
def domcapabilities(host: Host) -> DomainCapabilities:
    """What KVM guests can have on this host."""
    caps = host.evidence.parsed("domcapabilities", parse_domcapabilities)
    if caps.type != "kvm":
        raise EvidenceMissing(Cause.FAILED, f"domcapabilities tells of {caps.type} guests, not of kvm", "domcapabilities")
    return caps


@fact
def microcode(host: Host) -> dict[Signature, dict[int, frozenset[int]]]:
    """CPUs by revision of their microcode, by family, model and stepping; of x86 hosts."""
    return host.evidence.parsed("microcode", parse_microcode)


#: Features by libvirt's name whose flag in /proc/cpuinfo has another name.
_FLAGS = {
    "tsc_deadline": "tsc_deadline_timer",
    "pclmuldq": "pclmulqdq",
    "invtsc": "nonstop_tsc",
    "sse3": "pni",
    "i64": "lm",
}


def has_feature(host: Host, name: str) -> bool:
    """Whether a guest on this host can have the CPU feature *name*: by its host-model, or by the CPU's own flags."""
    if name == "hypervisor":  # made by KVM itself
        return True
    caps = domcapabilities(host)
    if name in caps.features:
        return True
    plain = name.replace("-", "_").replace(".", "_")
    return name not in caps.disabled and _FLAGS.get(plain, plain) in cpuinfo(host).flags


@dataclass(frozen=True)
class Layout:
    """Where the CPUs of a host are. ``nodes`` is the NUMA node by CPU."""

    online: frozenset[int]
    places: Mapping[int, CpuPlace]
    nodes: Mapping[int, int]


@fact
def layout(host: Host) -> Layout:
    """CPUs, cores, packages and NUMA nodes."""
    return Layout(online_cpus(host), cpu_topology(host), node_of_cpu(host))


@fact
def clock_sample(host: Host) -> ClockSample:
    """The target's clock at the start of gathering."""
    return host.evidence.parsed("clock", parse_clock)


@fact
def clock_offset(host: Host) -> tuple[float, float]:
    """How far the target's clock is ahead of the controller's (seconds), and the doubt in that (plus or minus)."""
    sample = clock_sample(host)
    trip: Trip = host.evidence.parsed("clock:trip", parse_trip)
    low, high = sample.time_s - trip.answered_s, sample.time_s + sample.precision_s - trip.asked_s
    return (low + high) / 2, (high - low) / 2


@dataclass(frozen=True)
class Pages:
    """Huge pages that a guest needs: so many of a size (bytes), on these NUMA nodes only (None: on any)."""

    size_bytes: int
    count: int
    nodes: frozenset[int] | None


def pages_of(xml: DomainXml, default_bytes: int) -> list[Pages]:
    """Return the huge pages that a domain needs, by size and node; none when its memory is not on huge pages."""
    if xml.hugepages is None:
        return []
    strict = xml.numatune_mode in ("strict", "restrictive")
    whole = xml.numatune_nodeset if strict else None
    if xml.cells:
        parts = [
            (cell.id, cell.memory_bytes, cell.memnode if cell.memnode is not None and cell.memnode_mode != "preferred" else whole)
            for cell in xml.cells
        ]
    else:
        parts = [(0, xml.memory_bytes, whole)]
    found = []
    for ident, size, nodes in parts:
        page = next((item for item in xml.hugepages if item.nodeset is None or ident in item.nodeset), None)
        page_bytes = (page.size_bytes if page else 0) or default_bytes
        if page is None and xml.hugepages:
            continue  # the pages are for other cells: this one has small pages
        found.append(Pages(page_bytes, -(-size // page_bytes), nodes))
    return found


@dataclass
class Room:
    """What a host has left for guests of others; taking from it is trying, nothing more."""

    host: str
    memory_bytes: int = 0
    vcpus: int = 0
    cpus: int = 1
    pages: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    node_pages: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))

    def copy(self) -> Room:
        """Return a copy to try with."""
        twin = Room(self.host, self.memory_bytes, self.vcpus, self.cpus)
        twin.pages.update(self.pages)
        twin.node_pages.update(self.node_pages)
        return twin

    def take_pages(self, wanted: Iterable[Pages]) -> bool:
        """Take huge pages; False, with nothing taken, when there are not enough."""
        trial = self.copy()
        # those that are bound to nodes first: the others can go anywhere
        for need in sorted(wanted, key=lambda item: (item.nodes is None, -item.size_bytes * item.count)):
            size, left = need.size_bytes, need.count
            if trial.pages[size] < left:
                return False
            trial.pages[size] -= left
            for node, there in sorted((key, free) for key, free in trial.node_pages.items() if key[1] == size):
                if need.nodes is None or node[0] in need.nodes:
                    taken = min(left, there)
                    trial.node_pages[node] -= taken
                    left -= taken
            if left and need.nodes is not None:
                return False
        self.pages, self.node_pages = trial.pages, trial.node_pages
        return True


@fact
def free_pages(host: Host) -> Room:
    """The huge pages that nobody uses or has reserved."""
    room = Room(host.name)
    for size, pool in pools(host).items():
        room.pages[size] = max(0, pool.free - pool.reserved)
    for (node, size), pool in node_pools(host).items():
        room.node_pages[node, size] = pool.free
    return room


def huge_bytes(host: Host) -> int:
    """Return the memory that is set aside for huge pages."""
    return sum(size * pool.total for size, pool in pools(host).items())


def total_bytes(host: Host) -> int:
    """Return the memory that the kernel has."""
    try:
        return meminfo(host)["MemTotal"]
    except KeyError:
        raise EvidenceMissing(Cause.MISSING, "meminfo tells no MemTotal", "meminfo") from None


@dataclass(frozen=True)
class Guest:
    """A guest that another host has to take over when its own is lost."""

    name: str
    memory_bytes: int
    vcpus: int
    pages: tuple[Pages, ...]

    def __str__(self) -> str:
        huge = " on huge pages" if self.pages else ""
        return f"{self.name} ({self.memory_bytes >> 20} MiB{huge}, {self.vcpus} vCPUs)"

    @property
    def small_bytes(self) -> int:
        """Memory that is not on huge pages."""
        return max(0, self.memory_bytes - sum(item.size_bytes * item.count for item in self.pages))


def guest_of(domain: Domain) -> Guest:
    """Return what a domain needs: what its balloon may grow to while it runs, else its definition."""
    xml = definition_to_move(domain)
    memory, vcpus = xml.memory_bytes, xml.tuning.vcpus_current or xml.vcpus
    if domain.running:
        known, count = domain.stats.kib("balloon.maximum"), domain.stats.number("vcpu.current")
        if known is None or count is None:
            raise EvidenceMissing(Cause.MISSING, f"domstats tells no balloon.maximum or vcpu.current of {domain}", "domstats")
        memory, vcpus = known, count
    pages = pages_of(xml, default_page_bytes(domain.host)) if xml.hugepages is not None else []
    return Guest(domain.name, memory, vcpus, tuple(pages))


def must_run(host: Host) -> list[Domain]:
    """Return the domains that must run somewhere: those tagged must-run, or all that run while none is tagged."""
    tagged = [domain for domain in domains(host) if "must-run" in domain.tags]
    return tagged or [domain for domain in domains(host) if domain.running]
