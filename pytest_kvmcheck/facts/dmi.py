r"""What the firmware says of the machine: ``/sys/class/dmi/id``.

Source: SMBIOS reference specification, structures 0 and 1. The date is month/day/year.

>>> dmi = "/sys/class/dmi/id"
>>> parse_dmi({f"{dmi}/sys_vendor": "Dell Inc.\n", f"{dmi}/product_name": "PowerEdge R6515\n", f"{dmi}/bios_version": "2.2.4\n"})
Dmi(vendor='Dell Inc.', product='PowerEdge R6515', bios_vendor='', bios_version='2.2.4', bios_date='')
>>> parse_bios_date("04/12/2021\n")
datetime.date(2021, 4, 12)
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line


@dataclass(frozen=True)
class Dmi:
    """Maker, model and firmware; what is not told is empty."""

    vendor: str
    product: str
    bios_vendor: str
    bios_version: str
    bios_date: str


@empty_is_an_answer("makers leave fields blank")
@takes_any_line("makers write what they like")
def parse_dmi(files: Mapping[str, str]) -> Dmi:
    """Return what the files say. Raises :class:`ParseError` when they say nothing."""

    def text(name: str) -> str:
        value = files.get(f"/sys/class/dmi/id/{name}", "")
        if "\0" in value:
            raise ParseError(f"dmi/id/{name} is no text")
        return " ".join(value.split())[:80]

    found = Dmi(*(text(name) for name in ("sys_vendor", "product_name", "bios_vendor", "bios_version", "bios_date")))
    if not any((found.vendor, found.product, found.bios_vendor, found.bios_version, found.bios_date)):
        raise ParseError("the firmware says nothing of the machine")
    return found


def parse_bios_date(text: str) -> datetime.date:
    """Return the date of the firmware. Raises :class:`ParseError`, for years of two digits too."""
    match = re.fullmatch(r"(\d{2})/(\d{2})/(\d{4})", text.strip(), re.ASCII)
    try:
        return datetime.date(int(match[3]), int(match[1]), int(match[2])) if match else _refuse(text)
    except ValueError:
        return _refuse(text)


def _refuse(text: str) -> datetime.date:
    raise ParseError(f"not a date of firmware (month/day/year): {text.strip()[:40]!r}")
