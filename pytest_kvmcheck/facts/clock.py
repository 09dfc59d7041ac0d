r"""The clock of a target against the controller's: the probe ``clock``, and when the controller asked and had the answer.

Source: date(1), readlink(1), md5sum(1); gather/live.py for the trip. A ``date`` that knows no fractions (busybox) prints the
format or nothing for it, and the second is all that is known.

>>> sample = parse_clock("1764043201.250000000\nzone /usr/share/zoneinfo/Europe/Berlin\ndigest 0a1b /etc/localtime\n")
>>> sample.time_s, sample.precision_s, sample.zone
(1764043201.25, 0.0, 'Europe/Berlin')
>>> parse_clock("1764043201.%N\nzone\ndigest\n").zone, parse_clock("1764043201.\nzone\ndigest\n").precision_s
('UTC', 1.0)
>>> parse_trip("asked 1764043200.900000\nanswered 1764043201.300000\n")
Trip(asked_s=1764043200.9, answered_s=1764043201.3)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class ClockSample:
    """The target's clock (seconds since 1970), how coarse it was told, and the time zone with a digest of its rules."""

    time_s: float
    precision_s: float
    zone: str
    digest: str

    def same_zone(self, other: ClockSample) -> bool:
        """Whether both keep the same local time: one zone by two names, or by two releases of its rules, is one."""
        return self.zone == other.zone or bool(self.digest and self.digest == other.digest)


@dataclass(frozen=True)
class Trip:
    """When the controller sent the question and when it had the answer, by its own clock (seconds since 1970)."""

    asked_s: float
    answered_s: float


def parse_clock(text: str) -> ClockSample:
    """Return the clock. Raises :class:`ParseError`."""
    match = re.fullmatch(r"(\d{9,11})(?:\.(\d{1,9})?(?:%N)?)?\nzone ?(\S*)\ndigest ?([0-9a-f]*)(?:\s.*)?\n", text, re.ASCII)
    if not match:
        raise ParseError(f"not the time and the time zone: {text.strip()[:80]!r}")
    zone = match[3].rpartition("zoneinfo/")[2].removeprefix("posix/").removeprefix("Etc/") or "UTC"
    if zone in ("UCT", "Zulu", "Universal"):
        zone = "UTC"
    return ClockSample(float(f"{match[1]}.{match[2] or 0}"), 0.0 if match[2] else 1.0, zone, match[4])


def parse_trip(text: str) -> Trip:
    """Return the times of the controller. Raises :class:`ParseError`."""
    match = re.fullmatch(r"asked (\d{9,11}\.\d{1,9})\nanswered (\d{9,11}\.\d{1,9})\n", text, re.ASCII)
    if not match or float(match[1]) > float(match[2]):
        raise ParseError(f"not the times of a trip: {text.strip()[:80]!r}")
    return Trip(float(match[1]), float(match[2]))
