"""The clock by chrony: ``chronyc -n -c tracking``.

Source: https://chrony-project.org/doc/4.6/chronyc.html. One CSV line: reference id (hexadecimal), address, stratum,
reference time, system offset, last offset, RMS offset, frequency, residual, skew, root delay, root dispersion, interval, leap.

>>> line = "A29FC87B,162.159.200.123,4,1777629600.1,-0.000049,0.00001,0.0001,1.2,0.0,0.1,0.0012,0.0005,64.2,Normal\\n"
>>> tracking = parse_tracking(line)
>>> tracking.synchronized, tracking.stratum, tracking.offset_s
(True, 4, -4.9e-05)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


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
    def synchronized(self) -> bool:
        """Whether chrony follows a source. A pending leap second is fine."""
        return self.reference_id not in ("00000000", "") and 1 <= self.stratum <= 15 and self.leap != "Not synchronised"


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
