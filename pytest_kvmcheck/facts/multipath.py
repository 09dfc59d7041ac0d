r"""Multipath maps: ``multipathd show maps json``, and ``multipathd show topology`` of versions before 0.6, which know no JSON.

Source: multipath-tools, libmultipath/print.c; https://manpages.ubuntu.com/manpages/noble/man8/multipathd.8.html. A map's
key ``paths`` counts its working paths only, so the path objects are what is counted here.

>>> text = '''{"major_version": 0, "minor_version": 1, "maps": [{"name": "mpatha", "uuid": "360001", "path_faults": 1,
... "queueing": "5 chk", "features": "1 queue_if_no_path", "vend": "IBM", "prod": "2107900", "path_groups": [{"group": 1,
... "pri": 50, "paths": [{"dev": "sda", "dm_st": "active", "dev_st": "running", "chk_st": "ready", "marginal_st": "normal",
... "host_wwpn": "0x21000024ff000001", "target_wwpn": "0x5005076303000101"}]}]}]}'''
>>> [(item.name, item.usable, item.faults, item.queueing, item.paths[0].dev, item.paths[0].fibre) for item in parse_maps(text)]
[('mpatha', 1, 1, '5 chk', 'sda', True)]
>>> old = "mpath6 (350002ac20398383d) dm-3 3PARdata,VV\n" \
...       "size=2.0G features='1 queue_if_no_path' hwhandler='0' wp=rw\n`-+- policy='round-robin 0' prio=1 status=active\n" \
...       "  |- 0:0:0:1  sde 8:64 active ready running\n  `- 1:0:0:1  sdf 8:80 failed faulty running\n"
>>> [mpath6] = parse_maps(old)
>>> [slow] = parse_maps(old.replace("active ready", "active i/o pending"))
>>> slow.paths[0].checker_state
'i/o pending'
>>> mpath6.vendor, mpath6.features, mpath6.groups, [(path.dev, path.dm_state) for path in mpath6.paths]
('3PARdata', '1 queue_if_no_path', (1,), [('sde', 'active'), ('sdf', 'failed')])
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
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
    group: int = 0
    host_port: str = ""
    target_port: str = ""

    @property
    def fibre(self) -> bool | None:
        """Whether it is a Fibre Channel path; None when multipathd does not tell."""
        if self.protocol or self.host_port:
            return self.protocol == "scsi:fcp" or self.host_port.startswith("0x")
        return None

    @property
    def usable(self) -> bool:
        """Whether I/O can go this way; ``ghost`` is a standby port."""
        return self.dm_state == "active" and self.checker_state in ("ready", "ghost")


@dataclass(frozen=True)
class MultipathMap:
    """A multipath map. ``faults`` counts path failures since the daemon started, None where it is not told.

    ``groups`` are the priorities of the path groups, in the order of ``Path.group`` (from 0). ``queueing`` is what is left of
    no_path_retry (``12 chk``, ``on``, ``off``, ``30 sec``, ``-`` when not set), empty where it is not told.
    """

    name: str
    uuid: str
    vendor: str
    product: str
    faults: int | None
    paths: tuple[Path, ...]
    groups: tuple[int, ...] = ()
    queueing: str = ""
    features: str = ""

    @property
    def usable(self) -> int:
        """Number of usable paths."""
        return sum(path.usable for path in self.paths)


def parse_maps(text: str) -> tuple[MultipathMap, ...]:
    """Return the maps in *text*, sorted by name. Raises :class:`ParseError` for anything but an answer of multipathd."""
    if not text.lstrip().startswith("{"):
        return _topology(text)
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
                group=number,
                host_port=str(path.get("host_wwpn", "")),
                target_port=str(path.get("target_wwpn", "")),
            )
            for number, group in enumerate(item.get("path_groups", []))
            for path in group.get("paths", [])
        ),
        groups=tuple(int(group.get("pri", 0)) for group in item.get("path_groups", [])),
        queueing=str(item.get("queueing", "")),
        features=str(item.get("features", "")),
    )


_MAP = re.compile(r"(?:\w+: )?(?P<name>\S.*?)(?: \((?P<wwid>[^)]+)\))? dm-\d+ (?:(?P<vendor>[^,]*?) *,(?P<product>.*)|\w+)")
_FEATURES = re.compile(r"\[?size=\S+?[\]\[ ]+features='?(?P<features>[^'\]]*)['\]].*")
_GROUP = re.compile(r"[ |`\\_+-]+(?:policy='[^']*' prio=(?P<new>-?\d+) status=\w+|[\w-]+ \d+ \[prio=(?P<old>-?\d+)\]\[\w+\])")
_PATH = re.compile(
    r"[ |`\\_-]+(?:[\d#]+:[\d#]+:[\d#]+:[\d#]+) +(?P<dev>\S+) +[\d#]+:[\d#]+ *"
    r"(?: (?P<dm>\w+) +(?P<checker>(?:i/o )?\w+)(?: +(?P<state>\w+))?|\[(?P<odm>\w+)\] *\[(?P<ochecker>\w+)\])"
)


def _topology(text: str) -> tuple[MultipathMap, ...]:
    found: list[MultipathMap] = []
    for line in map(str.rstrip, text.splitlines()):
        last = found[-1] if found else None
        if match := _PATH.fullmatch(line):
            if last is None or not last.groups:
                raise ParseError(f"a path outside of a map: {line[:60]!r}")
            path = Path(
                match["dev"],
                match["dm"] or match["odm"],
                match["state"] or "",
                match["checker"] or match["ochecker"],
                "",
                "",
                len(last.groups) - 1,
            )
            found[-1] = replace(last, paths=(*last.paths, path))
        elif last and (match := _GROUP.fullmatch(line)):
            found[-1] = replace(last, groups=(*last.groups, int(match["new"] or match["old"])))
        elif last and (match := _FEATURES.fullmatch(line)):
            found[-1] = replace(last, features=match["features"])
        elif match := _MAP.fullmatch(line):
            wwid = match["wwid"] or match["name"]
            found.append(MultipathMap(match["name"], wwid, match["vendor"] or "", (match["product"] or "").strip(), None, ()))
        elif line.strip():
            raise ParseError(f"not an answer of multipathd: {line.strip()[:60]!r}")
    if not found:
        raise ParseError("multipathd tells of no map")
    return tuple(sorted(found, key=lambda item: item.name))
