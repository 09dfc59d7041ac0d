"""Multipath maps: ``multipathd show maps json``.

Source: multipath-tools, libmultipath/print.c; https://manpages.ubuntu.com/manpages/noble/man8/multipathd.8.html. A map's
key ``paths`` counts its working paths only, so the path objects are what is counted here.

>>> text = '''{"major_version": 0, "minor_version": 1, "maps": [{"name": "mpatha", "uuid": "360001", "path_faults": 1,
... "vend": "IBM", "prod": "2107900", "path_groups": [{"group": 1, "paths": [
... {"dev": "sda", "dm_st": "active", "dev_st": "running", "chk_st": "ready", "marginal_st": "normal"}]}]}]}'''
>>> [(item.name, item.usable, item.faults, item.paths[0].dev) for item in parse_maps(text)]
[('mpatha', 1, 1, 'sda')]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class Path:
    """One path of a map, with the states of device-mapper, of the SCSI device and of the path checker."""

    dev: str
    dm_state: str
    dev_state: str
    checker_state: str
    marginal: str
    protocol: str

    @property
    def usable(self) -> bool:
        """Whether I/O can go this way; ``ghost`` is a standby port."""
        return self.dm_state == "active" and self.checker_state in ("ready", "ghost")


@dataclass(frozen=True)
class MultipathMap:
    """A multipath map. ``faults`` counts path failures since the daemon started, None where it is not told."""

    name: str
    uuid: str
    vendor: str
    product: str
    faults: int | None
    paths: tuple[Path, ...]

    @property
    def usable(self) -> int:
        """Number of usable paths."""
        return sum(path.usable for path in self.paths)


def parse_maps(text: str) -> tuple[MultipathMap, ...]:
    """Return the maps in *text*, sorted by name. Raises :class:`ParseError` for anything but multipathd's JSON."""
    try:
        data = json.loads(text)
        maps = [_map(item) for item in data["maps"]]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise ParseError(f"not multipathd's JSON: {text.strip()[:80]!r}") from exc
    return tuple(sorted(maps, key=lambda item: item.name))


def _map(item: dict[str, Any]) -> MultipathMap:
    faults = item.get("path_faults")
    return MultipathMap(
        name=str(item["name"]),
        uuid=str(item.get("uuid", "")),
        vendor=str(item.get("vend", "")).strip(),
        product=str(item.get("prod", "")).strip(),
        faults=int(faults) if faults is not None else None,
        paths=tuple(
            Path(
                dev=str(path["dev"]),
                dm_state=str(path["dm_st"]),
                dev_state=str(path.get("dev_st", "")),
                checker_state=str(path["chk_st"]),
                marginal=str(path.get("marginal_st", "")),
                protocol=str(path.get("protocol", "")),
            )
            for group in item.get("path_groups", [])
            for path in group.get("paths", [])
        ),
    )
