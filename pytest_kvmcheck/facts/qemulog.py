r"""What was picked from the logs of domains, ``/var/log/libvirt/qemu/NAME.log``.

Source: libvirt writes lines that begin with ``YYYY-MM-DD HH:MM:SS.mmm+0000:``, QEMU ``YYYY-MM-DDTHH:MM:SS.uuuuuuZ``, both UTC.
The probe prints for each file ``F path``, the time of the last start (``S``), and the last lines: troubles (``E``) and others with
a date (``D``), each after its time, or ``~`` and the time of the dated line before it.

>>> text = '''F /var/log/libvirt/qemu/web.log
... S 2026-11-20 10:00:00
... D 2026-11-20T10:05:01|2026-11-20T10:05:01.217354Z qemu-system-x86_64: terminating on signal 15 from pid 1 (/usr/sbin/libvirtd)
... E ~2026-11-20 10:00:00|KVM internal error. Suberror: 1
... '''
>>> log = parse_qemu_logs(text)["/var/log/libvirt/qemu/web.log"]
>>> log.started_s == 1795168800.0, [(line.dated, line.trouble, line.text[:18]) for line in log.lines]
(True, [(True, False, '2026-11-20T10:05:0'), (False, True, 'KVM internal error')])
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_LINE = re.compile(r"(?P<kind>[DE]) (?P<undated>~?)(?P<time>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)?\|(?P<text>.*)", re.ASCII)


@dataclass(frozen=True)
class LogLine:
    """A line of a log. ``time_s`` is None when nothing before it has a date; of an undated line it is the earliest it can be."""

    time_s: float | None
    dated: bool
    trouble: bool
    text: str


@dataclass(frozen=True)
class QemuLog:
    """The log of one domain; ``started_s`` is None when it does not hold the last start. Other lines come before troubles."""

    started_s: float | None
    lines: tuple[LogLine, ...]


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text.replace(" ", "T")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise ParseError(f"not a time: {text[:40]!r}") from None


@empty_is_an_answer("no domain has a log")
def parse_qemu_logs(text: str) -> dict[str, QemuLog]:
    """Return the logs by path. Raises :class:`ParseError`."""
    found: dict[str, QemuLog] = {}
    path, started, lines = "", None, list[LogLine]()
    for line in (line.rstrip("\r") for line in text.split("\n")):
        if line.startswith("F /"):
            path, started, lines = line[2:], None, []
        elif path and re.fullmatch(r"S \d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", line, re.ASCII):
            started = _seconds(line[2:])
        elif path and (match := _LINE.fullmatch(line)):
            time = _seconds(match["time"]) if match["time"] else None
            lines.append(LogLine(time, not match["undated"] and time is not None, match["kind"] == "E", match["text"]))
        elif line.strip():
            raise ParseError(f"not what the probe prints: {line[:60]!r}")
        if path:
            found[path] = QemuLog(started, tuple(lines))
    return found
