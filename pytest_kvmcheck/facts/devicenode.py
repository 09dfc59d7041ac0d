r"""A device node: ``stat -c '%F %t:%T %a %U %G' FILE``.

Source: stat(1); device numbers are hexadecimal there. /dev/kvm is 10:232.

>>> node = parse_node("character special file a:e8 660 root kvm\n")
>>> (node.character, node.major, node.minor, oct(node.mode), node.group)
(True, 10, 232, '0o660', 'kvm')
>>> sorted(parse_id("uid=64055(libvirt-qemu) gid=106(kvm) groups=106(kvm),64055(libvirt-qemu)").groups)
['kvm', 'libvirt-qemu']
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class Node:
    """Type, numbers and access of a device node."""

    character: bool
    major: int
    minor: int
    mode: int
    user: str
    group: str


@dataclass(frozen=True)
class Account:
    """A user and all the groups it is in."""

    user: str
    groups: frozenset[str]


def parse_node(text: str) -> Node:
    """Return the node. Raises :class:`ParseError`."""
    match = re.fullmatch(r"(.+) ([0-9a-f]+):([0-9a-f]+) ([0-7]{1,4}) (\S+) (\S+)\s*", text)
    if not match:
        raise ParseError(f"not the output of stat: {text.strip()[:60]!r}")
    kind, major, minor, mode, user, group = match.groups()
    return Node(kind == "character special file", int(major, 16), int(minor, 16), int(mode, 8), user, group)


def parse_id(text: str) -> Account:
    """Return the account in the output of ``id USER``. Raises :class:`ParseError`."""
    match = re.match(r"uid=\d+\(([^)]+)\) gid=\d+(?:\(([^)]+)\))?(?: groups=(\S+))?", text)
    if not match:
        raise ParseError(f"not the output of id: {text.strip()[:60]!r}")
    groups = set(re.findall(r"\(([^)]+)\)", match[3] or ""))
    return Account(match[1], frozenset(groups | ({match[2]} if match[2] else set())))
