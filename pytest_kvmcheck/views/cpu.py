"""Facts about the CPU and the kernel."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import Files, parsing
from pytest_kvmcheck.facts.capabilities import Capabilities, parse_capabilities
from pytest_kvmcheck.facts.cmdline import Cmdline, parse_cmdline
from pytest_kvmcheck.facts.cpuinfo import CpuInfo, parse_cpuinfo
from pytest_kvmcheck.facts.cpulist import parse_cpulist
from pytest_kvmcheck.facts.cputopology import CpuPlace, Smt, parse_siblings, parse_smt, parse_topology
from pytest_kvmcheck.facts.devicenode import Account, Node, parse_id, parse_node
from pytest_kvmcheck.facts.listing import parse_kvm_modules
from pytest_kvmcheck.facts.uname import Uname, parse_uname
from pytest_kvmcheck.views.domains import virsh
from pytest_kvmcheck.views.host import Host, fact


@fact
def uname(host: Host) -> Uname:
    """Kernel release and architecture."""
    return host.evidence.parsed("uname", parse_uname)


@fact
def cpuinfo(host: Host) -> CpuInfo:
    """CPU vendor and flags."""
    return host.evidence.parsed("cpuinfo", parse_cpuinfo)


@fact
def cmdline(host: Host) -> Cmdline:
    """The kernel command line, in order."""
    return host.evidence.parsed("cmdline", parse_cmdline)


@fact
def online_cpus(host: Host) -> frozenset[int]:
    """CPUs that are online."""
    text = host.evidence.files("cpu_lists").need("/sys/devices/system/cpu/online")
    return parsing("cpu_lists", parse_cpulist, text)


def _topology_files(host: Host, probe: str) -> Files:
    files = host.evidence.files(probe)
    files.demand_all_readable()
    if not files:
        raise EvidenceMissing(Cause.MISSING, "the kernel shows no topology of the CPUs", probe)
    return files


@fact
def cpu_topology(host: Host) -> dict[int, CpuPlace]:
    """Package, die and core by CPU that is online."""
    return parsing("cpu_topology", parse_topology, _topology_files(host, "cpu_topology"))


@fact
def thread_siblings(host: Host) -> dict[int, frozenset[int]]:
    """The threads of its core (itself among them) by CPU that is online."""
    return parsing("cpu_siblings", parse_siblings, _topology_files(host, "cpu_siblings"))


@fact
def smt(host: Host) -> Smt | None:
    """The state of SMT; None when the kernel has no such switch."""
    files = host.evidence.files("smt")
    files.demand_all_readable()
    return parsing("smt", parse_smt, files) if files else None


@fact
def kvm_modules(host: Host) -> frozenset[str]:
    """KVM modules, loaded or built in: the names below /sys/module."""
    return host.evidence.parsed("kvm_modules", parse_kvm_modules)


@fact
def kvm_node(host: Host) -> Node | None:
    """The node /dev/kvm, None when it is known not to exist."""
    record = host.evidence.record("dev_kvm")
    if record.cause is Cause.MISSING and "/dev/kvm" in record.stderr:
        return None
    return host.evidence.parsed("dev_kvm", parse_node)


@fact
def qemu_account(host: Host) -> Account:
    """The account that QEMU runs as."""
    return host.evidence.parsed("qemu_user", parse_id)


@fact
def capabilities(host: Host) -> Capabilities:
    """What libvirt offers on this host."""
    return parsing("virsh:capabilities", parse_capabilities, virsh(host, "capabilities"))


def kvm_parameter(host: Host, module: str, name: str) -> str | None:
    """Return a parameter of a KVM module, None when the module has no such parameter.

    Raises :class:`EvidenceMissing` when the parameters could not be read.
    """
    files = host.evidence.files("kvm_params")
    if not files and kvm_modules(host) & {"kvm", "kvm_intel", "kvm_amd"}:
        raise EvidenceMissing(Cause.MISSING, "the parameters of the KVM modules are not shown", "kvm_params")
    text = files.get(f"/sys/module/{module}/parameters/{name}")
    return text.strip() if text is not None else None
