"""The files of a sosreport, from a directory or an archive that strangers made."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from pytest_kvmcheck.gather import archive, budget
from pytest_kvmcheck.gather import reply as replies
from pytest_kvmcheck.gather.files import open_plain, walk
from pytest_kvmcheck.gather.sostext import SYSCTL, sysctl_files

_MAX_HOPS = 40
#: Of one output of a command that is to be converted.
MAX_LISTING = budget.SOS_FILE_BYTES


class Tree:
    """The files of a sosreport, from a directory or an archive, with paths as they were on the host."""

    def __init__(self, path: Path, places: Iterable[str]) -> None:
        """Read what lies at one of *places*, globs below the root; and what is small, as links may lead there."""
        self._bodies: dict[str, bytes] = {}
        self._directory: Path | None = None
        if path.is_dir():
            root = path
            inner = [child for child in path.iterdir() if child.is_dir()]
            if not (path / "sos_commands").is_dir() and len(inner) == 1 and (inner[0] / "sos_commands").is_dir():
                root = inner[0]
            self._directory = root.resolve()
            self.names = sorted(name for name, entry in walk(root, budget.MEMBERS) if self._is_file(name, entry))
        else:
            self._read_archive(path, [glob_regex(place) for place in places])
            self.names = sorted(self._bodies)

    def _is_file(self, name: str, entry: os.DirEntry[str] | OSError) -> bool:
        """Tell whether it is a file, or a link to one within the report: that was made elsewhere and is not to be trusted."""
        if isinstance(entry, OSError):
            return False
        try:
            return entry.is_file(follow_symlinks=False) or (entry.is_file() and self._inside(name))
        except OSError:
            return False

    def _inside(self, name: str) -> bool:
        return self._directory is not None and (self._directory / name).resolve().is_relative_to(self._directory)

    def _read_archive(self, path: Path, places: list[re.Pattern[str]]) -> None:
        # At the top are links to what commands gave.
        wanted = re.compile(r"[^/]+/(?:(?:sos_commands|proc|sys|etc|run|(usr/(local/)?)?lib)/|[^/]+$)")
        links: dict[str, str] = {}
        total = 0
        for member, content in archive.members(path):
            if not wanted.match(member.name):
                continue
            name = member.name.split("/", 1)[1]
            if member.issym():
                links[name] = member.linkname
            elif content:
                asked = member.size <= budget.SOS_ASIDE_BYTES or any(place.fullmatch(name) for place in places)
                if asked:
                    self._bodies[name] = content.read(min(member.size, budget.SOS_FILE_BYTES + 1))
                    total += len(self._bodies[name])
            if total > budget.SOS_BYTES or len(links) > budget.MEMBERS // 10:
                raise archive.TooLarge(f"what it answers is more than {budget.SOS_BYTES >> 20} MiB")
        for name in links:
            if (body := self._bodies.get(_resolved(name, links))) is not None:
                self._bodies[name] = body

    def read(self, name: str, bound: int) -> tuple[str, bool]:
        """Return the text of *name* up to *bound* bytes, and whether it was cut."""
        if self._directory:
            with open_plain(self._directory / name) as file:
                data = file.read(bound + 1)
        else:
            data = self._bodies[name]
        return replies.decode(data[:bound]), len(data) > bound

    def matching(self, pattern: str) -> list[str]:
        """Return the names that match the glob *pattern*; ``*`` does not cross a ``/``."""
        regex = glob_regex(pattern)
        return [name for name in self.names if regex.fullmatch(name)]

    @cached_property
    def settings(self) -> tuple[dict[str, str], bool]:
        """The files below /proc/sys by ``sysctl -a``, and whether its output was cut."""
        for name in self.matching(SYSCTL):
            text, cut = self.read(name, MAX_LISTING)
            return sysctl_files(text), cut
        return {}, False


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Return what matches a path below the root by the glob *pattern*; ``*`` does not cross a ``/``."""
    return re.compile("/".join(fnmatch.translate(part)[4:-3] for part in pattern.lstrip("/").split("/")), re.DOTALL)


def _resolved(path: str, links: dict[str, str]) -> str:
    """Return where *path* leads by the links of an archive, those of directories on its way too; empty when nowhere.

    >>> _resolved("proc/mounts", {"proc/mounts": "self/mounts", "proc/self": "4711"})
    'proc/4711/mounts'
    >>> _resolved("a", {"a": "/b", "b": "../a"})
    ''
    """
    waiting, parts, hops = path.split("/"), list[str](), 0
    while waiting:
        part = waiting.pop(0)
        if part == "..":
            parts[-1:] = []
        elif part not in ("", "."):
            parts.append(part)
            target = links.get("/".join(parts))
            if target is not None:
                hops += 1
                if hops > _MAX_HOPS:
                    return ""
                parts = [] if target.startswith("/") else parts[:-1]
                waiting = target.split("/") + waiting
    return "/".join(parts)
