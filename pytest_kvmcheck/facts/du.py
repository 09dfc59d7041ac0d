r"""Sizes of directories: ``du -sk DIRECTORY...``.

Source: du(1). Sizes are KiB in the text and bytes here. What it could not enter is not counted: its exit code tells.

>>> parse_sizes("24\t/var/log/libvirt\n8204\t/var/log/journal\n")
{'/var/log/libvirt': 24576, '/var/log/journal': 8400896}
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError


def parse_sizes(text: str) -> dict[str, int]:
    """Return bytes by directory. Raises :class:`ParseError`."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = re.fullmatch(r"(\d{1,18})\t(/.*)", line, re.ASCII)
        if not match:
            raise ParseError(f"not a line of du: {line[:60]!r}")
        found[match[2]] = int(match[1]) * 1024
    if not found:
        raise ParseError("du tells of no directory")
    return found
