"""Checks of libvirt's logging."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.services import daemon_conf

#: libvirt's levels: 1 debug, 2 info, 3 warning, 4 error.
DEBUG, INFO, WARNING = 1, 2, 3


def _items(value: object) -> list[tuple[int, str]]:
    """Return the items of log_filters or log_outputs as pairs of level and rest: ``1:+qemu`` is ``(1, "qemu")``."""
    found = []
    for item in str(value).split():
        level, colon, rest = item.partition(":")
        if not colon or not level.isdigit():
            raise EvidenceMissing(Cause.UNPARSABLE, f"not a log filter or output: {item[:60]!r}", "libvirt_conf")
        found.append((int(level), rest.lstrip("+")))
    return found


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
        now: virt-admin daemon-log-filters --filters '' and virt-admin daemon-log-outputs, where virt-admin can be used
        after a reboot: remove the line; use log_filters with patterns instead
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
        now: virt-admin daemon-log-filters --filters '' ends it without a restart
        after a reboot: comment log_filters and log_outputs out; restart the daemon (guests keep running)
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
                filters = _items(settings.get("log_filters", ""))
                outputs = _items(settings.get("log_outputs", ""))
            except EvidenceMissing as unreadable:
                findings.unknown(unreadable)
                continue
            level = settings.get("log_level")
            loud = any(level <= worst for level, _ in filters) or (isinstance(level, int) and level <= worst)
            open_output = any(level <= worst for level, _ in outputs)
            if loud and open_output:
                findings.fail(f"{host}: {path} logs everything of level {worst} (filters and outputs let it through).")
            elif loud or open_output:
                what = "a filter" if loud else "an output"
                findings.warn(f"{host}: {path} has {what} of level {worst}; nothing comes of it yet.")
            for _, rest in outputs:
                file = re.fullmatch(r"file:(/.+)", rest)
                if file and not any(PurePosixPath(file[1]).match(pattern) for pattern in _rotated(host)):
                    findings.fail(f"{host}: {file[1]} ({path}) is not rotated: no file of logrotate names it.")
