"""Probes of libvirt and of the running QEMU processes.

Standard error goes where the answer goes, so that an error stays in the section of the command that met it.
"""

from __future__ import annotations

from pytest_kvmcheck.probes.model import MAX_BYTES, Probe, Root, command, files, shell
from pytest_kvmcheck.probes.virsh import ASK, NEEDS_VIRSH, VIRSH, each_domain, section

#: The daemons' configuration files by name: /etc/libvirt may be closed to all but root, where globs do not expand.
_DAEMONS = (
    *("libvirtd", "virtqemud", "virtproxyd", "virtlogd", "virtlockd", "virtnetworkd"),
    *("virtstoraged", "virtnodedevd", "virtinterfaced", "virtnwfilterd", "virtsecretd"),
)
_DAEMON_CONF = " ".join(f"/etc/libvirt/{name}.conf" for name in _DAEMONS)


#: Runs what is put in for each running QEMU process, whose PID is in $p; it may add to the positional parameters.
_EACH_QEMU = """\
for f in /run/libvirt/qemu/*.pid; do
  [ -e "$f" ] || continue; case ${{f##*/}} in driver.pid) continue ;; esac
  read -r p <"$f" || [ "$p" ] || continue
  case $p in ''|*[!0-9]*) continue ;; esac
  [ -d /proc/$p ] || continue
  {}
done
"""


def _domstats(groups: str) -> str:
    """Return the script that asks libvirt for counters of the running domains, with the time of asking (/proc/uptime).

    ``--nowait`` keeps a stuck domain from holding up the others; libvirt before 4.5 does not know it and refuses all.
    libvirt before 7.2 does not tell how long vCPUs wait; the kernel does.
    """
    return (
        each_domain(f"{section('$i')} domstats $1 {groups} $i;", running=True)
        + "echo @@$N uptime; read -r t _ </proc/uptime; echo $t\n"
        '[ -n "$u" ] || exit 0\n'
        "o=$(v --nowait 2>&1); case $o in *'unsupported option'*|*\"doesn't support option\"*) o=$(v 2>&1) ;; esac\n"
        "printf '%s\\n' \"$o\"\n"
        "case $o in *.delay=*) exit 0 ;; *vcpu.*) ;; *) exit 0 ;; esac\n"
        "set -- /proc/uptime\n" + _EACH_QEMU.format('set -- "$@" /proc/$p/task/*/schedstat') + "echo @@$N schedstat\n"
        'grep -sH ^ "$@"; exit 0'
    )


LIBVIRT: tuple[Probe, ...] = (
    shell(
        "virsh",
        NEEDS_VIRSH + f'{ASK} "'
        f"{section('uri')} uri; {section('version')} version;"
        f" {section('all')} list --all --uuid; {section('running')} list --uuid;"
        f" {section('autostart')} list --all --autostart --uuid; {section('persistent')} list --all --persistent --uuid;"
        # The last one: where KVM hangs, libvirt tries each QEMU for as long as a minute.
        f" {section('capabilities')} capabilities"
        '" 2>&1',
        "libvirt: connection, versions, capabilities and the lists of domains",
        sos_sections=(
            ("version", "sos_commands/virsh/virsh_-r_version"),
            ("capabilities", "sos_commands/virsh/virsh_-r_capabilities"),
        ),
        keyed=True,
        timeout_s=30,
        alone=True,
    ),
    shell(
        "domain",
        each_domain(
            f"{section('$i/live')} dumpxml $i; {section('$i/saved')} dumpxml --inactive $i;"
            f" {section('$i/snapshots')} snapshot-list $i; {section('$i/info')} dominfo $i;"
            f" {section('$i/state')} domstate --reason $i;"
        )
        + "v 2>&1; exit 0",
        "libvirt: live and saved definition, snapshots, state and messages of every domain",
        keyed=True,
        timeout_s=60,
        max_bytes=32 * MAX_BYTES,
    ),
    shell(
        "domstats",
        _domstats("--state --balloon --vcpu --block --interface"),
        "libvirt: counters of the running domains, first sample",
        keyed=True,
        timeout_s=30,
        alone=True,
        max_bytes=4 * MAX_BYTES,
    ),
    shell(
        "domstats_later",
        _domstats("--vcpu"),
        "libvirt: vCPU counters of the running domains, second sample",
        keyed=True,
        timeout_s=30,
        alone=True,
        max_bytes=4 * MAX_BYTES,
        last=True,
    ),
    # UUIDs, as names are chosen by strangers and virsh would take a quote in one for its own.
    shell(
        "objects",
        NEEDS_VIRSH + "awake virtnetworkd virtstoraged virtsecretd virtnwfilterd || exit 1\n"
        # The lists are answers of their own: with a secondary daemon down, one of them is an error.
        f'n=$({VIRSH} "net-list --all --uuid; echo @; pool-list --all --uuid" 2>&1); r=$?\n'
        "case $n in *'connect to the hypervisor'*) r=1 ;; *@*) r=0 ;; esac\n"
        '[ $r = 0 ] || { printf "%s\\n" "$n" >&2; exit $r; }\n'
        "echo @@$N nets; printf '%s\\n' \"${n%%@*}\"; echo @@$N pools; printf '%s\\n' \"${n#*@}\"\n"
        "k=net b=; for i in $n; do\n"
        "  case $i in @) k=pool; continue ;; *[!0-9a-fA-F-]*) continue ;; *-*-*-*-*) ;; *) continue ;; esac\n"
        f'  b="$b {section("$k/$i/xml")} $k-dumpxml $i; {section("$k/$i/info")} $k-info $i;"\n'
        "done\n"
        f'{ASK} "$b {section("secrets")} secret-list; {section("filters")} nwfilter-list" 2>&1; exit 0',
        "libvirt: networks and pools with their definitions, secrets (never their values) and filters",
        sos_sections=(("filters", "sos_commands/virsh/virsh_-r_nwfilter-list"),),
        keyed=True,
        timeout_s=30,
        alone=True,
        max_bytes=4 * MAX_BYTES,
    ),
    shell(
        "qemu_proc",
        _EACH_QEMU.format(
            "for f in status stat limits cgroup mountinfo attr/current attr/apparmor/current; do"
            ' [ -e /proc/$p/$f ] && set -- "$@" /proc/$p/$f; done'
        )
        + '[ $# -gt 0 ] || exit 66\ngrep -aH ^ -- "$@"; exit 0',
        "state, age, limits, cgroup and confinement of the running QEMU processes",
        max_bytes=8 * MAX_BYTES,
    ),
    shell(
        "qemu_threads",
        _EACH_QEMU.format('set -- "$@" /proc/$p/task') + "[ $# -gt 0 ] || exit 66\n"
        "grep -raHE '^(Name|Cpus_allowed_list):' --include=status \"$@\" 2>/dev/null; exit 0",
        "names and CPU affinity of the threads of the running QEMU processes",
        max_bytes=8 * MAX_BYTES,
    ),
    shell(
        "qemu_cgroup",
        _EACH_QEMU.format(
            "while IFS=: read -r _ c g; do case $c in ''|*memory*) g=${g%/libvirt/*}; g=${g%/emulator}; g=${g%/vcpu*}\n"
            "  for d in /sys/fs/cgroup$g /sys/fs/cgroup/memory$g; do\n"
            "    for f in memory.events memory.swap.current memory.numa_stat hugetlb.*.numa_stat io.max memory.oom_control; do\n"
            '      for f in "$d"/$f; do [ -r "$f" ] && set -- "$@" "$f"; done\n'
            "    done\n"
            "  done ;; esac; done </proc/$p/cgroup"
        )
        + '[ $# -gt 0 ] || exit 66\ngrep -aH ^ -- "$@"; exit 0',
        "memory, huge pages, swap and I/O limits of the cgroups of the running QEMU processes",
        max_bytes=8 * MAX_BYTES,
    ),
    shell(
        "qemu_process",
        # A file that was left over may name a process that another one names.
        "k=' '; for f in /run/libvirt/qemu/*.pid; do\n"
        '  [ -e "$f" ] || continue; case ${f##*/} in driver.pid) continue ;; esac\n'
        '  read -r p <"$f" || [ "$p" ] || continue; case $k in *" $p "*) continue ;; esac; k="$k$p "\n'
        "  echo @@$N $p; tr '\\0' '\\n' </proc/$p/cmdline\n"
        "done; exit 0",
        "command lines of the running QEMU processes",
        keyed=True,
    ),
    shell(
        "qemu_vhost",
        "k=' '; for f in /run/libvirt/qemu/*.pid; do\n"
        '  [ -e "$f" ] || continue; case ${f##*/} in driver.pid) continue ;; esac\n'
        '  read -r p <"$f" || [ "$p" ] || continue; case $k in *" $p "*) continue ;; esac; k="$k$p "\n'
        "  echo @@$N $p\n"
        "  l=$($SUDO ls -ln /proc/$p/fd 2>/dev/null) && echo fds $(printf '%s\\n' \"$l\" | grep -c vhost-net)\n"
        # A thread of the kernel, whose parent is kthreadd (2), or of QEMU itself: anybody's process may have that name.
        "  echo threads $(grep -l '^vhost-' /proc/[0-9]*/comm /proc/$p/task/*/comm 2>/dev/null |"
        ' while read -r c; do read -r n <"$c"; [ "$n" = "vhost-$p" ] || continue\n'
        '  case $c in */task/*) echo ;; *) read -r _ _ _ n _ <"${c%comm}stat"; [ "$n" = 2 ] && echo ;; esac; done | wc -l)\n'
        "done; exit 0",
        "vhost-net descriptors and threads of the running QEMU processes",
        keyed=True,
        root=Root.MAY,
        sudo=("ls -ln /proc/{pid}/fd",),
    ),
    shell(
        "vhost_net",
        "[ -d /sys/module ] || exit 66\nfor f in /dev/vhost-net /sys/module/vhost_net; do [ -e $f ] && echo $f; done; exit 0",
        "whether vhost-net is there",
    ),
    files("libvirt_conf", _DAEMON_CONF, "configuration of the libvirt daemons", root=Root.MAY),
    files(
        "qemu_conf",
        "/etc/libvirt/qemu.conf /etc/libvirt/qemu-lockd.conf",
        "configuration of libvirt's QEMU driver and of its locks",
        root=Root.MAY,
    ),
    files("sasl_conf", "/etc/sasl2/libvirt.conf", "SASL mechanisms of libvirt", root=Root.MAY),
    shell(
        "managers",
        # /etc itself proves that somebody looked.
        "for d in /etc /etc/vdsm /etc/nova /etc/pve /var/run/kubevirt; do [ -e $d ] && echo $d; done; exit 0",
        "traces of a platform that manages the guests (oVirt, OpenStack, Proxmox, KubeVirt)",
    ),
    files(
        "libvirt_guests_conf",
        "/etc/sysconfig/libvirt-guests /etc/default/libvirt-guests /etc/conf.d/libvirt-guests",
        "settings of libvirt-guests",
    ),
    shell(
        "libvirt_guests_script",
        'for f in /usr/libexec/libvirt-guests.sh /usr/lib/libvirt/libvirt-guests.sh; do [ -e $f ] && set -- "$@" $f; done\n'
        "[ $# -gt 0 ] || exit 66\n"
        "grep -hE '^(URIS|ON_BOOT|ON_SHUTDOWN|START_DELAY|PARALLEL_SHUTDOWN|SHUTDOWN_TIMEOUT|SYNC_TIME|sysconfdir|initconfdir)="
        '|^test -f .*/libvirt-guests\' "$@"',
        "defaults of libvirt-guests, and which file it reads",
    ),
    shell(
        "logrotate_libvirt",
        'for f in /etc/logrotate.conf /etc/logrotate.d; do [ -e $f ] && set -- "$@" $f; done\n'
        "[ $# -gt 0 ] || exit 66\n"
        'grep -rhE \'^[[:space:]]*["]?/\' "$@"; [ $? -le 1 ]',
        "which logs are rotated",
    ),
    command(
        "virt_host_validate",
        "virt-host-validate qemu",
        "libvirt's own opinion of the host",
        root=Root.MUST,
        timeout_s=30,
        alone=True,
    ),
)
