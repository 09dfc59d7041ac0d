r"""Where the huge pages of a process are: the ``huge`` lines of ``/proc/PID/numa_maps``.

Source: numa(7). A line has the policy of the mapping, words, and ``Nnode=pages``; blanks in file names are octal escapes.

>>> text = ("7f2a40000000 bind:0 file=/dev/hugepages/libvirt/qemu/2-web01/ram-node0\\040(deleted) huge dirty=48 N0=40 N1=8"
...         " kernelpagesize_kB=2048\n")
>>> parse_huge_maps(text)
{0: 83886080, 1: 16777216}
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_HEAD = re.compile(r"[0-9a-f]{8,16} [\w:=,-]+ .*", re.ASCII)


@empty_is_an_answer("the process has no huge pages")
def parse_huge_maps(text: str) -> dict[int, int]:
    """Return the bytes of huge pages by NUMA node. Raises :class:`ParseError`."""
    found: dict[int, int] = {}
    for line in text.splitlines():
        words = line.split()
        page = next((word.removeprefix("kernelpagesize_kB=") for word in words if word.startswith("kernelpagesize_kB=")), "")
        if not _HEAD.fullmatch(line) or "huge" not in words:
            raise ParseError(f"not a huge mapping of numa_maps: {line[:60]!r}")
        nodes = [match for word in words if (match := re.fullmatch(r"N(\d{1,4})=(\d{1,12})", word, re.ASCII))]
        if not re.fullmatch(r"\d{1,9}", page, re.ASCII):
            if nodes:
                raise ParseError(f"a huge mapping without kernelpagesize_kB: {line[:60]!r}")
            continue  # a mapping that was never touched tells no size
        for node in nodes:
            found[int(node[1])] = found.get(int(node[1]), 0) + int(node[2]) * int(page) * 1024
    return found
