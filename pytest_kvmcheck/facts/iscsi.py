"""iSCSI: sessions and connections by sysfs (``grep -H``), and the start mode in the records of targets.

Source: drivers/scsi/scsi_transport_iscsi.c, open-iscsi README. A connection is called after its session
(``connection1:0``); kernels before 5.8 do not tell its state. Records: ``nodes/TARGET/ADDRESS,PORT,TPGT/IFACE``.

>>> text = '''/sys/class/iscsi_session/session1/targetname:iqn.2003-01.org.example:vm
... /sys/class/iscsi_session/session1/state:LOGGED_IN
... /sys/class/iscsi_session/session1/recovery_tmo:5
... /sys/class/iscsi_session/session1/ifacename:default
... /sys/class/iscsi_connection/connection1:0/state:up
... /sys/class/iscsi_connection/connection1:0/persistent_address:fd00::7
... /sys/class/iscsi_connection/connection1:0/persistent_port:3260
... '''
>>> [session] = parse_sessions(text)
>>> session.target, session.logged_in, session.portals, session.recovery_s
('iqn.2003-01.org.example:vm', True, ('fd00::7',), 5)
>>> line = "/etc/iscsi/nodes/iqn.2003-01.org.example:vm/192.0.2.7,3260,1/default:node.startup = automatic\\n"
>>> parse_nodes(line)
(Node(target='iqn.2003-01.org.example:vm', address='192.0.2.7', startup='automatic'),)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Session:
    """A session; ``portals`` are the addresses of its connections, ``up`` whether those are (None: the kernel does not tell)."""

    name: str
    target: str
    state: str
    recovery_s: int | None
    iface: str
    portals: tuple[str, ...]
    up: bool | None

    @property
    def logged_in(self) -> bool:
        """Whether the session works, with each of its connections."""
        return self.state == "LOGGED_IN" and self.up is not False


@dataclass(frozen=True)
class Node:
    """A target on record at one portal, and when it is logged in to: automatic, onboot or manual."""

    target: str
    address: str
    startup: str


_SESSION = re.compile(r"/sys/class/iscsi_session/(session\d{1,9})/(targetname|state|recovery_tmo|ifacename):(.*)")
_CONNECTION = re.compile(
    r"/sys/class/iscsi_connection/connection(\d{1,9}):(\d{1,9})/(state|persistent_address|persistent_port):([\w .:%<>()-]*)"
)
_NODE = re.compile(
    r"/\S*/nodes/(?P<target>[^/\s]+)/(?P<address>[^/,\s]+),\d+(?:,[\d-]+)?(?:/[^/:]+)?:node\.startup = (?P<startup>\w+)"
)


@empty_is_an_answer("there is no session")
def parse_sessions(text: str) -> tuple[Session, ...]:
    """Return the sessions, sorted by name. Raises :class:`ParseError`."""
    sessions: dict[str, dict[str, str]] = {}
    connections: dict[str, dict[str, dict[str, str]]] = {}
    for line in text.splitlines():
        if match := _SESSION.fullmatch(line):
            sessions.setdefault(match[1], {})[match[2]] = match[3].strip()
        elif match := _CONNECTION.fullmatch(line):
            connections.setdefault(f"session{match[1]}", {}).setdefault(match[2], {})[match[3]] = match[4].strip()
        else:
            raise ParseError(f"not a file of an iSCSI session: {line[:60]!r}")
    found = []
    for name, told in sorted(sessions.items()):
        seconds = told.get("recovery_tmo", "")
        if not re.fullmatch(r"-?\d{0,9}", seconds, re.ASCII) or not re.fullmatch(r"[A-Z_]{1,20}", told.get("state", "")):
            raise ParseError(f"{name} tells no state and time: {told.get('state', '')[:20]!r}, {seconds[:20]!r}")
        if not re.fullmatch(r"[\w.:-]+", told.get("targetname", "")) or not told.get("ifacename", "x").isprintable():
            raise ParseError(f"{name} is of no target: {told.get('targetname', '')[:40]!r}")
        own = connections.get(name, {})
        states = [item["state"] for item in own.values() if "state" in item]
        found.append(
            Session(
                name,
                told["targetname"],
                told["state"],
                int(seconds) if seconds else None,
                told.get("ifacename", ""),
                tuple(sorted(item["persistent_address"] for item in own.values() if item.get("persistent_address"))),
                all(state == "up" for state in states) if states else None,
            )
        )
    return tuple(found)


@empty_is_an_answer("no target is on record")
def parse_nodes(text: str) -> tuple[Node, ...]:
    """Return the targets on record. Raises :class:`ParseError`."""
    found = []
    for line in text.splitlines():
        match = _NODE.fullmatch(line.rstrip())
        if not match:
            raise ParseError(f"not the record of an iSCSI target: {line[:60]!r}")
        found.append(Node(match["target"], match["address"], match["startup"]))
    return tuple(found)
