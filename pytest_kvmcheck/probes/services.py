"""Probes of systemd: the state of units, and of the whole system. They come first: asking a daemon itself may start it."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, command

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
    # guests
    " qemu-guest-agent.service cloud-init.service cloud-final.service fstrim.timer"
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
        "systemd_state", "systemctl show --no-pager -p SystemState,NFailedUnits", "state of the whole system", roles=EVERYWHERE
    ),
)
