"""Checks of NUMA nodes and of how guests are placed on them."""

from __future__ import annotations

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cpulist import format_cpulist
from pytest_kvmcheck.facts.numa import NumaNode
from pytest_kvmcheck.views.domains import Domain, running_domains
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import demand_sysfs, numa_nodes
from pytest_kvmcheck.views.placement import bound

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
    params={"allow_cpuless": True, "max_imbalance": 1.1},
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
    assert numa_node.has_memory, f"{host}: node {numa_node.id} has CPUs {format_cpulist(numa_node.cpus)} but no memory."
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
    params={"pinning_policy": "auto-detect"},
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
    params={"wide_mem_pct": 90},
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
