"""Listening TCP sockets: ``/proc/net/tcp``, ``/proc/net/tcp6``, or ``ss -Hltn``.

Source: proc_net_tcp in the kernel's documentation, ss(8). In the kernel's tables 0A is the state of those that listen; addresses
are words of 32 bits in the host's own order of bytes, which is taken from the loopback's, and ``::`` takes IPv4 too unless told
otherwise, which they do not show. ss: state, queues, local address and port, peer; IPv6 addresses in brackets, ``*`` means any.

>>> parse_listeners("LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\\nLISTEN 0 128 [::1]:16509 [::]:*\\n")
(Listener(address='0.0.0.0', port=22), Listener(address='::1', port=16509))
>>> parse_listeners("  sl  local_address rem_address   st tx_queue\\n   0: 0100007F:407D 00000000:0000 0A 00000000:00000000\\n"
...                 "  sl  local_address   remote_address   st tx_queue\\n"
...                 "   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000\\n")
(Listener(address='127.0.0.1', port=16509), Listener(address='*', port=22))
"""

from __future__ import annotations

import ipaddress
import re
import struct
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


def _of_kernel(text: str) -> tuple[Listener, ...]:
    """Return the listeners of the kernel's tables."""
    found = []
    for line in text.splitlines():
        if not line.strip() or re.match(r" *sl ", line):
            continue
        match = re.match(r" *\d+: ((?:[0-9A-F]{8}){1,4}):([0-9A-F]{4}) [0-9A-F]{8,32}:0000 0A ", line)
        if not match or len(match[1]) not in (8, 32):
            raise ParseError(f"not a line of /proc/net/tcp: {line.strip()[:80]!r}")
        words = [int(match[1][place : place + 8], 16) for place in range(0, len(match[1]), 8)]
        # The word of 127.0.0.1 ends with 7F on a little-endian host, and begins with it on a big-endian one.
        found.append((struct.pack(f"<{len(words)}I", *words), struct.pack(f">{len(words)}I", *words), int(match[2], 16)))
    big = not any(_is_loopback(here) for here, _, _ in found) and any(_is_loopback(there) for _, there, _ in found)
    return tuple(Listener(_shown(there if big else here), port) for here, there, port in found)


def _is_loopback(packed: bytes) -> bool:
    return packed == bytes(15) + b"\1" or (len(packed) == 4 and packed[0] == 127)


def _shown(packed: bytes) -> str:
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return "*" if packed == bytes(16) else str(mapped or address)


@empty_is_an_answer("nothing listens")
def parse_listeners(text: str) -> tuple[Listener, ...]:
    """Return the listeners; none is an answer. Raises :class:`ParseError`."""
    if re.match(r" *sl ", text):
        return _of_kernel(text)
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
