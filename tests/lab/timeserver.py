"""The time source of the lab: an NTP server on loopback that tells this machine's time and never sets it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

#: kvm01 reaches it as 10.0.2.2; written in the image's chrony.conf too.
PORT = 11123

_SINCE_1900 = 2208988800


def _stamp(seconds: float) -> int:
    return int((seconds + _SINCE_1900) * 2**32)


def answer(question: bytes, received: float) -> bytes:
    """Return the reply (RFC 5905) of a stratum 3 server to the client's packet *question*."""
    version = question[0] >> 3 & 7
    (asked,) = struct.unpack_from("!Q", question, 40)
    head = struct.pack("!BBbbII4s", version << 3 | 4, 3, question[2], -20, 0x40, 0x40, bytes([127, 0, 0, 1]))
    return head + struct.pack("!QQQQ", _stamp(received - 1), asked, _stamp(received), _stamp(time.time()))


@contextlib.contextmanager
def serving() -> Iterator[None]:
    """Answer on ``PORT`` meanwhile. Several test runs on one machine may do so at the same time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", PORT))
        server.settimeout(0.5)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    question, client = server.recvfrom(512)
                    if len(question) >= 48:
                        server.sendto(answer(question, time.time()), client)

        thread = threading.Thread(target=serve, name="ntp", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
