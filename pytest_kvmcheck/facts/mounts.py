r"""Mounted file systems: ``/proc/mounts``.

Source: proc_pid_mounts(5), fstab(5). Blanks in paths are written as octal escapes.

>>> mounts = parse_mounts("nas:/vm /var/lib/my\\040images nfs4 rw,hard,proto=tcp 0 0\n"
...                       "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n")
>>> mounts[0].target, mounts[0].type, mounts[1].option("pagesize"), mounts[0].option("soft"), mounts[0].has("hard")
('/var/lib/my images', 'nfs4', '2M', None, True)
>>> mount_of("/var/lib/my images/a.qcow2", mounts).source
'nas:/vm'
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class Mount:
    """A mounted file system; later ones hide earlier ones at the same place."""

    source: str
    target: str
    type: str
    options: tuple[str, ...]

    def has(self, option: str) -> bool:
        """Whether the option stands there as a word of its own."""
        return option in self.options

    def option(self, name: str) -> str | None:
        """Return the value of the last option ``name=value``, None when there is none."""
        values = [option.partition("=")[2] for option in self.options if option.startswith(f"{name}=")]
        return values[-1] if values else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Return the mounts in their order. Raises :class:`ParseError`; there is no system without any mount."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) != 6 or not fields[1].startswith("/") or not (fields[4] + fields[5]).isdigit():
            raise ParseError(f"not a line of /proc/mounts: {line[:80]!r}")
        found.append(Mount(_unescaped(fields[0]), _unescaped(fields[1]), fields[2], tuple(fields[3].split(","))))
    if not found:
        raise ParseError("no mounts at all")
    return tuple(found)


def mount_of(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """Return the mount that holds *path*, an absolute path without links; None when nothing is mounted at / even."""
    best: Mount | None = None
    for mount in mounts:
        inside = mount.target == "/" or path == mount.target or path.startswith(f"{mount.target}/")
        if inside and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    return best
