"""Probes of memory: NUMA nodes, huge pages, KSM."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe, file, files, shell

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
)
