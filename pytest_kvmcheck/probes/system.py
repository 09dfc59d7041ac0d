"""Probes of the kernel, the CPU, memory, systemd and the clock."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, command, file, files, shell

_UNITS = (
    "libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-tcp.socket libvirtd-tls.socket"
    " virtqemud.service virtqemud.socket virtqemud-ro.socket virtproxyd.service virtproxyd.socket"
    " virtproxyd-tcp.socket virtproxyd-tls.socket libvirt-guests.service"
    " ksm.service ksmtuned.service mom.service mom-vdsm.service qemu-kvm.service"
    " multipathd.service multipathd.socket chronyd.service systemd-timesyncd.service"
)

SYSTEM: tuple[Probe, ...] = (
    # systemctl is asked about every daemon before anything touches a socket that would start one.
    command(
        "systemd_units",
        "systemctl show --no-pager -p Id,Names,LoadState,ActiveState,SubState,UnitFileState,TimeoutStopUSec,Listen " + _UNITS,
        "state of the units that matter to a KVM host",
    ),
    command(
        "systemd_failed",
        "systemctl list-units --state=failed --no-legend --plain --full --no-pager",
        "failed units",
        sos=("sos_commands/systemd/systemctl_list-units_--failed",),
    ),
    command("systemd_state", "systemctl show --no-pager -p SystemState,NFailedUnits", "state of the whole system"),
    command("now", "date +%s", "the target's clock, seconds since 1970", roles=EVERYWHERE),
    command(
        "uname",
        "uname -s -r -m",
        "kernel release and architecture",
        roles=EVERYWHERE,
        sos=("sos_commands/kernel/uname_-a",),
    ),
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
    file("cmdline", "/proc/cmdline", "kernel command line", roles=EVERYWHERE),
    files("cpu_lists", "/sys/devices/system/cpu/online /sys/devices/system/cpu/present", "CPUs online and present"),
    files("cpu_siblings", "/sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list", "threads that share a core"),
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
    files(
        "sysctl_files",
        "/etc/sysctl.conf /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/local/lib/sysctl.d/*.conf"
        " /usr/lib/sysctl.d/*.conf /lib/sysctl.d/*.conf",
        "kernel settings applied at boot",
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
    files("kernel_settings", "/proc/sys/kernel/numa_balancing", "kernel settings now in force"),
    files(
        "clocksource",
        "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        " /sys/devices/system/clocksource/clocksource0/available_clocksource",
        "the kernel's clock source",
        roles=EVERYWHERE,
    ),
    shell(
        "detect_virt",
        "systemd-detect-virt --vm; rc=$?; [ $rc -le 1 ] && exit 0; exit $rc",
        "whether the target is itself a virtual machine",
        roles=EVERYWHERE,
        sos=("sos_commands/systemd/systemd-detect-virt",),
    ),
    files(
        "dmi",
        "/sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name",
        "maker and model according to the firmware",
        roles=EVERYWHERE,
    ),
    # chronyc prints its own errors on standard output, so the exit code decides.
    command("chrony_tracking", "chronyc -n -c tracking", "chrony: reference, offset and error of the clock"),
    command("ntpd_variables", "ntpq -c rv", "ntpd: reference, offset and error of the clock"),
    command(
        "timesyncd_stamp",
        "stat -c %Y /run/systemd/timesync/synchronized",
        "when systemd-timesyncd last set the clock",
    ),
)
