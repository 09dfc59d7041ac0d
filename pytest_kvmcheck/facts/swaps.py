r"""Swap space: ``/proc/swaps``.

Source: proc_swaps(5). Sizes are KiB in the text and bytes here. The first line is a heading, also when there is no swap.

>>> parse_swaps("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
...             "/dev/dm-1                               partition\t1048572\t\t0\t\t-2\n")
(Swap(name='/dev/dm-1', size_bytes=1073737728, used_bytes=0),)
>>> parse_swaps("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
()
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Swap:
    """A swap partition or file."""

    name: str
    size_bytes: int
    used_bytes: int


@empty_is_an_answer("a heading alone: the host has no swap")
def parse_swaps(text: str) -> tuple[Swap, ...]:
    """Return the swap spaces in use. Raises :class:`ParseError`, also for a text without its heading."""
    lines = text.splitlines()
    if not lines or lines[0].split() != ["Filename", "Type", "Size", "Used", "Priority"]:
        raise ParseError(f"not /proc/swaps: {lines[0][:60] if lines else ''!r}")
    found = []
    for line in lines[1:]:
        match = re.fullmatch(r"(/?\S.*?)\s+(?:partition|file)\s+(\d{1,15})\s+(\d{1,15})\s+-?\d+\s*", line, re.ASCII)
        if not match:
            raise ParseError(f"not a line of /proc/swaps: {line[:60]!r}")
        found.append(Swap(match[1], int(match[2]) * 1024, int(match[3]) * 1024))
    return tuple(found)
