"""Probes of the CPU and of KVM."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, command, files, shell

CPU: tuple[Probe, ...] = (
    shell(
        "cpuinfo",
        "[ -r /proc/cpuinfo ] || exit 66\n"
        "grep -E '^(vendor_id|flags|features|Features|machine|platform|cpu|model name|CPU implementer|isa)[[:space:]]*:'"
        " /proc/cpuinfo | sort -u",
        "CPU vendor and flags (each different line once)",
        paths=("/proc/cpuinfo",),
        one_file=True,
        roles=EVERYWHERE,
    ),
    shell(
        "kvm_modules",
        "[ -d /sys/module ] || exit 66\nfor d in /sys/module/kvm*; do [ -d $d ] && echo ${d##*/}; done; exit 0",
        "KVM modules, loaded or built in",
    ),
    files("kvm_params", "/sys/module/kvm*/parameters/*", "parameters of the KVM modules"),
    command("dev_kvm", "stat -c '%F %t:%T %a %U %G' /dev/kvm", "the KVM device node (never opened)"),
    shell(
        "qemu_user",
        "id libvirt-qemu 2>/dev/null || id qemu 2>/dev/null || { echo 'neither libvirt-qemu nor qemu' >&2; exit 66; }",
        "the account QEMU runs as, and its groups",
    ),
    files("vulnerabilities", "/sys/devices/system/cpu/vulnerabilities/*", "CPU vulnerabilities and mitigations"),
    files(
        "cpu_lists", "/sys/devices/system/cpu/online /sys/devices/system/cpu/present", "CPUs online and present", roles=EVERYWHERE
    ),
    files("cpu_siblings", "/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list", "threads that share a core"),
    files(
        "cpu_topology",
        "/sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id /sys/devices/system/cpu/cpu[0-9]*/topology/die_id"
        " /sys/devices/system/cpu/cpu[0-9]*/topology/core_id",
        "package, die and core of each CPU",
    ),
    files("smt", "/sys/devices/system/cpu/smt/control /sys/devices/system/cpu/smt/active", "whether SMT is on"),
)
