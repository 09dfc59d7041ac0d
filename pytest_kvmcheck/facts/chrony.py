"""The clock by chrony: ``chronyc -n -c tracking`` and ``chronyc -n -c sources``.

Source: https://chrony-project.org/doc/4.6/chronyc.html. One CSV line: reference id (hexadecimal), address, stratum,
reference time, system offset, last offset, RMS offset, frequency, residual, skew, root delay, root dispersion, interval, leap.

>>> line = "A29FC87B,162.159.200.123,4,1777629600.1,-0.000049,0.00001,0.0001,1.2,0.0,0.1,0.0012,0.0005,64.2,Normal\\n"
>>> tracking = parse_tracking(line)
>>> tracking.synchronized, tracking.stratum, tracking.offset_s
(True, 4, -4.9e-05)

Sources, one a line: mode (^ server, = peer, # reference clock), state (* followed, + combined, - not combined, x false ticker,
~ too variable, ? unusable), address, stratum, poll, reach (octal), seconds since the last answer, offsets and error. There is no
line when no source is configured; an answer that never came was 4294967295 s ago.

>>> found = parse_sources("^,*,192.0.2.1,3,6,377,25,0.000243,0.000393,0.001763\\n#,?,PPS0,0,4,0,4294967295,0.0,0.0,0.0\\n")
>>> found[0].used, found[0].address, found[0].reach, found[1].refclock, found[1].last_rx_s
(True, '192.0.2.1', 255, True, None)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Tracking:
    """What chrony thinks of the clock; times in seconds, ``reference_s`` since 1970."""

    reference_id: str
    address: str
    stratum: int
    reference_s: float
    offset_s: float
    root_delay_s: float
    root_dispersion_s: float
    leap: str

    @property
    def alone(self) -> bool:
        """Whether chrony has no source, and vouches for its own clock by the directive ``local``: as of just now, always."""
        return self.reference_id.upper() == "7F7F0101"

    @property
    def synchronized(self) -> bool:
        """Whether chrony follows a source, not just its own clock. A pending leap second is fine."""
        return (
            not self.alone
            and self.reference_id not in ("00000000", "")
            and 1 <= self.stratum <= 15
            and self.leap != "Not synchronised"
        )


def parse_tracking(text: str) -> Tracking:
    """Return the tracking data. Raises :class:`ParseError`, for chronyc's own messages too."""
    fields = text.strip().split(",")
    if len(fields) != 14 or "\n" in text.strip() or (not text.isprintable() and "\0" in text):
        raise ParseError(f"not the CSV of chronyc tracking: {text.strip()[:60]!r}")
    try:
        reference, offset, delay, dispersion = (float(fields[index]) for index in (3, 4, 10, 11))
        stratum = int(fields[2])
        int(fields[0] or "0", 16)
    except ValueError:
        raise ParseError(f"not the CSV of chronyc tracking: {text.strip()[:60]!r}") from None
    if not all(math.isfinite(number) for number in (reference, offset, delay, dispersion)):
        raise ParseError("chronyc tracking holds a number that is none")
    return Tracking(fields[0], fields[1], stratum, reference, offset, delay, dispersion, fields[13])


#: How chronyc writes "never" where a number of seconds belongs.
_NEVER = 2**32 - 1

_SOURCE = re.compile(
    r"(?P<mode>[\^=#]),(?P<state>[*+\-x~?]),(?P<address>[^,\s]+),(?P<stratum>\d{1,2}),(?P<poll>-?\d{1,2}),(?P<reach>[0-7]{1,3}),"
    r"(?P<last>\d{1,10})(?:,-?\d+\.\d+(?:e[+-]?\d+)?){3}",
    re.ASCII,
)


@dataclass(frozen=True)
class Source:
    """A source of chrony. ``reach`` holds the last eight polls as bits; ``last_rx_s`` is None when no answer ever came."""

    mode: str
    state: str
    address: str
    stratum: int
    reach: int
    last_rx_s: int | None

    @property
    def refclock(self) -> bool:
        """Whether it is a reference clock of this host (GPS, PPS, PHC)."""
        return self.mode == "#"

    @property
    def used(self) -> bool:
        """Whether chrony trusts it and can hear it."""
        return self.state in ("*", "+", "-") and self.reach > 0


@empty_is_an_answer("no source is configured")
def parse_sources(text: str) -> tuple[Source, ...]:
    """Return the sources, in their order. Raises :class:`ParseError`, for chronyc's own messages too."""
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _SOURCE.fullmatch(line)
        if not match:
            raise ParseError(f"not a line of chronyc sources: {line[:60]!r}")
        last = int(match["last"])
        found.append(
            Source(
                match["mode"],
                match["state"],
                match["address"],
                int(match["stratum"]),
                int(match["reach"], 8),
                last if last < _NEVER else None,
            )
        )
    return tuple(found)
