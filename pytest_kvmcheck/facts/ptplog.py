r"""What ptp4l and phc2sys say: ``journalctl -t ptp4l -t phc2sys -o short-unix``.

Source: ptp4l(8), phc2sys(8). Offsets are nanoseconds; s0 is unlocked, s1 a step, s2 and s3 locked. With a summary interval a
line tells ``rms`` instead. A port's state is told when it changes.

>>> log = parse_ptp_log("1700000000.1 kvm01 ptp4l[812]: [90.1] port 1 (ens1f0): UNCALIBRATED to SLAVE on MASTER_CLOCK_SELECTED\n"
...   "1700000001.1 kvm01 ptp4l[812]: [91.1] master offset        -98 s2 freq      +3 path delay      1587\n"
...   "1700000001.3 kvm01 phc2sys[815]: [91.3] CLOCK_REALTIME phc offset  12 s2 freq  -400 delay  510\n")
>>> log.states
(PortState(time_s=1700000000.1, port='1 (ens1f0)', before='UNCALIBRATED', state='SLAVE'),)
>>> log.offsets[0]
PtpOffset(time_s=1700000001.1, program='ptp4l', offset_ns=98, locked=True)
>>> log.offsets[1].program, log.last_s
('phc2sys', 1700000001.3)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_LINE = re.compile(r"(?P<time>\d{1,12}\.\d{1,9}) \S+ (?P<program>ptp4l|phc2sys)(?:\[\d+\])?: (?P<text>.*)", re.ASCII)
_OFFSET = re.compile(r"\b(?:offset +(?P<offset>-?\d{1,19}) s(?P<servo>[0-3])|rms +(?P<rms>\d{1,19}) max)\b", re.ASCII)
_STATE = re.compile(r"\bport (?P<port>[1-9]\d{0,4}(?: \([^)\s]{1,64}\))?): (?P<before>[A-Z_]+) to (?P<state>[A-Z_]+) on ", re.ASCII)
_ALONE = re.compile(r"assuming the grand ?master role|selected local clock \S+ as best master")


@dataclass(frozen=True)
class PtpOffset:
    """An offset, without its sign. ``program`` says which clock it is of: ptp4l the card's, phc2sys the system's."""

    time_s: float
    program: str
    offset_ns: int
    locked: bool


@dataclass(frozen=True)
class PortState:
    """A port of ptp4l that changed its state."""

    time_s: float
    port: str
    before: str
    state: str

    @property
    def lost(self) -> bool:
        """Whether the port followed a master and does so no longer."""
        return self.before in ("SLAVE", "UNCALIBRATED") and self.state not in ("SLAVE", "UNCALIBRATED")


@dataclass(frozen=True)
class PtpLog:
    """The messages that matter, in their order; ``alone_s`` is when ptp4l last found no other master, 0 for not at all."""

    offsets: tuple[PtpOffset, ...]
    states: tuple[PortState, ...]
    alone_s: float
    last_s: float


def parse_ptp_log(text: str) -> PtpLog:
    """Return what was said. Raises :class:`ParseError`; nothing at all proves nothing, so it is refused too."""
    offsets, states, alone, last = [], [], 0.0, 0.0
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            raise ParseError(f"not a line of ptp4l or phc2sys: {line[:60]!r}")
        last, program, said = float(match["time"]), match["program"], match["text"]
        if found := _OFFSET.search(said):
            value = abs(int(found["offset"] or found["rms"]))
            offsets.append(PtpOffset(last, program, value, found["servo"] in (None, "2", "3")))
        elif program == "ptp4l" and (found := _STATE.search(said)):
            states.append(PortState(last, found["port"], found["before"], found["state"]))
        elif program == "ptp4l" and _ALONE.search(said):
            alone = last
    if not last:
        raise ParseError("ptp4l and phc2sys said nothing that may be read")
    return PtpLog(tuple(offsets), tuple(states), alone, last)
