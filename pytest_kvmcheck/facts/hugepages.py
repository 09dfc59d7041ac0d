"""Huge-page pools: ``/sys/kernel/mm/hugepages`` and ``/sys/devices/system/node/node*/hugepages``; requests for them.

Source: https://docs.kernel.org/admin-guide/mm/hugetlbpage.html

>>> files = {"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "128\\n",
...          "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "80\\n"}
>>> parse_pools(files)[2 * 2**20].total, parse_pools(files)[2 * 2**20].free
(128, 80)
>>> node = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB"
>>> parse_node_pools({f"{node}/{name}_hugepages": "8" for name in ("nr", "free")})
{(1, 2097152): Pool(total=8, free=8, reserved=0, surplus=0, overcommit=0)}
>>> requested_on_cmdline((("hugepagesz", "1G"), ("hugepages", "4"), ("hugepagesz", "2M"), ("hugepages", "0:512,1:256")), 2**21)
{1073741824: 4, 2097152: 768}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cmdline import Cmdline
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_FILE = re.compile(
    r"/sys/(?:kernel/mm|devices/system/node/node(?P<node>\d+))/hugepages/hugepages-(?P<kb>\d+)kB/(?P<name>\w+)_hugepages"
)
_SIZES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Pool:
    """A pool of huge pages, in pages. What the kernel does not tell of it is 0 (nodes have no reservations of their own)."""

    total: int = 0
    free: int = 0
    reserved: int = 0
    surplus: int = 0
    overcommit: int = 0


def _number(path: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text.strip()):
        raise ParseError(f"{path} is not a number: {text.strip()[:40]!r}")
    return int(text)


def _pools(files: Mapping[str, str]) -> dict[tuple[int, int], Pool]:
    found: dict[tuple[int, int], dict[str, int]] = {}
    for path, text in files.items():
        match = _FILE.fullmatch(path)
        if match:
            key = (int(match["node"] or -1), int(match["kb"]) * 1024)
            found.setdefault(key, {})[match["name"]] = _number(path, text)
    pools = {}
    for key, values in found.items():
        if not {"nr", "free"} <= set(values):
            raise ParseError(f"hugepages-{key[1] // 1024}kB lacks nr_hugepages or free_hugepages")
        pools[key] = Pool(
            values["nr"],
            values["free"],
            values.get("resv", 0),
            values.get("surplus", 0),
            values.get("nr_overcommit", 0),
        )
    return pools


@empty_is_an_answer("the kernel has no huge pages")
def parse_pools(files: Mapping[str, str]) -> dict[int, Pool]:
    """Return the pools of the system by page size (bytes). Raises :class:`ParseError`."""
    return {size: pool for (_, size), pool in sorted(_pools(files).items())}


@empty_is_an_answer("the kernel has no huge pages")
def parse_node_pools(files: Mapping[str, str]) -> dict[tuple[int, int], Pool]:
    """Return the pools by NUMA node and page size (bytes). Raises :class:`ParseError`."""
    return dict(sorted(_pools(files).items()))


def parse_size(text: str) -> int:
    """Return a size of the kernel command line in bytes. Raises :class:`ParseError`.

    >>> parse_size("2M"), parse_size("1073741824")
    (2097152, 1073741824)
    """
    match = re.fullmatch(r"(\d{1,18})([kmgt]?)", text.lower())
    if not match:
        raise ParseError(f"not a size: {text[:40]!r}")
    return int(match[1]) * _SIZES[match[2]]


def requested_on_cmdline(cmdline: Cmdline, default_size_bytes: int) -> dict[int, int]:
    """Return the pages that the kernel command line asks for, by page size (bytes).

    ``hugepages=N`` belongs to the ``hugepagesz=`` before it, or to the default size; ``node:count`` forms are added up.
    """
    sizes = [parse_size(value) for name, value in cmdline if name == "default_hugepagesz" and value]
    default = sizes[-1] if sizes else default_size_bytes
    current = default
    requested: dict[int, int] = {}
    for name, value in cmdline:
        if name == "hugepagesz" and value:
            current = parse_size(value)
        elif name == "default_hugepagesz" and value:
            current = default
        elif name == "hugepages" and value:
            parts = [part.rpartition(":")[2] for part in value.split(",")]
            requested[current] = sum(_number("hugepages=", part) for part in parts)
    return requested
