"""When the controller asked for the target's clock and had the answer: what lies between is the doubt."""

from __future__ import annotations

import pytest

from pytest_kvmcheck.facts.clock import parse_clock, parse_trip
from pytest_kvmcheck.gather import live
from pytest_kvmcheck.gather.script import build
from pytest_kvmcheck.gather.transport import Answer, Connection
from pytest_kvmcheck.probes import PROBES, probes_for
from pytest_kvmcheck.targets import Target


def test_the_clock_is_asked_between_question_and_answer() -> None:
    """Here both clocks are one, so that the true difference is known: none."""
    probes = [PROBES["uname"], PROBES["clock"], PROBES["cmdline"]]
    found = live.gather(Target("here", "local://"), Connection(), probes=probes)
    trip = parse_trip(found.text("clock:trip"))
    sample = parse_clock(found.text("clock"))
    assert trip.asked_s <= sample.time_s <= trip.answered_s
    assert trip.answered_s - trip.asked_s < 30


@pytest.mark.parametrize("role", ["host", "guest"])
def test_the_clock_comes_first(role: str) -> None:
    asked = [
        line.split()[2] for line in build(probes_for(role), "0" * 32).splitlines() if line.startswith(("SUDO=; p ", "SUDO=; w "))
    ]
    assert asked[0] == "clock"


def test_a_transport_that_wraps_the_answer_times_nothing() -> None:
    stdout = b"@n BEGIN clock\nMQo=\n@n END clock 1.00,1.01 !0\n"
    assert live._trip(Answer(stdout, b"", 0, asked_s=1764043200.0), "n") == {}
    told = live._trip(Answer(stdout, b"", 0, None, 1764043200.0, ((9, 1764043200.1), (len(stdout), 1764043200.2))), "n")
    assert told["clock:trip"].stdout == "asked 1764043200.000000\nanswered 1764043200.200000\n"
