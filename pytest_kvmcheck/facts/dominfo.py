"""State and messages of a domain: ``virsh dominfo``.

Source: https://libvirt.org/manpages/virsh.html#dominfo. The messages (libvirt 7.2 and later) come last.

>>> text = '''Id:             1
... Name:           web
... UUID:           6d1a6e8a-0000-4000-8000-000000000001
... State:          running
... Persistent:     yes
... Autostart:      disable
... Managed save:   no
... Messages:       tainted: use of host cdrom passthrough
...                 deprecated configuration: machine type 'pc-1.3'
... '''
>>> info = parse_dominfo(text)
>>> info.state, info.persistent, info.autostart, info.managed_save, len(info.messages)
('running', True, False, False, 2)
>>> parse_state("paused (migrating)\\n\\n")
'paused (migrating)'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class DomInfo:
    """State of a domain; ``messages`` start with ``tainted:`` or ``deprecated configuration:``."""

    name: str
    uuid: str
    state: str
    persistent: bool
    autostart: bool
    managed_save: bool
    messages: tuple[str, ...]


def parse_dominfo(text: str) -> DomInfo:
    """Return what dominfo tells. Raises :class:`ParseError`."""
    fields: dict[str, str] = {}
    messages: list[str] = []
    for line in text.splitlines():
        if messages and line.startswith(" ") and line.strip():
            messages.append(line.strip())
            continue
        name, colon, value = line.partition(":")
        if name == "Messages":
            messages = [value.strip()]
        elif colon:
            fields.setdefault(name.strip(), value.strip())
    if not {"Name", "UUID", "State"} <= set(fields):
        raise ParseError(f"not the answer of virsh dominfo: {text.strip()[:80]!r}")
    return DomInfo(
        fields["Name"],
        fields["UUID"],
        fields["State"],
        fields.get("Persistent") == "yes",
        fields.get("Autostart") == "enable",
        fields.get("Managed save") == "yes",
        tuple(filter(None, messages)),
    )


def parse_state(text: str) -> str:
    """Return what ``virsh domstate --reason`` tells, ``running (booted)``. Raises :class:`ParseError`."""
    if not re.fullmatch(
        r"(?:running|idle|paused|in shutdown|shut off|crashed|pmsuspended|no state) \([A-Za-z/ -]+\)", text.strip()
    ):
        raise ParseError(f"not a state and its reason: {text.strip()[:60]!r}")
    return text.strip()
