"""Kernel same-page merging: ``/sys/kernel/mm/ksm``.

Source: https://docs.kernel.org/admin-guide/mm/ksm.html

>>> ksm = parse_ksm({"/sys/kernel/mm/ksm/run": "1\\n", "/sys/kernel/mm/ksm/merge_across_nodes": "0\\n"})
>>> ksm.run, ksm.merge_across_nodes, ksm.advisor_mode
(1, 0, '')
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.choice import chosen

_ROOT = "/sys/kernel/mm/ksm"


@dataclass(frozen=True)
class Ksm:
    """KSM as the kernel runs it. ``run``: 0 stopped, 1 merging, 2 stopped and unmerged.

    ``merge_across_nodes`` is None on kernels without NUMA; ``advisor_mode`` is empty before Linux 6.8.
    """

    run: int
    merge_across_nodes: int | None
    advisor_mode: str


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
    return Ksm(run, number("merge_across_nodes"), chosen(advisor) if advisor is not None else "")
