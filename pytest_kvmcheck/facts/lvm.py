r"""LVM: ``lvs`` and ``pvs`` as JSON, and ``lvmconfig --typeconfig full``.

Source: lvmreport(7), lvm.conf(5), lvmdevices(8). Warnings of LVM stand before the JSON.

>>> [volume] = parse_lvs('''{"report": [{"lv": [{"vg_name":"vg0", "lv_name":"pool", "lv_active":"active", "lv_size":"1024",
... "segtype":"thin-pool", "data_percent":"91.50", "metadata_percent":"12.00"}]}]}''')
>>> volume.name, volume.segtype, volume.data_percent, volume.active
('vg0/pool', 'thin-pool', 91.5, True)
>>> parse_pvs('  WARNING: x\n  {"report": [{"pv": [{"pv_name":"/dev/mapper/mpatha", "vg_name":"vg0"}]}]}')
{'/dev/mapper/mpatha': 'vg0'}
>>> config = parse_lvmconfig('use_devicesfile=0\nfilter=["a|^/dev/sda|","r|.*|"]\nscan_lvs=0\n')
>>> config.use_devicesfile, config.rejects, config.scan_lvs
(False, True, False)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Volume:
    """A logical volume; the percentages are None but for thin pools, snapshots and the like.

    LVM of before 2.03 says of volumes of a cluster "local exclusive", "locally" or "remotely" instead of "active".
    """

    name: str
    active: bool
    segtype: str
    data_percent: float | None
    metadata_percent: float | None


@dataclass(frozen=True)
class LvmConfig:
    """Which devices LVM looks at: those of its devices file, or those that no filter rejects."""

    use_devicesfile: bool
    rejects: bool
    scan_lvs: bool


def _report(text: str, kind: str) -> list[dict[str, Any]]:
    place = text.find("{")
    try:
        items = [item for report in json.loads(text[place:])["report"] for item in report[kind]] if place >= 0 else None
        if items is None or not all(isinstance(item, dict) for item in items):
            raise TypeError("not a report")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ParseError(f"not a report of LVM: {text.strip()[:60]!r}") from exc
    return items


def _percent(text: object) -> float | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,3})(?:[.,](\d{1,4}))?", str(text), re.ASCII)
    if not match:
        raise ParseError(f"not a percentage of LVM: {str(text)[:40]!r}")
    return float(f"{match[1]}.{match[2] or 0}")


@empty_is_an_answer("there is no logical volume")
def parse_lvs(text: str) -> tuple[Volume, ...]:
    """Return the logical volumes. Raises :class:`ParseError`."""
    found = []
    for item in _report(text, "lv"):
        try:
            found.append(
                Volume(
                    f"{item['vg_name']}/{item['lv_name']}",
                    item["lv_active"] != "",
                    str(item["segtype"]),
                    _percent(item["data_percent"]),
                    _percent(item["metadata_percent"]),
                )
            )
        except KeyError as exc:
            raise ParseError(f"a logical volume without {exc}") from None
    return tuple(found)


@empty_is_an_answer("there is no physical volume")
def parse_pvs(text: str) -> dict[str, str]:
    """Return the volume groups by physical volume. Raises :class:`ParseError`."""
    found = {}
    for item in _report(text, "pv"):
        if not str(item.get("pv_name", "")):
            raise ParseError("a physical volume without a name")
        found[str(item["pv_name"])] = str(item.get("vg_name", ""))
    return found


def parse_lvmconfig(text: str) -> LvmConfig:
    """Return the settings; LVM of before 2.03.12 knows no devices file. Raises :class:`ParseError`."""
    told: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        key, equals, value = line.strip().partition("=")
        if not equals or not re.fullmatch(r"[a-z_/]+", key):
            raise ParseError(f"not a setting of LVM: {line.strip()[:60]!r}")
        told[key.rpartition("/")[2]] = value.strip()
    if not {"filter", "scan_lvs", "use_devicesfile"} & set(told):
        raise ParseError("lvmconfig told none of the settings that were asked for")
    filters = told.get("filter", "") + told.get("global_filter", "")
    return LvmConfig(
        told.get("use_devicesfile") == "1",
        bool(re.search(r"""["']r(?P<mark>[|/!#,@])""", filters)),
        told.get("scan_lvs", "0" if "use_devicesfile" in told else "1") == "1",
    )
