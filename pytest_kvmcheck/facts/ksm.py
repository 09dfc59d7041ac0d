"""Kernel same-page merging: ``/sys/kernel/mm/ksm``.

Source: https://docs.kernel.org/admin-guide/mm/ksm.html

>>> ksm = parse_ksm({"/sys/kernel/mm/ksm/run": "1\\n", "/sys/kernel/mm/ksm/merge_across_nodes": "0\\n"})
>>> ksm.run, ksm.merge_across_nodes, ksm.advisor_mode
(1, 0, '')

The CPU time of the kernel thread ksmd comes from /proc/PID/stat (fields 14 and 15, in hundredths of a second) beside /proc/uptime.

>>> parse_ksmd({"/proc/uptime": "5000.10 9000.00\\n",
...             "/proc/57/stat": "57 (ksmd) S 2 0 0 0 -1 2097216 0 0 0 0 0 1234 0 0 25 5 1 0\\n"})
KsmdTime(uptime_s=5000.1, cpu_s=12.34)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.choice import chosen

_ROOT = "/sys/kernel/mm/ksm"


@dataclass(frozen=True)
class Ksm:
    """KSM as the kernel runs it. ``run``: 0 stopped, 1 merging, 2 stopped and unmerged.

    ``merge_across_nodes`` is None on kernels without NUMA; ``advisor_mode`` is empty before Linux 6.8. ``counts`` holds the
    numbers of pages, scans and bytes by file name; ``general_profit`` is missing there before Linux 6.4, and may be negative.
    """

    run: int
    merge_across_nodes: int | None
    advisor_mode: str
    counts: Mapping[str, int] = field(default_factory=dict)


def parse_ksm(files: Mapping[str, str]) -> Ksm:
    """Return KSM's state from *files* (path -> text). Raises :class:`ParseError`."""

    def number(name: str) -> int | None:
        text = files.get(f"{_ROOT}/{name}")
        if text is None:
            return None
        if not re.fullmatch(r"\d+", text.strip()):
            raise ParseError(f"ksm/{name} is not a number: {text.strip()[:40]!r}")
        return int(text)

    run = number("run")
    if run is None or run > 2:
        raise ParseError(f"ksm/run is {run}, not 0, 1 or 2")
    advisor = files.get(f"{_ROOT}/advisor_mode")
    return Ksm(run, number("merge_across_nodes"), chosen(advisor) if advisor is not None else "", _counts(files))


#: What KSM counts.
_COUNTS = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "full_scans", "general_profit")


def _counts(files: Mapping[str, str]) -> dict[str, int]:
    found = {}
    for name in _COUNTS:
        text = files.get(f"{_ROOT}/{name}")
        if text is not None:
            if not re.fullmatch(r"-?\d{1,19}", text.strip(), re.ASCII):
                raise ParseError(f"ksm/{name} is not a number: {text.strip()[:40]!r}")
            found[name] = int(text)
    return found


@dataclass(frozen=True)
class KsmdTime:
    """CPU time of ksmd since boot, and the uptime when it was read."""

    uptime_s: float
    cpu_s: float


def parse_ksmd(files: Mapping[str, str]) -> KsmdTime:
    """Return the CPU time of the kernel thread; a process of another that bears its name is no child of PID 2.

    Raises :class:`ParseError`.
    """
    uptime = re.fullmatch(r"(\d{1,12}\.\d{1,3}) \d+\.\d+\s*", files.get("/proc/uptime", ""), re.ASCII)
    ticks = []
    for path, text in files.items():
        if re.fullmatch(r"/proc/\d+/stat", path):
            fields = re.fullmatch(r"\d+ \(ksmd\) \S (\d+)(?: -?\d+){9} (\d{1,15}) (\d{1,15})(?: -?\d+)+\s*", text, re.ASCII)
            if not fields:
                raise ParseError(f"not the stat of ksmd: {text.strip()[:60]!r}")
            if fields[1] == "2":
                ticks.append(int(fields[2]) + int(fields[3]))
    if not uptime or len(ticks) != 1:
        raise ParseError(f"/proc shows {len(ticks)} kernel threads ksmd" if uptime else "/proc/uptime is not told")
    return KsmdTime(float(uptime[1]), ticks[0] / 100)
