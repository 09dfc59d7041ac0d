r"""Kernel release and architecture: ``uname -s -r -m``, or ``uname -a`` as sosreports keep it.

Source: uname(1).

>>> parse_uname("Linux 6.1.0-56-amd64 x86_64\n")
Uname(release='6.1.0-56-amd64', machine='x86_64')
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class Uname:
    """Kernel release and hardware name."""

    release: str
    machine: str

    @property
    def x86(self) -> bool:
        """Whether the machine is an x86 one, 32 bit included."""
        return self.machine == "x86_64" or bool(re.fullmatch(r"i[3-6]86", self.machine))


def parse_uname(text: str) -> Uname:
    """Return release and machine. Raises :class:`ParseError`, for other systems than Linux too."""
    match = re.fullmatch(r"Linux (\S+) ([a-z0-9_]+)\s*", text) or re.fullmatch(
        r"Linux \S+ (\S+) #.* ([a-z0-9_]+) GNU/Linux\s*", text
    )
    if not match:
        raise ParseError(f"not the uname of a Linux: {text.strip()[:60]!r}")
    return Uname(match[1], match[2])
