"""Answers to pings: ``ping -n -q -c 3 -M do -s SIZE ADDRESS``.

Source: ping(8) of iputils. A packet beyond the host's own MTU is refused at once: ``message too long``.

>>> text = '''PING 10.1.0.9 (10.1.0.9) from 10.1.0.7 eno1: 8972(9000) bytes of data.
...
... --- 10.1.0.9 ping statistics ---
... 3 packets transmitted, 3 received, 0% packet loss, time 402ms
... rtt min/avg/max/mdev = 0.112/0.140/0.171/0.020 ms
... '''
>>> parse_ping(text)
Ping(sent=3, received=3, too_long=False)
>>> parse_way("eno1 9000\\n")
('eno1', 9000)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_STATISTICS = re.compile(
    r"^(\d{1,6}) packets transmitted, (\d{1,6}) (?:packets )?received,(?: [+]\d+ \w+,)* .*packet loss.*$", re.MULTILINE
)


@dataclass(frozen=True)
class Ping:
    """What came back; ``too_long`` is whether the host itself, or one on the way, said that the packet is too long."""

    sent: int
    received: int
    too_long: bool

    @property
    def whole(self) -> bool:
        """Whether every packet came back."""
        return self.received == self.sent > 0


def parse_ping(text: str) -> Ping:
    """Return the statistics of one ping. Raises :class:`ParseError` for anything else: busybox knows no -M."""
    match = _STATISTICS.search(text)
    if not match or not text.startswith("PING ") or "ping statistics ---" not in text:
        raise ParseError(f"not the statistics of ping: {text.strip()[:60]!r}")
    return Ping(int(match[1]), int(match[2]), bool(re.search(r"message too long|frag needed|packet too big", text, re.IGNORECASE)))


def parse_way(text: str) -> tuple[str, int]:
    """Return the device by which a peer is reached, and its MTU. Raises :class:`ParseError`."""
    match = re.fullmatch(r"([^\s/]{1,15}) (\d{1,6})\s*", text)
    if not match:
        raise ParseError(f"not a device and its MTU: {text.strip()[:60]!r}")
    return match[1], int(match[2])
