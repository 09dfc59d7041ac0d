r"""What a cgroup counts: ``memory.events``, ``memory.oom_control``, ``memory.numa_stat``, ``hugetlb.SIZE.numa_stat``.

Source: https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html. Version 2
tells bytes, version 1 pages; version 1 counts shared memory as anonymous, and adds the groups below as ``hierarchical_anon``.

>>> parse_counters_of_cgroup("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n")["oom_kill"]
1
>>> parse_numa_stat("anon N0=104857600 N1=0\nfile N0=4096 N1=8192\nshmem N0=0 N1=2097152\n")["shmem"]
{0: 0, 1: 2097152}
>>> parse_numa_stat("total=25 N0=20 N1=5\nanon=20 N0=20 N1=0\nhierarchical_anon=30 N0=30 N1=0\n")["hierarchical_anon"]
{0: 30, 1: 0}
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError

_LINE = re.compile(r"(\w+)(?:=\d{1,20})?((?: N\d{1,4}=\d{1,20})+)", re.ASCII)


def parse_counters_of_cgroup(text: str) -> dict[str, int]:
    """Return the counters by name. Raises :class:`ParseError`."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+) (\d{1,20})", line, re.ASCII)
        if not match:
            raise ParseError(f"not a counter of a cgroup: {line[:60]!r}")
        found[match[1]] = int(match[2])
    if not found:
        raise ParseError("no counters of a cgroup: the file is empty")
    return found


def parse_numa_stat(text: str) -> dict[str, dict[int, int]]:
    """Return what is counted by kind of memory and NUMA node, in the units of the file. Raises :class:`ParseError`."""
    found = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            raise ParseError(f"not a line of numa_stat: {line[:60]!r}")
        nodes = (part[1:].partition("=") for part in match[2].split())
        found[match[1]] = {int(node): int(count) for node, _, count in nodes}
    if not found:
        raise ParseError("no numa_stat: the file is empty")
    return found
