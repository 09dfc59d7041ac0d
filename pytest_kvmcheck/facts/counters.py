r"""Counters of CPU time and swapping: ``/proc/stat``, ``/proc/vmstat`` and ``/proc/uptime``.

Source: proc_stat(5), proc_vmstat(5), proc_uptime(5). Times of CPUs are jiffies (USER_HZ); only their ratios are used.

>>> sample = parse_counters({"/proc/stat": "cpu  100 0 50 800 10 0 5 35 0 0\n", "/proc/vmstat": "pswpin 3\npswpout 4\n",
...                          "/proc/uptime": "789.91 557.14\n"})
>>> sample.uptime_s, sample.steal, sample.total, sample.swapped_pages
(789.91, 35, 1000, 7)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class Counters:
    """One sample. ``swapped_pages`` counts pages swapped in and out since boot, None when the kernel has no swapping."""

    uptime_s: float
    steal: int
    total: int
    swapped_pages: int | None


def parse_counters(files: Mapping[str, str]) -> Counters:
    """Return the sample. Raises :class:`ParseError` when a part of it is missing."""
    try:
        uptime = float(files["/proc/uptime"].split()[0])
        cpu = next(line for line in files["/proc/stat"].splitlines() if line.startswith("cpu ")).split()[1:]
        # guest and guest_nice are counted within user and nice
        times = [int(word) for word in cpu[:8]]
        if len(times) < 8:
            raise ParseError("the cpu line of /proc/stat tells no steal time")
        swapped = None
        if "/proc/vmstat" in files:
            pages = dict(line.split() for line in files["/proc/vmstat"].splitlines())
            swapped = int(pages["pswpin"]) + int(pages["pswpout"])
    except (KeyError, ValueError, IndexError, StopIteration) as exc:
        raise ParseError(f"not the counters of /proc: {exc!r}"[:120]) from None
    return Counters(uptime, times[7], sum(times), swapped)
