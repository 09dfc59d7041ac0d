"""The QEMU processes of a host, by the domain they run."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Files, parsing
from pytest_kvmcheck.facts.procfs import Thread, parse_cgroup, parse_limits, parse_status, parse_threads
from pytest_kvmcheck.facts.qemucmdline import QemuProcess, parse_process
from pytest_kvmcheck.facts.vhost import Vhost, parse_vhost
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host, fact


@fact
def qemu_processes(host: Host) -> dict[str, QemuProcess]:
    """The running QEMU processes by UUID of their domain. One whose command line cannot be read is left out."""
    host.evidence.text("qemu_process")
    found = {}
    for pid in host.evidence.keyed("qemu_process"):
        text = host.evidence.text(f"qemu_process{KEY_SEPARATOR}{pid}")
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


@fact
def _threads(host: Host) -> dict[int, tuple[Thread, ...]]:
    return parsing("qemu_threads", lambda _: parse_threads(host.evidence.files("qemu_threads")), "")


def threads_of(domain: Domain) -> tuple[Thread, ...]:
    """Return the threads of a running domain and the CPUs they may run on."""
    found = _threads(domain.host).get(int(process_of(domain).pid))
    if not found:
        raise EvidenceMissing(Cause.MISSING, f"the threads of {domain} cannot be seen", "qemu_threads")
    return found
