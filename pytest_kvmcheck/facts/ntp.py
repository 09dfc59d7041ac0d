r"""The clock by ntpd: ``ntpq -c rv`` and ``ntpq -pn``; and plain epoch times.

Source: https://www.ntp.org/documentation/4.2.8-series/ntpq/. Offset, root delay and dispersion are milliseconds there.

>>> text = '''associd=0 status=0615 leap_none, sync_ntp, 1 event, clock_sync,
... version="ntpd 4.2.8p15", stratum=3, rootdelay=12.3, rootdisp=30.5, offset=-0.42, refid=192.0.2.1'''
>>> parse_ntp(text)
NtpVariables(synchronized=True, offset_s=-0.00042, root_delay_s=0.0123, root_dispersion_s=0.0305)

Peers, after two lines of heading: a tally code (* system peer, o PPS peer, + candidate, - outlier, # backup, x false ticker, .
excess, blank rejected), the address, reference id, stratum, type (NTPsec: a number of cookies of NTS), seconds since the last
answer, poll, reach (octal) and times.

>>> peers = parse_peers('''     remote           refid      st t when poll reach   delay   offset  jitter
... ==============================================================================
... *192.0.2.1       .GPS.            1 u   33   64  377    0.320   -0.012   0.041
...  192.0.2.9       .INIT.          16 u    -   64    0    0.000   +0.000   0.000
... ''')
>>> [(peer.tally, peer.address, peer.reach, peer.used) for peer in peers]
[('*', '192.0.2.1', 255, True), (' ', '192.0.2.9', 0, False)]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


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
    good &= not words & {"sync_unspec", "sync_local", "leap_alarm"}
    return NtpVariables(good, *(round(float(value) / 1000, 9) for value in (values["offset"], values["rootdelay"], dispersion)))


def parse_epoch(text: str) -> int:
    """Return seconds since 1970. Raises :class:`ParseError`.

    >>> parse_epoch("1777629600\\n")
    1777629600
    """
    if not re.fullmatch(r"\d{1,12}", text.strip()):
        raise ParseError(f"not a time in seconds: {text.strip()[:40]!r}")
    return int(text)


_PEER = re.compile(
    r"(?P<tally>[ *o+#x.-])(?P<address>\S+) +\S+ +\d{1,2} [lubspBAMmsS0-9-] +(?:-|\d+[mhdy]?) +\d+[mhdy]? +"
    r"(?P<reach>[0-7]{1,3})(?: +[+-]?[\d.]+){3}",
    re.ASCII,
)


@dataclass(frozen=True)
class Peer:
    """A server of ntpd. ``reach`` holds the last eight polls as bits."""

    tally: str
    address: str
    reach: int

    @property
    def refclock(self) -> bool:
        """Whether it is a reference clock of this host; 127.127.1.x is not: that is the clock of the host itself."""
        return self.address.startswith("127.127.") and not self.own

    @property
    def own(self) -> bool:
        """Whether it is the clock that ntpd keeps, as its own source of last resort."""
        return self.address.startswith(("127.127.1.", "LOCAL("))

    @property
    def used(self) -> bool:
        """Whether ntpd trusts it and can hear it."""
        return self.tally in ("*", "o", "+", "-", "#") and self.reach > 0 and not self.own


@empty_is_an_answer("no server is configured")
def parse_peers(text: str) -> tuple[Peer, ...]:
    """Return the servers, in their order. Raises :class:`ParseError`, for ntpq's own messages too."""
    if text.strip() in ("No association ID's returned", ""):
        return ()
    lines = text.splitlines()
    if len(lines) < 2 or "refid" not in lines[0] or not re.fullmatch(r"=+\s*", lines[1]):
        raise ParseError(f"not the peers of ntpd: {text.strip()[:60]!r}")
    found = []
    for line in lines[2:]:
        match = _PEER.fullmatch(line.rstrip())
        if not match:
            raise ParseError(f"not a peer of ntpd: {line.strip()[:60]!r}")
        found.append(Peer(match["tally"], match["address"], int(match["reach"], 8)))
    return tuple(found)
