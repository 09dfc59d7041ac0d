"""Probes of memory: NUMA nodes, huge pages, KSM."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, Root, file, files, shell

#: The running QEMU processes of the system's libvirt, their PIDs between blanks.
_KNOWN = """\
k=' '; for f in /run/libvirt/qemu/*.pid; do
  [ -e "$f" ] || continue; case ${f##*/} in driver.pid) continue ;; esac
  read -r p <"$f" || [ "$p" ] || continue
  case $p in ''|*[!0-9]*) continue ;; esac; case $k in *" $p "*) continue ;; esac
  k="$k$p "
done
"""

MEMORY: tuple[Probe, ...] = (
    files(
        "numa",
        "/sys/devices/system/node/online /sys/devices/system/node/has_memory /sys/devices/system/node/has_cpu"
        " /sys/devices/system/node/node[0-9]*/cpulist /sys/devices/system/node/node[0-9]*/meminfo"
        " /sys/devices/system/node/node[0-9]*/distance",
        "NUMA nodes, their CPUs, memory and distances",
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
        roles=EVERYWHERE,
    ),
    file("swaps", "/proc/swaps", "swap space", roles=EVERYWHERE),
    files(
        "vm_settings",
        "/proc/sys/vm/swappiness /proc/sys/vm/min_free_kbytes",
        "swapping and the reserve of free memory",
        roles=EVERYWHERE,
    ),
    files("limits_conf", "/etc/security/limits.conf /etc/security/limits.d/*.conf", "limits of logins"),
    # Without the kernel's copy of these tables, dmidecode looks for them in /dev/mem.
    shell(
        "memory_modules",
        'd=/sys/firmware/dmi/tables/DMI; [ -e $d ] || { echo "$d is not there" >&2; exit 66; }\n$SUDO dmidecode -t 17',
        "memory modules by the firmware",
        root=Root.MUST,
        sos=("dmidecode", "sos_commands/hardware/dmidecode"),
        sudo=("dmidecode -t 17",),
    ),
    shell("numad", "command -v numad || echo -", "whether numad is installed"),
    # Walks page tables with a lock held: not where latency is promised.
    shell(
        "qemu_huge_maps",
        _KNOWN + "for p in $k; do\n"
        "  [ -r /proc/$p/numa_maps ] && grep -q '^HugetlbPages:.*[1-9]' /proc/$p/status || continue\n"
        "  m=$(timeout 10 cat /proc/$p/numa_maps 2>/dev/null) || continue\n"
        "  echo @@$N $p; printf '%s\\n' \"$m\" | grep -a ' huge '\n"
        "done; exit 0",
        "NUMA nodes of the huge pages of the running QEMU processes (as root only)",
        keyed=True,
        timeout_s=30,
        when="[ ! -e /sys/kernel/realtime ] && ! grep -qs realtime /etc/tuned/active_profile",
        no_rule="it is asked of processes that the account may look into, and sudo would have to run a shell for that",
    ),
    shell(
        "qemu_strays",
        _KNOWN + "for f in $(grep -lsE '^(qemu-system-|qemu-kvm|kvm$)' /proc/[0-9]*/comm); do\n"
        '  p=${f#/proc/}; p=${p%/comm}; case $k in *" $p "*) continue ;; esac\n'
        "  c=$(tr '\\0' '\\n' </proc/$p/cmdline 2>/dev/null) && [ \"$c\" ] || continue\n"
        "  echo @@$N $p/cmdline; printf '%s\\n' \"$c\"\n"
        "  echo @@$N $p/limits; grep ^ /proc/$p/limits\n"
        "done; exit 0",
        "QEMU processes that are none of the system's libvirt: command lines and limits",
        keyed=True,
    ),
    files("ksm", "/sys/kernel/mm/ksm/*", "kernel same-page merging"),
    files("ksm_defaults", "/etc/default/qemu-kvm", "Debian's and Ubuntu's own KSM switch"),
    files("ksmtuned_conf", "/etc/ksmtuned.conf", "settings of ksmtuned"),
)
