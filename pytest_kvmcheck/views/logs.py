"""Facts about logs: what daemons log now, the audit, the journal, and the logs of domains."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.audit import AuditStatus, ControlRecord, parse_audit_status, parse_control_records
from pytest_kvmcheck.facts.du import parse_sizes
from pytest_kvmcheck.facts.journal import Message, parse_messages
from pytest_kvmcheck.facts.journaldconf import parse_journald_conf
from pytest_kvmcheck.facts.listing import parse_paths
from pytest_kvmcheck.facts.loglevels import Logging, parse_logging
from pytest_kvmcheck.facts.qemulog import QemuLog, parse_qemu_logs
from pytest_kvmcheck.facts.rsyslog import Action, parse_actions
from pytest_kvmcheck.facts.systemstate import parse_active
from pytest_kvmcheck.probes.logs import JOURNAL_LINES
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host, fact


@fact
def running_daemons(host: Host) -> tuple[str, ...]:
    """Names of the daemons that ran and were asked what they log."""
    host.evidence.head("virt_admin")
    active = host.evidence.parsed(f"virt_admin{KEY_SEPARATOR}active", parse_active)
    asked = set(host.evidence.keyed("virt_admin")) - {"active"}
    if asked != {name.removesuffix(".service") for name in active}:
        raise EvidenceMissing(Cause.UNPARSABLE, "the daemons that were asked are not those that run", "virt_admin")
    return tuple(sorted(asked))


def logging_of(host: Host, daemon: str) -> Logging:
    """Return what a running daemon logs."""
    return host.evidence.parsed(f"virt_admin{KEY_SEPARATOR}{daemon}", parse_logging)


@fact
def audit_status(host: Host) -> AuditStatus:
    """State of the kernel's audit."""
    return host.evidence.parsed("audit_status", parse_audit_status)


@fact
def audit_failures(host: Host) -> tuple[ControlRecord, ...]:
    """What failed of what libvirt did to guests since yesterday. ausearch ends with 1 and says nothing when there is nothing."""
    record = host.evidence.whole("audit_failures")
    if record.rc == 1 and not record.stdout.strip() and record.stderr.strip() in ("", "<no matches>"):
        return ()
    if record.rc == 0 and not record.stdout.strip():
        raise EvidenceMissing(Cause.EMPTY, "ausearch says neither what failed nor that nothing did", "audit_failures")
    return host.evidence.parsed("audit_failures", parse_control_records)


def _journal(host: Host, section: str) -> tuple[Message, ...]:
    host.evidence.head("journal")
    # The line of the kernel proves that the journal may be read.
    if not host.evidence.parsed(f"journal{KEY_SEPARATOR}control", parse_messages):
        raise EvidenceMissing(Cause.EMPTY, "the journal does not show even a line of the kernel", "journal")
    return host.evidence.parsed(f"journal{KEY_SEPARATOR}{section}", parse_messages)


@fact
def libvirt_errors(host: Host) -> tuple[Message, ...]:
    """Messages of error level of libvirt's daemons of the last 24 hours, the last ``JOURNAL_LINES`` of them."""
    return _journal(host, "libvirt")


def demand_all_libvirt_errors(host: Host) -> None:
    """Raise :class:`EvidenceMissing` when there were so many errors that earlier ones were left out."""
    if len(libvirt_errors(host)) >= JOURNAL_LINES:
        seen = f"libvirt logged {JOURNAL_LINES} errors or more in a day, not all were kept"
        raise EvidenceMissing(Cause.TRUNCATED, seen, "journal")


@fact
def suppressed_messages(host: Host) -> tuple[Message, ...]:
    """What journald says about messages of libvirt that it dropped since boot."""
    return _journal(host, "journald")


@fact
def journald_settings(host: Host) -> dict[str, str]:
    """Settings of the journal that are not defaults."""
    files = host.evidence.files("journald_conf")
    files.demand_all_readable()
    return parsing("journald_conf", parse_journald_conf, files)


@fact
def journal_dirs(host: Host) -> tuple[str, ...]:
    """Directories in which a journal is kept."""
    return host.evidence.parsed("journal_dirs", parse_paths)


@fact
def log_sizes(host: Host) -> dict[str, int]:
    """Bytes that /var/log/libvirt and /var/log/journal take; nothing for one that does not exist."""
    record = host.evidence.record("log_sizes")
    if record.cause is Cause.MISSING:
        return {}
    return host.evidence.parsed("log_sizes", parse_sizes)


@fact
def rsyslog_actions(host: Host) -> tuple[Action, ...]:
    """Actions of rsyslog that send messages elsewhere."""
    if host.evidence.record("rsyslog_conf").cause is Cause.MISSING:
        return ()
    return host.evidence.parsed("rsyslog_conf", parse_actions)


@fact
def _qemu_logs(host: Host) -> dict[str, QemuLog]:
    if host.evidence.record("qemu_log").cause is Cause.MISSING:
        return {}
    return host.evidence.parsed("qemu_log", parse_qemu_logs)


def log_of(domain: Domain) -> QemuLog | None:
    """Return what was picked from the log of *domain*, None when it has none (or an empty one)."""
    return _qemu_logs(domain.host).get(f"/var/log/libvirt/qemu/{domain.saved.name}.log")
