"""systemd units: ``systemctl show -p Id,LoadState,ActiveState,... UNIT...``.

Source: systemctl(1), https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html. Records are
parted by empty lines, and Id is not always first. An alias shows the unit it stands for, so units are found by Names too.

>>> text = "TimeoutStopUSec=1min 30s\\nId=a.service\\nNames=a.service b.service\\nLoadState=loaded\\n" \\
...        "ActiveState=active\\nSubState=running\\nUnitFileState=enabled\\n\\nId=c.socket\\nLoadState=not-found\\n"
>>> units = parse_units(text)
>>> units["b.service"].active, units["b.service"].enabled, units["b.service"].timeout_stop_s, units["c.socket"].exists
(True, True, 90.0, False)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_SECONDS = {
    "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0,
    "w": 604800.0, "week": 604800.0, "weeks": 604800.0, "month": 2629800.0, "y": 31557600.0,
}  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """A unit. ``unit_file_state`` is as systemctl is-enabled prints it; empty for a unit that has no file."""

    id: str
    load_state: str
    active_state: str
    sub_state: str
    unit_file_state: str
    properties: Mapping[str, str]

    @property
    def exists(self) -> bool:
        """Whether there is such a unit; a masked one exists."""
        return self.load_state != "not-found"

    @property
    def active(self) -> bool:
        """Whether the unit is up (a reload counts)."""
        return self.active_state in ("active", "reloading")

    @property
    def enabled(self) -> bool:
        """Whether the unit itself is enabled; indirect, static, generated and masked do not count."""
        return self.unit_file_state in ("enabled", "enabled-runtime")

    @property
    def timeout_stop_s(self) -> float | None:
        """TimeoutStopUSec in seconds, ``inf`` when there is no limit, None when it is not told."""
        text = self.properties.get("TimeoutStopUSec", "")
        return parse_span(text) if text else None


def parse_span(text: str) -> float:
    """Return the seconds in a time span for people. Raises :class:`ParseError`.

    >>> parse_span("1min 30s"), parse_span("infinity"), parse_span("5ms")
    (90.0, inf, 0.005)
    """
    if text.strip() == "infinity":
        return math.inf
    total = 0.0
    if not text.strip():
        raise ParseError("not a time span: it is empty")
    for part in text.split():
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)?", part)
        if not match or (match[2] or "s") not in _SECONDS:
            raise ParseError(f"not a time span: {text[:40]!r}")
        total += float(match[1]) * _SECONDS[match[2] or "s"]
    return total


def parse_units(text: str) -> dict[str, Unit]:
    """Return units by every name they have. Raises :class:`ParseError` when a record lacks Id or LoadState."""
    units: dict[str, Unit] = {}
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip()):
        properties: dict[str, str] = {}
        for name, value in (line.split("=", 1) for line in block.splitlines() if "=" in line):
            # A socket has one Listen= for each place where it listens.
            properties[name] = f"{properties[name]}\n{value}" if name == "Listen" and name in properties else value
        if "Id" not in properties or "LoadState" not in properties:
            raise ParseError(f"not the properties of a unit: {block[:80]!r}")
        unit = Unit(
            properties["Id"],
            properties["LoadState"],
            properties.get("ActiveState", ""),
            properties.get("SubState", ""),
            properties.get("UnitFileState", ""),
            properties,
        )
        for name in {unit.id, *properties.get("Names", "").split()}:
            units[name] = unit
    return units
