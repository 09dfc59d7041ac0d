"""Checks of CPU pinning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Items, NotApplicable, Number, Params, Severity, Text, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cpulist import format_cpulist
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.views.cpu import online_cpus, thread_siblings
from pytest_kvmcheck.views.domains import Domain, domains, running_domains, seconds_between_stats
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import numa_nodes
from pytest_kvmcheck.views.placement import (
    definitions,
    irq_affinity,
    irqbalance_banned,
    isolated_cpus,
    machine_slice_cpus,
    next_definition,
    nodes_of,
    nohz_full_cpus,
    own_pins,
    pinned_cpus,
    pins_by_cpu,
    placed_domains,
    reserved_cpus,
    single_pins,
    vcpu_thread,
    vcpu_threads,
    waits_by_kernel,
)
from pytest_kvmcheck.views.processes import threads_of
from pytest_kvmcheck.views.services import in_use


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
        core = thread_siblings(host).get(min(pins), frozenset())
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
        roll back: virsh vcpupin $DOM VCPU CPUS --live --config, with the CPUs that virsh vcpupin $DOM told before
        verify: virsh vcpupin $DOM --config; cat /sys/devices/system/node/node*/cpulist

    When not to
        Never on purpose. CPUs that are offline have no node and are left to KVM-PIN-005.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
        https://libvirt.org/formatdomain.html#numa-node-tuning
    """
    xml = domain.saved
    everywhere = nodes_of(host, _pins(xml, range(xml.vcpus)))
    if not xml.cells:
        nodes = everywhere
        assert len(nodes) <= 1, f"{domain}: its vCPUs are pinned to nodes {format_cpulist(nodes)}, expected one."
        return
    with Findings() as findings:
        for cell in xml.cells:
            nodes = nodes_of(host, _pins(xml, cell.cpus))
            if len(nodes) > 1:
                findings.fail(f"{domain}: cell {cell.id} is pinned to nodes {format_cpulist(nodes)}, expected one.")
            bound = cell.memnode if cell.memnode is not None else xml.numatune_nodeset
            if bound and nodes and (nodes != bound if len(everywhere) > 1 else not nodes <= bound):
                findings.fail(
                    f"{domain}: cell {cell.id} runs on node {format_cpulist(nodes)}, its memory is on node {format_cpulist(bound)}."
                )


def _pins(xml: DomainXml, vcpus: Iterator[int] | range | frozenset[int]) -> frozenset[int]:
    """Return the CPUs of all vCPUs that have pins."""
    return frozenset(cpu for vcpu in vcpus if vcpu < xml.vcpus for cpu in pinned_cpus(xml, (vcpu,)) or ())


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
        roll back: virsh vcpupin DOMAIN VCPU CPUS --live --config, with the CPUs that virsh vcpupin DOMAIN told before
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
                by_core[thread_siblings(host).get(cpu, frozenset({cpu}))] |= {name for name, _ in users}
            for core, names_ in sorted(by_core.items(), key=lambda item: min(item[0])):
                if len(names_) > 1:
                    findings.fail(f"{host}: the core of CPUs {format_cpulist(core)} is shared by {', '.join(sorted(names_))}.")


@condition
def others_have_reserved_cpus(host: Host, domain: Domain) -> str | None:
    """Hold for domains that are not critical, where critical ones have CPUs of their own."""
    if domain.critical:
        return f"{domain} is critical itself"
    return None if reserved_cpus(host) else "no critical domain has CPUs of its own"


@check(
    "KVM-PIN-004",
    title="Guests without reserved CPUs are kept off the reserved ones",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "cpu_lists", "isolation", "qemu_process", "qemu_threads"),
    applies=others_have_reserved_cpus,
)
def test_others_keep_off_reserved_cpus(host: Host, domain: Domain) -> None:
    """A CPU that was promised to a vCPU of a critical guest serves nobody else.

    What it checks
        No vCPU of another domain may run on a CPU that a vCPU of a critical domain is pinned to alone: by the affinity of its
        threads while it runs, by its definition for the next start. A domain without pins is kept off isolated CPUs by the
        scheduler, and off all others by machine.slice (AllowedCPUs); one with pins is not.

    Why it matters
        A pin keeps a vCPU on its CPU. It keeps nobody else away from there.

    How to fix
        now: virsh vcpupin $DOM VCPU CPUS --live --config, with CPUs that are not reserved
        after a reboot: <vcpu cpuset='...'> in the definition of all other guests, or AllowedCPUs= for machine.slice
        roll back: virsh vcpupin $DOM VCPU 0-CPUS --live --config
        verify: grep Cpus_allowed_list /proc/$(cat /run/libvirt/qemu/$DOM.pid)/task/*/status

    When not to
        Where the critical guests are idle most of the time. OpenStack says the same with cpu_dedicated_set and cpu_shared_set.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
        https://www.freedesktop.org/software/systemd/man/latest/systemd.resource-control.html
    """
    reserved = reserved_cpus(host)
    saved = next_definition(domain)
    with Findings() as findings:
        if domain.running:
            live = domain.live
            mask = frozenset(cpu for thread in vcpu_threads(threads_of(domain)).values() for cpu in thread.cpus)
            if not mask:
                findings.unknown(EvidenceMissing(Cause.MISSING, f"{domain} shows no vCPU thread", "qemu_threads"))
            if shared := mask & reserved - (frozenset() if _pins_vcpus(live) else isolated_cpus(host)):
                findings.fail(f"{domain}: its vCPUs run on CPUs {format_cpulist(mask)}, of which {_reserved(shared)}.")
                return
            if (saved.vcpupins, saved.vcpu_cpuset) == (live.vcpupins, live.vcpu_cpuset):
                return
        mask = frozenset(cpu for vcpu in range(saved.vcpus) for cpu in saved.pin_of(vcpu) or online_cpus(host))
        if not _pins_vcpus(saved):
            allowed = machine_slice_cpus(host)
            mask &= (allowed if allowed is not None else mask) - isolated_cpus(host)
        when = "will run after its next start" if domain.running else "would run"
        if shared := mask & reserved:
            findings.fail(f"{domain}: its vCPUs {when} on CPUs {format_cpulist(mask)}, of which {_reserved(shared)}.")


def _pins_vcpus(xml: DomainXml) -> bool:
    return bool(xml.vcpupins or xml.vcpu_cpuset)


def _reserved(cpus: Iterable[int]) -> str:
    return f"{format_cpulist(cpus)} are reserved for critical domains"


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
        roll back: echo 0 > /sys/devices/system/cpu/cpuN/online, with nothing pinned to it; virsh vcpupin $DOM VCPU CPUS --live
            --config, with the CPUs that virsh vcpupin $DOM told before
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


@condition
def runs_with_pin(domain: Domain, vcpu: int) -> str | None:
    """Hold for vCPUs of running domains that have a pin, saved or live."""
    if not domain.running:
        return "not running"
    if not next_definition(domain).pin_of(vcpu) and not domain.live.pin_of(vcpu):
        return f"vCPU {vcpu} has no pin"
    return None


@check(
    "KVM-PIN-006",
    title="The CPU affinity in effect equals the configured one",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "cpu_lists", "qemu_process", "qemu_threads"),
    applies=runs_with_pin,
)
def test_affinity_is_as_configured(host: Host, domain: Domain, vcpu: int) -> None:
    """The thread of the vCPU may run where its definition says, and nowhere else.

    What it checks
        Cpus_allowed_list of the thread equals vcpupin (or else the vcpu cpuset) of the saved definition, as far as those CPUs are
        online. An affinity that follows the live definition only is a warning: it is gone, or comes, at the next start.

    Why it matters
        Taking a CPU offline, changes of cgroups, and numad move threads behind libvirt's back, and nothing moves them home.

    How to fix
        now: virsh vcpupin $DOM VCPU CPU --live, with the CPU of the saved definition
        after a reboot: find what changed it (numad, systemctl set-property AllowedCPUs=, CPU hotplug) and stop that
        roll back: virsh vcpupin $DOM VCPU CPUS --live --config, with the CPUs that virsh vcpupin $DOM told before
        verify: virsh vcpuinfo $DOM; virsh vcpupin $DOM --config

    When not to
        Where a manager moves pins at run time with --live on purpose.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
        https://libvirt.org/manpages/virsh.html#vcpupin
    """
    saved, live, online = next_definition(domain), domain.live, online_cpus(host)
    threads = vcpu_threads(threads_of(domain))
    if vcpu not in threads and len(threads) == live.tuning.vcpus_current:
        raise NotApplicable(f"vCPU {vcpu} is not plugged in")
    mask = vcpu_thread(threads, domain, vcpu).cpus
    who = f"{domain}: vCPU {vcpu} may run on CPUs {format_cpulist(mask)}"
    wanted = (saved.pin_of(vcpu) or online) & online
    current = (live.pin_of(vcpu) or online) & online
    with Findings() as findings:
        if not wanted:
            pins = format_cpulist(saved.pin_of(vcpu) or ())
            findings.fail(f"{who}; none of those that it is pinned to ({pins}) is online.")
        elif mask != wanted and mask == current:
            findings.warn(f"{who} by its live definition, the saved one says {format_cpulist(wanted)}.")
        elif mask != wanted:
            findings.fail(f"{who}, expected {format_cpulist(wanted)}.")


@condition
def pins_meet_smt(host: Host, domain: Domain) -> str | None:
    """Hold for domains with a CPU of their own, on hosts whose cores run several threads."""
    if not own_pins(next_definition(domain)):
        return "no vCPU is pinned to a single CPU"
    return None if any(len(core) > 1 for core in thread_siblings(host).values()) else "no core runs several threads"


@check(
    "KVM-PIN-007",
    title="Pins respect SMT siblings and the guest topology tells the truth",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "cpu_siblings"),
    params={"smt_pin_policy": Choice("any", "require", "isolate")},
    applies=pins_meet_smt,
)
def test_pins_respect_siblings(host: Host, domain: Domain, params: Params) -> None:
    """Two threads of one core are given to one guest that knows it, or one of them is left idle.

    What it checks
        smt_pin_policy any: no core is shared by two critical domains. require: pins come in whole cores of one domain, the guest
        sees as many threads a core, and its neighbouring vCPUs sit on one core. isolate: one thread of each core is pinned, no
        domain is pinned to its siblings, and the guest sees one thread a core.

    Why it matters
        Threads share the core's units and caches: a busy sibling costs up to half the throughput, and it can listen.

    How to fix
        now: virsh vcpupin $DOM VCPU CPU --live --config; cat /sys/devices/system/cpu/cpu*/topology/thread_siblings_list
        after a reboot: virsh edit $DOM: <topology sockets='1' dies='1' cores='N' threads='2'/> (require) or threads='1' (isolate)
        roll back: virsh vcpupin $DOM VCPU CPUS --live --config, with the CPUs that virsh vcpupin $DOM told before; virsh define
            FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh vcpupin $DOM --config

    When not to
        Guests of one owner that are never busy together.

    References
        https://libvirt.org/kbase/kvm-realtime.html
        https://docs.openstack.org/nova/latest/admin/cpu-topologies.html
    """
    policy = params.smt_pin_policy
    xml, siblings = next_definition(domain), thread_siblings(host)
    pins = own_pins(xml)
    cores = {vcpu: siblings[cpu] for vcpu, cpu in pins.items() if cpu in siblings}  # offline CPUs: KVM-PIN-005
    if not cores:
        raise NotApplicable("none of its CPUs is online")
    with Findings() as findings:
        if policy == "any":
            if not domain.critical:
                raise NotApplicable(f"{domain} is not critical, and smt_pin_policy is any")
            critical = {item.name for item in placed_domains(host) if item.critical}
            _demand_alone(host, domain, cores.values(), critical, findings)
            return
        threads = xml.cpu.topology.threads if xml.cpu.topology else 1
        _demand_alone(host, domain, cores.values(), None, findings)
        if policy == "isolate":
            for core in sorted(set(cores.values()), key=min):
                used = frozenset(cpu for cpu in pins.values() if cpu in core)
                if len(used) > 1:
                    findings.fail(f"{domain}: CPUs {format_cpulist(used)} are threads of one core, expected one vCPU a core.")
            findings.fail_if(threads != 1, f"{domain}: the guest sees {threads} threads a core, expected 1.")
            return
        for core in sorted(set(cores.values()), key=min):
            if unused := core - set(pins.values()):
                findings.fail(f"{domain}: it has a part of the core {format_cpulist(core)}, without CPU {format_cpulist(unused)}.")
        width = max(map(len, cores.values()))
        findings.fail_if(threads != width, f"{domain}: the guest sees {threads} threads a core, expected {width}.")
        for first in range(0, xml.vcpus, width):
            group = range(first, min(first + width, xml.vcpus))
            if len({cores.get(vcpu) for vcpu in group}) > 1:
                findings.fail(f"{domain}: vCPUs {format_cpulist(group)} are neighbours and do not sit on one core.")


def _demand_alone(host: Host, domain: Domain, cores: Iterable[frozenset[int]], others: set[str] | None, findings: Findings) -> None:
    """Demand that no other domain (of *others*, or any) is pinned to the *cores*."""
    pinned = pins_by_cpu(host)
    for core in sorted(set(cores), key=min):
        users = {name for cpu in core for name in pinned.get(cpu, ())} - {domain.name}
        if others is not None:
            users &= others
        if users:
            findings.fail(f"{domain}: it shares the core of CPUs {format_cpulist(core)} with {', '.join(sorted(users))}.")


@condition
def has_own_cpus(domain: Domain) -> str | None:
    """Hold for domains with a vCPU that is pinned to a single CPU."""
    return None if own_pins(domain.saved) else "no vCPU is pinned to a single CPU"


@check(
    "KVM-PIN-008",
    title="Emulator and I/O threads are pinned away from the vCPU cores",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "numa", "cpu_lists", "isolation"),
    applies=has_own_cpus,
)
def test_emulator_keeps_off_vcpus(host: Host, domain: Domain) -> None:
    """What QEMU does besides running vCPUs does not interrupt them.

    What it checks
        Emulator threads and each iothread are pinned (or follow the vcpu cpuset) to CPUs that no vCPU of the domain is pinned to,
        in the saved definition and, of a running domain, in the live one. On another NUMA node than all vCPUs: a warning. Of a
        realtime domain they also stay off isolated CPUs that run vCPUs of others.

    Why it matters
        Without pins, device emulation, consoles, migration and disk I/O preempt the very vCPUs that were given CPUs of their own.

    How to fix
        now: virsh emulatorpin $DOM CPUS --live --config; virsh iothreadpin $DOM ID CPUS --live --config
        after a reboot: the same, --config keeps it
        roll back: virsh emulatorpin $DOM and iothreadpin $DOM ID --live --config with the CPUs that they told before
        verify: virsh emulatorpin $DOM --config; virsh iothreadinfo $DOM --config

    When not to
        Never where vCPUs have CPUs of their own. emulatorpin covers neither vCPUs nor iothreads: each needs its own.

    References
        https://libvirt.org/formatdomain.html#cpu-tuning
        https://libvirt.org/kbase/kvm-realtime.html
    """
    with Findings() as findings:
        seen: list[object] = []
        for when, xml in definitions(domain):
            placed = (xml.vcpupins, xml.vcpu_cpuset, xml.emulatorpin, xml.iothreadpins, xml.tuning.iothread_ids)
            if placed not in seen and own_pins(xml):
                seen.append(placed)
                _judge_emulator(host, domain, xml, when, findings)


def _judge_emulator(host: Host, domain: Domain, xml: DomainXml, when: str, findings: Findings) -> None:
    """Judge where the threads of one definition of a domain may run that are no vCPUs."""
    own = frozenset(own_pins(xml).values())
    places = {"its emulator": xml.emulatorpin or xml.vcpu_cpuset}
    for ident in xml.tuning.iothread_ids:
        pins = xml.iothreadpins.get(int(ident)) if ident.isdigit() else None
        places[f"iothread {ident}"] = pins or xml.vcpu_cpuset
    for what, cpus in places.items():
        if not cpus:
            findings.fail(f"{domain}: {what} is not pinned{when} and may run on the CPUs of the vCPUs ({format_cpulist(own)}).")
        elif cpus & own:
            findings.fail(
                f"{domain}: {what} may run on CPUs {format_cpulist(cpus)}{when}, of which vCPUs have {format_cpulist(cpus & own)}."
            )
        elif "realtime" in domain.tags and (foreign := cpus & isolated_cpus(host) & pins_by_cpu(host).keys()):
            findings.fail(f"{domain}: {what} may run on isolated CPU {format_cpulist(foreign)}{when}, which runs vCPUs too.")
    home = nodes_of(host, own)
    for what, cpus in places.items():
        if cpus and home and not nodes_of(host, cpus) & home:
            findings.warn(
                f"{domain}: {what} runs on node {format_cpulist(nodes_of(host, cpus))}{when},"
                f" its vCPUs on node {format_cpulist(home)}."
            )


@condition
def isolates_or_is_realtime(host: Host) -> str | None:
    """Hold where CPUs are isolated, or a domain is tagged realtime."""
    if isolated_cpus(host) or any("realtime" in domain.tags for domain in domains(host)):
        return None
    return "no isolated CPUs and no realtime domain"


@check(
    "KVM-PIN-009",
    title="Isolated CPUs and vCPU pins describe the same set",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "isolation", "irqbalance_conf", "systemd_units"),
    applies=isolates_or_is_realtime,
)
def test_isolation_matches_pins(host: Host) -> None:
    """Isolated CPUs run one realtime vCPU each, and nothing else comes to them.

    What it checks
        vCPUs of realtime domains that have a realtime scheduler (all of them while none has) are pinned inside the isolated CPUs;
        no pin to several CPUs, of vCPUs or emulators, touches an isolated one; each isolated CPU has at most one vCPU; nohz_full
        lies within the isolated CPUs; CPU 0 is not isolated; irqbalance, where it runs, is not told to use isolated CPUs.
        Interrupts that go there by default are a warning.

    Why it matters
        The scheduler does not balance load on isolated CPUs: a pin to several of them piles all its vCPUs on the first.

    How to fix
        now: virsh vcpupin DOMAIN VCPU CPU --live --config, one isolated CPU for each vCPU
        after a reboot: isolated_cores= in /etc/tuned/realtime-virtual-host-variables.conf and tuned-adm profile
            realtime-virtual-host (SUSE and Debian: isolcpus=, nohz_full=, irqaffinity= on the kernel command line), then reboot
        roll back: virsh vcpupin DOMAIN VCPU CPUS --live --config, with the CPUs that virsh vcpupin DOMAIN told before; tuned-adm
            profile with the former one, and the former kernel command line, and reboot
        verify: cat /sys/devices/system/cpu/isolated /sys/devices/system/cpu/nohz_full /proc/irq/default_smp_affinity

    When not to
        Isolated CPUs that serve packet processing (DPDK) instead of guests are fine: nothing demands that all are used.

    References
        https://libvirt.org/kbase/kvm-realtime.html
        https://docs.kernel.org/admin-guide/kernel-parameters.html
    """
    isolated = isolated_cpus(host)
    shown = format_cpulist(isolated)
    with Findings() as findings:
        for domain in domains(host):
            _judge_isolation(domain, isolated, findings)
        users: dict[int, list[str]] = defaultdict(list)
        for domain in placed_domains(host):
            for vcpu, cpu in own_pins(next_definition(domain)).items():
                if cpu in isolated:
                    users[cpu].append(f"{domain} vCPU {vcpu}")
        for cpu, names in sorted(users.items()):
            findings.fail_if(len(names) > 1, f"{host}: isolated CPU {cpu} has several vCPUs: {', '.join(names)}.")
        findings.fail_if(0 in isolated, f"{host}: CPU 0 is isolated ({shown}); the kernel needs it for itself.")
        ticking = nohz_full_cpus(host) - isolated
        findings.fail_if(bool(ticking), f"{host}: nohz_full names CPU {format_cpulist(ticking)}, isolated are {shown}.")
        if interrupted := irq_affinity(host) & isolated:
            findings.warn(f"{host}: new interrupts go to isolated CPU {format_cpulist(interrupted)} too (default_smp_affinity).")
        if isolated and in_use(host, ("irqbalance.service",)):
            banned = irqbalance_banned(host)
            if banned is not None and (open_to := isolated - banned):
                findings.fail(
                    f"{host}: irqbalance bans CPUs {format_cpulist(banned)} by its settings and so uses"
                    f" isolated CPU {format_cpulist(open_to)}."
                )


def _judge_isolation(domain: Domain, isolated: frozenset[int], findings: Findings) -> None:
    """Judge the pins of one domain against the isolated CPUs."""
    xml = next_definition(domain)
    shown = format_cpulist(isolated)
    if "realtime" in domain.tags:
        scheduled = {
            vcpu
            for item in xml.tuning.schedulers
            if item.kind == "vcpu" and item.scheduler in ("fifo", "rr")
            for vcpu in item.threads
        }
        for vcpu in sorted(scheduled or range(xml.vcpus)):
            pins = xml.pin_of(vcpu)
            if not pins or not pins <= isolated:
                place = f"pinned to CPUs {format_cpulist(pins)}" if pins else "not pinned"
                findings.fail(f"{domain}: realtime vCPU {vcpu} is {place}, isolated are {shown}.")
    places = {f"vCPU {vcpu}": xml.pin_of(vcpu) for vcpu in range(xml.vcpus)}
    places["emulator"] = xml.emulatorpin
    for what, cpus in places.items():
        if cpus and len(cpus) > 1 and cpus & isolated:
            findings.fail(f"{domain}: {what} is pinned to CPUs {format_cpulist(cpus)}, several of which isolated are {shown}.")


@check(
    "KVM-PIN-010",
    title="vCPU overcommit stays within the set ratio",
    severity=Severity.MEDIUM,
    reads=("virsh", "domstats", "cpu_lists", "cpu_siblings"),
    params={"max_ratio": Number(5.0, 0, 64), "max_per_core": Number(10, 1, 100)},
)
def test_vcpu_overcommit(host: Host, params: Params) -> None:
    """The host does not promise its CPUs too often.

    What it checks
        The vCPUs of all running guests are at most max_ratio for each online CPU, and max_per_core for each physical core; no guest
        has more vCPUs than the host has CPUs online. With max_ratio 0 a manager
        decides (OpenStack: allocation_ratio), and it is not judged.

    Why it matters
        Too many vCPUs wait for one another; a guest wider than the host spins on locks whose holder cannot run.

    How to fix
        now: virsh setvcpus DOMAIN N --live for guests that idle, or migrate some away; look at KVM-PIN-011 first
        after a reboot: virsh setvcpus DOMAIN N --config
        roll back: virsh setvcpus DOMAIN N --live --config with the former number; migrate back
        verify: virsh domstats --vcpu --list-running | grep vcpu.current

    When not to
        Desktops and test guests that hardly run can be packed more densely.

    References
        https://docs.redhat.com/en/documentation/red_hat_enterprise_linux/10/html/configuring_and_managing_linux_virtual_machines/optimizing-virtual-machine-cpu-performance
    """
    online = len(online_cpus(host))
    cores = len(set(thread_siblings(host).values()))
    total = 0
    with Findings() as findings:
        for domain in running_domains(host):
            state = domain.stats.number("state.state")
            if state is None:
                raise EvidenceMissing(Cause.MISSING, f"domstats does not tell the state of {domain}", "domstats")
            if state != RUNNING:
                continue
            vcpus = domain.stats.number("vcpu.current")
            if vcpus is None:
                raise EvidenceMissing(Cause.MISSING, f"domstats tells no vcpu.current of {domain}", "domstats")
            total += vcpus
            findings.fail_if(vcpus > online, f"{domain}: {vcpus} vCPUs on a host with {online} CPUs online.")
        told = f"{host}: {total} vCPUs run on {online} CPUs of {cores} cores"
        if params.max_ratio and total > params.max_ratio * online:
            findings.fail(f"{told}: {total / online:.2f} a CPU, at most {params.max_ratio} allowed.")
        if total > params.max_per_core * cores:
            findings.fail(f"{told}: {total / cores:.2f} a core, at most {params.max_per_core} allowed.")
        note(told)


#: state.state of a domain that runs (VIR_DOMAIN_RUNNING); a paused one waits for nothing.
RUNNING = 1


@condition
def runs(domain: Domain) -> str | None:
    """Hold for domains that run."""
    return None if domain.running else "not running"


@check(
    "KVM-PIN-011",
    title="vCPUs do not wait long for a physical CPU",
    severity=Severity.MEDIUM,
    reads=("virsh", "domstats", "domstats_later", "qemu_process", "qemu_threads"),
    params={"max_wait_pct": Number(5, 0, 50), "sample_s": Number(10, 1, 100)},
    applies=runs,
)
def test_vcpus_do_not_wait(host: Host, domain: Domain, params: Params) -> None:
    """A vCPU that has work gets a CPU soon.

    What it checks
        Between two samples of vcpu.N.delay, no vCPU waited for a CPU longer than max_wait_pct of the time. With libvirt before 7.2,
        schedstat of the threads tells the same. The samples are taken
        at the start and at the end of gathering, which is not made longer for them; when they are less than a tenth of sample_s
        apart, they say nothing.

    Why it matters
        This is steal time as seen from outside, and the honest measure of overcommit.

    How to fix
        now: migrate guests away, or give this one more weight: virsh schedinfo $DOM --live --config cpu_shares=2048
        after a reboot: fewer vCPUs on the host (KVM-PIN-010), or pins (KVM-PIN-001)
        roll back: virsh schedinfo $DOM --live --config cpu_shares with the former value; migrate back
        verify: virsh domstats --vcpu $DOM, twice; vcpu.N.delay is in nanoseconds

    When not to
        Just after many guests were started.

    References
        https://libvirt.org/manpages/virsh.html#domstats
    """
    first, later = domain.stats.vcpu_delays_ns, domain.stats_later.vcpu_delays_ns
    seconds = seconds_between_stats(host)
    if not first and not later:
        began, first = waits_by_kernel(domain, "domstats")
        ended, later = waits_by_kernel(domain, "domstats_later")
        seconds = ended - began
    if not first or not later:
        raise EvidenceMissing(Cause.MISSING, f"neither libvirt nor the kernel tells how long vCPUs of {domain} wait", "domstats")
    if seconds * 10 < params.sample_s or seconds <= 0:
        raise EvidenceMissing(Cause.EMPTY, f"the samples are only {seconds:.1f} s apart", "domstats_later")
    if set(first) != set(later) or any(later[vcpu] < first[vcpu] for vcpu in first):
        raise EvidenceMissing(Cause.FAILED, f"{domain} was restarted, or its vCPUs changed, between the samples", "domstats_later")
    waits = {vcpu: (later[vcpu] - first[vcpu]) / seconds / 1e7 for vcpu in first}
    bad = [f"vCPU {vcpu} {wait:.1f} %" for vcpu, wait in sorted(waits.items()) if wait > params.max_wait_pct]
    assert not bad, f"{domain}: waited for a CPU in {seconds:.1f} s: {', '.join(bad)}; at most {params.max_wait_pct} % allowed."
    note(f"at most {max(waits.values()):.1f} % in {seconds:.1f} s")


#: Guest models that hide most of the host's CPU, and the bits against its flaws.
OBSOLETE_MODELS = (
    *("486", "pentium", "pentium2", "pentium3", "pentiumpro", "coreduo", "core2duo", "n270", "athlon", "phenom"),
    *("qemu32", "qemu64", "kvm32", "kvm64", "cpu64-rhel5", "cpu64-rhel6", "Conroe", "Penryn"),
    *("Opteron_G1", "Opteron_G2", "Opteron_G3"),
)


@check(
    "KVM-PIN-012",
    title="The guest CPU model is not an obsolete default",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain"),
    params={"denied_models": Items(OBSOLETE_MODELS, Text(""), least=1)},
)
def test_cpu_model_is_no_default(domain: Domain, params: Params) -> None:
    """The guest may use what the host's CPU can do.

    What it checks
        The mode is host-model, host-passthrough or maximum, or the named model is none of denied_models. Without <cpu>, x86 guests
        get qemu64 (qemu32). On aarch64 only host-passthrough and maximum work; on s390x and ppc64 KVM takes the host's CPU by
        itself. Whether a named model is usable is libvirt's to check at start.

    Why it matters
        QEMU's default hides AES, AVX and the bits by which a guest mitigates Spectre and MDS (spec-ctrl, md-clear).

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virt-xml $DOM --edit --cpu host-model (in a cluster a common model, see virsh hypervisor-cpu-baseline), then
            shut down and start the guest
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml --inactive $DOM | grep -A3 '<cpu'

    When not to
        Very old systems that crash on a modern CPU: allow them by denied_models.

    References
        https://libvirt.org/formatdomain.html#cpu-model-and-topology
        https://www.qemu.org/docs/master/system/qemu-cpu-models.html
    """
    xml = domain.saved
    arch, mode, model = xml.os.arch, xml.cpu.mode, xml.cpu.model
    if mode in ("host-passthrough", "maximum"):
        return
    if arch in ("aarch64", "armv7l"):
        raise AssertionError(f"{domain}: CPU mode {mode or '(none)'} on {arch}, expected host-passthrough or maximum.")
    if mode == "host-model":
        return
    if not mode or not model:
        if arch in ("s390x", "ppc64", "ppc64le") and xml.type == "kvm":
            note(f"no <cpu>: on {arch} KVM takes the host's")
            return
        model = {"x86_64": "qemu64", "i686": "qemu32"}.get(arch, "")
        shown = f"no <cpu>, which is {model}" if model else f"no <cpu> on {arch}"
        assert model and model not in params.denied_models, f"{domain}: {shown}; expected host-model or a model of today."
        return
    denied = {name.lower() for name in params.denied_models}
    assert model.partition("-v")[0].lower() not in denied and model.lower() not in denied, (
        f"{domain}: CPU model {model} is obsolete, expected host-model or a model of today."
    )


@condition
def is_realtime(domain: Domain) -> str | None:
    """Hold for domains tagged realtime."""
    return None if "realtime" in domain.tags else f"{domain} is not tagged realtime"


@check(
    "KVM-PIN-013",
    title="Real-time domains have the full real-time recipe",
    severity=Severity.HIGH,
    reads=("virsh", "domain"),
    applies=is_realtime,
)
def test_realtime_recipe(domain: Domain) -> None:
    """Nothing in the definition of a realtime guest makes its vCPUs wait.

    What it checks
        vcpusched fifo or rr with a priority on at least one vCPU, and at least one other vCPU without (for housekeeping); the PMU
        off; no memory balloon; huge pages, locked, not shared; no graphics and no tablet. A USB controller is a warning. Of a
        running domain the live definition is judged too.

    Why it matters
        Each missing element adds peaks of latency that show only under load.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <vcpusched vcpus='1' scheduler='fifo' priority='1'/>, <pmu state='off'/>,
            <memballoon model='none'/>, <memoryBacking><hugepages/><locked/><nosharepages/></memoryBacking>,
            <controller type='usb' model='none'/>, no <graphics> and <input type='tablet'>; then shut down and start the guest
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml --inactive $DOM

    When not to
        Never for a guest that has deadlines; take the tag away from others.

    References
        https://libvirt.org/kbase/kvm-realtime.html
        https://docs.openstack.org/nova/latest/admin/real-time.html
    """
    with Findings() as findings:
        known: set[str] = set()
        for when, xml in definitions(domain):
            found = [text for text in _lacks(xml) if text not in known]
            known.update(found)
            findings.fail_if(bool(found), f"{domain}{when}: {'; '.join(found)}.")
            usb = any(item.type == "usb" and item.model != "none" for item in xml.controllers)
            findings.warn_if(usb, f"{domain}: it has a USB controller{when}, expected model none.")


def _lacks(xml: DomainXml) -> list[str]:
    """Return what of the recipe is missing."""
    realtime = {
        vcpu
        for item in xml.tuning.schedulers
        if item.kind == "vcpu" and item.scheduler in ("fifo", "rr") and item.priority >= 1
        for vcpu in item.threads
    } & set(range(xml.vcpus))
    balloon = xml.devices.balloon
    wrong = {
        "no vCPU has vcpusched fifo or rr with a priority": not realtime,
        f"all {xml.vcpus} vCPUs are realtime, none is left for housekeeping": len(realtime) == xml.vcpus,
        f"pmu is {xml.cpu.pmu or 'not set'}, expected off": xml.cpu.pmu != "off",
        f"memballoon is {balloon.model if balloon else 'not set'}, expected none": balloon is None or balloon.model != "none",
        "its memory is not on huge pages": xml.hugepages is None,
        "its memory is not locked": not xml.locked,
        "its pages may be shared (no nosharepages)": not xml.nosharepages,
        f"it has graphics ({', '.join(item.type for item in xml.graphics)})": bool(xml.graphics),
        "it has a tablet": any(kind == "tablet" for kind, _ in xml.devices.inputs),
    }
    return [text for text, bad in wrong.items() if bad]
