"""Probes of libvirt and of the running QEMU processes.

One ``virsh -r`` process answers for all domains: it takes many commands in one argument and goes on after run-time
errors. UUIDs are used throughout, as names are chosen by strangers. Standard error goes where the answer goes, so that
an error stays in the section of the command that met it.
"""

from __future__ import annotations

from pytest_kvmcheck.probes.model import MAX_BYTES, Probe, Root, command, files, shell

_VIRSH = "virsh -r -c qemu:///system"

#: The daemons' configuration files by name: /etc/libvirt may be closed to all but root, where globs do not expand.
_DAEMONS = (
    *("libvirtd", "virtqemud", "virtproxyd", "virtlogd", "virtlockd", "virtnetworkd"),
    *("virtstoraged", "virtnodedevd", "virtinterfaced", "virtnwfilterd", "virtsecretd"),
)
_DAEMON_CONF = " ".join(f"/etc/libvirt/{name}.conf" for name in _DAEMONS)

LIBVIRT: tuple[Probe, ...] = (
    shell(
        "virsh",
        f"command -v virsh >/dev/null || {{ echo 'virsh: not found' >&2; exit 127; }}\n"
        f"""{_VIRSH} "echo @@$N uri; uri; echo @@$N version; version; echo @@$N hostname; hostname;"""
        """ echo @@$N capabilities; capabilities; echo @@$N all; list --all --uuid; echo @@$N running; list --uuid;"""
        """ echo @@$N autostart; list --all --autostart --uuid;"""
        """ echo @@$N persistent; list --all --persistent --uuid" 2>&1""",
        "libvirt: connection, versions, capabilities and the lists of domains",
        keyed=True,
        timeout_s=30,
    ),
    shell(
        "domain",
        f"command -v virsh >/dev/null || {{ echo 'virsh: not found' >&2; exit 127; }}\n"
        f"u=$({_VIRSH} list --all --uuid) || exit 1\n"
        'b=; for i in $u; do b="$b echo @@$N $i/live; dumpxml $i; echo @@$N $i/saved; dumpxml --inactive $i;'
        ' echo @@$N $i/snapshots; snapshot-list $i;"; done\n'
        f'[ -z "$b" ] || {_VIRSH} "$b" 2>&1; exit 0',
        "libvirt: live and saved definition and the snapshots of every domain",
        keyed=True,
        timeout_s=60,
        max_bytes=32 * MAX_BYTES,
    ),
    shell(
        "image_stat",
        f"command -v virsh >/dev/null || {{ echo 'virsh: not found' >&2; exit 127; }}\n"
        f"u=$({_VIRSH} list --all --uuid) || exit 1\n"
        'b=; for i in $u; do b="$b domblklist --details --inactive $i;"; done\n'
        '[ -n "$b" ] || exit 0\n'
        f'l=$({_VIRSH} "$b" 2>/dev/null)\n'
        "while read -r type device target source; do\n"
        '  case $type,$source in file,/*|block,/*) set -- "$@" "$source";; esac\n'
        "done <<EOF\n$l\nEOF\n"
        "[ $# -gt 0 ] || exit 0\nstat -L -c '%b %B %s %F|%n' -- \"$@\"; exit 0",
        "size and allocation of disk images",
        timeout_s=30,
    ),
    shell(
        "qemu_process",
        "for f in /run/libvirt/qemu/*.pid; do\n"
        '  [ -e "$f" ] || continue; case ${f##*/} in driver.pid) continue ;; esac\n'
        '  read -r p <"$f" || [ "$p" ] || continue\n'
        "  echo @@$N $p; tr '\\0' '\\n' </proc/$p/cmdline\n"
        "done; exit 0",
        "command lines of the running QEMU processes",
        keyed=True,
    ),
    shell(
        "qemu_vhost",
        "for f in /run/libvirt/qemu/*.pid; do\n"
        '  [ -e "$f" ] || continue; case ${f##*/} in driver.pid) continue ;; esac\n'
        '  read -r p <"$f" || [ "$p" ] || continue\n'
        "  echo @@$N $p\n"
        "  l=$($SUDO ls -l /proc/$p/fd 2>/dev/null) && echo fds $(printf '%s\\n' \"$l\" | grep -c vhost-net)\n"
        "  echo threads $(grep -l '^vhost-' /proc/[0-9]*/comm /proc/$p/task/*/comm 2>/dev/null |"
        ' while read -r c; do read -r n <"$c"; [ "$n" = "vhost-$p" ] && echo; done | wc -l)\n'
        "done; exit 0",
        "vhost-net descriptors and threads of the running QEMU processes",
        keyed=True,
        root=Root.MAY,
        sudo=("ls -l /proc/[0-9]*/fd",),
    ),
    shell(
        "vhost_net",
        "[ -d /sys/module ] || exit 66\nfor f in /dev/vhost-net /sys/module/vhost_net; do [ -e $f ] && echo $f; done; exit 0",
        "whether vhost-net is there",
    ),
    files("libvirt_conf", _DAEMON_CONF, "configuration of the libvirt daemons", root=Root.MAY),
    files("qemu_conf", "/etc/libvirt/qemu.conf", "configuration of libvirt's QEMU driver", root=Root.MAY),
    files("sasl_conf", "/etc/sasl2/libvirt.conf", "SASL mechanisms of libvirt", root=Root.MAY),
    shell(
        "managers",
        "for d in /etc/vdsm /etc/nova /etc/pve /var/run/kubevirt; do [ -e $d ] && echo $d; done; exit 0",
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
        "grep -hE '^(URIS|ON_BOOT|ON_SHUTDOWN|START_DELAY|PARALLEL_SHUTDOWN|SHUTDOWN_TIMEOUT|SYNC_TIME)=' \"$@\"",
        "defaults of libvirt-guests",
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
    ),
)
