"""The clock by ntpd: ``ntpq -c rv``; and plain epoch times.

Source: https://www.ntp.org/documentation/4.2.8-series/ntpq/. Offset, root delay and dispersion are milliseconds there.

>>> text = '''associd=0 status=0615 leap_none, sync_ntp, 1 event, clock_sync,
... version="ntpd 4.2.8p15", stratum=3, rootdelay=12.3, rootdisp=30.5, offset=-0.42, refid=192.0.2.1'''
>>> parse_ntp(text)
NtpVariables(synchronized=True, offset_s=-0.00042, root_delay_s=0.0123, root_dispersion_s=0.0305)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class NtpVariables:
    """What ntpd thinks of the clock; times in seconds."""

    synchronized: bool
    offset_s: float
    root_delay_s: float
    root_dispersion_s: float


def parse_ntp(text: str) -> NtpVariables:
    """Return ntpd's system variables. Raises :class:`ParseError`."""
    head = re.search(r"^(?:associd|assID)=0 status=\w+ (.*)", text, re.MULTILINE)
    values = dict(re.findall(r"\b(offset|rootdelay|rootdisp|rootdispersion)=(-?\d+(?:\.\d+)?)\b", text))
    dispersion = values.get("rootdisp", values.get("rootdispersion"))
    if not head or "offset" not in values or "rootdelay" not in values or dispersion is None:
        raise ParseError(f"not the variables of ntpd: {text.strip()[:60]!r}")
    words = {word.strip() for word in head[1].split(",")}
    good = bool(words & {"leap_none", "leap_add_sec", "leap_del_sec"}) and any(word.startswith("sync_") for word in words)
    good &= not words & {"sync_unspec", "leap_alarm"}
    return NtpVariables(good, *(round(float(value) / 1000, 9) for value in (values["offset"], values["rootdelay"], dispersion)))


def parse_epoch(text: str) -> int:
    """Return seconds since 1970. Raises :class:`ParseError`.

    >>> parse_epoch("1777629600\\n")
    1777629600
    """
    if not re.fullmatch(r"\d{1,12}", text.strip()):
        raise ParseError(f"not a time in seconds: {text.strip()[:40]!r}")
    return int(text)
