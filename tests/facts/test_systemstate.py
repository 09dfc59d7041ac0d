from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.systemstate import parse_failed, parse_state
from tests.facts.hostile import BINARY, EMPTY, ERRORS, HOSTILE

LEGEND = """  UNIT               LOAD   ACTIVE SUB    DESCRIPTION
● multipathd.service loaded failed failed Device-Mapper Multipath Device Controller
● srv-nfs.mount      loaded failed failed /srv/nfs

LOAD   = Reflects whether the unit definition was properly loaded.
ACTIVE = The high-level unit activation state, i.e. generalization of SUB.
SUB    = The low-level unit activation state, values depend on unit type.
2 loaded units listed.
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SystemState=running\nNFailedUnits=0\n", ("running", 0)),
        ("NFailedUnits=2\r\nSystemState=degraded\r\n", ("degraded", 2)),
        ("SystemState=starting\n", ("starting", None)),
        ("SystemState=unknown\nNFailedUnits=\n", ("unknown", None)),
    ],
)
def test_state(text: str, expected: object) -> None:
    assert parse_state(text) == expected


@pytest.mark.parametrize(
    "text", [*HOSTILE, "running\n", "SystemState=läuft\n", "SystemState=running\nNFailedUnits=many\n", "NFailedUnits=0\n"]
)
def test_what_is_no_state(text: str) -> None:
    with pytest.raises(ParseError):
        parse_state(text)


@pytest.mark.parametrize(
    "text",
    [
        LEGEND,
        LEGEND.replace("●", "*"),
        LEGEND.replace("\n", "\r\n"),
        "srv-nfs.mount loaded failed failed /srv/nfs\nmultipathd.service loaded failed failed Multipath\n",
    ],
)
def test_failed(text: str) -> None:
    assert parse_failed(text) == ("multipathd.service", "srv-nfs.mount")


@pytest.mark.parametrize("text", [*EMPTY, "0 loaded units listed.\n", "  UNIT LOAD ACTIVE SUB DESCRIPTION\n0 loaded units listed."])
def test_none_failed(text: str) -> None:
    assert parse_failed(text) == ()


@pytest.mark.parametrize(
    "text", [*ERRORS, *BINARY, "sshd.service loaded active running OpenSSH\n", "multipathd.service loaded", "kdump.service enabled"]
)
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ParseError):
        parse_failed(text)
