"""NUMA nodes: ``/sys/devices/system/node``.

Source: https://docs.kernel.org/admin-guide/mm/numaperf.html and Documentation/ABI/stable/sysfs-devices-node.

>>> files = {
...     "/sys/devices/system/node/has_memory": "0-1\\n",
...     "/sys/devices/system/node/node0/cpulist": "0-3\\n",
...     "/sys/devices/system/node/node0/meminfo": "Node 0 MemTotal:        1024 kB\\n",
...     "/sys/devices/system/node/node1/cpulist": "\\n",
...     "/sys/devices/system/node/node1/meminfo": "Node 1 MemTotal:        2048 kB\\n",
... }
>>> [(node.id, len(node.cpus), node.memory_bytes, node.has_memory) for node in parse_numa(files)]
[(0, 4, 1048576, True), (1, 0, 2097152, True)]
>>> node = "/sys/devices/system/node/node"
>>> parse_distances({f"{node}0/distance": "10 21\\n", f"{node}8/distance": "21 10\\n"})
{0: {0: 10, 8: 21}, 8: {0: 21, 8: 10}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpulist import parse_cpulist
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_ROOT = "/sys/devices/system/node"


@dataclass(frozen=True)
class NumaNode:
    """A NUMA node: its online CPUs and its memory; nodes of CXL, PMEM or HBM memory have no CPUs."""

    id: int
    cpus: frozenset[int]
    memory_bytes: int
    has_memory: bool


@empty_is_an_answer("no nodes: the kernel knows no NUMA; an empty list: a node without CPUs")
def parse_numa(files: Mapping[str, str]) -> tuple[NumaNode, ...]:
    """Return the NUMA nodes in *files* (path -> text), sorted by id. Raises :class:`ParseError`.

    ``has_memory`` is the kernel's own list; where it is not there, a node with MemTotal above 0 has memory.
    """
    listed = files.get(f"{_ROOT}/has_memory")
    with_memory = parse_cpulist(listed) if listed is not None else None
    if with_memory is not None and not with_memory:
        raise ParseError("has_memory lists no node")
    nodes = []
    for path in files:
        match = re.fullmatch(rf"{_ROOT}/node(\d+)/cpulist", path)
        if not match:
            continue
        number = int(match[1])
        total = re.search(r"MemTotal:\s+(\d+) kB", files.get(f"{_ROOT}/node{number}/meminfo", ""))
        if total is None:
            raise ParseError(f"node{number}/meminfo has no MemTotal")
        size = int(total[1]) * 1024
        has_memory = number in with_memory if with_memory is not None else size > 0
        nodes.append(NumaNode(number, parse_cpulist(files[path]), size, has_memory))
    return tuple(sorted(nodes, key=lambda node: node.id))


@empty_is_an_answer("no nodes: the kernel knows no NUMA")
def parse_distances(files: Mapping[str, str]) -> dict[int, dict[int, int]]:
    """Return the distances by node and node, as the firmware (SLIT) tells them. Raises :class:`ParseError`.

    The numbers of a row belong to the online nodes in ascending order.
    """
    rows = {}
    for path, text in files.items():
        match = re.fullmatch(rf"{_ROOT}/node(\d{{1,5}})/distance", path, re.ASCII)
        if match:
            if not re.fullmatch(r"[\d ]+", text.strip(), re.ASCII):
                raise ParseError(f"{path} is no row of distances: {text.strip()[:40]!r}")
            rows[int(match[1])] = [int(word) for word in text.split()]
    nodes = sorted(rows)
    for node, row in rows.items():
        if len(row) != len(nodes):
            raise ParseError(f"node {node} tells {len(row)} distances, there are {len(nodes)} nodes")
    return {node: dict(zip(nodes, rows[node], strict=True)) for node in nodes}
