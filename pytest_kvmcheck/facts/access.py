r"""Who may do what with files: ``stat -c '%a %U %G %F|%n'`` and ``find -printf``; groups and accounts: ``getent``.

Source: stat(1), find(1), getent(1), group(5).

>>> found = parse_modes("1777 root root directory|/tmp\n666 root libvirt socket|/run/libvirt/libvirt-sock\n")
>>> found["/run/libvirt/libvirt-sock"].others_write, found["/tmp"].others_enter, found["/tmp"].kind
(True, True, 'directory')
>>> parse_groups("libvirt:x:106:anna,nova\n\nkvm:x:109:\n")
{'libvirt': Group(gid=106, members=('anna', 'nova')), 'kvm': Group(gid=109, members=())}
>>> files = parse_found("d 711 root 1700000000.25 4096||/srv/vm\nf 644 root 1690000000.5 1048576||/srv/vm/old | new.qcow2\n"
...                     "l 777 root 1700000001.0 9|base.raw|/srv/vm/link.raw\n")
>>> files[1].path, files[1].access.others_read, files[1].modified_s, files[2].target
('/srv/vm/old | new.qcow2', True, 1690000000.5, 'base.raw')
>>> parse_keys("f 640 root qemu /etc/pki/qemu/server-key.pem\n")["/etc/pki/qemu/server-key.pem"].group_read
True
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Access:
    """Mode, owner and kind of a file (``regular file``, ``directory``, ``socket`` ...)."""

    mode: int
    user: str
    group: str
    kind: str

    @property
    def group_read(self) -> bool:
        """Whether its group may read it."""
        return bool(self.mode & 0o040)

    @property
    def group_more(self) -> bool:
        """Whether its group may do more than read it."""
        return bool(self.mode & 0o030)

    @property
    def others_any(self) -> bool:
        """Whether others may do anything with it."""
        return bool(self.mode & 0o007)

    @property
    def others_read(self) -> bool:
        """Whether others may read it."""
        return bool(self.mode & 0o004)

    @property
    def others_write(self) -> bool:
        """Whether others may write it."""
        return bool(self.mode & 0o002)

    @property
    def others_enter(self) -> bool:
        """Whether others may go through a directory."""
        return bool(self.mode & 0o001)


@dataclass(frozen=True)
class Group:
    """A group of accounts; those whose primary group it is are not among ``members``."""

    gid: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A file that find came upon; ``modified_s`` is seconds since 1970, ``target`` what a link points to."""

    path: str
    access: Access
    modified_s: float
    size_bytes: int
    target: str


@empty_is_an_answer("there is no such file")
def parse_modes(text: str) -> dict[str, Access]:
    """Return the files by path in the output of stat. Raises :class:`ParseError`."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-7]{1,4}) (\S+) (\S+) ([a-z ]+)\|(/.*)", line, re.ASCII)
        if not match:
            raise ParseError(f"not a line of stat: {line[:60]!r}")
        found[match[5]] = Access(int(match[1], 8), match[2], match[3], match[4])
    return found


@empty_is_an_answer("there is no such group")
def parse_groups(text: str) -> dict[str, Group]:
    """Return the groups by name in the output of getent. Raises :class:`ParseError`."""
    found = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        match = re.fullmatch(r"([^:\s]+):[^:]*:(\d{1,10}):(\S*)", line, re.ASCII)
        if not match:
            raise ParseError(f"not a line of getent group: {line[:60]!r}")
        found[match[1]] = Group(int(match[2]), tuple(filter(None, match[3].split(","))))
    return found


@empty_is_an_answer("no account has such a primary group")
def parse_primary(text: str) -> dict[int, tuple[str, ...]]:
    """Return the accounts by their primary group, from lines ``name:gid``. Raises :class:`ParseError`.

    >>> parse_primary("anna:106\\nbert:106\\n")
    {106: ('anna', 'bert')}
    """
    found: dict[int, tuple[str, ...]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([^:\s]+):(\d{1,10})", line, re.ASCII)
        if not match:
            raise ParseError(f"not an account and its group: {line[:60]!r}")
        found[int(match[2])] = (*found.get(int(match[2]), ()), match[1])
    return found


_KINDS = {"d": "directory", "f": "regular file", "l": "symbolic link"}


@empty_is_an_answer("the directories are not there")
def parse_found(text: str) -> tuple[Found, ...]:
    """Return what find came upon, in its order. Raises :class:`ParseError`."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"([dfl]) ([0-7]{1,4}) (\S+) (\d{1,12}\.\d+) (\d{1,19})\|([^|]*)\|(/.*)", line, re.ASCII)
        if not match:
            raise ParseError(f"not a line of find: {line[:60]!r}")
        access = Access(int(match[2], 8), match[3], "", _KINDS[match[1]])
        found.append(Found(match[7], access, float(match[4]), int(match[5]), match[6]))
    return tuple(found)


@empty_is_an_answer("the directories are not there")
def parse_keys(text: str) -> dict[str, Access]:
    """Return keys, secrets and their directories by path. Raises :class:`ParseError`."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([df]) ([0-7]{1,4}) (\S+) (\S+) (/.*)", line, re.ASCII)
        if not match:
            raise ParseError(f"not a line of find: {line[:60]!r}")
        found[match[5]] = Access(int(match[2], 8), match[3], match[4], _KINDS[match[1]])
    return found
