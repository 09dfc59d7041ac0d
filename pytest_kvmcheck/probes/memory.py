"""Probes of memory: NUMA nodes, huge pages, KSM."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe, file, files, shell

#: The CPU time of ksmd, while KSM merges. A process of another may bear that name: kernel threads have the parent 2.
_KSMD = (
    'set --; for f in $(grep -sxl ksmd /proc/[0-9]*/comm); do set -- "$@" ${f%comm}stat; done\n'
    '[ $# -gt 0 ] || exit 66\ngrep -sH ^ /proc/uptime "$@"; exit 0'
)
_KSM_MERGES = '{ read -r r </sys/kernel/mm/ksm/run; } 2>/dev/null && [ "$r" = 1 ]'

MEMORY: tuple[Probe, ...] = (
    files(
        "numa",
        "/sys/devices/system/node/online /sys/devices/system/node/has_memory /sys/devices/system/node/has_cpu"
        " /sys/devices/system/node/node[0-9]*/cpulist /sys/devices/system/node/node[0-9]*/meminfo",
        "NUMA nodes, their CPUs and memory",
    ),
    file("meminfo", "/proc/meminfo", "memory of the host"),
    files(
        "hugepages",
        "/sys/kernel/mm/hugepages/hugepages-*kB/*_hugepages",
        "huge-page pools per size: size, free, reserved, surplus, overcommit",
    ),
    files(
        "hugepages_node",
        "/sys/devices/system/node/node[0-9]*/hugepages/hugepages-*kB/*_hugepages",
        "huge-page pools per size and NUMA node",
    ),
    shell(
        "hugepage_sources",
        "grep -rls hugepages /etc/systemd/system /etc/tmpfiles.d /etc/tuned /etc/rc.local /etc/rc.d/rc.local; exit 0",
        "boot-time files other than sysctl.d that mention huge pages",
    ),
    files(
        "thp",
        "/sys/kernel/mm/transparent_hugepage/enabled /sys/kernel/mm/transparent_hugepage/defrag"
        " /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "transparent huge pages",
    ),
    files("ksm", "/sys/kernel/mm/ksm/*", "kernel same-page merging"),
    files("ksm_defaults", "/etc/default/qemu-kvm", "Debian's and Ubuntu's own KSM switch"),
    files("ksmtuned_conf", "/etc/ksmtuned.conf", "settings of ksmtuned"),
    shell("ksmd", _KSMD, "CPU time of KSM, first sample", when=_KSM_MERGES),
    shell("ksmd_later", _KSMD, "CPU time of KSM, second sample", when=_KSM_MERGES, last=True),
)
