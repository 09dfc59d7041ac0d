"""Checks of libvirt's logging."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pytest_kvmcheck import EvidenceMissing, Findings, Items, Number, Params, Regex, Severity, Whole, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.facts.loglevels import DEBUG, INFO, WARNING, parse_items
from pytest_kvmcheck.probes.logs import QEMU_LOG_FATAL, QEMU_LOG_WARNINGS
from pytest_kvmcheck.views.cpu import cmdline
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.identity import machine_id
from pytest_kvmcheck.views.images import space_of_directory
from pytest_kvmcheck.views.logs import (
    audit_failures,
    audit_status,
    demand_all_libvirt_errors,
    journal_dirs,
    journald_settings,
    libvirt_errors,
    log_of,
    log_sizes,
    logging_of,
    rsyslog_actions,
    running_daemons,
    suppressed_messages,
)
from pytest_kvmcheck.views.services import daemon_conf, unit
from pytest_kvmcheck.views.time import now_s


@check(
    "KVM-LOG-001",
    title="The deprecated log_level setting is absent or harmless",
    severity=Severity.LOW,
    reads=("libvirt_conf", "systemd_units"),
)
def test_log_level(host: Host) -> None:
    """No daemon of libvirt logs everything it does.

    What it checks
        No configuration file of a libvirt daemon in use sets log_level below 3 (warnings).

    Why it matters
        log_level is discouraged since libvirt 4.4.0; at level 1 or 2 it floods the logs, or is silently ignored with
        journald.

    How to fix
        now: virt-admin -c virtqemud:///system daemon-log-filters "3:*" (libvirtd:///system for the monolithic one); never
            clear the filters, as log_level then counts for everything
        after a reboot: remove the line; use log_filters with patterns instead
        roll back: virt-admin daemon-log-filters with the filters that it told before; the former line in the file
        verify: grep -Hs '^log_level' /etc/libvirt/*.conf

    When not to
        While a fault is being looked for.

    References
        https://libvirt.org/kbase/debuglogs.html
    """
    with Findings() as findings:
        found, missing = daemon_conf(host)
        findings.unknown(missing)
        for path, settings in found.items():
            level = settings.get("log_level", WARNING)
            if not isinstance(level, int):
                findings.unknown(EvidenceMissing(Cause.UNPARSABLE, f"{path}: log_level is no number", "libvirt_conf"))
            elif level < WARNING:
                findings.fail(f"{host}: log_level = {level} in {path}, expected 3 or more, or no such line.")


def _rotated(host: Host) -> list[str]:
    """Return the paths and patterns that logrotate names."""
    lines = host.evidence.text("logrotate_libvirt").splitlines()
    words = (word.strip("\"'") for line in lines for word in line.replace("{", " ").split())
    return [word for word in words if word.startswith("/")]


@check(
    "KVM-LOG-002",
    title="No debug filter or output is left in the configuration files, and file outputs are rotated",
    severity=Severity.MEDIUM,
    reads=("libvirt_conf", "logrotate_libvirt", "systemd_units"),
    params={"strict": False},
)
def test_no_debug_left(host: Host, params: Params) -> None:
    """Debugging is over once the fault is found, and no log fills the disk.

    What it checks
        No configuration file of a libvirt daemon in use has both a filter of level 1 (or log_level 1) and an output
        that takes level 1; one of the two is a warning. With strict the same holds for level 2. Each ``file:`` output
        is covered by logrotate.

    Why it matters
        Debug logs cost CPU time and disk space, and may hold secrets.

    How to fix
        now: virt-admin -c virtqemud:///system daemon-log-filters "3:*" ends it without a restart (libvirtd:///system for the
            monolithic one); an empty list is no cure where log_level is 1
        after a reboot: comment log_filters and log_outputs out; restart the daemon (guests keep running)
        roll back: virt-admin daemon-log-filters with the filters that it told before; the former lines in the file
        verify: grep -HsE '^log_(filters|outputs|level)' /etc/libvirt/*.conf

    When not to
        While a fault is being looked for.

    References
        https://libvirt.org/kbase/debuglogs.html
        https://libvirt.org/logging.html
    """
    worst = INFO if params.strict else DEBUG
    with Findings() as findings:
        found, missing = daemon_conf(host)
        findings.unknown(missing)
        for path, settings in found.items():
            try:
                filters = parsing("libvirt_conf", parse_items, str(settings.get("log_filters", "")))
                outputs = parsing("libvirt_conf", parse_items, str(settings.get("log_outputs", "")))
            except EvidenceMissing as unreadable:
                findings.unknown(unreadable)
                continue
            level = settings.get("log_level")
            loud = any(item.level <= worst for item in filters) or (isinstance(level, int) and level <= worst)
            open_output = any(item.level <= worst for item in outputs)
            if loud and open_output:
                findings.fail(f"{host}: {path} logs everything of level {worst} (filters and outputs let it through).")
            elif loud or open_output:
                what = "a filter" if loud else "an output"
                findings.warn(f"{host}: {path} has {what} of level {worst}; nothing comes of it yet.")
            for item in outputs:
                file = re.fullmatch(r"file:(/.+)", item.rest)
                if file and not any(PurePosixPath(file[1]).match(pattern) for pattern in _rotated(host)):
                    findings.fail(f"{host}: {file[1]} ({path}) is not rotated: no file of logrotate names it.")


@condition
def virt_admin_installed(host: Host) -> str | None:
    """Hold where virt-admin is installed."""
    missing = host.evidence.record("virt_admin").cause is Cause.MISSING
    return "virt-admin is not installed" if missing else None


@check(
    "KVM-LOG-003",
    title="No debug filter is active at run time",
    severity=Severity.MEDIUM,
    reads=("virt_admin",),
    applies=virt_admin_installed,
)
def test_no_debug_now(host: Host) -> None:
    """No running daemon of libvirt debugs.

    What it checks
        No daemon that runs has both a filter of level 1 and an output that takes level 1; one of the two is a warning.
        Only daemons that systemd calls active are asked, as asking would start the others; none running is fine.

    Why it matters
        Settings of virt-admin last until the daemon restarts, and are forgotten once the fault is found. Debug logs cost
        CPU time and disk space, and may hold secrets.

    How to fix
        now: virt-admin -c virtqemud:///system daemon-log-filters "3:*" (libvirtd:///system for the monolithic one), or
            set what was there before
        after a reboot: nothing; KVM-LOG-002 looks at the files
        roll back: virt-admin daemon-log-filters and daemon-log-outputs with what they told before
        verify: virt-admin -c virtqemud:///system daemon-log-filters

    When not to
        While a fault is being looked for. An empty list of filters is no cure where log_level is 1: the level then counts
        for everything.

    References
        https://libvirt.org/kbase/debuglogs.html
    """
    with Findings() as findings:
        daemons = running_daemons(host)
        for name in daemons:
            try:
                logging = logging_of(host, name)
            except EvidenceMissing as missing:
                findings.unknown(missing)
                continue
            loud = [item.rest for item in logging.filters if item.level == DEBUG]
            outputs = [item.rest for item in logging.outputs if item.level == DEBUG]
            if loud and outputs:
                findings.fail(f"{host}: {name} debugs now: filters for {', '.join(loud)} go to {', '.join(outputs)}.")
            elif loud or outputs:
                what = f"filters of level 1 for {', '.join(loud)}" if loud else f"outputs of level 1 to {', '.join(outputs)}"
                findings.warn(f"{host}: {name} has {what}; nothing comes of it yet.")
        note(f"asked: {', '.join(daemons)}" if daemons else "no daemon runs")


@check(
    "KVM-LOG-004",
    title="Guest lifecycle auditing is on",
    severity=Severity.LOW,
    reads=("libvirt_conf", "systemd_units", "audit_status", "cmdline"),
    params={"min_audit_level": Whole(1, 1, 2), "require_audit_logging": False},
)
def test_auditing(host: Host, params: Params) -> None:
    """Who started which guest with what is written down.

    What it checks
        audit_level of libvirtd.conf (virtqemud.conf) is at least min_audit_level (the default is 1), audit_logging is 1
        where the profile wants it, the kernel's audit is on, also at the next boot (no audit=0), and auditd is active. An
        auditd that is not enabled is a warning.

    Why it matters
        The records VIRT_CONTROL, VIRT_MACHINE_ID and VIRT_RESOURCE are the only ones that say what was done to a guest.

    How to fix
        now: install auditd (Debian, Ubuntu, SUSE: audit), systemctl enable --now auditd; auditctl -e 1
        after a reboot: remove audit=0 from the kernel command line; remove audit_level = 0 from /etc/libvirt/libvirtd.conf
            or virtqemud.conf
        roll back: systemctl disable --now auditd; the former lines, and the former kernel command line, and reboot
        verify: auditctl -s; ausearch -m VIRT_CONTROL -ts today

    When not to
        audit_level = 2 keeps libvirt from starting where the kernel has no audit.

    References
        https://libvirt.org/auditlog.html
        https://man7.org/linux/man-pages/man8/auditctl.8.html
    """
    with Findings() as findings:
        for judge in (_judge_audit_conf, _judge_audit_daemon, _judge_audit_kernel):
            try:
                judge(host, params, findings)
            except EvidenceMissing as missing:
                findings.unknown(missing)


#: The daemons that write audit records.
_AUDITORS = ("/etc/libvirt/libvirtd.conf", "/etc/libvirt/virtqemud.conf")


def _judge_audit_conf(host: Host, params: Params, findings: Findings) -> None:
    """Report what libvirt is told not to record."""
    found, missing = daemon_conf(host)
    known = {path: settings for path, settings in found.items() if path in _AUDITORS}
    if missing or not known:
        findings.unknown(missing or EvidenceMissing(Cause.MISSING, "no libvirtd.conf or virtqemud.conf is there", "libvirt_conf"))
    for path, settings in known.items():
        level, logged = settings.get("audit_level", 1), settings.get("audit_logging", 0)
        if not isinstance(level, int):
            raise EvidenceMissing(Cause.UNPARSABLE, f"{path}: audit_level is no number", "libvirt_conf")
        if level < params.min_audit_level:
            findings.fail(f"{host}: audit_level = {level} in {path}, expected {params.min_audit_level} or more.")
        if params.require_audit_logging and logged != 1:
            findings.fail(f"{host}: audit_logging = {logged} in {path}, expected 1.")


def _judge_audit_daemon(host: Host, _: Params, findings: Findings) -> None:
    """Report an auditd that does not run, now or after the next boot."""
    auditd = unit(host, "auditd.service")
    if not auditd.exists:
        findings.fail(f"{host}: auditd is not installed.")
    elif not auditd.active:
        findings.fail(f"{host}: auditd is {auditd.active_state}, expected active.")
    elif not auditd.enabled:
        findings.warn(f"{host}: auditd is {auditd.unit_file_state or 'without a unit file'}: it will not run after a reboot.")


def _judge_audit_kernel(host: Host, _: Params, findings: Findings) -> None:
    """Report an audit that the kernel has switched off."""
    value = (values(cmdline(host), "audit") or [""])[-1]
    findings.fail_if(value in ("0", "off"), f"{host}: the kernel was started with audit={value}.")
    if host.evidence.record("audit_status").cause is Cause.MISSING and not unit(host, "auditd.service").exists:
        return
    status = audit_status(host)
    findings.fail_if(status.enabled == 0, f"{host}: the kernel's audit is off (enabled 0), expected 1 or 2.")
    if status.lost:
        note(f"{status.lost} audit records were lost since boot")


@check(
    "KVM-LOG-005",
    title="No guest start failed recently",
    severity=Severity.MEDIUM,
    reads=("audit_failures", "journal", "now", "systemd_units"),
    params={
        "window_h": Whole(24, 1, 744),
        "max_errors": Whole(0, 0, 1000),
        "ignore_patterns": Items(
            (
                "End of file while reading data",
                "End of file from qemu monitor",
                "Domain not found",
                "Guest agent is not responding",
                "guest agent is not connected",
            ),
            Regex(),
            most=50,
        ),
    },
)
def test_no_failed_start(host: Host, params: Params) -> None:
    """Guests that were to start did.

    What it checks
        The audit log, where auditd is active, has no failed start of a guest within window_h hours. The journal of
        libvirtd and virtqemud has at most max_errors errors besides ignore_patterns in that time; more are a warning.

    Why it matters
        A failed start, or a migration that was given up, is often noticed only when the guest is needed.

    How to fix
        now: read /var/log/libvirt/qemu/DOMAIN.log and journalctl -u libvirtd -u virtqemud around the time that is named
        after a reboot: find what made it fail; the check looks back 24 hours only
        roll back: nothing to undo: what was mended is mended
        verify: ausearch -m VIRT_CONTROL -sv no -ts today; journalctl -u libvirtd -u virtqemud -p err --since=-24h

    When not to
        Any client that leaves makes libvirt log "End of file while reading data" as an error, this program too; such
        patterns belong in ignore_patterns.

    References
        https://libvirt.org/auditlog.html
    """
    with Findings() as findings:
        since = now_s(host) - params.window_h * 3600
        if params.window_h > 24:
            findings.unknown(EvidenceMissing(Cause.TRUNCATED, "only the last 24 hours were asked for", "journal"))
        for judge in (_judge_failed_starts, _judge_libvirt_errors):
            try:
                judge(host, params, since, findings)
            except EvidenceMissing as missing:
                findings.unknown(missing)


def _judge_failed_starts(host: Host, params: Params, since: float, findings: Findings) -> None:
    """Report failed starts by the audit log. Without auditd the journal has to do."""
    if not unit(host, "auditd.service").active:
        note("auditd is not active: only the journal was read")
        return
    failed = [item for item in audit_failures(host) if item.op == "start" and not item.succeeded and item.time_s >= since]
    if failed:
        names = ", ".join(dict.fromkeys(item.vm for item in failed))
        findings.fail(f"{host}: {len(failed)} starts failed within {params.window_h} h: {names[:200]}.")


def _judge_libvirt_errors(host: Host, params: Params, since: float, findings: Findings) -> None:
    """Report errors that libvirt logged."""
    ignored = [re.compile(pattern) for pattern in params.ignore_patterns]
    errors = [
        item.text
        for item in libvirt_errors(host)
        if item.time_s >= since and not any(pattern.search(item.text) for pattern in ignored)
    ]
    if len(errors) > params.max_errors:
        findings.warn(f"{host}: libvirt logged {len(errors)} errors within {params.window_h} h, the last one: {errors[-1][:160]}.")
    else:
        demand_all_libvirt_errors(host)


@condition
def has_a_log(domain: Domain) -> str | None:
    """Hold for domains that run, or have a log."""
    if domain.running or log_of(domain) is not None:
        return None
    return "was never started, or its log is empty"


#: Troubles that need attention but stop no guest.
_LOG_WARNINGS = re.compile("|".join(QEMU_LOG_WARNINGS))


@check(
    "KVM-LOG-006",
    title="The QEMU log of each domain has no recent error",
    severity=Severity.MEDIUM,
    reads=("qemu_log", "domain", "now", "virsh"),
    params={"window_d": Whole(7, 1, 366), "error_patterns": Items(QEMU_LOG_FATAL, Regex(), least=1, most=50)},
    applies=has_a_log,
)
def test_qemu_log(domain: Domain, params: Params) -> None:
    """QEMU has not complained about this guest lately.

    What it checks
        No line of /var/log/libvirt/qemu/$DOM.log of the last window_d days matches error_patterns (a crash, a failed
        start, errors of KVM, locks, I/O or memory). CPU features that the host lacks and a TSC that differs are
        warnings. A line without a date counts from the dated one before it; where that is older than the window, its
        time is not known, which is a warning.

    Why it matters
        This is where QEMU explains why a guest paused, crashed or did not start.

    How to fix
        now: read the log around the time that is named; an error of a disk or a lock belongs to the storage
        after a reboot: choose a CPU model that the host has, where features are missing
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: tail -n 50 /var/log/libvirt/qemu/$DOM.log

    When not to
        "terminating on signal 15" and the reasons shutdown, destroyed, saved and migrated are normal and do not count.

    References
        https://libvirt.org/kbase/debuglogs.html
    """
    log = log_of(domain)
    if log is None:
        raise EvidenceMissing(Cause.MISSING, f"{domain} runs, but its log is not there or empty", "qemu_log")
    now = now_s(domain.host)
    since = now - params.window_d * 86400
    fatal = [re.compile(pattern) for pattern in params.error_patterns]
    recent, some_time, warnings = [], [], []
    for line in log.lines:
        if line.time_s is not None and line.time_s >= since:
            if any(pattern.search(line.text) for pattern in fatal):
                recent.append(line.text)
            elif line.trouble and _LOG_WARNINGS.search(line.text):
                warnings.append(line.text)
        elif not line.dated and any(pattern.search(line.text) for pattern in fatal):
            # It was written before the next start, or now.
            before = line.time_s is not None and log.started_s is not None and log.started_s > line.time_s
            if (log.started_s if before and log.started_s else now) >= since:
                some_time.append(line.text)
    with Findings() as findings:
        days = f"in the last {params.window_d} days"
        findings.fail_if(bool(recent), f"{domain}: {len(recent)} errors {days}, the last one: {recent[-1][:160] if recent else ''}")
        findings.warn_if(bool(some_time), f"{domain}: an error without a date: {some_time[-1][:160] if some_time else ''}")
        findings.warn_if(bool(warnings), f"{domain}: {len(warnings)} warnings {days}: {warnings[-1][:160] if warnings else ''}")


@check(
    "KVM-LOG-007",
    title="Log space is bounded",
    severity=Severity.MEDIUM,
    reads=("df", "mounts", "log_sizes"),
    params={"max_use_pct": Number(85, 1, 99), "max_libvirt_mb": Number(2048, 1, 102_400)},
)
def test_log_space(host: Host, params: Params) -> None:
    """Logs have room, and those of libvirt do not grow without end.

    What it checks
        The file systems of /var/log and /var/log/libvirt are filled to less than max_use_pct, and /var/log/libvirt takes
        less than max_libvirt_mb.

    Why it matters
        A full /var keeps libvirt from writing its states, and can stop guests.

    How to fix
        now: remove logs of guests that are gone from /var/log/libvirt/qemu; journalctl --vacuum-size=1G
        after a reboot: give /var/log a file system of its own; keep virtlogd's limits (2 MiB and 3 backups a guest)
        roll back: deleted logs are gone: keep a copy; the former size of the journal by SystemMaxUse= in journald.conf
        verify: df -h /var/log; du -sh /var/log/libvirt

    When not to
        Never.

    References
        https://libvirt.org/daemons.html
    """
    with Findings() as findings:
        seen = set()
        for path in ("/var/log", "/var/log/libvirt"):
            space = space_of_directory(host, path)
            if space.target not in seen:
                seen.add(space.target)
                used = f"{space.used_percent:.0f} %"
                if space.used_percent >= params.max_use_pct:
                    findings.fail(f"{host}: {space.target} (of {path}) is {used} full, less than {params.max_use_pct} % expected.")
                else:
                    note(f"{space.target} is {used} full")
        try:
            size = log_sizes(host).get("/var/log/libvirt", 0) / 2**20
        except EvidenceMissing as missing:
            if missing.cause is not Cause.NOT_PERMITTED:
                raise
            note("the size of /var/log/libvirt may not be read")
            return
        if size >= params.max_libvirt_mb:
            findings.fail(f"{host}: /var/log/libvirt takes {size:.0f} MiB, less than {params.max_libvirt_mb} MiB expected.")


#: Agents that send logs elsewhere by a configuration of their own, which is not read.
_AGENTS = (
    *("filebeat", "elastic-agent", "fluent-bit", "fluentd", "vector", "promtail", "alloy", "otelcol-contrib"),
    *("splunk", "SplunkForwarder", "systemd-journal-upload"),
)


def _forwarders(host: Host) -> tuple[list[str], list[str]]:
    """Return what sends logs to another host, and what does so perhaps or not for sure."""
    sure = [name for name in _AGENTS if unit(host, f"{name}.service").active]
    perhaps = []
    if unit(host, "rsyslog.service").active:
        actions = () if sure else rsyslog_actions(host)
        if any(action.reliable for action in actions):
            sure.append("rsyslog")
        elif actions:
            perhaps.append("rsyslog sends by plain UDP, which loses messages")
    if unit(host, "syslog-ng.service").active:
        perhaps.append("syslog-ng is active, but its configuration is not read")
    return sure, perhaps


@check(
    "KVM-LOG-008",
    title="The journal is persistent and drops no libvirt messages",
    severity=Severity.LOW,
    reads=("journal_dirs", "machine_id", "journald_conf", "journal", "systemd_units", "rsyslog_conf"),
)
def test_journal_is_kept(host: Host) -> None:
    """What libvirt said before a crash can be read after it.

    What it checks
        /var/log/journal/MACHINE-ID exists and Storage is not volatile or none, unless the logs are sent to another host
        (KVM-LOG-009). journald has dropped no messages of libvirt since boot.

    Why it matters
        A volatile journal is gone with the crash that it should explain, and the rate limit drops exactly the burst that
        is needed.

    How to fix
        now: mkdir -p /var/log/journal && journalctl --flush
        after a reboot: Storage=persistent in /etc/systemd/journald.conf; mend what floods the journal rather than lift
            RateLimitBurst
        roll back: Storage=volatile in journald.conf and systemctl restart systemd-journald; /var/log/journal stays until it is
            removed
        verify: journalctl --list-boots; journalctl -b _TRANSPORT=driver | grep Suppressed

    When not to
        On hosts without a disk, with logs sent elsewhere.

    References
        https://www.freedesktop.org/software/systemd/man/latest/journald.conf.html
    """
    with Findings() as findings:
        for judge in (_judge_storage, _judge_suppressed):
            try:
                judge(host, findings)
            except EvidenceMissing as missing:
                findings.unknown(missing)


def _judge_storage(host: Host, findings: Findings) -> None:
    """Report a journal that does not outlive a reboot."""
    identity = "".join(machine_id(host))
    if not identity:
        raise EvidenceMissing(Cause.EMPTY, "/etc/machine-id is empty", "machine_id")
    storage = journald_settings(host).get("Storage", "auto").lower()
    place = f"/var/log/journal/{identity}"
    if storage in ("volatile", "none"):
        why = f"Storage={storage}"
    elif place not in journal_dirs(host):
        why = f"{place} does not exist (Storage={storage})"
    else:
        return
    sure, _ = _forwarders(host)
    if sure:
        note(f"{why}, but {', '.join(sure)} sends logs elsewhere")
    else:
        findings.fail(f"{host}: the journal is not kept over a reboot: {why}, and nothing is known to send logs elsewhere.")


def _judge_suppressed(host: Host, findings: Findings) -> None:
    """Report messages of libvirt that were dropped."""
    if dropped := suppressed_messages(host):
        findings.fail(f"{host}: journald dropped messages since boot: {dropped[-1].text[:160]}.")


@check(
    "KVM-LOG-009",
    title="Host logs are forwarded to a central store",
    severity=Severity.INFO,
    reads=("systemd_units", "rsyslog_conf"),
)
def test_logs_are_forwarded(host: Host) -> None:
    """The logs of a dead host can still be read.

    What it checks
        An agent is active (Filebeat, Elastic Agent, Fluent Bit, Fluentd, Vector, Promtail, Alloy, OpenTelemetry, Splunk,
        systemd-journal-upload), or rsyslog is and sends to another host. Plain UDP, syslog-ng alone (its configuration is
        not read), and an agent that does not start at boot are warnings. Whether messages arrive is not seen from here.

    Why it matters
        Logs on the disk of a dead hypervisor help nobody.

    How to fix
        now: rsyslog: action(type="omfwd" target="logs.example" port="6514" protocol="tcp") in /etc/rsyslog.d/, or enable
            one agent
        after a reboot: systemctl enable the agent
        roll back: remove the file from /etc/rsyslog.d and restart rsyslog, or disable the agent
        verify: logger kvmcheck-test, and look for it in the central store

    When not to
        Where a collector reads the hosts' journals itself.

    References
        https://docs.rsyslog.com/doc/configuration/modules/omfwd.html
    """
    with Findings() as findings:
        sure, perhaps = _forwarders(host)
        if not sure and not perhaps:
            findings.fail(f"{host}: nothing sends logs to another host: no agent is active, and rsyslog has no remote action.")
        elif not sure:
            findings.warn(f"{host}: {'; '.join(perhaps)}.")
        for name in sure:
            agent = unit(host, f"{name}.service")
            if not agent.enabled:
                findings.warn(f"{host}: {name} is active but {agent.unit_file_state or 'without a unit file'}: not after a reboot.")
        note(f"by {', '.join(sure)}")
