"""Facts about the machine itself: firmware, microcode, frequency, idle states, IOMMU, memory errors."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import Files, parsing
from pytest_kvmcheck.facts.cpufreq import Cpufreq, parse_cpufreq
from pytest_kvmcheck.facts.cpuidle import Cpuidle, parse_cpuidle
from pytest_kvmcheck.facts.dmi import Dmi, parse_dmi
from pytest_kvmcheck.facts.edac import MemoryErrors, parse_edac
from pytest_kvmcheck.facts.iommu import Group, parse_iommu
from pytest_kvmcheck.facts.microcode import Signature, parse_microcode
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import demand_sysfs


def _files(host: Host, probe: str) -> Files | None:
    """Return the files of *probe*, None when they are known not to exist."""
    files = host.evidence.files(probe)
    files.demand_all_readable()
    if not files:
        demand_sysfs(host)
    return files or None


@fact
def dmi(host: Host) -> Dmi | None:
    """Maker, model and firmware; None on machines without DMI (s390x, many of ARM and POWER)."""
    files = _files(host, "dmi")
    return parsing("dmi", parse_dmi, files) if files else None


@fact
def microcode(host: Host) -> dict[Signature, dict[int, frozenset[int]]]:
    """The CPUs of each microcode revision by family, model and stepping."""
    return host.evidence.parsed("microcode", parse_microcode)


@fact
def cpufreq(host: Host) -> Cpufreq | None:
    """What governs the frequency of each CPU; None where the kernel does not."""
    files = _files(host, "cpufreq")
    if not files or not files.matching(r".*/cpu\d+/cpufreq/.*"):
        return None
    return parsing("cpufreq", parse_cpufreq, files)


@fact
def cpuidle(host: Host) -> Cpuidle | None:
    """Idle states of each CPU; None when the kernel has no idle driver, or shows none of its states."""
    files = host.evidence.files("cpuidle")
    if "/sys/devices/system/cpu/cpuidle/current_driver" not in files:
        if files.partial:
            raise EvidenceMissing(Cause.NOT_COLLECTED, "the idle states were not collected", "cpuidle")
        demand_sysfs(host)
        return None
    idle = parsing("cpuidle", parse_cpuidle, files)
    return idle if idle.driver != "none" and idle.states else None


@fact
def dma_latency_held(host: Host) -> bool:
    """Whether a process holds /dev/cpu_dma_latency, by which it may limit the latency of all CPUs."""
    lines = host.evidence.text("dma_latency_holders").splitlines()
    if "/proc/1/fd:" not in lines:
        raise EvidenceMissing(Cause.NOT_PERMITTED, "the open files of other processes are not shown", "dma_latency_holders")
    return any(line.endswith("/dev/cpu_dma_latency") for line in lines)


@fact
def iommu_groups(host: Host) -> dict[int, Group]:
    """IOMMU groups by number; empty when no IOMMU is active."""
    return host.evidence.parsed("iommu_groups", parse_iommu)


@fact
def memory_errors(host: Host) -> dict[str, MemoryErrors]:
    """Memory errors by memory controller; empty when no EDAC driver watches any."""
    files = _files(host, "edac")
    return parsing("edac", parse_edac, files) if files else {}
