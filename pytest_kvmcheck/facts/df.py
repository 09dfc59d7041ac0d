r"""Space and inodes of file systems: ``df -Pk``, ``df -Pi``, and the mount points of directories by ``stat -L -c '%m|%n'``.

Source: df(1), POSIX df; stat(1). File systems without a fixed number of inodes (btrfs) tell 0 or ``-`` of them.

>>> text = "Filesystem     1024-blocks    Used Available Capacity Mounted on\n/dev/sda1  1000 800 150      85% /srv/my images\n"
>>> root = parse_space(text)["/srv/my images"]
>>> root.source, root.total, root.free, round(root.used_percent)
('/dev/sda1', 1024000, 153600, 84)
>>> parse_space("Filesystem      Inodes IUsed   IFree IUse% Mounted on\n/dev/sdb1  0     0       0     - /btrfs\n")["/btrfs"].total
0
>>> parse_places("/|/var/log\nstat: cannot statx '/var/crash': No such file or directory\n")
{'/var/log': '/', '/var/crash': None}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_LINE = re.compile(
    r"(?P<source>.+?) +(?P<total>-|\d{1,20}) +(?P<used>-|-?\d{1,20}) +(?P<free>-|-?\d{1,20}) +(?:-|\d{1,20}%) +(?P<target>/.*)"
)


@dataclass(frozen=True)
class Space:
    """What a file system has: bytes, or inodes. ``free`` is what an ordinary user may still take."""

    source: str
    target: str
    total: int
    used: int
    free: int

    @property
    def used_percent(self) -> float:
        """What is used of what can be used, in per cent, as df counts it."""
        return 100 * self.used / (self.used + self.free) if self.used + self.free > 0 else 0.0


def parse_space(text: str) -> dict[str, Space]:
    """Return the file systems by mount point. Raises :class:`ParseError`; df always prints its head."""
    lines = text.splitlines()
    head = re.match(r"Filesystem +(1024-blocks|1K-blocks|Inodes) ", lines[0]) if lines else None
    if not head:
        raise ParseError(f"not the output of df: {text.strip()[:80]!r}")
    unit = 1 if head[1] == "Inodes" else 1024
    found = {}
    for line in lines[1:]:
        match = _LINE.fullmatch(line.rstrip("\r"))
        if not match:
            raise ParseError(f"not a line of df: {line[:80]!r}")
        total, used, free = (0 if match[name] == "-" else int(match[name]) * unit for name in ("total", "used", "free"))
        found[match["target"]] = Space(match["source"], match["target"], total, used, free)
    if not found:
        raise ParseError("df lists no file system")
    return found


def parse_places(text: str) -> dict[str, str | None]:
    """Return the mount point of each directory, None for one that is not there or not to be seen. Raises :class:`ParseError`."""
    found: dict[str, str | None] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"(/[^|]*)\|(/.*)", line):
            found[match[2]] = match[1]
        elif match := re.fullmatch(r"stat: .*'(/.*)': .+", line):
            found[match[1]] = None
        else:
            raise ParseError(f"not a directory and its mount point: {line[:60]!r}")
    if not found:
        raise ParseError("stat tells of no directory")
    return found
