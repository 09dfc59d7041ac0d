"""Probes of systemd: the state of units, and of the whole system. They come first: asking a daemon itself may start it."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, Root, command, files, shell

#: Every unit that a check asks about, one call for all. A daemon has other names on other distributions.
_UNITS = (
    # libvirt, monolithic
    "libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd-tcp.socket libvirtd-tls.socket"
    # libvirt, modular
    " virtqemud.service virtqemud.socket virtqemud-ro.socket virtqemud-admin.socket"
    " virtproxyd.service virtproxyd.socket virtproxyd-tcp.socket virtproxyd-tls.socket"
    " virtnetworkd.service virtnetworkd.socket virtstoraged.service virtstoraged.socket"
    " virtnodedevd.service virtnodedevd.socket virtsecretd.service virtsecretd.socket"
    " virtnwfilterd.service virtnwfilterd.socket virtinterfaced.service virtinterfaced.socket"
    # libvirt, both
    " virtlogd.service virtlogd.socket virtlockd.service virtlockd.socket libvirt-guests.service"
    # memory and CPU
    " ksm.service ksmtuned.service mom.service mom-vdsm.service qemu-kvm.service numad.service irqbalance.service"
    " tuned.service power-profiles-daemon.service"
    # storage and locks
    " multipathd.service multipathd.socket iscsid.service iscsid.socket sanlock.service lvmlockd.service"
    # time
    " chronyd.service chrony.service ntpd.service ntp.service ntpsec.service ntpd-rs.service openntpd.service"
    " systemd-timesyncd.service ptp4l.service phc2sys.service timemaster.service 'ptp4l@*.service' 'phc2sys@*.service'"
    # packet filters
    " firewalld.service nftables.service ufw.service iptables.service"
    # logging and audit
    " auditd.service rsyslog.service syslog-ng.service systemd-journald.service systemd-journal-upload.service"
    " filebeat.service elastic-agent.service fluent-bit.service fluentd.service vector.service promtail.service"
    " alloy.service otelcol-contrib.service splunk.service SplunkForwarder.service"
    # guests
    " qemu-guest-agent.service cloud-init.service cloud-final.service fstrim.timer"
)

#: A library that is gone from the disk, by the end of its line in /proc/PID/maps. Versions hold letters too (libcrypto.so.1.1.1k),
#: and rpm names a file so while it installs it: libssl.so.3;65f1c2d3. Sockets (.sock), memfd and huge pages are none.
DELETED_LIBRARY = r"\.so([.;][^/]*)? \(deleted\)$"

#: The programs of all processes as ``ls -l`` would show them, by a fixed command.
_EXECUTABLES = (
    r"find /proc -maxdepth 2 \( -path '/proc/[!0-9]*' -o -path '/proc/[0-9]*/[!e]*' \) -prune"
    r" -o -name exe -printf '%M %n - %p = %l\n'"
)

SERVICES: tuple[Probe, ...] = (
    # systemctl is asked about every daemon before anything touches a socket that would start one.
    command(
        "systemd_units",
        "systemctl show --no-pager -p Id,Names,LoadState,ActiveState,SubState,UnitFileState,TimeoutStopUSec,Listen " + _UNITS,
        "state of the units that matter to a KVM host",
        roles=EVERYWHERE,
    ),
    command(
        "systemd_failed",
        "systemctl list-units --state=failed --no-legend --plain --full --no-pager",
        "failed units",
        sos=("sos_commands/systemd/systemctl_list-units_--failed",),
        roles=EVERYWHERE,
    ),
    command(
        "systemd_state",
        "systemctl show --no-pager -p SystemState,NFailedUnits",
        "state of the whole system",
        sos=("sos_commands/systemd/systemctl_show_--all",),
        roles=EVERYWHERE,
    ),
    files("tainted", "/proc/sys/kernel/tainted", "whether the kernel took harm or foreign code", roles=EVERYWHERE),
    shell(
        "kernels",
        "echo @@$N flags; for f in /run/reboot-required /run/reboot-needed; do [ -e $f ] && echo $f; done\n"
        "[ -r /run/reboot-required.pkgs ] && cat /run/reboot-required.pkgs\n"
        'r=$(uname -r); v=$(uname -v); echo @@$N running; printf \'%s\\n\' "$r" "$v"\n'
        "echo @@$N images; for f in /boot/vmlinuz-* /boot/vmlinux-* /boot/Image-* /boot/image-* /lib/modules/*/vmlinuz; do\n"
        '  [ -e "$f" ] && echo "$f"; done\n'
        "case $v in *Debian*) echo @@$N debian; dpkg-query -W -f '${Version}\\n' \"linux-image-$r\" 2>&1 ;; esac; exit 0",
        "the running kernel, the installed ones, and whether a reboot was asked for",
        keyed=True,
    ),
    # Two processes for all: the programs that daemons and guests run, and libraries that are gone from the disk. By sudo the
    # programs are picked from those of all processes and each one's libraries are asked for: there a rule is for one command.
    shell(
        "programs",
        "set --\n"
        "for f in /run/libvirtd.pid /run/virtqemud.pid /run/virtlogd.pid /run/virtlockd.pid /run/libvirt/qemu/*.pid; do\n"
        "  case ${f##*/} in driver.pid) continue ;; esac\n"
        '  [ -r "$f" ] || continue; p=; read -r p <"$f"\n'
        "  case $p in ''|*[!0-9]*) continue ;; esac\n"
        '  [ -d /proc/$p ] && set -- "$@" $p\n'
        "done\n"
        "echo @@$N exe; [ $# -gt 0 ] || exit 0\n"
        'k= l= m=; for p; do k="$k|$p" l="$l /proc/$p/exe" m="$m /proc/$p/maps"; done\n'
        f'if [ "$SUDO" ]; then $SUDO {_EXECUTABLES} 2>&1 |'
        ' grep -E "/proc/(${k#|})/exe( = |\')|^sudo: |^find: [^/]*$"\n'
        "else ls -ln $l 2>&1; fi\n"
        "echo @@$N libraries\n"
        "if [ \"$SUDO\" ]; then for f in $m; do $SUDO grep -HF '(deleted)' $f; done; else grep -HF '(deleted)' $m; fi 2>&1 |"
        f" grep -E '{DELETED_LIBRARY}|^(grep|sudo): '; exit 0",
        "programs and libraries of libvirt's daemons and of running guests that were replaced on the disk",
        keyed=True,
        root=Root.MUST,
        sudo=(_EXECUTABLES, "grep -HF '(deleted)' /proc/{pid}/maps"),
    ),
    # Asking iptables or nft may load their modules: they are asked only about what is loaded.
    shell(
        "libvirt_rules",
        "[ -d /sys/module ] || exit 66\necho @@$N tools\n"
        "for t in nft iptables-save ip6tables-save; do command -v $t >/dev/null && echo $t; done\n"
        "if [ -e /sys/module/nf_tables ] && command -v nft >/dev/null; then\n"
        "  echo @@$N nft; $SUDO nft list tables 2>&1; echo rc=$?\n"
        "  for f in ip ip6; do t=$($SUDO nft list table $f libvirt_network 2>/dev/null) &&"
        " { echo @@$N nft/$f; printf '%s\\n' \"$t\"; }; done\n"
        "fi\n"
        "for t in iptables-save ip6tables-save; do\n"
        "  command -v $t >/dev/null || continue; m=ip_tables; [ $t = iptables-save ] || m=ip6_tables\n"
        "  case $($t -V 2>/dev/null) in *nf_tables*) m=nf_tables ;; esac\n"
        "  [ -e /sys/module/$m ] || continue\n"
        "  echo @@$N $t; o=$($SUDO $t 2>&1); r=$?; [ $r = 0 ] || printf '%s\\n' \"$o\"\n"
        "  printf '%s\\n' \"$o\" | grep -E '^(:|-A )LIBVIRT_'; echo rc=$r\n"
        "done; exit 0",
        "packet filter rules of libvirt's networks",
        keyed=True,
        root=Root.MUST,
        sudo=(
            "nft list tables",
            "nft list table ip libvirt_network",
            "nft list table ip6 libvirt_network",
            "iptables-save",
            "ip6tables-save",
        ),
    ),
)
