r"""Log filters and outputs of libvirt's daemons: ``virt-admin daemon-log-filters; daemon-log-outputs`` and the configuration.

Source: https://libvirt.org/logging.html, https://libvirt.org/manpages/virt-admin.html. Levels: 1 debug, 2 info, 3 warning, 4 error.

>>> parse_items("1:qemu 3:+remote 1:file:/var/log/libvirt/libvirtd.log")
(Item(level=1, rest='qemu'), Item(level=3, rest='remote'), Item(level=1, rest='file:/var/log/libvirt/libvirtd.log'))
>>> parse_logging(" Logging filters: 1:*json*\n\n Logging outputs: 1:stderr 3:journald\n\n").outputs
(Item(level=1, rest='stderr'), Item(level=3, rest='journald'))
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

DEBUG, INFO, WARNING, ERROR = 1, 2, 3, 4


@dataclass(frozen=True)
class Item:
    """A filter or an output: its level, and the pattern or destination."""

    level: int
    rest: str


@dataclass(frozen=True)
class Logging:
    """What a running daemon logs. Without filters the level of the daemon counts, which virt-admin does not tell."""

    filters: tuple[Item, ...]
    outputs: tuple[Item, ...]


@empty_is_an_answer("nothing is filtered")
def parse_items(text: str) -> tuple[Item, ...]:
    """Return the items of log_filters or log_outputs. Raises :class:`ParseError`."""
    found = []
    for word in text.split():
        match = re.fullmatch(r"([1-4]):\+?(.+)", word, re.ASCII)
        if not match:
            raise ParseError(f"not a log filter or output: {word[:60]!r}")
        found.append(Item(int(match[1]), match[2]))
    return tuple(found)


def parse_logging(text: str) -> Logging:
    """Return filters and outputs of a daemon. Raises :class:`ParseError` for any other answer of virt-admin."""
    match = re.fullmatch(r"\s*Logging filters:[ \t]*([^\r\n]*)\s+Logging outputs:[ \t]*([^\r\n]*)\s*", text)
    if not match:
        raise ParseError(f"not the answer of virt-admin: {text.strip()[:80]!r}")
    outputs = parse_items(match[2])
    if not outputs:
        raise ParseError("virt-admin tells of no log output")
    return Logging(parse_items(match[1]), outputs)
