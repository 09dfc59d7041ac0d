r"""The state of the whole system, and the units that failed.

Source: systemctl(1): ``systemctl show -p SystemState,NFailedUnits`` and ``systemctl list-units --state=failed``.

>>> parse_state("NFailedUnits=1\nSystemState=degraded\n")
('degraded', 1)
>>> parse_failed("multipathd.service loaded failed failed Device-Mapper Multipath Device Controller\n")
('multipathd.service',)
>>> parse_active("virtlogd.service loaded active running libvirt logging daemon\n")
('virtlogd.service',)
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_STATES = {"initializing", "starting", "running", "degraded", "maintenance", "stopping", "offline", "unknown"}
_LEGEND = re.compile(r"(LOAD|ACTIVE|SUB)\s+=|\d+ loaded units? listed|To show all")


def parse_state(text: str) -> tuple[str, int | None]:
    """Return the system state and the number of failed units (None before systemd 230). Raises :class:`ParseError`."""
    properties = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    state, failed = properties.get("SystemState", ""), properties.get("NFailedUnits", "")
    if state not in _STATES:
        raise ParseError(f"not a system state: {text.strip()[:60]!r}")
    if failed and not (failed.isascii() and failed.isdigit()):
        raise ParseError(f"not a number of failed units: {failed[:20]!r}")
    return state, int(failed) if failed else None


@empty_is_an_answer("no unit failed")
def parse_failed(text: str) -> tuple[str, ...]:
    """Return the names of the failed units, sorted; none is an answer. Raises :class:`ParseError`."""
    return _in_state(text, "failed")


@empty_is_an_answer("no unit is active")
def parse_active(text: str) -> tuple[str, ...]:
    """Return the names of the active units that were asked about, sorted. Raises :class:`ParseError`."""
    return _in_state(text, "active")


def _in_state(text: str, state: str) -> tuple[str, ...]:
    units = []
    for line in text.splitlines():
        words = line.replace("●", " ").replace("*", " ").split()
        if not words or words[0] == "UNIT" or _LEGEND.match(line.strip()):
            continue
        if "." not in words[0] or state not in words[1:4]:
            raise ParseError(f"not a line of systemctl list-units: {line.strip()[:80]!r}")
        units.append(words[0])
    return tuple(sorted(units))
