"""Listening TCP sockets: ``ss -Hltn``.

Source: ss(8). Columns: state, queues, local address and port, peer. IPv6 addresses stand in brackets, ``*`` means any.

>>> parse_listeners("LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\\nLISTEN 0 128 [::1]:16509 [::]:*\\n")
(Listener(address='0.0.0.0', port=22), Listener(address='::1', port=16509))
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Listener:
    """A socket that listens; ``*`` is any address."""

    address: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether it can be reached from the host itself only."""
        try:
            return ipaddress.ip_address(self.address.partition("%")[0]).is_loopback
        except ValueError:
            return False


@empty_is_an_answer("nothing listens")
def parse_listeners(text: str) -> tuple[Listener, ...]:
    """Return the listeners; none is an answer. Raises :class:`ParseError`."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] == "State":
            continue
        match = re.fullmatch(r"(.+):(\d+)", words[3]) if words[0] == "LISTEN" and len(words) >= 5 else None
        if not match:
            raise ParseError(f"not a line of ss: {line.strip()[:80]!r}")
        found.append(Listener(match[1].strip("[]"), int(match[2])))
    return tuple(found)
