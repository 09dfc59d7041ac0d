"""Versions: ``virsh version`` and the packages of QEMU, libvirt and guest firmware.

Source: https://libvirt.org/manpages/virsh.html#version; rpm(8), dpkg-query(1).

>>> parse_versions('''Compiled against library: libvirt 9.0.0
... Using library: libvirt 9.0.0
... Using API: QEMU 9.0.0
... Running hypervisor: QEMU 7.2.22
... ''')
Versions(libvirt=(9, 0, 0), qemu=(7, 2, 22))
>>> parse_packages("libvirt-daemon 9.0.0-4+deb12u2\\novmf 2022.11-6\\n")["ovmf"]
'2022.11-6'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

Version = tuple[int, ...]


@dataclass(frozen=True)
class Versions:
    """Running libvirt and QEMU."""

    libvirt: Version
    qemu: Version


def parse_versions(text: str) -> Versions:
    """Return the versions. Raises :class:`ParseError`."""
    library = re.search(r"^Using library: libvirt (\d+(?:\.\d+)+)\s*$", text, re.MULTILINE)
    qemu = re.search(r"^Running hypervisor: \S+ (\d+(?:\.\d+)+)\s*$", text, re.MULTILINE)
    if not library or not qemu:
        raise ParseError(f"not the output of virsh version: {text.strip()[:60]!r}")

    def numbers(match: re.Match[str]) -> Version:
        return tuple(map(int, match[1].split(".")))

    return Versions(numbers(library), numbers(qemu))


def parse_packages(text: str) -> dict[str, str]:
    """Return the versions by package. Raises :class:`ParseError` for anything but two words a line, and for nothing at all."""
    found = {}
    for line in filter(str.strip, text.splitlines()):
        words = line.split()
        if len(words) != 2 or not re.match(r"[\w.+:~-]+$", words[1]):
            raise ParseError(f"not a package and its version: {line.strip()[:80]!r}")
        found[words[0]] = words[1]
    if not found:
        raise ParseError("no package of QEMU or libvirt is installed")
    return found
