"""Checks of NUMA nodes and of how guests are placed on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Number, Params, Severity, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.facts.cpulist import format_cpulist
from pytest_kvmcheck.facts.domain import ORDINARY_PAGE, DomainXml
from pytest_kvmcheck.facts.numa import NumaNode
from pytest_kvmcheck.views.backing import pci_behind
from pytest_kvmcheck.views.cpu import cmdline, cpu_topology, uname
from pytest_kvmcheck.views.domains import Domain, domains, running_domains
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import (
    demand_sysfs,
    distances,
    memory_modules,
    node_pools,
    numa_nodes,
    numad_binary,
    pools,
)
from pytest_kvmcheck.views.placement import bound, nodes_of, pinned_cpus, size
from pytest_kvmcheck.views.processes import huge_memory_by_node, ordinary_memory_by_node
from pytest_kvmcheck.views.services import unit
from pytest_kvmcheck.views.time import virtualization

MIB = 2**20


@condition
def several_nodes(host: Host) -> str | None:
    """Hold on hosts with more than one NUMA node."""
    count = len(numa_nodes(host))
    return None if count > 1 else "a single NUMA node" if count else "the kernel shows no NUMA nodes"


@check(
    "KVM-NUM-001",
    title="Every NUMA node with CPUs has memory, in balanced amounts",
    severity=Severity.HIGH,
    reads=("numa", "cpu_lists"),
    params={"allow_cpuless": True, "max_imbalance": Number(1.1, 1, 10)},
    applies=several_nodes,
)
def test_node_has_memory(host: Host, numa_node: NumaNode, params: Params) -> None:
    """Each processor has memory of its own, and about as much as the others.

    What it checks
        A node that has CPUs has memory, and the largest such node has at most max_imbalance times the memory of this one. A node
        with memory but without CPUs (CXL, PMEM, HBM) is fine unless allow_cpuless is off.

    Why it matters
        With all memory modules on one processor, every access of the other is remote, and its PCIe slots may be dead too.

    How to fix
        now: nothing can be done on the running host
        after a reboot: populate all sockets alike; look for failed memory training in the log of the BMC
        roll back: the former modules in the former slots
        verify: grep MemTotal /sys/devices/system/node/node*/meminfo

    When not to
        Machines that are built unevenly on purpose.

    References
        https://docs.kernel.org/admin-guide/mm/numaperf.html
    """
    if not numa_node.cpus:
        assert params.allow_cpuless or not numa_node.has_memory, f"{host}: node {numa_node.id} has memory but no CPU."
        note("memory without CPUs")
        return
    assert numa_node.has_memory and numa_node.memory_bytes, (
        f"{host}: node {numa_node.id} has CPUs {format_cpulist(numa_node.cpus)} but no memory."
    )
    largest = max((node for node in numa_nodes(host) if node.cpus), key=lambda node: node.memory_bytes)
    ratio = largest.memory_bytes / numa_node.memory_bytes
    assert ratio <= params.max_imbalance, (
        f"{host}: node {numa_node.id} has {numa_node.memory_bytes // MIB} MiB, node {largest.id} {largest.memory_bytes // MIB} MiB:"
        f" {ratio:.2f} times as much, at most {params.max_imbalance} allowed."
    )


@condition
def balancing_possible(host: Host) -> str | None:
    """Hold where the kernel can balance between nodes."""
    if reason := several_nodes(host=host):
        return reason
    files = host.evidence.files("kernel_settings")
    if files.get("/proc/sys/kernel/numa_balancing") is None:
        demand_sysfs(host)
        host.evidence.text("cmdline")  # /proc itself has to be there
        return "this kernel has no automatic NUMA balancing"
    return None


@check(
    "KVM-NUM-005",
    title="Automatic NUMA balancing fits the way guests are placed",
    severity=Severity.MEDIUM,
    reads=("kernel_settings", "numa", "virsh", "domain", "cpu_lists", "cmdline"),
    params={"pinning_policy": Choice("auto-detect", "all")},
    applies=balancing_possible,
)
def test_numa_balancing(host: Host, params: Params) -> None:
    """The kernel moves pages towards CPUs where guests roam, and leaves them alone where guests are bound.

    What it checks
        A running domain is bound when its pins stay in one node and its memory is strict or on huge pages. All bound (or
        pinning_policy all): kernel.numa_balancing is 0. None bound: its bit 0 is set. Mixed: a warning, whatever the value.

    Why it matters
        Balancing costs page faults and cannot help bound guests; for the others it is the cheapest way to locality.

    How to fix
        now: sysctl -w kernel.numa_balancing=0 (or 1)
        after a reboot: echo 'kernel.numa_balancing = 0' > /etc/sysctl.d/80-numa.conf
        roll back: the same with the former value
        verify: cat /proc/sys/kernel/numa_balancing

    When not to
        Bit 1 (value 2) is memory tiering and may be wanted besides.

    References
        https://docs.kernel.org/admin-guide/sysctl/kernel.html
    """
    text = host.evidence.files("kernel_settings").need("/proc/sys/kernel/numa_balancing").strip()
    if not text.isdigit():
        raise EvidenceMissing(Cause.UNPARSABLE, f"numa_balancing is {text[:20]!r}", "kernel_settings")
    value = int(text)
    if params.pinning_policy == "all":
        assert value & 1 == 0, f"{host}: numa_balancing is {value}, expected 0 where all guests are bound."
        return
    running = running_domains(host)
    fixed = [domain.name for domain in running if bound(host, domain.live)]
    if not running:
        note(f"no domain runs; numa_balancing is {value}")
    elif len(fixed) == len(running):
        assert value & 1 == 0, f"{host}: numa_balancing is {value}, expected 0: all {len(running)} running domains are bound."
    elif not fixed:
        assert value & 1, f"{host}: numa_balancing is {value}, expected 1: none of {len(running)} running domains is bound."
    else:
        with Findings() as findings:
            findings.warn(
                f"{host}: numa_balancing is {value}, and {len(fixed)} of {len(running)} running domains are bound: no value fits."
            )


@condition
def names_nodes(domain: Domain) -> str | None:
    """Hold for domains that name host nodes."""
    xml = domain.saved
    return None if xml.numatune_nodeset or xml.memnode_nodesets else "no numatune nodeset"


@check(
    "KVM-NUM-007",
    title="numatune node sets name host nodes that exist and have memory",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "numa", "cpu_lists"),
    applies=names_nodes,
)
def test_numatune_nodes_exist(host: Host, domain: Domain) -> None:
    """The guest's memory is bound to nodes that this host has.

    What it checks
        Every node in numatune/memory/@nodeset and numatune/memnode/@nodeset is online and has memory.

    Why it matters
        libvirt accepts any number when the guest is defined; the guest then does not start, typically on other hardware.

    How to fix
        now: virsh numatune $DOM --nodeset 0 --config
        after a reboot: the same; it acts at the next start of the guest
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh numatune $DOM --config; cat /sys/devices/system/node/has_memory

    When not to
        Never.

    References
        https://libvirt.org/formatdomain.html#numa-node-tuning
    """
    xml = domain.saved
    with_memory = {node.id for node in numa_nodes(host) if node.has_memory} or {0}
    wrong = ((xml.numatune_nodeset or frozenset()) | xml.memnode_nodesets) - with_memory
    assert not wrong, f"{domain}: numatune names node {format_cpulist(wrong)}; nodes with memory are {format_cpulist(with_memory)}."


@check(
    "KVM-NUM-009",
    title="A guest fits into one host node, or has a virtual NUMA topology",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "numa"),
    params={"wide_mem_pct": Number(90, 1, 100)},
    applies=several_nodes,
)
def test_wide_guests_have_cells(host: Host, domain: Domain, params: Params) -> None:
    """A guest too big for one node knows that it lies on several.

    What it checks
        vCPUs at most the CPUs of the largest node, and memory at most wide_mem_pct of the largest node; otherwise at least two
        guest NUMA cells.

    Why it matters
        A wide guest without cells cannot keep its memory near its CPUs, however clever its own kernel is.

    How to fix
        now: nothing can be done while it runs
        after a reboot: virsh edit $DOM: fewer vCPUs and less memory, or <numa> cells in <cpu> with memnode and vcpupin to match
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml --inactive $DOM

    When not to
        With sub-NUMA clustering a guest may well span the nodes of one socket.

    References
        https://libvirt.org/formatdomain.html#cpu-model-and-topology
        https://libvirt.org/formatdomain.html#numa-node-tuning
    """
    xml, nodes = domain.saved, numa_nodes(host)
    cpus, memory = max(len(node.cpus) for node in nodes), max(node.memory_bytes for node in nodes)
    wide = []
    if xml.vcpus > cpus:
        wide.append(f"{xml.vcpus} vCPUs on nodes of at most {cpus} CPUs")
    if xml.memory_bytes > memory * params.wide_mem_pct / 100:
        wide.append(
            f"{xml.memory_bytes // MIB} MiB on nodes of at most {memory // MIB} MiB ({params.wide_mem_pct} % of which may be used)"
        )
    assert not wide or len(xml.cells) >= 2, f"{domain}: {' and '.join(wide)}, and no guest NUMA cells."


@condition
def hardware(host: Host) -> str | None:
    """Hold on hosts that are no virtual machines."""
    kind = virtualization(host)
    return None if kind == "none" else f"the host is itself a virtual machine ({kind})"


@check(
    "KVM-NUM-002",
    title="Memory modules are uniform and spread evenly over sockets and channels",
    severity=Severity.LOW,
    reads=("memory_modules", "detect_virt", "cpu_topology"),
    applies=hardware,
)
def test_memory_modules_are_uniform(host: Host) -> None:
    """All processors have the same memory, in as many channels.

    What it checks
        The populated modules are of one size and one configured speed, and each processor has as many of them as the others, by
        the names of the slots. Modules that run below their rated speed are only noted. Flash and non-volatile modules do not
        count.

    Why it matters
        A channel without a module, or a slow module, costs bandwidth on all of them.

    How to fix
        now: nothing can be done on the running host
        after a reboot: populate the slots in the order of the maker's manual, with one kind of module
        roll back: the former modules in the former slots
        verify: dmidecode -t 17 | grep -E 'Size|Locator|Speed'

    When not to
        Where slots do not name their processor (Dell writes A1, B1), the spread is unknown on hosts with several.

    References
        https://man7.org/linux/man-pages/man8/dmidecode.8.html
        https://www.dmtf.org/standards/smbios
    """
    modules = memory_modules(host)
    if not modules:
        raise EvidenceMissing(Cause.EMPTY, "dmidecode tells of no populated slot", "memory_modules")
    with Findings() as findings:
        sizes = Counter(size(module.size_bytes) for module in modules)
        findings.fail_if(len(sizes) > 1, f"{host}: memory modules of different sizes: {_counted(sizes)}.")
        slow = [module for module in modules if module.configured_mts and module.configured_mts < (module.speed_mts or 0)]
        if slow:
            note(f"{len(slow)} modules run at {slow[0].configured_mts} MT/s, rated {slow[0].speed_mts}")
        speeds = Counter(f"{module.configured_mts} MT/s" for module in modules if module.configured_mts)
        findings.fail_if(len(speeds) > 1, f"{host}: memory modules run at different speeds: {_counted(speeds)}.")
        if any(module.configured_mts is None for module in modules):
            findings.unknown(EvidenceMissing(Cause.EMPTY, "the firmware does not tell the speed of all modules", "memory_modules"))
        sockets = len({place.package for place in cpu_topology(host).values()})
        if sockets < 2:
            return
        if any(module.socket is None for module in modules):
            raise EvidenceMissing(
                Cause.UNPARSABLE, f"slots like {modules[0].locator[:40]!r} do not tell their processor", "memory_modules"
            )
        spread = Counter(f"processor {module.socket}" for module in modules)
        findings.fail_if(
            len(set(spread.values())) > 1 or len(spread) < sockets,
            f"{host}: memory modules are not spread evenly over {sockets} processors: {_counted(spread)}.",
        )


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in sorted(counts.items()))


def _packages(host: Host) -> int:
    found = {place.package for place in cpu_topology(host).values()}
    if -1 in found:
        raise EvidenceMissing(Cause.MISSING, "the platform does not tell on which processor its CPUs are", "cpu_topology")
    return len(found)


@condition
def several_packages(host: Host) -> str | None:
    """Hold on hosts with several processors; a hypervisor may hide NUMA from a virtual one."""
    if _packages(host) < 2:
        return "a single processor"
    if len([node for node in numa_nodes(host) if node.cpus]) < 2:
        if virtualization(host) != "none":
            return "the host is a virtual machine that is given no NUMA nodes"
        if uname(host).machine == "s390x":
            return "the kernel knows no NUMA on s390x"
    return None


@check(
    "KVM-NUM-003",
    title="A multi-socket host exposes at least one NUMA node per socket",
    severity=Severity.MEDIUM,
    reads=("cpu_topology", "numa", "cmdline", "detect_virt", "cpu_lists", "uname"),
    applies=several_packages,
)
def test_sockets_are_nodes(host: Host) -> None:
    """The kernel knows which memory is near to which processor.

    What it checks
        There are at least as many nodes with CPUs as processors, no CPU is in two nodes, and the kernel command line has neither
        numa=off nor numa=fake.

    Why it matters
        With the memory of all processors interleaved, every guest gets average latency, and nothing can be placed.

    How to fix
        now: nothing can be done on the running host
        after a reboot: switch "node interleaving" off in the firmware (Dell, HPE, Lenovo: System Memory Settings), and remove numa=
            from the kernel command line: grubby --update-kernel=ALL --remove-args=numa=off, or /etc/default/grub and update-grub
        roll back: the former setting in the firmware, and the former kernel command line, and reboot
        verify: cat /sys/devices/system/node/has_cpu; cat /proc/cmdline

    When not to
        Never on hosts that run pinned guests.

    References
        https://docs.kernel.org/admin-guide/mm/numaperf.html
        https://docs.kernel.org/admin-guide/kernel-parameters.html
    """
    with Findings() as findings:
        for value in values(cmdline(host), "numa"):
            findings.fail_if(
                value == "off" or value.startswith("fake"),
                f"{host}: numa={value[:40]} stands on the kernel command line, which hides the real nodes.",
            )
        nodes = [node for node in numa_nodes(host) if node.cpus]
        packages = _packages(host)
        findings.fail_if(
            len(nodes) < packages,
            f"{host}: {len(nodes)} NUMA nodes with CPUs for {packages} processors, expected {packages} or more.",
        )
        twice = [cpu for cpu, count in Counter(cpu for node in nodes for cpu in node.cpus).items() if count > 1]
        findings.fail_if(
            bool(twice), f"{host}: CPU {format_cpulist(twice)} is in several NUMA nodes: the firmware's table is broken."
        )


@check(
    "KVM-NUM-004",
    title="NUMA distances are plausible and symmetric",
    severity=Severity.INFO,
    reads=("numa",),
    params={"max_ratio": Number(3.2, 1, 10)},
    applies=several_nodes,
)
def test_distances_are_plausible(host: Host, params: Params) -> None:
    """The firmware tells sensibly how far memory is.

    What it checks
        A node is at 10 from itself and further from all others, it is as far there as back, and no node with CPUs is more than
        max_ratio times as far from another as from itself. Nodes of memory only (CXL, GPU) may be further.

    Why it matters
        The kernel places tasks and memory by these numbers.

    How to fix
        now: nothing can be done on the running host
        after a reboot: update the firmware; a distance table (SLIT) that is missing reads 10 and 20 everywhere
        roll back: the former firmware, where the maker lets one go back
        verify: grep . /sys/devices/system/node/node*/distance

    When not to
        The numbers are hints of the firmware, not measured.

    References
        https://docs.kernel.org/admin-guide/mm/numa_memory_policy.html
        https://www.kernel.org/doc/Documentation/ABI/stable/sysfs-devices-node
    """
    table = distances(host)
    with_cpus = {node.id for node in numa_nodes(host) if node.cpus}
    pairs = [(here, there) for here in table for there in table if here != there]
    largest = max((table[here][there] for here, there in pairs if {here, there} <= with_cpus), default=10)
    with Findings() as findings:
        for here in table:
            findings.fail_if(table[here][here] != 10, f"{host}: node {here} is at {table[here][here]} from itself, expected 10.")
        for here, there in pairs:
            findings.fail_if(
                table[here][there] <= 10,
                f"{host}: node {there} is at {table[here][there]} from node {here}, expected more than 10.",
            )
            findings.fail_if(
                here < there and table[here][there] != table[there][here],
                f"{host}: nodes {here} and {there} are {table[here][there]} and {table[there][here]} apart, expected the same.",
            )
        findings.fail_if(
            largest > 10 * params.max_ratio,
            f"{host}: the furthest node with CPUs is {largest / 10:.1f} times as far, at most {params.max_ratio} expected.",
        )
        note(f"remote memory is at most {largest / 10:.1f} times as far")


@check(
    "KVM-NUM-006",
    title="numad does not run beside pinned guests or automatic balancing, and exists where placement=auto needs it",
    severity=Severity.MEDIUM,
    reads=("systemd_units", "numad", "kernel_settings", "virsh", "domain"),
)
def test_numad_fits(host: Host) -> None:
    """The daemon numad is there for guests that ask for its advice, and moves no others.

    What it checks
        numad.service is not active while a running domain is pinned or kernel.numa_balancing has bit 0 set. The binary exists
        when a domain has placement="auto" for vcpu or numatune memory; libvirt needs no service for that.

    Why it matters
        The daemon moves processes that someone placed on purpose; without the binary, guests with automatic placement do not start.

    How to fix
        now: systemctl stop numad; where placement is automatic: dnf install numad, or apt install numad
        after a reboot: systemctl disable numad; or give guests a placement of their own by virsh numatune --config
        roll back: systemctl enable --now numad
        verify: systemctl status numad; virsh dumpxml --inactive DOMAIN | grep placement

    When not to
        Hosts without pinned guests may use numad instead of automatic balancing. Several distributions no longer ship it.

    References
        https://libvirt.org/formatdomain.html#numa-node-tuning
        https://man7.org/linux/man-pages/man8/numad.8.html
    """
    with Findings() as findings:
        if unit(host, "numad.service").active:
            pinned = [domain.name for domain in running_domains(host) if domain.live.has_pins]
            findings.fail_if(bool(pinned), f"{host}: numad is active beside pinned guests: {', '.join(pinned[:8])}.")
            text = host.evidence.files("kernel_settings").get("/proc/sys/kernel/numa_balancing")
            if text is not None and not text.strip().isdigit():
                raise EvidenceMissing(Cause.UNPARSABLE, f"numa_balancing is {text.strip()[:20]!r}", "kernel_settings")
            findings.fail_if(
                text is not None and bool(int(text) & 1),
                f"{host}: numad is active beside kernel.numa_balancing={(text or '').strip()}: both move memory.",
            )
        automatic = [
            domain.name for domain in domains(host) if "auto" in (domain.saved.vcpu_placement, domain.saved.numatune_placement)
        ]
        findings.fail_if(
            bool(automatic) and not numad_binary(host),
            f"{host}: numad is not installed, but {', '.join(automatic[:8])} have automatic placement and cannot start.",
        )


@condition
def placed(domain: Domain) -> str | None:
    """Hold for domains that are pinned or name host nodes for their memory."""
    xml = domain.saved
    if xml.vcpupins or xml.vcpu_cpuset or xml.numatune_nodeset or xml.memnode_nodesets:
        return None
    return "neither pinned nor bound to nodes"


@check(
    "KVM-NUM-008",
    title="The memory policy mode matches the guest class",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "numa"),
    params={"allow_relaxed": False},
    applies=all_of(several_nodes, placed),
)
def test_memory_policy(host: Host, domain: Domain, params: Params) -> None:
    """The memory of pinned and critical guests is bound to the nodes of their CPUs.

    What it checks
        In the saved definition and, of a running domain, in the live one: the modes of numatune's memory and memnode are strict
        (as without the attribute) or restrictive, and their nodes are those of the pinned CPUs. Pins without numatune are a
        warning. allow_relaxed allows preferred and interleave.

    Why it matters
        preferred falls back on remote memory without a word, interleave promises a share of it, and without a policy memory is
        local only until something moves.

    How to fix
        now: nothing can be done while it runs: libvirt refuses to change nodes that are bound strictly
        after a reboot: virsh numatune $DOM --mode strict --nodeset N --config, and start it cold
        roll back: virsh numatune $DOM --mode preferred --nodeset N --config
        verify: virsh numatune $DOM --config

    When not to
        Guests that rather run slowly than not at all when their node is full: with strict, a shortage there ends in swapping or
        in the OOM killer.

    References
        https://libvirt.org/formatdomain.html#numa-node-tuning
        https://docs.kernel.org/admin-guide/mm/numa_memory_policy.html
    """
    with Findings() as findings:
        for state, xml in _definitions(domain):
            pinned = bool(xml.vcpupins or xml.vcpu_cpuset)
            if not pinned and not domain.critical:
                note("neither pinned nor critical")
                continue
            policies = _policies(xml)
            if not policies:
                findings.warn_if(
                    pinned, f"{domain}: pinned, but without numatune ({state}): its memory is local by first touch only."
                )
            for what, mode, nodes, vcpus in policies:
                findings.fail_if(
                    mode not in ("strict", "restrictive") and not params.allow_relaxed,
                    f"{domain}: {what} has mode {mode} ({state}), expected strict or restrictive.",
                )
                cpus = pinned_cpus(xml, vcpus)
                of_pins = nodes_of(host, cpus) if cpus is not None else frozenset()
                findings.fail_if(
                    bool(of_pins) and nodes is not None and nodes != of_pins,
                    f"{domain}: {what} is bound to node {format_cpulist(nodes or ())} ({state}), its CPUs are on node"
                    f" {format_cpulist(of_pins)}.",
                )


def _definitions(domain: Domain) -> list[tuple[str, DomainXml]]:
    """Return the definitions of a domain with their names; one when it is off, or runs as it was saved."""
    if not domain.running:
        return [("saved", domain.saved)]
    saved, live = domain.saved, domain.live
    same = (saved.vcpupins, saved.vcpu_cpuset, saved.numatune_mode, saved.numatune_nodeset, saved.cells) == (
        *(live.vcpupins, live.vcpu_cpuset, live.numatune_mode, live.numatune_nodeset, live.cells),
    )
    return [("live and saved", saved)] if same else [("saved", saved), ("live", live)]


def _policies(xml: DomainXml) -> list[tuple[str, str, frozenset[int] | None, Iterable[int]]]:
    """Return what numatune says: of what, the mode, the host nodes (None with automatic placement), and the vCPUs concerned."""
    found: list[tuple[str, str, frozenset[int] | None, Iterable[int]]] = []
    if xml.numatune_mode:
        found.append(("its memory", xml.numatune_mode, xml.numatune_nodeset, range(min(xml.vcpus, 4096))))
    for cell in xml.cells:
        if cell.memnode is not None:
            found += [(f"the memory of cell {cell.id}", cell.memnode_mode, cell.memnode, cell.cpus)]
    return found


@condition
def has_cells(domain: Domain) -> str | None:
    """Hold for guests with NUMA nodes of their own."""
    return None if domain.saved.cells else "no guest NUMA cells"


@check(
    "KVM-NUM-010",
    title="The guest NUMA description is internally consistent",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "numa"),
    applies=has_cells,
)
def test_cells_are_consistent(host: Host, domain: Domain) -> None:
    """What the guest is told about its nodes agrees with its CPUs and with where they run.

    What it checks
        The cells hold each vCPU once; the vCPUs of one virtual socket are in one cell; with pins and several cells, each cell has
        a memnode, and the pins of its vCPUs lie on these nodes (or all pins and numatune name one node). Cells without vCPUs,
        which may be meant as memory only, are noted.

    Why it matters
        libvirt puts vCPUs that no cell names into the first without a word; a guest whose nodes are wrong places its tasks worse
        than one without any.

    How to fix
        now: nothing can be done while it runs
        after a reboot: virsh edit $DOM: list all vCPUs in <numa>, one cell a socket, and a memnode for each; start it cold
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml --inactive $DOM | grep -A8 '<numa>'

    When not to
        Never.

    References
        https://libvirt.org/formatdomain.html#guest-numa-topology
        https://libvirt.org/formatdomain.html#numa-node-tuning
    """
    xml = domain.saved
    with Findings() as findings:
        counts = Counter(cpu for cell in xml.cells for cpu in cell.cpus)
        missing = sorted(set(range(min(xml.vcpus, 4096))) - set(counts))
        findings.fail_if(bool(missing), f"{domain}: no cell holds vCPU {format_cpulist(missing)} of {xml.vcpus}.")
        twice = [cpu for cpu, count in counts.items() if count > 1]
        findings.fail_if(bool(twice), f"{domain}: several cells hold vCPU {format_cpulist(twice)}.")
        beyond = [cpu for cpu in counts if cpu >= xml.vcpus]
        findings.fail_if(bool(beyond), f"{domain}: cells hold vCPU {format_cpulist(beyond)}, there are {xml.vcpus}.")
        empty = [cell.id for cell in xml.cells if not cell.cpus]
        if empty:
            note(f"cell {format_cpulist(empty)} has no vCPU")
        sockets = xml.cpu.topology.sockets if xml.cpu.topology else 0
        if sockets and xml.vcpus % sockets == 0:
            width = xml.vcpus // sockets
            split = [
                number
                for number in range(min(sockets, 4096))
                if len({cell.id for cell in xml.cells if cell.cpus & set(range(number * width, (number + 1) * width))}) > 1
            ]
            findings.fail_if(
                bool(split), f"{domain}: virtual socket {format_cpulist(split)} is split over cells, expected one cell a socket."
            )
        if len(xml.cells) > 1 and (xml.vcpupins or xml.vcpu_cpuset):
            _judge_cells_on_nodes(findings, host, domain, xml)


def _judge_cells_on_nodes(findings: Findings, host: Host, domain: Domain, xml: DomainXml) -> None:
    cpus = pinned_cpus(xml, range(min(xml.vcpus, 4096)))
    if (
        cpus is not None
        and xml.numatune_nodeset
        and nodes_of(host, cpus) == xml.numatune_nodeset
        and len(xml.numatune_nodeset) == 1
    ):
        return
    for cell in xml.cells:
        if cell.memnode is None:
            findings.fail(f"{domain}: cell {cell.id} has no memnode, though the guest is pinned.")
            continue
        pins = pinned_cpus(xml, cell.cpus)
        nodes = nodes_of(host, pins) if pins else frozenset()
        findings.fail_if(
            not nodes <= cell.memnode,
            f"{domain}: vCPUs of cell {cell.id} are pinned to node {format_cpulist(nodes)}, its memory is on node"
            f" {format_cpulist(cell.memnode)}.",
        )


@condition
def domain_runs(domain: Domain) -> str | None:
    """Hold for domains that run."""
    return None if domain.running else "it does not run"


@check(
    "KVM-NUM-011",
    title="The memory of a pinned guest is on the nodes of its CPUs",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "numa", "qemu_process", "qemu_proc", "qemu_cgroup", "qemu_huge_maps"),
    params={"min_local_pct": Number(95, 1, 100)},
    applies=all_of(several_nodes, domain_runs),
)
def test_memory_is_local(host: Host, domain: Domain, params: Params) -> None:
    """What the configuration promises has come true: the guest's memory is near.

    What it checks
        Of the anonymous and shared memory of its cgroup and its huge pages, at least min_local_pct lie on the nodes of its vCPU
        pins, or of numatune for a guest without pins. Files (QEMU itself, libraries) do not count. For guests that are not placed
        the spread is only noted.

    Why it matters
        Pages that were allocated before the guest was pinned, or when the node was full, stay remote for as long as it runs.

    How to fix
        now: migratepages PID FROM TO as root (ordinary pages only), or migrate the guest away and back
        after a reboot: virsh numatune $DOM --mode strict --nodeset N --config, and start it cold
        roll back: virsh numatune $DOM --mode and --nodeset --config with what virsh numatune $DOM told before; pages come back by
            migratepages PID TO FROM
        verify: numastat -p PID, whose Private column counts the QEMU binary too

    When not to
        Huge pages are told by numa_maps to root only (with sudo they stay unknown), and are not asked for on real-time hosts: that
        walks page tables with a lock held.

    References
        https://docs.kernel.org/admin-guide/cgroup-v2.html
        https://man7.org/linux/man-pages/man7/numa.7.html
        https://libvirt.org/formatdomain.html#numa-node-tuning
    """
    xml = domain.live
    cpus = pinned_cpus(xml, range(min(xml.vcpus, 4096)))
    wanted = nodes_of(host, cpus) if cpus is not None else (xml.numatune_nodeset or xml.memnode_nodesets)
    found = ordinary_memory_by_node(domain)
    if xml.hugepages is not None:
        for node, count in huge_memory_by_node(domain).items():
            found[node] = found.get(node, 0) + count
    total = sum(found.values())
    if not total:
        raise EvidenceMissing(Cause.EMPTY, f"{domain} has no memory on any node", "qemu_cgroup")
    spread = ", ".join(f"{100 * count / total:.0f} % on node {node}" for node, count in sorted(found.items()) if count)
    note(spread)
    if not wanted:
        note("not placed")
        return
    local = 100 * sum(found.get(node, 0) for node in wanted) / total
    assert local >= params.min_local_pct, (
        f"{domain}: {local:.0f} % of its {total // MIB} MiB are on node {format_cpulist(wanted)}, expected"
        f" {params.min_local_pct} % or more ({spread})."
    )


@condition
def pages_name_cells(domain: Domain) -> str | None:
    """Hold for domains that choose the size of huge pages by guest cell."""
    pages = domain.saved.hugepages or ()
    return None if any(page.nodeset is not None for page in pages) else "no <page> with a nodeset"


@check(
    "KVM-NUM-012",
    title="Huge-page sizes and cells of a guest are valid, and the host nodes behind them have the pages",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "hugepages", "hugepages_node"),
    applies=pages_name_cells,
)
def test_pages_of_cells(host: Host, domain: Domain) -> None:
    """Each <page> means a cell of the guest and a size that this host has.

    What it checks
        The nodesets of memoryBacking/hugepages/page name cells of the guest, none twice, and sizes of which the kernel has pools.
        For a stopped guest that starts with the host, fewer free pages than a cell needs on its host nodes are a warning.

    Why it matters
        The nodeset holds guest cells; written with numbers of the host it is refused, or covers the wrong cells.

    How to fix
        now: nothing can be done while it runs
        after a reboot: virsh edit $DOM: nodeset of <page> names guest cells; host nodes are chosen by numatune/memnode
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml --inactive $DOM | grep -E '<page |<cell |memnode'; ls /sys/kernel/mm/hugepages

    When not to
        Never. On x86-64 there are pages of 2 MiB and 1 GiB, and no others.

    References
        https://libvirt.org/formatdomain.html#memory-backing
        https://docs.kernel.org/admin-guide/mm/hugetlbpage.html
    """
    xml = domain.saved
    cells = {cell.id: cell for cell in xml.cells}
    pages = [page for page in xml.hugepages or () if page.nodeset is not None]
    with Findings() as findings:
        named = Counter(cell for page in pages for cell in page.nodeset or ())
        strange = sorted(set(named) - (set(cells) or {0}))
        findings.fail_if(
            bool(strange),
            f"{domain}: <page> names cell {format_cpulist(strange)}, the guest has cell {format_cpulist(set(cells) or {0})}.",
        )
        twice = [cell for cell, count in named.items() if count > 1]
        findings.fail_if(bool(twice), f"{domain}: several <page> name cell {format_cpulist(twice)}.")
        for page in xml.hugepages or ():
            findings.fail_if(
                page.size_bytes not in pools(host) and page.size_bytes != ORDINARY_PAGE,
                f"{domain}: the host has no huge pages of {size(page.size_bytes)}, only of"
                f" {', '.join(size(known) for known in sorted(pools(host))) or 'none'}.",
            )
        if domain.running or not domain.autostart:
            return
        needs: dict[tuple[frozenset[int], int], int] = {}
        for cell in cells.values():
            page_bytes = xml.huge_page_of(cell.id, 0)
            nodes = cell.memnode if cell.memnode is not None else xml.numatune_nodeset
            if page_bytes and nodes:
                key = (nodes, page_bytes)
                needs[key] = needs.get(key, 0) - (-cell.memory_bytes // page_bytes)
        for (nodes, page_bytes), count in sorted(needs.items(), key=lambda item: (sorted(item[0][0]), item[0][1])):
            free = sum(node_pools(host)[node, page_bytes].free for node in nodes if (node, page_bytes) in node_pools(host))
            findings.warn_if(
                free < count,
                f"{domain}: {free} free pages of {size(page_bytes)} on node {format_cpulist(nodes)}, {count} needed at its start.",
            )


@condition
def all_pinned(domain: Domain) -> str | None:
    """Hold for domains all of whose vCPUs are restricted to some CPUs."""
    xml = domain.live if domain.running else domain.saved
    return "not all of its vCPUs are pinned" if pinned_cpus(xml, range(min(xml.vcpus, 4096))) is None else None


@check(
    "KVM-NUM-013",
    title="PCI devices that serve a pinned guest sit on the node of its vCPUs",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "numa", "pci", "device_places", "ip_link", "objects", "dm_maps", "dm_slaves"),
    applies=all_of(several_nodes, all_pinned),
)
def test_devices_are_local(host: Host, domain: Domain) -> None:
    """Cards and disks of a pinned guest are near to its CPUs.

    What it checks
        For each assigned device, each uplink below a bridge, network or macvtap, and each NVMe drive or adapter below a block
        device (through multipath and LVM): its NUMA node (numa_node in sysfs) is one of the nodes that the vCPUs are pinned to.

    Why it matters
        Data and interrupts that cross between processors cost latency and the bandwidth of their link.

    How to fix
        now: virsh vcpupin and numatune the guest to the node of the device, if it has room
        after a reboot: virsh vcpupin $DOM VCPU CPUS --config; or move the card to a slot of the other processor
        roll back: virsh vcpupin $DOM VCPU CPUS --live --config, with the CPUs that virsh vcpupin $DOM told before; the card in its
            former slot
        verify: cat /sys/bus/pci/devices/*/numa_node

    When not to
        Where the firmware tells no node (-1), Open vSwitch or DPDK own the cards, NVMe comes over a network, or a device is
        mediated or vDPA, it is unknown. Images in files are not traced.

    References
        https://docs.kernel.org/PCI/sysfs-pci.html
        https://libvirt.org/formatdomain.html#host-device-assignment
    """
    xml = domain.live if domain.running else domain.saved
    nodes = nodes_of(host, pinned_cpus(xml, range(min(xml.vcpus, 4096))) or ())
    if not nodes:
        raise EvidenceMissing(Cause.MISSING, f"the CPUs that {domain} is pinned to are on no node", "numa")
    with Findings() as findings:
        judged = []
        for what, device in pci_behind(host, xml):
            if isinstance(device, EvidenceMissing):
                findings.unknown(device)
            elif device.numa_node is None:
                findings.unknown(EvidenceMissing(Cause.EMPTY, f"the firmware tells no node of {device.address} ({what})", "pci"))
            else:
                judged.append(what)
                findings.fail_if(
                    device.numa_node not in nodes,
                    f"{domain}: {what} ({device.address}) is on node {device.numa_node}, its vCPUs on"
                    f" node {format_cpulist(nodes)}.",
                )
        note(f"on node {format_cpulist(nodes)}: {', '.join(judged[:8])}" if judged else "no PCI device serves it")
