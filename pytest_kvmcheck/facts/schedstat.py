"""How long threads waited for a CPU: ``/proc/PID/task/TID/schedstat`` after ``/proc/uptime``, as ``grep -H`` prints them.

Source: https://docs.kernel.org/scheduler/sched-stats.html. The numbers are nanoseconds on a CPU, nanoseconds of waiting for one,
and how often it ran; without CONFIG_SCHED_INFO all are 0.

>>> parse_schedstat("/proc/uptime:1000.50 3900.00\\n/proc/7/task/9/schedstat:84300000000 2100000 4711\\n")
SchedStat(uptime_s=1000.5, waits_ns={9: 2100000})
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_UPTIME = re.compile(r"/proc/uptime:(\d{1,12}\.\d\d) \d{1,14}\.\d\d", re.ASCII)
_THREAD = re.compile(r"/proc/\d{1,10}/task/(\d{1,10})/schedstat:(\d{1,20}) (\d{1,20}) \d{1,20}", re.ASCII)


@dataclass(frozen=True)
class SchedStat:
    """When the threads were looked at, in seconds after boot, and how long each waited so far, by its id."""

    uptime_s: float
    waits_ns: Mapping[int, int]


def parse_schedstat(text: str) -> SchedStat:
    """Return the waits. Raises :class:`ParseError` when no thread is told of, or the kernel does not count."""
    lines = text.splitlines()
    uptime = _UPTIME.fullmatch(lines[0]) if lines else None
    if not uptime:
        raise ParseError(f"not the waits of threads: {text.strip()[:60]!r}")
    waits = {}
    ran = 0
    for line in lines[1:]:
        thread = _THREAD.fullmatch(line)
        if not thread:
            raise ParseError(f"not the schedstat of a thread: {line[:60]!r}")
        waits[int(thread[1])] = int(thread[3])
        ran += int(thread[2])
    if not ran:
        raise ParseError("no thread ran: the kernel does not count waiting")
    return SchedStat(float(uptime[1]), waits)
