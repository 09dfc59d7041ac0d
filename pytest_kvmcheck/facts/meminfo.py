"""Memory of the host: ``/proc/meminfo``.

Source: proc(5). Sizes there are KiB although they say kB.

>>> parse_meminfo("MemTotal:        2048 kB\\nHugePages_Total:       0\\nHugepagesize:       2048 kB\\n")["Hugepagesize"]
2097152
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError


def parse_meminfo(text: str) -> dict[str, int]:
    """Return the fields: bytes for those with a unit, else plain counts. Raises :class:`ParseError` without MemTotal."""
    fields = {
        match[1]: int(match[2]) * (1024 if match[3] else 1)
        for match in re.finditer(r"^([\w()]+):\s+(\d+)( kB)?\s*$", text, re.MULTILINE)
    }
    if not fields.get("MemTotal"):
        raise ParseError(f"not /proc/meminfo: {text.strip()[:60]!r}")
    return fields
