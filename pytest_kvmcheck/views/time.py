"""Facts about time: the clock of the target, what keeps it, and the kernel's clock source."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.chrony import Source, Tracking, parse_sources, parse_tracking
from pytest_kvmcheck.facts.chronyconf import Directives, parse_chrony_conf
from pytest_kvmcheck.facts.detectvirt import parse_detect_virt
from pytest_kvmcheck.facts.ntp import NtpVariables, Peer, parse_epoch, parse_ntp, parse_peers
from pytest_kvmcheck.facts.ptpconf import PtpConf, parse_ptp_conf
from pytest_kvmcheck.facts.ptplog import PtpLog, parse_ptp_log
from pytest_kvmcheck.facts.rtc import ClockDevices, parse_adjtime, parse_clock_devices
from pytest_kvmcheck.facts.timedaemon import Daemon, parse_daemon
from pytest_kvmcheck.views.cpu import cpuinfo, uname
from pytest_kvmcheck.views.host import Host, fact

#: Daemons that answer neither chronyc nor ntpq, or may not.
UNASKED_UNITS = ("ntpd.service", "ntp.service", "ntpsec.service", "ntpd-rs.service", "openntpd.service")

_CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0"


@fact
def now_s(host: Host) -> int:
    """The target's own clock, seconds since 1970."""
    return host.evidence.parsed("now", parse_epoch)


@fact
def tracking(host: Host) -> Tracking | None:
    """The clock by chrony; None when chronyc says that no chronyd answers, or chrony is not installed."""
    record = host.evidence.record("chrony_tracking")
    if record.cause is Cause.MISSING or (record.cause is None and record.stdout.startswith("506 ")):
        return None
    return host.evidence.parsed("chrony_tracking", parse_tracking)


@fact
def chrony_sources(host: Host) -> tuple[Source, ...] | None:
    """The sources of chrony; None when chronyc says that no chronyd answers, or chrony is not installed."""
    record = host.evidence.record("chrony_sources")
    if record.cause is Cause.MISSING or (record.cause is None and record.stdout.startswith("506 ")):
        return None
    return host.evidence.parsed("chrony_sources", parse_sources)


@fact
def ntp_variables(host: Host) -> NtpVariables | None:
    """The clock by ntpd; None when ntpq is not installed or no ntpd answers."""
    record = host.evidence.record("ntpd_variables")
    if record.cause is Cause.MISSING or "Connection refused" in record.stderr + record.stdout:
        return None
    return host.evidence.parsed("ntpd_variables", parse_ntp)


@fact
def ntp_peers(host: Host) -> tuple[Peer, ...] | None:
    """The servers of ntpd; None when ntpq is not installed or no ntpd answers."""
    record = host.evidence.record("ntpd_peers")
    if record.cause is Cause.MISSING or "Connection refused" in record.stderr + record.stdout:
        return None
    return host.evidence.parsed("ntpd_peers", parse_peers)


@fact
def time_daemons(host: Host) -> tuple[Daemon, ...]:
    """Processes that keep clocks, as far as they may be seen. Debian's chronyd is two: a helper of its own."""
    host.evidence.head("time_daemons")
    found = []
    for pid in host.evidence.keyed("time_daemons"):
        text = host.evidence.text(f"time_daemons{KEY_SEPARATOR}{pid}")
        if text.strip():  # empty: it ended meanwhile
            found.append(parsing("time_daemons", parse_daemon, text))
    return tuple(found)


@fact
def chrony_conf(host: Host) -> Directives:
    """The directives of chrony's own files; none when chrony is not installed."""
    files = host.evidence.files("chrony_conf")
    files.demand_all_readable()
    return parsing("chrony_conf", parse_chrony_conf, files)


@fact
def ptp_log(host: Host) -> PtpLog:
    """The last words of ptp4l and phc2sys."""
    return host.evidence.parsed("ptp_log", parse_ptp_log)


def ptp_settings(host: Host, daemon: Daemon) -> PtpConf:
    """Return what the configuration file of a ptp4l says; without one (-f), all is left at its default.

    Raises :class:`EvidenceMissing` for a file elsewhere than in /etc.
    """
    path = daemon.value("f")
    if not path:
        return PtpConf((), True)
    return parsing("ptp_conf", parse_ptp_conf, host.evidence.files("ptp_conf").need(path))


@fact
def ptp_clocks(host: Host) -> dict[str, str]:
    """Names of the PTP clocks by device: the name of a driver, or the address of a network card."""
    files = host.evidence.files("ptp_clocks")
    return {path.split("/")[-2]: text.strip()[:40] for path, text in sorted(files.items())}


@fact
def clock_devices(host: Host) -> ClockDevices:
    """The battery clock, the time zone, and the nodes of PTP clocks."""
    return host.evidence.parsed("clock_devices", parse_clock_devices)


@fact
def rtc_keeps(host: Host) -> str:
    """What the battery clock keeps: UTC (also when nobody wrote it down) or LOCAL."""
    if host.evidence.record("adjtime").cause is Cause.MISSING and not host.evidence.partial:
        return "UTC"
    return host.evidence.parsed("adjtime", parse_adjtime)


@fact
def timesyncd_stamp_s(host: Host) -> int | None:
    """When systemd-timesyncd last set the clock (seconds since 1970), None when it never did."""
    if host.evidence.record("timesyncd_stamp").cause is Cause.MISSING:
        return None
    return host.evidence.parsed("timesyncd_stamp", parse_epoch)


@fact
def clocksource(host: Host) -> str:
    """The kernel's clock source."""
    name = host.evidence.files("clocksource").need(f"{_CLOCKSOURCE}/current_clocksource").strip()
    if not name:
        raise EvidenceMissing(Cause.EMPTY, "current_clocksource is empty", "clocksource")
    return name


@fact
def virtualization(host: Host) -> str:
    """What the target runs in by systemd-detect-virt: ``none``, ``kvm``, ``qemu`` (emulated), ``vmware`` ..."""
    return _detected(host)[0]


@fact
def virtualization_by_any_means(host: Host) -> str:
    """The same; without that tool, the CPU flag by which hypervisors of x86 show themselves tells ``vm`` or ``none``."""
    if host.evidence.record("detect_virt").cause is not Cause.MISSING:
        return virtualization(host)
    flags = cpuinfo(host).flags
    if not uname(host).x86 or not flags:
        raise EvidenceMissing(Cause.MISSING, "nothing tells whether this is a virtual machine", "detect_virt")
    return "vm" if "hypervisor" in flags else "none"


@fact
def container(host: Host) -> str:
    """The container from within which the target answered; empty outside of one, or when there is no systemd to tell."""
    return "" if host.evidence.record("detect_virt").cause is Cause.MISSING else _detected(host)[1]


def _detected(host: Host) -> tuple[str, str]:
    return host.evidence.parsed("detect_virt", parse_detect_virt)
