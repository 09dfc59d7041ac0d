"""Facts about time: the clock of the target, what keeps it, and the kernel's clock source."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.facts.chrony import Source, Tracking, parse_sources, parse_tracking
from pytest_kvmcheck.facts.ntp import NtpVariables, parse_epoch, parse_ntp
from pytest_kvmcheck.views.host import Host, fact

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
    name = host.evidence.text("detect_virt").strip()
    if not name or len(name.split()) != 1:
        raise EvidenceMissing(Cause.UNPARSABLE, f"systemd-detect-virt says {name[:40]!r}", "detect_virt")
    return name
