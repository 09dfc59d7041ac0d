"""Facts about services: systemd's units, and the configuration of libvirt's daemons."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.hostvalidate import Verdict, parse_validation
from pytest_kvmcheck.facts.libvirtconf import Value, parse_conf
from pytest_kvmcheck.facts.systemd import Unit, parse_units
from pytest_kvmcheck.facts.systemstate import parse_failed, parse_state
from pytest_kvmcheck.views.host import Host, fact

MONOLITHIC = ("libvirtd.service", "libvirtd.socket")
MODULAR = ("virtqemud.service", "virtqemud.socket")

#: Which set of daemons a file belongs to; those not named are modular ones.
_SET_OF = {
    "/etc/libvirt/libvirtd.conf": "monolithic",
    "/etc/libvirt/virtlogd.conf": "",
    "/etc/libvirt/virtlockd.conf": "",
}


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


def in_use(host: Host, names: Iterable[str]) -> list[str]:
    """Return those of the units *names* that are enabled or active."""
    return [name for name in names if unit(host, name).enabled or unit(host, name).active]


def stop_timeout_s(host: Host, name: str) -> float:
    """Return the seconds that systemd gives the unit *name* to stop, ``inf`` for no limit."""
    seconds = parsing("systemd_units", lambda _: unit(host, name).timeout_stop_s, name)
    if seconds is None:
        raise EvidenceMissing(Cause.MISSING, f"systemd does not tell TimeoutStopUSec of {name}", "systemd_units")
    return seconds


@fact
def libvirt_conf(host: Host) -> dict[str, dict[str, Value]]:
    """Settings of the libvirt daemons by path of the file, of those files that could be read."""
    files = host.evidence.files("libvirt_conf")
    return {path: parsing("libvirt_conf", parse_conf, files[path]) for path in files}


def daemon_conf(host: Host) -> tuple[dict[str, dict[str, Value]], EvidenceMissing | None]:
    """Return the settings of the daemons in use by path of the file, and what is missing of them.

    The monolithic libvirtd has one file, the modular daemons one each; virtlogd and virtlockd belong to both. A daemon
    that is not installed has no file. While it is not known which are in use, or none is, all files count.
    """
    missing: EvidenceMissing | None = None
    try:
        used = {"monolithic": bool(in_use(host, MONOLITHIC)), "modular": bool(in_use(host, MODULAR))}
    except EvidenceMissing as exc:
        used, missing = {}, exc
    if not any(used.values()):
        used = {"monolithic": True, "modular": True}
    found: dict[str, dict[str, Value]] = {}
    files = host.evidence.files("libvirt_conf")
    for path in sorted({*files, *files.denied}):
        set_of = _SET_OF.get(path, "modular")
        if set_of and not used[set_of]:
            continue
        try:
            found[path] = parsing("libvirt_conf", parse_conf, files[path])
        except EvidenceMissing as exc:
            missing = missing or exc
    if not missing and files.partial:
        missing = EvidenceMissing(Cause.NOT_COLLECTED, "the files may not all have been collected", "libvirt_conf")
    if not missing and not any(_SET_OF.get(path, "modular") for path in found):
        missing = EvidenceMissing(Cause.MISSING, "no configuration file of the daemon in use is there", "libvirt_conf")
    return found, missing


@fact
def qemu_conf(host: Host) -> dict[str, Value]:
    """Settings of libvirt's QEMU driver."""
    return parsing("qemu_conf", parse_conf, host.evidence.files("qemu_conf").need("/etc/libvirt/qemu.conf"))


@fact
def validation(host: Host) -> tuple[Verdict, ...]:
    """What virt-host-validate says, run as root."""
    return host.evidence.parsed("virt_host_validate", parse_validation, ok=(0, 1))
