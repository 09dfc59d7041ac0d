r"""Messages of the journal: ``journalctl -o short-unix``.

Source: journalctl(1). A line reads ``seconds.micros host identifier[pid]: message``; further lines of one message are indented.

>>> parse_messages("1795579655.141984 kvm01 libvirtd[497]: End of file while reading data: Input/output error\n")
(Message(time_s=1795579655.141984, identifier='libvirtd', text='End of file while reading data: Input/output error'),)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_LINE = re.compile(r"(\d{1,12}\.\d{1,9}) \S+ ([^\s\[:]+)(?:\[\d+\])?: ?(.*)", re.ASCII)


@dataclass(frozen=True)
class Message:
    """A message; ``time_s`` is seconds since 1970."""

    time_s: float
    identifier: str
    text: str


@empty_is_an_answer("nothing was logged")
def parse_messages(text: str) -> tuple[Message, ...]:
    """Return the messages in their order. Raises :class:`ParseError`."""
    found: list[Message] = []
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            found.append(Message(float(match[1]), match[2], match[3]))
        elif found and line.startswith((" ", "\t")) and line.strip():
            found[-1] = replace(found[-1], text=f"{found[-1].text} {line.strip()}")
        elif line.strip():
            raise ParseError(f"not a line of the journal: {line[:80]!r}")
    return tuple(found)
