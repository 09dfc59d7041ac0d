r"""What processes run: ``ls -l /proc/PID/exe``, and the libraries in ``/proc/PID/maps`` that are gone from the disk.

By sudo the links are told by ``find -printf``, with ``=`` for the arrow.
Source: proc_pid_exe(5), proc_pid_maps(5). The kernel puts ``(deleted)`` after a file that was replaced or removed.

>>> parse_programs("lrwxrwxrwx 1 root root 0 Nov 25 04:08 /proc/497/exe -> /usr/sbin/libvirtd (deleted)\n")
{497: Program(path='/usr/sbin/libvirtd', deleted=True)}
>>> parse_deleted_libraries("/proc/631/maps:7f1b2c000000-7f1b2c021000 r-xp 00000000 fe:01 1234   /usr/lib/libssl.so.3 (deleted)\n")
{631: ('/usr/lib/libssl.so.3',)}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_LINK = re.compile(r"l\S+ +\d+ .* /proc/(?P<pid>\d{1,10})/exe (?:->|=) (?P<path>/.*?)(?P<deleted> \(deleted\))?", re.ASCII)
_GONE = re.compile(r"(?:ls|find): .*/proc/\d+/exe'?: No such file or directory")
_MAP = re.compile(r"/proc/(?P<pid>\d{1,10})/maps:[0-9a-f]+-[0-9a-f]+ \S{4} .*? (?P<path>/.*) \(deleted\)", re.ASCII)
_MAP_GONE = re.compile(r"grep: /proc/\d+/maps: No such file or directory")


@dataclass(frozen=True)
class Program:
    """The program that a process runs; ``deleted`` when the file is no longer what it was."""

    path: str
    deleted: bool


@empty_is_an_answer("no such process runs")
def parse_programs(text: str) -> dict[int, Program]:
    """Return the programs by PID; a process that has ended meanwhile is left out. Raises :class:`ParseError`."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := _LINK.fullmatch(line):
            found[int(match["pid"])] = Program(match["path"], bool(match["deleted"]))
        elif not _GONE.fullmatch(line):
            raise ParseError(f"not a link to a program: {line[:80]!r}")
    return found


@empty_is_an_answer("no library was replaced")
def parse_deleted_libraries(text: str) -> dict[int, tuple[str, ...]]:
    """Return the libraries that are gone from the disk by PID, each once. Raises :class:`ParseError`."""
    found: dict[int, list[str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := _MAP.fullmatch(line):
            libraries = found.setdefault(int(match["pid"]), [])
            if match["path"].strip() not in libraries:
                libraries.append(match["path"].strip())
        elif not _MAP_GONE.fullmatch(line):
            raise ParseError(f"not a mapped library: {line[:80]!r}")
    return {pid: tuple(libraries) for pid, libraries in found.items()}
