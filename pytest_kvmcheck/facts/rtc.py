r"""The battery clock, the time zone and PTP clocks: ``/sys/class/rtc/rtc0``, ``/etc/localtime``, ``/etc/adjtime``, ``/dev/ptp*``.

Source: hwclock(8), localtime(5). The first line has the battery clock and the system clock read right after it, the second what
/etc/localtime links to (``file`` when it is a copy, ``none`` when it is not there, which means UTC). Nodes of PTP clocks follow.

>>> parse_clock_devices("rtc 1777629600 1777629601\nzone ../usr/share/zoneinfo/Europe/Berlin\nptp /dev/ptp0\n")
ClockDevices(rtc_s=1777629600, system_s=1777629601, zone='Europe/Berlin', ptp=frozenset({'/dev/ptp0'}))
>>> parse_clock_devices("rtc none\nzone none\n")
ClockDevices(rtc_s=None, system_s=None, zone='UTC', ptp=frozenset())
>>> parse_adjtime("0.5 1777629600 0.0\n1777629600\nLOCAL\n")
'LOCAL'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_TEXT = re.compile(r"rtc (?:none|(\d{1,12}) (\d{1,12}))\nzone (none|file|[^\n]*/[^\n]*)((?:\nptp /dev/ptp[\w.-]*)*)", re.ASCII)


@dataclass(frozen=True)
class ClockDevices:
    """The clocks in seconds since 1970 (None without a battery clock), the zone (None when it cannot be told), and PTP nodes."""

    rtc_s: int | None
    system_s: int | None
    zone: str | None
    ptp: frozenset[str]


def parse_clock_devices(text: str) -> ClockDevices:
    """Return clocks and zone. Raises :class:`ParseError`."""
    match = _TEXT.fullmatch(text.replace("\r\n", "\n").rstrip("\n"))
    if not match:
        raise ParseError(f"not the battery clock and the time zone: {text.strip()[:60]!r}")
    place = match[3].strip()
    zone: str | None = {"none": "UTC", "file": None}.get(place, "")
    if zone == "":
        named = re.fullmatch(r"(?:.*/)?zoneinfo/(?:posix/)?([A-Za-z][\w+/-]{1,60})", place, re.ASCII)
        zone = named[1] if named else None
    return ClockDevices(
        int(match[1]) if match[1] else None,
        int(match[2]) if match[2] else None,
        zone,
        frozenset(line.removeprefix("ptp ") for line in match[4].split("\n")[1:]),
    )


def parse_adjtime(text: str) -> str:
    """Return what the battery clock keeps: UTC or LOCAL; UTC when the third line is missing. Raises :class:`ParseError`."""
    lines = text.splitlines()
    if not lines or not re.fullmatch(r"[-+\d.eE]+(?: [-+\d.eE]+){2}", lines[0].strip(), re.ASCII):
        raise ParseError(f"not /etc/adjtime: {text.strip()[:60]!r}")
    kept = lines[2].strip() if len(lines) > 2 else "UTC"
    if kept not in ("UTC", "LOCAL"):
        raise ParseError(f"/etc/adjtime says neither UTC nor LOCAL: {kept[:20]!r}")
    return kept
