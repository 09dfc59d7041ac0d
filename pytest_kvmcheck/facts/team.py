"""Teams: ``teamdctl TEAM state dump``.

Source: teamdctl(8), teamd.conf(5). Only a runner of LACP has aggregators.

>>> text = '''{"ports":{"eno1":{"ifinfo":{"ifname":"eno1"},"link":{"duplex":"full","speed":10000,"up":true},
... "link_watches":{"up":true},"runner":{"aggregator":{"id":5,"selected":true},"selected":true,"state":"current"}}},
... "runner":{"active":true},"setup":{"daemonized":true,"runner_name":"lacp"}}'''
>>> team = parse_team(text)
>>> team.runner, team.ports["eno1"]
('lacp', TeamPort(up=True, speed_mbit=10000, aggregator=5))
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class TeamPort:
    """A port of a team. ``aggregator`` is None when LACP has not selected it, and with other runners."""

    up: bool
    speed_mbit: int
    aggregator: int | None


@dataclass(frozen=True)
class Team:
    """A team by its daemon."""

    runner: str
    ports: Mapping[str, TeamPort]


def parse_team(text: str) -> Team:
    """Return the state of a team. Raises :class:`ParseError`."""
    try:
        state = json.loads(text)
        runner = state["setup"]["runner_name"]
        if not isinstance(runner, str):
            raise TypeError("not a name")
        return Team(runner, {str(name): _port(port) for name, port in state.get("ports", {}).items()})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        raise ParseError(f"not the state of a team: {text.strip()[:60]!r}") from exc


def _port(port: Mapping[str, Any]) -> TeamPort:
    runner = port.get("runner") or {}
    chosen = runner.get("aggregator") or {}
    up = port["link"]["up"] is True and port.get("link_watches", {}).get("up", True) is True
    return TeamPort(up, int(port["link"]["speed"]), int(chosen["id"]) if chosen.get("selected") is True else None)
