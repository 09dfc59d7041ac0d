"""Where guests are bound to run: pins and NUMA nodes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.cpulist import parse_cpulist, parse_cpumask
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.irqbalance import parse_banned
from pytest_kvmcheck.facts.procfs import Thread
from pytest_kvmcheck.facts.schedstat import parse_schedstat
from pytest_kvmcheck.views.domains import Domain, domains
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import numa_nodes
from pytest_kvmcheck.views.processes import threads_of


@fact
def node_of_cpu(host: Host) -> dict[int, int]:
    """NUMA node by online CPU."""
    return {cpu: node.id for node in numa_nodes(host) for cpu in node.cpus}


def nodes_of(host: Host, cpus: Iterable[int]) -> frozenset[int]:
    """Return the nodes of *cpus*; CPUs that are offline have none."""
    known = node_of_cpu(host)
    return frozenset(known[cpu] for cpu in cpus if cpu in known)


def pinned_cpus(xml: DomainXml, vcpus: Iterable[int]) -> frozenset[int] | None:
    """Return the CPUs that *vcpus* of the domain may run on, None when one of them is not restricted."""
    total: set[int] = set()
    for vcpu in vcpus:
        pins = xml.pin_of(vcpu)
        if not pins:
            return None
        total |= pins
    return frozenset(total)


def bound(host: Host, xml: DomainXml) -> bool:
    """Whether the domain cannot leave one NUMA node: its vCPUs are pinned there, and its memory is strict or huge pages."""
    cpus = pinned_cpus(xml, range(xml.vcpus))
    if cpus is None or len(nodes_of(host, cpus)) > 1:
        return False
    modes = {xml.numatune_mode, *(cell.memnode_mode for cell in xml.cells)}
    return bool(modes & {"strict", "restrictive"}) or xml.hugepages is not None


def size(value: int) -> str:
    """Return bytes for people.

    >>> size(2 * 2**20), size(2**30), size(1500)
    ('2 MiB', '1 GiB', '1500 B')
    """
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value and value % factor == 0:
            return f"{value // factor} {unit}"
    return f"{value} B"


def next_definition(domain: Domain) -> DomainXml:
    """Return what the domain will be when it is started again; a transient one has nothing but its live definition."""
    return domain.saved if domain.persistent else domain.live


def definitions(domain: Domain) -> Iterator[tuple[str, DomainXml]]:
    """Yield the saved definition, and of a running domain the live one, each with words for messages: when it holds.

    A transient domain has nothing but its live definition.
    """
    yield "", next_definition(domain)
    if domain.running and domain.persistent:
        yield " now, while it runs", domain.live


@fact
def placed_domains(host: Host) -> tuple[Domain, ...]:
    """The domains that take part in a plan of pins: those that run or have autostart."""
    return tuple(domain for domain in domains(host) if domain.running or domain.autostart)


def own_pins(xml: DomainXml) -> dict[int, int]:
    """Return the vCPUs that are pinned to exactly one CPU, with it."""
    return {vcpu: min(pins) for vcpu, pins in sorted(xml.vcpupins.items()) if len(pins) == 1 and vcpu < xml.vcpus}


@fact
def single_pins(host: Host) -> dict[int, list[tuple[str, int]]]:
    """The vCPUs that are pinned to exactly one CPU, by that CPU: of critical domains, or of all when none is tagged.

    Domains that run or have autostart count, by their saved definition; a transient one by its live definition.
    """
    counted = placed_domains(host)
    if any(domain.critical for domain in counted):
        counted = tuple(domain for domain in counted if domain.critical)
    found: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for domain in counted:
        for vcpu, cpu in own_pins(next_definition(domain)).items():
            found[cpu].append((domain.name, vcpu))
    return dict(found)


@fact
def reserved_cpus(host: Host) -> frozenset[int]:
    """CPUs that a vCPU of a critical domain is pinned to alone."""
    critical = [domain for domain in placed_domains(host) if domain.critical]
    return frozenset(cpu for domain in critical for cpu in own_pins(next_definition(domain)).values())


@fact
def pins_by_cpu(host: Host) -> dict[int, frozenset[str]]:
    """The domains with a vCPU that is pinned to each CPU, alone or among others."""
    found: dict[int, set[str]] = defaultdict(set)
    for domain in placed_domains(host):
        xml = next_definition(domain)
        for vcpu in range(xml.vcpus):
            for cpu in xml.pin_of(vcpu) or ():
                found[cpu].add(domain.name)
    return {cpu: frozenset(names) for cpu, names in found.items()}


@fact
def isolated_cpus(host: Host) -> frozenset[int]:
    """CPUs that the scheduler does not balance load onto (isolcpus, or an isolated cpuset)."""
    return parsing("isolation", _cpus, host.evidence.files("isolation").need("/sys/devices/system/cpu/isolated"))


@fact
def nohz_full_cpus(host: Host) -> frozenset[int]:
    """CPUs without a timer tick while one task runs; none when the kernel was built without nohz_full."""
    isolated_cpus(host)  # proves that /sys can be read
    text = host.evidence.files("isolation").get("/sys/devices/system/cpu/nohz_full")
    return parsing("isolation", _cpus, text or "")


def _cpus(text: str) -> frozenset[int]:
    # Kernels before 6.10 print the empty list of nohz_full so.
    return parse_cpulist("" if text.strip() == "(null)" else text)


@fact
def irq_affinity(host: Host) -> frozenset[int]:
    """CPUs that new interrupts go to."""
    return parsing("isolation", parse_cpumask, host.evidence.files("isolation").need("/proc/irq/default_smp_affinity"))


@fact
def machine_slice_cpus(host: Host) -> frozenset[int] | None:
    """CPUs that systemd leaves to virtual machines, None when it does not restrict them."""
    files = host.evidence.files("isolation")
    paths = ("/sys/fs/cgroup/machine.slice/cpuset.cpus.effective", "/sys/fs/cgroup/cpuset/machine.slice/cpuset.cpus")
    texts = [text for path in paths if (text := files.get(path)) and text.strip()]
    return parsing("isolation", parse_cpulist, texts[0]) if texts else None


@fact
def irqbalance_banned(host: Host) -> frozenset[int] | None:
    """CPUs that irqbalance was told to leave alone, None when it decides by itself."""
    files = host.evidence.files("irqbalance_conf")
    files.demand_all_readable()
    return parsing("irqbalance_conf", parse_banned, files)


def vcpu_threads(threads: Iterable[Thread]) -> dict[int, Thread]:
    """Return the threads of vCPUs by the vCPU's number, from all threads of a QEMU.

    >>> vcpu_threads([Thread(8, "qemu-system-x86", frozenset()), Thread(9, "CPU 1/KVM", frozenset({1}))])
    {1: Thread(tid=9, name='CPU 1/KVM', cpus=frozenset({1}))}
    """
    found = {}
    for thread in threads:
        if match := re.fullmatch(r"CPU (\d{1,4})/(?:KVM|TCG)", thread.name):
            found[int(match[1])] = thread
    return found


def waits_by_kernel(domain: Domain, probe: str) -> tuple[float, dict[int, int]]:
    """Return seconds after boot, and the nanoseconds that each vCPU waited for a CPU till then, by the kernel.

    *probe* is ``domstats`` or ``domstats_later``, which ask it where libvirt (before 7.2) does not tell.
    """
    told = domain.host.evidence.parsed(f"{probe}{KEY_SEPARATOR}schedstat", parse_schedstat)
    threads = vcpu_threads(threads_of(domain))
    return told.uptime_s, {vcpu: told.waits_ns[thread.tid] for vcpu, thread in threads.items() if thread.tid in told.waits_ns}


def vcpu_thread(threads: dict[int, Thread], domain: Domain, vcpu: int) -> Thread:
    """Return the thread of *vcpu*; raises :class:`EvidenceMissing` when it cannot be told from the others."""
    try:
        return threads[vcpu]
    except KeyError:
        raise EvidenceMissing(Cause.MISSING, f"{domain} shows no thread of vCPU {vcpu}", "qemu_threads") from None
