r"""Software RAID: ``/proc/mdstat``.

Source: md(4), drivers/md/md.c. ``[2/1] [U_]`` says that one of two members works.

>>> text = "Personalities : [raid1] \nmd0 : active raid1 sda2[0] sdb2[1](F)\n" \
...        "      1046528 blocks super 1.2 [2/1] [U_]\n      \nunused devices: <none>\n"
>>> parse_mdstat(text)
{'md0': Array(name='md0', state='active', wanted=2, working=1)}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Array:
    """An array; ``wanted`` and ``working`` members are 0 for levels without redundancy."""

    name: str
    state: str
    wanted: int
    working: int

    @property
    def degraded(self) -> bool:
        """Whether members are missing, or the array does not run."""
        return self.working < self.wanted or self.state not in ("active", "active (auto-read-only)", "active (read-only)")


@empty_is_an_answer("there is no array")
def parse_mdstat(text: str) -> dict[str, Array]:
    """Return the arrays by name. Raises :class:`ParseError`."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("Personalities :"):
        raise ParseError(f"not /proc/mdstat: {text.strip()[:60]!r}")
    if not lines[-1].startswith("unused devices:"):
        raise ParseError("/proc/mdstat is cut: it does not end with the unused devices")
    found: dict[str, Array] = {}
    name = state = ""
    for line in lines[1:]:
        if match := re.fullmatch(r"(md\S*) : (\w+(?: \((?:auto-)?read-only\))?)\b.*", line):
            name, state = match.groups()
            found[name] = Array(name, state, 0, 0)
        elif name and (match := re.search(r" \[(\d{1,5})/(\d{1,5})\] \[", line)):
            found[name] = Array(name, state, int(match[1]), int(match[2]))
    return found
