"""Facts about memory: NUMA nodes, huge pages, KSM."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.choice import chosen
from pytest_kvmcheck.facts.dimm import Module, parse_modules
from pytest_kvmcheck.facts.hugepages import Pool, parse_node_pools, parse_pools, requested_on_cmdline
from pytest_kvmcheck.facts.ksm import Ksm, KsmdTime, parse_ksm, parse_ksmd
from pytest_kvmcheck.facts.limitsconf import Limit, parse_limits_conf
from pytest_kvmcheck.facts.meminfo import parse_meminfo
from pytest_kvmcheck.facts.numa import NumaNode, parse_distances, parse_numa
from pytest_kvmcheck.facts.shellvars import parse_assignments
from pytest_kvmcheck.facts.swaps import Swap, parse_swaps
from pytest_kvmcheck.facts.sysctlconf import effective, passed_over
from pytest_kvmcheck.views.cpu import cmdline
from pytest_kvmcheck.views.host import Host, fact


def demand_sysfs(host: Host) -> None:
    """Raise :class:`EvidenceMissing` when /sys itself is hidden: then a missing file proves nothing."""
    host.evidence.files("cpu_lists").need("/sys/devices/system/cpu/online")


@fact
def numa_nodes(host: Host) -> tuple[NumaNode, ...]:
    """NUMA nodes, sorted by id; empty when the kernel knows no NUMA."""
    files = host.evidence.files("numa")
    if not files:
        files.demand_all_readable()
        demand_sysfs(host)
    return parsing("numa", parse_numa, files)


@fact
def ksm(host: Host) -> Ksm:
    """KSM as the kernel runs it."""
    files = host.evidence.files("ksm")
    files.need("/sys/kernel/mm/ksm/run")
    return parsing("ksm", parse_ksm, files)


@fact
def ksm_exists(host: Host) -> bool:
    """Whether the kernel has KSM at all."""
    return _shown(host, "ksm")


def _shown(host: Host, probe: str) -> bool:
    """Whether sysfs, which was seen, shows any of the files of *probe*."""
    files = host.evidence.files(probe)
    if not files:
        files.demand_all_readable()
        demand_sysfs(host)
    return bool(files)


def _ksmd(host: Host, probe: str) -> KsmdTime:
    return parsing(probe, parse_ksmd, host.evidence.files(probe))


@fact
def ksmd_share(host: Host) -> float:
    """The share of one CPU that KSM took between the two samples of gathering, 0 to 1."""
    first, later = _ksmd(host, "counters"), _ksmd(host, "counters_later")
    seconds = later.uptime_s - first.uptime_s
    # CPU time is counted in hundredths of a second: over less than half a second the share says little.
    if seconds < 0.5 or later.cpu_s < first.cpu_s:
        raise EvidenceMissing(Cause.UNPARSABLE, f"the samples of ksmd are {seconds:.2f} s apart", "counters_later")
    return (later.cpu_s - first.cpu_s) / seconds


@fact
def ksmtuned_conf(host: Host) -> dict[str, str]:
    """Settings of ksmtuned; without a file its own defaults act."""
    files = host.evidence.files("ksmtuned_conf")
    files.demand_all_readable()
    text = files.get("/etc/ksmtuned.conf")
    return parsing("ksmtuned_conf", parse_assignments, text) if text is not None else {}


@fact
def meminfo(host: Host) -> dict[str, int]:
    """Memory of the host, in bytes."""
    return host.evidence.parsed("meminfo", parse_meminfo)


@fact
def default_page_bytes(host: Host) -> int:
    """The default size of huge pages."""
    try:
        return meminfo(host)["Hugepagesize"]
    except KeyError:
        raise EvidenceMissing(Cause.MISSING, "meminfo tells no Hugepagesize", "meminfo") from None


@fact
def pools(host: Host) -> dict[int, Pool]:
    """Huge-page pools by page size (bytes); empty when the kernel has no huge pages."""
    files = host.evidence.files("hugepages")
    if not files:
        files.demand_all_readable()
        demand_sysfs(host)
    return parsing("hugepages", parse_pools, files)


@fact
def node_pools(host: Host) -> dict[tuple[int, int], Pool]:
    """Huge-page pools by NUMA node and page size (bytes)."""
    files = host.evidence.files("hugepages_node")
    if not files:
        files.demand_all_readable()
        demand_sysfs(host)
    return parsing("hugepages_node", parse_node_pools, files)


@fact
def sysctl_conf(host: Host) -> dict[str, str]:
    """Kernel settings of sysctl.d that win at boot."""
    files = host.evidence.files("sysctl_files")
    files.demand_all_readable()
    return parsing("sysctl_files", effective, files)


@fact
def sysctl_passed_over(host: Host) -> dict[str, str]:
    """Kernel settings of a /etc/sysctl.conf that systemd does not read at boot."""
    files = host.evidence.files("sysctl_files")
    files.demand_all_readable()
    return parsing("sysctl_files", passed_over, files)


@fact
def requested_pages(host: Host) -> dict[int, dict[str, int]]:
    """Huge pages that boot asks for, by page size (bytes) and source (``sysctl.d``, ``command line``)."""
    default = default_page_bytes(host)
    found: dict[int, dict[str, int]] = {}
    for size, count in parsing("cmdline", lambda _: requested_on_cmdline(cmdline(host), default), "").items():
        found.setdefault(size, {})["command line"] = count
    text = sysctl_conf(host).get("vm.nr_hugepages")
    if text is not None:
        if not text.isdigit():
            raise EvidenceMissing(Cause.UNPARSABLE, f"vm.nr_hugepages = {text[:40]!r} in sysctl.d", "sysctl_files")
        found.setdefault(default, {})["sysctl.d"] = int(text)
    return found


def choice(host: Host, probe: str, path: str) -> str:
    """Return the value in brackets of the file *path* of *probe*."""
    return parsing(probe, chosen, host.evidence.files(probe).need(path))


@fact
def thp_exists(host: Host) -> bool:
    """Whether the kernel has transparent huge pages at all; one built with PREEMPT_RT has none."""
    return _shown(host, "thp")


@fact
def distances(host: Host) -> dict[int, dict[int, int]]:
    """Distances between NUMA nodes; every node has a row."""
    found = parsing("numa", parse_distances, host.evidence.files("numa"))
    silent = [node.id for node in numa_nodes(host) if node.id not in found]
    if silent:
        raise EvidenceMissing(Cause.MISSING, f"the kernel tells no distances of node {silent[0]}", "numa")
    return found


@fact
def swaps(host: Host) -> tuple[Swap, ...]:
    """Swap spaces in use; none on a host without swap."""
    return host.evidence.parsed("swaps", parse_swaps)


def vm_setting(host: Host, name: str) -> int:
    """Return the number that the kernel now uses for the setting *name* below /proc/sys/vm."""
    text = host.evidence.files("vm_settings").need(f"/proc/sys/vm/{name}").strip()
    if not text.isascii() or not text.isdigit():
        raise EvidenceMissing(Cause.UNPARSABLE, f"vm.{name} is {text[:40]!r}", "vm_settings")
    return int(text)


@fact
def memory_modules(host: Host) -> tuple[Module, ...]:
    """Memory modules that are RAM, by the firmware."""
    return tuple(module for module in host.evidence.parsed("memory_modules", parse_modules) if module.ram)


@fact
def login_limits(host: Host) -> dict[str, tuple[Limit, ...]]:
    """Limits of logins by file. No file at all is no limit."""
    files = host.evidence.files("limits_conf")
    files.demand_all_readable()
    return {path: parsing("limits_conf", parse_limits_conf, files[path]) for path in sorted(files)}


@fact
def numad_binary(host: Host) -> str:
    """The path of numad, empty when it is not installed."""
    text = host.evidence.text("numad").strip()
    if text == "-":
        return ""
    if not text.startswith("/") or len(text.split()) != 1:
        raise EvidenceMissing(Cause.UNPARSABLE, f"not a path of numad: {text[:40]!r}", "numad")
    return text
