"""Facts about services: systemd's units, and the configuration of libvirt's daemons."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.hostvalidate import Verdict, parse_validation
from pytest_kvmcheck.facts.libvirtconf import Value, parse_conf
from pytest_kvmcheck.facts.systemd import Unit, parse_units
from pytest_kvmcheck.facts.systemstate import parse_failed, parse_state
from pytest_kvmcheck.views.host import Host, fact


@fact
def units(host: Host) -> dict[str, Unit]:
    """The units that were asked about, by every name they have."""
    return host.evidence.parsed("systemd_units", parse_units)


def unit(host: Host, name: str) -> Unit:
    """Return the unit *name*, which may be one that does not exist (``exists`` tells).

    Raises :class:`EvidenceMissing` when systemd was not asked about it.
    """
    try:
        return units(host)[name]
    except KeyError:
        raise EvidenceMissing(Cause.NOT_COLLECTED, f"systemctl show did not mention {name}", "systemd_units") from None


@fact
def system_state(host: Host) -> tuple[str, int | None]:
    """State of the system by systemd, and how many units it counts as failed."""
    return host.evidence.parsed("systemd_state", parse_state)


@fact
def failed_units(host: Host) -> tuple[str, ...]:
    """Names of the failed units."""
    return host.evidence.parsed("systemd_failed", parse_failed)


@fact
def managers(host: Host) -> tuple[str, ...]:
    """Platforms that manage the guests of this host, by their traces in /etc."""
    names = {
        "/etc/vdsm": "oVirt",
        "/etc/nova": "OpenStack",
        "/etc/pve": "Proxmox",
        "/var/run/kubevirt": "KubeVirt",
    }
    return tuple(names.get(line, line) for line in host.evidence.text("managers").split())


@fact
def libvirt_conf(host: Host) -> dict[str, dict[str, Value]]:
    """Settings of the libvirt daemons by path of the file, of those files that could be read."""
    files = host.evidence.files("libvirt_conf")
    return {path: parsing("libvirt_conf", parse_conf, files[path]) for path in files}


def daemon_conf(host: Host) -> dict[str, dict[str, Value]]:
    """Return the settings of the daemons in use. What cannot be read of them is :class:`EvidenceMissing`.

    The monolithic libvirtd has one file; the modular daemons one each, and virtproxyd's is read where it listens. A daemon
    whose package is not installed has no file.
    """
    modular = unit(host, "virtqemud.service").exists and not unit(host, "libvirtd.service").active
    files = host.evidence.files("libvirt_conf")
    main = "/etc/libvirt/virtqemud.conf" if modular else "/etc/libvirt/libvirtd.conf"
    files.need(main)
    files.demand_all_readable()
    wanted = [path for path in files if (path != "/etc/libvirt/libvirtd.conf") or not modular]
    return {path: settings for path, settings in libvirt_conf(host).items() if path in wanted}


@fact
def qemu_conf(host: Host) -> dict[str, Value]:
    """Settings of libvirt's QEMU driver."""
    return parsing("qemu_conf", parse_conf, host.evidence.files("qemu_conf").need("/etc/libvirt/qemu.conf"))


@fact
def validation(host: Host) -> tuple[Verdict, ...]:
    """What virt-host-validate says, run as root."""
    return host.evidence.parsed("virt_host_validate", parse_validation, ok=(0, 1))
