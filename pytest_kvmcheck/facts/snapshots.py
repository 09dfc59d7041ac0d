"""Snapshots of a domain: ``virsh snapshot-list DOMAIN``.

Source: https://libvirt.org/manpages/virsh.html#snapshot-list. Names are chosen by strangers and may hold blanks, so a row is
read from its end: date, time, zone, state.

>>> table = ''' Name         Creation Time               State
... ---------------------------------------------------
...  before up    2026-05-01 12:00:00 +0200   shutoff
...
... '''
>>> [(item.name, int(item.created_s)) for item in parse_snapshots(table)]
[('before up', 1777629600)]
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_ROW = re.compile(r" ?(?P<name>.*?)\s+(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4})\s+(?P<state>[a-z -]+?)\s*", re.ASCII)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that libvirt knows; ``created_s`` in seconds since 1970."""

    name: str
    created_s: float
    state: str


@empty_is_an_answer("the domain has no snapshots")
def parse_snapshots(text: str) -> tuple[Snapshot, ...]:
    """Return the snapshots. Raises :class:`ParseError` without the head of the table: an error is not "no snapshots"."""
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) < 2 or not lines[0].split()[:1] == ["Name"] or not re.fullmatch("-{20,}", lines[1].strip()):
        raise ParseError(f"not a table of snapshots: {text.strip()[:80]!r}")
    found = []
    for line in filter(str.strip, lines[2:]):
        match = _ROW.fullmatch(line)
        if not match:
            raise ParseError(f"not a row of the table of snapshots: {line.strip()[:80]!r}")
        try:
            created = dt.datetime.strptime(match["time"], "%Y-%m-%d %H:%M:%S %z").timestamp()
        except (ValueError, OverflowError):
            raise ParseError(f"not a time: {match['time']!r}") from None
        found.append(Snapshot(match["name"].strip(), created, match["state"]))
    return tuple(found)
