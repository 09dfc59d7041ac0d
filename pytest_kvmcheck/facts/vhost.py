"""vhost-net of a QEMU process: the probe ``qemu_vhost``.

Source: ``ls -l /proc/PID/fd`` (descriptors of /dev/vhost-net, root only) and the threads named vhost-PID: kernel threads
before Linux 6.4, threads of QEMU since.

>>> parse_vhost("fds 2\\nthreads 2\\n"), parse_vhost("threads 0\\n")
(Vhost(descriptors=2, threads=2), Vhost(descriptors=None, threads=0))
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class Vhost:
    """How many vhost-net descriptors a QEMU holds (None: not permitted to see), and how many vhost threads it has."""

    descriptors: int | None
    threads: int


def parse_vhost(text: str) -> Vhost:
    """Return the counts. Raises :class:`ParseError`."""
    match = re.fullmatch(r"(?:fds +(\d+)\n)?threads +(\d+)\n?", text)
    if not match:
        raise ParseError(f"not the counts of vhost-net: {text.strip()[:60]!r}")
    return Vhost(int(match[1]) if match[1] else None, int(match[2]))
