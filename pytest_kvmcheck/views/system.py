"""Facts about the kernel and the system as a whole that several areas read."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.counters import Counters, parse_counters
from pytest_kvmcheck.facts.kernellog import KernelMessage, begins_at_boot, first_message, parse_kernel_log
from pytest_kvmcheck.facts.modprobe import Modprobe, parse_modprobe, parse_modules_load
from pytest_kvmcheck.facts.mounts import Mount, parse_mounts
from pytest_kvmcheck.probes.system import KERNEL_LOG_LINES
from pytest_kvmcheck.views.host import Host, fact


@fact
def mounts(host: Host) -> tuple[Mount, ...]:
    """Mounted file systems, in their order."""
    return host.evidence.parsed("mounts", parse_mounts)


@fact
def modprobe(host: Host) -> Modprobe:
    """Options of kernel modules at their next load, and which are barred."""
    files = host.evidence.files("modprobe_conf")
    files.demand_all_readable()
    return parsing("modprobe_conf", lambda _: parse_modprobe(files), "")


@fact
def modules_at_boot(host: Host) -> frozenset[str]:
    """Kernel modules that are loaded at boot by name."""
    files = host.evidence.files("modules_load_conf")
    files.demand_all_readable()
    return parsing("modules_load_conf", lambda _: parse_modules_load(files), "")


@fact
def kernel_log(host: Host) -> tuple[KernelMessage, ...]:
    """Troubles in the kernel's log of this boot; see ``demand_whole_kernel_log`` before concluding from silence."""
    return host.evidence.parsed("kernel_log", parse_kernel_log)


@fact
def kernel_log_from_boot(host: Host) -> bool:
    """Whether the kernel's log reaches back to the boot; older lines may have been rotated away."""
    return host.evidence.parsed("kernel_log", begins_at_boot)


def demand_kernel_log_since(host: Host, time_s: float) -> None:
    """Raise :class:`EvidenceMissing` when the kernel's log begins neither with the boot nor before *time_s*."""
    begins = host.evidence.parsed("kernel_log", first_message).time_s
    if begins > time_s and not kernel_log_from_boot(host):
        raise EvidenceMissing(Cause.TRUNCATED, "the kernel's log was rotated: it begins after the boot", "kernel_log")


def demand_whole_kernel_log(host: Host) -> None:
    """Raise :class:`EvidenceMissing` when there were so many messages that earlier ones were left out."""
    if len(kernel_log(host)) >= KERNEL_LOG_LINES:
        raise EvidenceMissing(
            Cause.TRUNCATED,
            f"the kernel's log holds {KERNEL_LOG_LINES} troubles or more, not all were kept",
            "kernel_log",
        )


def _sample(host: Host, probe: str) -> Counters:
    files = host.evidence.files(probe)
    return parsing(probe, lambda _: parse_counters(files), "")


@fact
def uptime_s(host: Host) -> float:
    """Seconds since boot."""
    return _sample(host, "counters").uptime_s


@fact
def counters(host: Host) -> tuple[Counters, Counters]:
    """Two samples of CPU time and swapping, at the start and at the end of gathering."""
    return _sample(host, "counters"), _sample(host, "counters_later")
