"""Checks of CPU pinning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.cpulist import format_cpulist, parse_cpulist
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.views.cpu import online_cpus
from pytest_kvmcheck.views.domains import Domain, domains
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import numa_nodes
from pytest_kvmcheck.views.placement import nodes_of, pinned_cpus


@fact
def cores(host: Host) -> dict[int, frozenset[int]]:
    """The threads of each CPU's core, by CPU."""
    found: dict[int, frozenset[int]] = {}
    files = host.evidence.files("cpu_siblings")
    for path in files.matching(r"/sys/devices/system/cpu/cpu\d+/topology/thread_siblings_list"):
        threads = parsing("cpu_siblings", parse_cpulist, files[path])
        found |= dict.fromkeys(threads, threads)
    if not found:
        raise EvidenceMissing(Cause.MISSING, "the kernel does not tell which threads share a core", "cpu_siblings")
    return found


@condition
def is_critical(domain: Domain) -> str | None:
    """Hold for domains that someone depends on."""
    return None if domain.critical else f"{domain} is not tagged critical, database or realtime"


@check(
    "KVM-PIN-001",
    title="Every vCPU of a critical domain is pinned",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "cpu_lists", "cpu_siblings"),
    params={"exclusive": False},
    applies=is_critical,
)
def test_vcpu_is_pinned(host: Host, domain: Domain, vcpu: int, params: Params) -> None:
    """The scheduler does not move the vCPUs of guests that latency matters to.

    What it checks
        Each vCPU of a domain tagged critical has a vcpupin (or the domain a cpuset) that is smaller than all online CPUs; with
        exclusive, it is one CPU, or threads of one core.

    Why it matters
        Pins keep caches warm and memory near.

    How to fix
        now: virsh vcpupin $DOM VCPU CPU --live --config for each vCPU
        after a reboot: the same, --config keeps it
        roll back: virsh vcpupin $DOM VCPU 0-CPUS --live --config
        verify: virsh vcpupin $DOM --config

    When not to
        On hosts that pack many guests the scheduler does better; only tagged domains are judged.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
    """
    pins, online = domain.saved.pin_of(vcpu), online_cpus(host)
    assert pins, f"{domain}: vCPU {vcpu} is not pinned."
    assert pins & online < online, f"{domain}: vCPU {vcpu} may run on all online CPUs ({format_cpulist(pins)})."
    if params.exclusive and len(pins) > 1:
        core = cores(host).get(min(pins), frozenset())
        assert pins <= core, f"{domain}: vCPU {vcpu} is pinned to CPUs {format_cpulist(pins)}, expected one CPU or core."


@condition
def is_pinned(domain: Domain) -> str | None:
    """Hold for domains with pins."""
    return None if domain.saved.has_pins else "no pins"


@condition
def vcpus_are_pinned(domain: Domain) -> str | None:
    """Hold for domains whose vCPUs are pinned."""
    xml = domain.saved
    return None if xml.vcpupins or xml.vcpu_cpuset else "no pins of vCPUs"


@condition
def several_nodes(host: Host) -> str | None:
    """Hold on hosts with more than one NUMA node."""
    return None if len(numa_nodes(host)) > 1 else "a single NUMA node"


@check(
    "KVM-PIN-002",
    title="The pins of a guest (or of each of its NUMA cells) stay within one host node",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "numa", "cpu_lists"),
    applies=all_of(several_nodes, vcpus_are_pinned),
)
def test_pins_stay_in_one_node(host: Host, domain: Domain) -> None:
    """VCPUs that share memory run on the node where it is.

    What it checks
        All vCPU pins lie in one host node; or, for a guest with NUMA cells, the pins of each cell do, in the node that memnode
        (or the numatune nodeset) gives it.

    Why it matters
        Pins across nodes are worse than none: the kernel can no longer correct them.

    How to fix
        now: virsh vcpupin $DOM VCPU CPU --live --config, with CPUs of one node
        after a reboot: the same; split guests that are too wide into cells
        verify: virsh vcpupin $DOM --config; cat /sys/devices/system/node/node*/cpulist

    When not to
        Never on purpose. CPUs that are offline have no node and are left to KVM-PIN-005.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
        https://libvirt.org/formatdomain.html#numa-node-tuning
    """
    xml = domain.saved
    everything = range(xml.vcpus)
    if not xml.cells:
        nodes = nodes_of(host, _pins(xml, everything))
        assert len(nodes) <= 1, f"{domain}: its vCPUs are pinned to nodes {format_cpulist(nodes)}, expected one."
        return
    with Findings() as findings:
        for cell in xml.cells:
            nodes = nodes_of(host, _pins(xml, cell.cpus))
            if len(nodes) > 1:
                findings.fail(f"{domain}: cell {cell.id} is pinned to nodes {format_cpulist(nodes)}, expected one.")
            bound = cell.memnode if cell.memnode is not None else xml.numatune_nodeset
            if bound and nodes and not nodes <= bound:
                findings.fail(
                    f"{domain}: cell {cell.id} runs on node {format_cpulist(nodes)}, its memory is on node {format_cpulist(bound)}."
                )


def _pins(xml: DomainXml, vcpus: Iterator[int] | range | frozenset[int]) -> frozenset[int]:
    """Return the CPUs of all vCPUs that have pins."""
    return frozenset(cpu for vcpu in vcpus if vcpu < xml.vcpus for cpu in pinned_cpus(xml, (vcpu,)) or ())


@fact
def single_pins(host: Host) -> dict[int, list[tuple[str, int]]]:
    """The vCPUs that are pinned to exactly one CPU, by that CPU: of critical domains, or of all when none is tagged.

    Domains that run or have autostart count, by their saved definition; a transient one by its live definition.
    """
    counted = [domain for domain in domains(host) if domain.running or domain.autostart]
    if any(domain.critical for domain in counted):
        counted = [domain for domain in counted if domain.critical]
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for domain in counted:
        xml = domain.saved if domain.persistent else domain.live
        for vcpu, pins in sorted(xml.vcpupins.items()):
            if len(pins) == 1 and vcpu < xml.vcpus:
                found[min(pins)].append((domain.name, vcpu))
    return dict(found)


@condition
def has_single_pins(host: Host) -> str | None:
    """Hold where vCPUs have a CPU of their own."""
    return None if single_pins(host) else "no domain that runs or has autostart pins a vCPU to a single CPU"


@check(
    "KVM-PIN-003",
    title="No physical CPU is promised to two pinned vCPUs",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "cpu_siblings"),
    params={"exclusive_core": False},
    applies=has_single_pins,
)
def test_no_cpu_is_promised_twice(host: Host, params: Params) -> None:
    """A CPU that a vCPU was pinned to is not given to another one.

    What it checks
        Among all pins to exactly one CPU (of critical domains, or of all when none is tagged) each CPU appears once, also within
        a domain; with exclusive_core, no two domains share a core.

    Why it matters
        Two busy vCPUs on one CPU halve each other while its neighbours idle.

    How to fix
        now: virsh vcpupin DOMAIN VCPU CPU --live --config for one of the two
        after a reboot: the same; keep a plan of pins for the whole host
        verify: for d in $(virsh list --name); do virsh vcpupin "$d"; done

    When not to
        Guests that are known never to be busy together.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
    """
    pins = single_pins(host)
    with Findings() as findings:
        for cpu, users in sorted(pins.items()):
            if len(users) > 1:
                names = ", ".join(f"{name} vCPU {vcpu}" for name, vcpu in users)
                findings.fail(f"{host}: CPU {cpu} is promised to {names}.")
        if params.exclusive_core:
            by_core: dict[frozenset[int], set[str]] = defaultdict(set)
            for cpu, users in pins.items():
                by_core[cores(host).get(cpu, frozenset({cpu}))] |= {name for name, _ in users}
            for core, names_ in sorted(by_core.items(), key=lambda item: min(item[0])):
                if len(names_) > 1:
                    findings.fail(f"{host}: the core of CPUs {format_cpulist(core)} is shared by {', '.join(sorted(names_))}.")


@check(
    "KVM-PIN-005",
    title="Pins name only CPUs that are online",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "cpu_lists"),
    applies=is_pinned,
)
def test_pinned_cpus_are_online(host: Host, domain: Domain) -> None:
    """Every CPU that a guest is pinned to is there.

    What it checks
        All CPUs of vcpupin, emulatorpin, iothreadpin and of the vcpu cpuset are online.

    Why it matters
        libvirt accepts any number when the guest is defined. A guest pinned to a missing CPU does not start, or, when the CPU
        goes offline later, silently runs on others.

    How to fix
        now: echo 1 > /sys/devices/system/cpu/cpuN/online; or virsh vcpupin $DOM VCPU CPU --live --config
        after a reboot: correct the pins with virsh edit $DOM
        verify: cat /sys/devices/system/cpu/online; virsh vcpupin $DOM --config

    When not to
        Never.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
    """
    xml, online = domain.saved, online_cpus(host)
    with Findings() as findings:

        def judge(what: str, cpus: frozenset[int] | None) -> None:
            missing = (cpus or frozenset()) - online
            if missing:
                findings.fail(f"{domain}: {what} names CPU {format_cpulist(missing)}; online are {format_cpulist(online)}.")

        judge("the vcpu cpuset", xml.vcpu_cpuset)
        for vcpu, pins in sorted(xml.vcpupins.items()):
            judge(f"the pin of vCPU {vcpu}", pins)
        judge("emulatorpin", xml.emulatorpin)
        for iothread, pins in sorted(xml.iothreadpins.items()):
            judge(f"the pin of iothread {iothread}", pins)
