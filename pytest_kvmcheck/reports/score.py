"""Counting results: totals, per host, and the score with and without waivers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pytest_kvmcheck.outcomes import Outcome


def counts(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many results there are of each outcome, all outcomes named."""
    found = Counter(result["outcome"] for result in results)
    return {str(outcome): found[outcome] for outcome in Outcome}


def score(totals: Mapping[str, int], *, with_waivers: bool) -> float | None:
    """Return the percentage of judged verdicts that pass, None when nothing was judged. Unknown is not a pass."""
    judged = sum(totals.values()) - totals["na"]
    good = totals["pass"] + (totals["waived"] if with_waivers else 0)
    return round(100 * good / judged, 1) if judged else None
