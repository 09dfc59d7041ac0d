"""Probes of the kernel and of the system as a whole, which several areas read."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, Root, command, file, files, shell

#: What the kernel says when something is wrong with hardware, virtualization, disks or itself.
KERNEL_LOG = (
    "edac|uncorrect(ed|able)|hardware error|memory failure|mce:|tainted|call trace|lockup|blocked for more than|bug:|oops|panic"
    "|i/o error|(critical [a-z ]+|timeout|transport|protection|device offline) error, dev "
    "|disabled by bios|vmx|svm|kvm|iommu|dmar|microcode|out of memory|oom-kill"
    '|apparmor="denied"|avc: |remounting filesystem read-only|nfs: server|link is (up|down)|transmit queue'
)

#: Of those lines, the last ones are kept. When there are as many, earlier ones may be missing.
KERNEL_LOG_LINES = 2000

#: Two samples are taken as far apart as gathering lasts; nothing waits in between.
_COUNTERS = """\
set -- /proc/stat /proc/vmstat /proc/uptime
if { read -r r </sys/kernel/mm/ksm/run; } 2>/dev/null && [ "$r" = 1 ]; then
  for f in $(grep -sxl ksmd /proc/[0-9]*/comm); do set -- "$@" ${f%comm}stat; done
fi
grep -HE '^(cpu |pswpin |pswpout |[0-9.]+ [0-9.]+$|[0-9]+ \\(ksmd\\) )' "$@"
"""

SYSTEM: tuple[Probe, ...] = (
    command("now", "date +%s", "the target's clock, seconds since 1970", roles=EVERYWHERE),
    command(
        "uname",
        "uname -s -r -m",
        "kernel release and architecture",
        roles=EVERYWHERE,
        sos=("sos_commands/kernel/uname_-a",),
    ),
    file("cmdline", "/proc/cmdline", "kernel command line", roles=EVERYWHERE),
    files(
        "sysctl_files",
        "/etc/sysctl.conf /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/local/lib/sysctl.d/*.conf"
        " /usr/lib/sysctl.d/*.conf /lib/sysctl.d/*.conf",
        "kernel settings applied at boot",
    ),
    files("kernel_settings", "/proc/sys/kernel/numa_balancing", "kernel settings now in force"),
    shell(
        "detect_virt",
        "systemd-detect-virt --vm; rc=$?; [ $rc -le 1 ] || exit $rc\n"
        "c=$(systemd-detect-virt --container) && echo container $c; exit 0",
        "whether the target is itself a virtual machine, and whether it answers from within a container",
        roles=EVERYWHERE,
        sos=("sos_commands/systemd/systemd-detect-virt",),
    ),
    files(
        "dmi",
        "/sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name /sys/class/dmi/id/bios_vendor"
        " /sys/class/dmi/id/bios_version /sys/class/dmi/id/bios_date",
        "maker, model and firmware by the firmware's own words",
        roles=EVERYWHERE,
    ),
    file("mounts", "/proc/mounts", "mounted file systems and their options", roles=EVERYWHERE),
    files(
        "modprobe_conf",
        "/etc/modprobe.d/*.conf /run/modprobe.d/*.conf /usr/local/lib/modprobe.d/*.conf /usr/lib/modprobe.d/*.conf"
        " /lib/modprobe.d/*.conf",
        "options of kernel modules, and which are barred",
        roles=EVERYWHERE,
    ),
    files(
        "modules_load_conf",
        "/etc/modules /etc/modules-load.d/*.conf /run/modules-load.d/*.conf /usr/local/lib/modules-load.d/*.conf"
        " /usr/lib/modules-load.d/*.conf /lib/modules-load.d/*.conf",
        "kernel modules loaded at boot",
        roles=EVERYWHERE,
    ),
    files("tuned", "/etc/tuned/active_profile /etc/tuned/profile_mode", "the TuneD profile", roles=EVERYWHERE),
    # The kernel's log is read once, for all: its first line proves that the log may be read at all.
    shell(
        "kernel_log",
        "command -v journalctl >/dev/null || { echo 'journalctl: not found' >&2; exit 127; }\n"
        "$SUDO journalctl -q -k -b -o short-unix --no-pager | {\n"
        "  IFS= read -r first || { echo 'the journal shows nothing to this account' >&2; exit 77; }\n"
        "  printf '%s\\n' \"$first\"\n"
        # The pattern is meant for the message: a host may be called kvm01.
        f"  grep -aiE ' (kernel|unknown)[^ ]*: .*({KERNEL_LOG})' | tail -n {KERNEL_LOG_LINES}; }}; exit $?",
        "troubles in the kernel's log of this boot",
        root=Root.MAY,
        timeout_s=30,
        sudo=("journalctl -q -k -b -o short-unix --no-pager",),
    ),
    shell("counters", _COUNTERS, "counters of the CPU, of swapping and of KSM while it merges, first sample", roles=EVERYWHERE),
    shell(
        "counters_later",
        _COUNTERS,
        "counters of the CPU, of swapping and of KSM while it merges, second sample",
        last=True,
        roles=EVERYWHERE,
    ),
)
