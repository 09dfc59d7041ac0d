"""Outcomes: the one table of what a verdict can be, how pytest sees it, and how reports show it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """A verdict."""

    FAIL = "fail"
    ERROR = "error"
    UNKNOWN = "unknown"
    WARN = "warn"
    WAIVED = "waived"
    NA = "na"
    PASS = "pass"  # noqa: S105 - a verdict


@dataclass(frozen=True)
class Look:
    """How an outcome is shown. ``word``, ``letter`` and ``category`` are pytest's; ``pytest`` and ``junit`` document it."""

    meaning: str
    produced_by: str
    pytest: str
    junit: str
    category: str
    letter: str
    word: str
    markup: str


#: Worst first.
TABLE: dict[Outcome, Look] = {
    Outcome.FAIL: Look(
        "the evidence was read and the rule is broken", "AssertionError", "failed", "failure", "failed", "F", "FAIL", "red"
    ),
    Outcome.ERROR: Look(
        "a bug of ours: the check itself broke", "any other exception", "failed", "failure", "failed", "!", "ERROR", "red"
    ),
    Outcome.UNKNOWN: Look(
        "evidence is missing: unreachable, not permitted, timed out, unparsable ... never a pass",
        "EvidenceMissing", "error", "error", "error", "E", "UNKNOWN", "yellow",
    ),
    Outcome.WARN: Look(
        "a finding that does not fail the run", "CheckWarning, or level warn in the profile",
        "skipped with wasxfail", "skipped", "warned", "w", "WARN", "yellow",
    ),
    Outcome.WAIVED: Look(
        "a failure that a waiver in force covers", "a waiver that matches check and subject",
        "skipped with wasxfail", "skipped", "waived", "v", "WAIVED", "yellow",
    ),
    Outcome.NA: Look(
        "there is nothing to judge here", "applies, or NotApplicable", "skipped", "skipped", "skipped", "s", "N/A", "cyan"
    ),
    Outcome.PASS: Look("the evidence was read and the rule holds", "the check ran to its end", "passed", "testcase",
                       "passed", ".", "PASS", "green"),
}  # fmt: skip


def rank(outcome: str) -> int:
    """0 for the worst."""
    return list(TABLE).index(Outcome(outcome))
