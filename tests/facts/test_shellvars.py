from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.shellvars import parse_assignments
from tests.facts.hostile import EMPTY, ERRORS


def test_a_shipped_file() -> None:
    text = """# URIs to check for running guests
# example: URIS='default xen:///system'
#URIS=default
ON_BOOT=ignore
ON_SHUTDOWN="shutdown"   # not suspend
export SHUTDOWN_TIMEOUT='300'
  PARALLEL_SHUTDOWN=10
URIS="qemu:///system lxc:///"
"""
    expected = {
        "ON_BOOT": "ignore",
        "ON_SHUTDOWN": "shutdown",
        "SHUTDOWN_TIMEOUT": "300",
        "PARALLEL_SHUTDOWN": "10",
        "URIS": "qemu:///system lxc:///",
    }
    assert parse_assignments(text) == expected
    assert parse_assignments(text.replace("\n", "\r\n")) == expected


def test_the_last_of_two_counts() -> None:
    assert parse_assignments("ON_BOOT=start\nON_BOOT=ignore\n") == {"ON_BOOT": "ignore"}


@pytest.mark.parametrize("text", [*EMPTY, *ERRORS, "# only\n#COMMENTS=1", "ON_BOOT = start", "ON_BOOT=$(x y)"])
def test_what_sets_nothing(text: str) -> None:
    assert parse_assignments(text) == {}


@pytest.mark.parametrize("text", ["ON_BOOT=start\n\0\0", 'ON_BOOT="start', "A=1\nexport B='two\nlines'\n"])
def test_binary_and_open_quotes(text: str) -> None:
    with pytest.raises(ParseError):
        parse_assignments(text)
