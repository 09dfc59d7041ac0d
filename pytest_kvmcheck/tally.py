"""What a run owed and what it gave: the verdicts that were planned, those that were reached, and the exit code they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_kvmcheck.outcomes import Outcome, rank
from pytest_kvmcheck.registry import Check

#: A verdict, by its check and its subject.
Key = tuple[str, str]

#: Outcomes that never leave exit code 0.
BAD = frozenset({Outcome.FAIL, Outcome.ERROR, Outcome.UNKNOWN})


@dataclass
class Planned:
    """The verdicts that the profiles ask for: how many of each host (or cluster), and of each check."""

    hosts: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)

    def add(self, host: str, check: str) -> None:
        """Count one verdict."""
        self.hosts[host] += 1
        self.checks[check] += 1


@dataclass(frozen=True)
class Tally:
    """Counts of verdicts. ``selected_away`` the user left out (-k, -m, named files); ``lost`` nobody accounts for.

    ``lost_checks`` are the ids of the checks with lost verdicts; ``bare`` the targets without any verdict.
    """

    planned: Mapping[str, int]
    judged: int
    selected_away: int
    lost: int
    lost_checks: tuple[str, ...]
    bare: tuple[str, ...]
    bad: bool

    @property
    def total(self) -> int:
        """How many verdicts were planned."""
        return sum(self.planned.values())

    @property
    def complete(self) -> bool:
        """Whether every planned verdict is there; only then is there a score."""
        return self.total > 0 and not self.selected_away and not self.lost and not self.bare

    def exit_code(self, code: int) -> int:
        """Return the exit code of a run that pytest would end with *code*: 0 only for what was judged and is good.

        >>> Tally({"a": 2}, 2, 0, 0, (), (), bad=False).exit_code(0)
        0
        >>> Tally({"a": 2}, 1, 0, 1, ("KVM-MEM-001",), (), bad=False).exit_code(0)
        1
        >>> Tally({"a": 2}, 0, 2, 0, (), ("a",), bad=False).exit_code(0)
        5
        """
        if code not in (0, 1, 5):
            return code
        if not self.judged:
            return 5 if code == 0 else code
        return 1 if self.bad or self.lost or self.bare else code


def count(
    planned: Planned,
    results: Collection[Mapping[str, Any]],
    deselected: Iterable[Key],
    left_out: Callable[[str], bool],
    targets: Mapping[str, str],
) -> Tally:
    """Return the tally of a run.

    *deselected* are the verdicts that a selection took out, *left_out* tells of a check whether the user named other files;
    *targets* maps each target to the cluster through which it may have been judged.
    """
    judged = {(result["check"], result["subject"]) for result in results}
    missing = planned.checks.copy()
    for result in results:
        missing[result["check"]] -= 1
    away = 0
    for key in {*deselected} - judged:
        missing[key[0]] -= 1
        away += 1
    for check in missing:
        if missing[check] > 0 and left_out(check):
            away += missing[check]
            missing[check] = 0
    lost = +missing
    seen = {result["host"] for result in results}
    bare = [name for name, cluster in targets.items() if name not in seen and f"cluster:{cluster}" not in seen]
    return Tally(
        dict(sorted(planned.hosts.items())),
        len(judged),
        away,
        lost.total(),
        tuple(sorted(lost)),
        tuple(sorted(bare)),
        any(result["outcome"] in BAD for result in results),
    )


def keep_worse(results: dict[Key, dict[str, Any]], new: dict[str, Any]) -> None:
    """Put *new* among *results*; of a verdict that was reached twice (repeated, rerun) the worse stays."""
    key = (new["check"], new["subject"])
    if key not in results or rank(new["outcome"]) < rank(results[key]["outcome"]):
        results[key] = new


def planned_of(checks: Iterable[Check], subjects: Callable[[str], Iterable[Any]], enabled: Callable[[str, str], bool]) -> Planned:
    """Return what is planned: *checks* on the *subjects* of their scope, where *enabled* (profile, check)."""
    planned = Planned()
    for check in checks:
        for subject in subjects(check.scope):
            if enabled(subject.profile, check.id):
                planned.add(subject.host, check.id)
    return planned
