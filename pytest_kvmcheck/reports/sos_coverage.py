"""What a sosreport tells each check: derived from the probes, and of a given sosreport from what it holds."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_kvmcheck.evidence import KEY_SEPARATOR, Evidence
from pytest_kvmcheck.gather.recorded import Held, held, places
from pytest_kvmcheck.probes import PROBES
from pytest_kvmcheck.registry import Check

_SIGNS = {Held.COMMAND: "+", Held.FILES: "+", Held.PART: "~", Held.NO: "-"}


def as_json(checks: Iterable[Check], report: Mapping[str, Evidence] | None = None) -> list[dict[str, Any]]:
    """Return a row for each check; ``found`` tells of *report* (its evidence by role), and is null when none is given."""
    rows = []
    for check in checks:
        role = "guest" if check.scope == "guest" else "host"
        there = None if report is None else {name.partition(KEY_SEPARATOR)[0] for name in report[role].records}
        probes = [
            {
                "id": name,
                "held": str(held(PROBES[name])),
                "places": list(places(PROBES[name])),
                "found": None if there is None else name in there,
            }
            for name in check.reads
        ]
        usable = [probe["held"] != Held.NO and probe["found"] is not False for probe in probes]
        coverage = "none" if not any(usable) else "all" if all(usable) else "some"
        rows.append({"check": check.id, "title": check.title, "coverage": coverage, "evidence": probes})
    return rows


def as_text(rows: list[dict[str, Any]]) -> str:
    """Return the table for people, and its sums."""
    given = any(probe["found"] is not None for row in rows for probe in row["evidence"])
    lines = [
        "+ read from a sosreport   ~ a part of it   - not in a sosreport" + ("   ! not in this one" if given else ""),
        "Files are there as far as sos copied them; what is missing is unknown, never a pass.",
        "",
    ]
    for row in rows:
        marks = " ".join(
            ("!" if probe["found"] is False and probe["held"] != Held.NO else _SIGNS[Held(probe["held"])]) + probe["id"]
            for probe in row["evidence"]
        )
        head = f"{row['check']}  {row['coverage']:<5} "
        lines += textwrap.wrap(marks, 96, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
    sums = Counter(row["coverage"] for row in rows)
    lines += ["", f"{len(rows)} checks: all evidence {sums['all']}, some {sums['some']}, none {sums['none']}"]
    return "\n".join(lines) + "\n"
