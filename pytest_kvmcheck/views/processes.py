"""The QEMU processes of a host, by the domain they run."""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Files, parsing
from pytest_kvmcheck.facts.cgroup import parse_counters_of_cgroup, parse_numa_stat
from pytest_kvmcheck.facts.numamaps import parse_huge_maps
from pytest_kvmcheck.facts.procfs import Thread, parse_cgroup, parse_limits, parse_status, parse_threads, start_seconds
from pytest_kvmcheck.facts.qemucmdline import QemuProcess, parse_process
from pytest_kvmcheck.facts.vhost import Vhost, parse_vhost
from pytest_kvmcheck.views.domains import Domain, uptime
from pytest_kvmcheck.views.host import Host, fact


@fact
def qemu_processes(host: Host) -> dict[str, QemuProcess]:
    """The running QEMU processes by UUID of their domain. One whose command line cannot be read is left out."""
    host.evidence.head("qemu_process")
    found = {}
    for pid in host.evidence.keyed("qemu_process"):
        text = host.evidence.text(f"qemu_process{KEY_SEPARATOR}{pid}")
        if text.strip() and not text.startswith("/"):  # libvirt starts all that it starts by their paths
            raise EvidenceMissing(Cause.UNPARSABLE, f"not the command line of process {pid}: {text[:60]!r}", "qemu_process")
        try:
            process = parse_process(pid, text)
        except ParseError:
            continue
        found[process.uuid] = process
    return found


def process_of(domain: Domain) -> QemuProcess:
    """Return the process of a running domain; raises :class:`EvidenceMissing` when it cannot be seen."""
    try:
        return qemu_processes(domain.host)[domain.uuid]
    except KeyError:
        raise EvidenceMissing(Cause.MISSING, f"the QEMU process of {domain} cannot be seen", "qemu_process") from None


def vhost_of(domain: Domain) -> Vhost:
    """Return what a running domain has of vhost-net."""
    pid = process_of(domain).pid
    return domain.host.evidence.parsed(f"qemu_vhost{KEY_SEPARATOR}{pid}", parse_vhost)


@fact
def _proc_files(host: Host) -> Files:
    return host.evidence.files("qemu_proc")


def proc_file(domain: Domain, name: str) -> str | None:
    """Return the file *name* below /proc/PID of a running domain, None when the kernel has no such file.

    One that could not be read, and a process that cannot be seen at all, raise :class:`EvidenceMissing`.
    """
    place = f"/proc/{process_of(domain).pid}"
    files = _proc_files(domain.host)
    files.need(f"{place}/status")
    return files.get(f"{place}/{name}")


def status_of(domain: Domain) -> dict[str, str]:
    """Return ``/proc/PID/status`` of a running domain."""
    return parsing("qemu_proc", parse_status, proc_file(domain, "status") or "")


def limits_of(domain: Domain) -> dict[str, tuple[int | None, int | None]]:
    """Return soft and hard limits of the process of a running domain; None is no limit."""
    return parsing("qemu_proc", parse_limits, proc_file(domain, "limits") or "")


def running_seconds(domain: Domain) -> float:
    """Return for how long the QEMU of a running domain has been there."""
    started = parsing("qemu_proc", start_seconds, proc_file(domain, "stat") or "")
    return uptime(domain.host) - started


def cgroup_file(domain: Domain, name: str) -> str | None:
    """Return the file *name* of the cgroup that holds a running domain whole, None when there is none.

    cgroup v2 has one tree, v1 one for each controller (the memory controller is the one that is read).
    """
    groups = parsing("qemu_proc", parse_cgroup, proc_file(domain, "cgroup") or "")
    files = domain.host.evidence.files("qemu_cgroup")
    for root, group in (("/sys/fs/cgroup", groups.get("")), ("/sys/fs/cgroup/memory", groups.get("memory"))):
        if group:
            # libvirt puts threads into groups of their own below that of the domain
            own = group.partition("/libvirt/")[0].removesuffix("/emulator").partition("/vcpu")[0]
            if (text := files.get(f"{root}{own}/{name}")) is not None:
                return text
    return None


def out_of_memory_of(domain: Domain) -> dict[str, int] | None:
    """Return the counters ``oom`` and ``oom_kill`` of the cgroup of a running domain, None when nothing counts them.

    Version 1 of cgroups counts kills only (Linux 4.13 and later).
    """
    for name in ("memory.events", "memory.oom_control"):
        text = cgroup_file(domain, name)
        if text is not None:
            found = parsing("qemu_cgroup", parse_counters_of_cgroup, text)
            counters = {key: count for key, count in found.items() if key in ("oom", "oom_kill")}
            if counters:
                return counters
    return None


def ordinary_memory_by_node(domain: Domain) -> dict[int, int]:
    """Return the bytes of anonymous and shared memory of a running domain by NUMA node; huge pages and files do not count."""
    text = cgroup_file(domain, "memory.numa_stat")
    if text is None:
        raise EvidenceMissing(Cause.MISSING, f"no cgroup tells where the memory of {domain} is", "qemu_cgroup")
    stat = parsing("qemu_cgroup", parse_numa_stat, text)
    if "total" in stat:  # version 1: pages, and shared memory among the anonymous
        kinds, unit = [stat.get("hierarchical_anon") or stat.get("anon")], 4096
    else:
        kinds, unit = [stat.get("anon"), stat.get("shmem")], 1
    found: dict[int, int] = {}
    for kind in kinds:
        if kind is None:
            raise EvidenceMissing(Cause.UNPARSABLE, f"memory.numa_stat of {domain} tells no anonymous memory", "qemu_cgroup")
        for node, count in kind.items():
            found[node] = found.get(node, 0) + count * unit
    return found


def huge_memory_by_node(domain: Domain) -> dict[int, int]:
    """Return the bytes of huge pages of a running domain by NUMA node: of its cgroup, where that counts them, or of its process."""
    found: dict[int, int] = {}
    for size in ("2MB", "1GB", "16MB", "16GB", "64KB", "32MB", "512MB", "1MB"):
        text = cgroup_file(domain, f"hugetlb.{size}.numa_stat")
        if text is not None:
            for node, count in parsing("qemu_cgroup", parse_numa_stat, text).get("total", {}).items():
                found[node] = found.get(node, 0) + count
    if any(found.values()):
        return found
    evidence, pid = domain.host.evidence, process_of(domain).pid
    evidence.head("qemu_huge_maps")
    probe = f"qemu_huge_maps{KEY_SEPARATOR}{pid}"
    if probe not in evidence.records:
        why = f"where the huge pages of {domain} are is told to an account of root only, not by sudo"
        raise EvidenceMissing(Cause.MISSING, why, "qemu_huge_maps")
    return evidence.parsed(probe, parse_huge_maps)


@fact
def strays(host: Host) -> tuple[tuple[QemuProcess, dict[str, tuple[int | None, int | None]]], ...]:
    """QEMU processes that are none of the system's libvirt, with their limits."""
    host.evidence.head("qemu_strays")
    found = []
    for key in host.evidence.keyed("qemu_strays"):
        pid, _, part = key.partition("/")
        if part == "cmdline":
            probe = f"qemu_strays{KEY_SEPARATOR}{pid}"
            args = host.evidence.text(f"{probe}/cmdline").split("\n")
            if args[0] and not re.search("qemu|kvm", args[0]):
                raise EvidenceMissing(Cause.UNPARSABLE, f"not the command line of a QEMU: {args[0][:60]!r}", f"{probe}/cmdline")
            found.append((QemuProcess(int(pid), "", tuple(args)), host.evidence.parsed(f"{probe}/limits", parse_limits)))
    return tuple(found)


@fact
def _threads(host: Host) -> dict[int, tuple[Thread, ...]]:
    return parsing("qemu_threads", lambda _: parse_threads(host.evidence.files("qemu_threads")), "")


def threads_of(domain: Domain) -> tuple[Thread, ...]:
    """Return the threads of a running domain and the CPUs they may run on."""
    found = _threads(domain.host).get(int(process_of(domain).pid))
    if not found:
        raise EvidenceMissing(Cause.MISSING, f"the threads of {domain} cannot be seen", "qemu_threads")
    return found
