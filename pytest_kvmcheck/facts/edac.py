r"""Memory errors that the memory controllers counted: ``/sys/devices/system/edac/mc``.

Source: https://docs.kernel.org/admin-guide/RAS/main.html. The counters start with the driver, so at boot.

>>> mc = "/sys/devices/system/edac/mc/mc0"
>>> parse_edac({f"{mc}/ce_count": "3\n", f"{mc}/ue_count": "0\n"})
{'mc0': MemoryErrors(corrected=3, uncorrected=0)}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_PATH = re.compile(r"/sys/devices/system/edac/mc/(mc\d{1,4})/(ce|ue)_count", re.ASCII)


@dataclass(frozen=True)
class MemoryErrors:
    """What one memory controller counted."""

    corrected: int
    uncorrected: int


def parse_edac(files: Mapping[str, str]) -> dict[str, MemoryErrors]:
    """Return the counts by controller. Raises :class:`ParseError`."""
    found: dict[str, dict[str, int]] = {}
    for path, text in files.items():
        if match := _PATH.fullmatch(path):
            if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII):
                raise ParseError(f"{match[1]}/{match[2]}_count is not a number: {text.strip()[:20]!r}")
            found.setdefault(match[1], {})[match[2]] = int(text)
    if not found:
        raise ParseError("no memory controller is shown")
    if odd := [name for name, counts in found.items() if len(counts) < 2]:
        raise ParseError(f"{odd[0]} tells only one of its counts")
    return {name: MemoryErrors(counts["ce"], counts["ue"]) for name, counts in sorted(found.items())}
