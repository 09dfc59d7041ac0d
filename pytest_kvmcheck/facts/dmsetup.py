"""Multipath states by the kernel: ``dmsetup status --target multipath``.

Source: Documentation/admin-guide/device-mapper/dm-mpath.rst and drivers/md/dm-mpath.c. After each path's ``major:minor``
stands A (active) or F (failed).

>>> parse_dmsetup("mpatha: 0 131072 multipath 2 0 0 0 2 1 A 0 1 2 8:0 A 0 0 1 E 0 1 2 8:16 F 1 0 1\\n")
{'mpatha': ('A', 'F')}
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@empty_is_an_answer("no map is a multipath one")
def parse_dmsetup(text: str) -> dict[str, tuple[str, ...]]:
    """Return the states of the paths by map. Raises :class:`ParseError`."""
    if text.strip() == "No devices found":
        return {}
    found = {}
    for line in filter(str.strip, text.splitlines()):
        match = re.fullmatch(r"(.+): \d+ \d+ multipath (.+)", line.strip())
        if not match:
            raise ParseError(f"not a line of dmsetup status: {line.strip()[:80]!r}")
        found[match[1]] = tuple(re.findall(r"\b\d+:\d+ ([AF])\b", match[2]))
    return found
