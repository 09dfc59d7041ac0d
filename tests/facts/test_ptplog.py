from __future__ import annotations

import pytest

from pytest_kvmcheck.facts.ptplog import parse_ptp_log


def line(program: str, text: str) -> str:
    return f"1700000000.5 kvm01 {program}[812]: [1031590.224] {text}\n"


@pytest.mark.parametrize(
    ("program", "text", "offset_ns", "locked"),
    [
        ("ptp4l", "[ptp4l.1.config:6] master offset        -98 s0 freq      +3 path delay      1587", 98, False),
        ("ptp4l", "master offset         13 s2 freq  -11233 path delay       512", 13, True),
        ("ptp4l", "rms    7 max   13 freq  -1121 +/-   9 delay  1587 +/-   1", 7, True),
        ("phc2sys", "CLOCK_REALTIME phc offset   -340188 s1 freq  -40012 delay    510", 340188, False),
        ("phc2sys", "ens1f0 sys offset        -3 s3 freq     -12 delay    510", 3, True),
        ("phc2sys", "CLOCK_REALTIME rms    5 max    9 freq -40012 +/-  11 delay   510 +/-   2", 5, True),
    ],
)
def test_offsets(program: str, text: str, offset_ns: int, locked: bool) -> None:
    (found,) = parse_ptp_log(line(program, text)).offsets
    assert (found.program, found.offset_ns, found.locked) == (program, offset_ns, locked)


def test_states_of_ports() -> None:
    text = line("ptp4l", "[ptp4l.0.config:5] port 1 (ens4f0): SLAVE to LISTENING on ANNOUNCE_RECEIPT_TIMEOUT_EXPIRES")
    text += line("ptp4l", "port 2: INITIALIZING to LISTENING on INIT_COMPLETE")
    text += line("ptp4l", "port 0 (/var/run/ptp4l): INITIALIZING to LISTENING on INIT_COMPLETE")
    assert [(port.port, port.lost) for port in parse_ptp_log(text).states] == [("1 (ens4f0)", True), ("2", False)]


def test_without_a_master() -> None:
    text = line("ptp4l", "selected local clock 507c6f.fffe.1fb1b8 as best master")
    assert parse_ptp_log(text).alone_s == 1700000000.5
    assert not parse_ptp_log(line("ptp4l", "selected best master clock 507c6f.fffe.1fb16c")).alone_s
