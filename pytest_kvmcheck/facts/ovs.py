"""Open vSwitch: ``ovs-vsctl --format=json list Bridge``, ``Port`` and ``Interface``, one table a line.

Source: ovs-vsctl(8) and RFC 7047 for the values: ``["set",[...]]``, ``["uuid","..."]``; a set of one is written as its member.

>>> text = '''{"data":[["br-ex",["set",[["uuid","p1"],["uuid","p2"]]]]],"headings":["name","ports"]}
... {"data":[[["uuid","p1"],"eno1",["uuid","i1"]],[["uuid","p2"],"vnet0",["uuid","i2"]]],"headings":["_uuid","name","interfaces"]}
... {"data":[[["uuid","i1"],"eno1","","up",["set",[]]],[["uuid","i2"],"vnet0","","up","could not open network device"]],
... "headings":["_uuid","name","type","link_state","error"]}'''
>>> [switch] = parse_ovs(text.replace(",\\n", ","))
>>> switch.name, [(item.name, item.link_state, item.error) for item in switch.interfaces]
('br-ex', [('eno1', 'up', ''), ('vnet0', 'up', 'could not open network device')])
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class OvsInterface:
    """An interface of a switch. ``type`` is empty for a device of the kernel; ``error`` is why it could not be had."""

    name: str
    type: str
    link_state: str
    error: str


@dataclass(frozen=True)
class OvsBridge:
    """A switch with the interfaces of all its ports, sorted by name."""

    name: str
    interfaces: tuple[OvsInterface, ...]


@empty_is_an_answer("no switch is configured")
def parse_ovs(text: str) -> tuple[OvsBridge, ...]:
    """Return the switches, sorted by name. Raises :class:`ParseError`."""
    try:
        bridges, ports, interfaces = (_rows(line) for line in text.strip().splitlines())
        known = {
            _word(row["_uuid"]): OvsInterface(*(_word(row[key]) for key in ("name", "type", "link_state", "error")))
            for row in interfaces
        }
        members = {_word(row["_uuid"]): [known[uuid] for uuid in _words(row["interfaces"])] for row in ports}
        found = [
            OvsBridge(
                _word(row["name"]),
                tuple(sorted((item for port in _words(row["ports"]) for item in members[port]), key=lambda item: item.name)),
            )
            for row in bridges
        ]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as exc:
        raise ParseError(f"not the tables of ovs-vsctl: {text.strip()[:60]!r}") from exc
    return tuple(sorted(found, key=lambda bridge: bridge.name))


def _rows(line: str) -> list[Mapping[str, Any]]:
    table = json.loads(line)
    return [dict(zip(table["headings"], row, strict=True)) for row in table["data"]]


def _words(value: Any) -> list[str]:
    if isinstance(value, list) and value[0] == "set":
        return [_word(item) for item in value[1]]
    return [_word(value)]


def _word(value: Any) -> str:
    if isinstance(value, list):
        if value[0] == "uuid":
            return _word(value[1])
        if value == ["set", []]:
            return ""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
