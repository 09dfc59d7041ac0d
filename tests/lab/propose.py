"""What a run found, written as the tables of expectations are written: to be read, judged by a person, and pasted.

``python -m tests.lab propose`` prints what ``healthy.yaml`` lacks or says otherwise; a scenario that turned other verdicts
than it should prints its ``turns`` anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.lab import judge
from tests.lab.judge import Result, Results

#: What stands for the reason that only a person can give.
WHY = "?"


def told(results: Results, expected: Mapping[tuple[str, str], str]) -> str:
    """Return what to do when the healthy host is not judged as *expected*."""
    return f"read the host, decide, and write into healthy.yaml:\n{table(results, expected)}"


def table(results: Results, expected: Mapping[tuple[str, str], str], bundle: Path | None = None) -> str:
    """Return the entries of ``healthy.yaml`` for all checks that are not as *expected*, or that are not judged any more.

    Above each: its title, what was expected, what was found in words, and which files of *bundle* it was judged by.
    """
    by_check: dict[str, dict[str, Result]] = {}
    for (check, subject), result in results.items():
        by_check.setdefault(check, {})[subject] = result
    lines = []
    for check in sorted(by_check.keys() | {check for check, _ in expected}):
        before = {subject: outcome for (name, subject), outcome in expected.items() if name == check}
        found = by_check.get(check, {})
        if before == {subject: result["outcome"] for subject, result in found.items()}:
            continue
        if not found:
            lines += [f"  # {check} is not judged any more; it was {before}", ""]
            continue
        lines.append(f"  # {next(iter(found.values()))['title']}")
        if before:
            lines.append(f"  # expected: {before}")
        lines += [f"  #   {subject}: {judge.describe(result)}" for subject, result in sorted(found.items())]
        if bundle and (read := sorted({each["probe"] for result in found.values() for each in result["evidence"]})):
            lines.append(f"  #   read: {' '.join(read)}  (in {bundle}/hosts/)")
        lines += [entry(check, {subject: result["outcome"] for subject, result in found.items()}), ""]
    return "\n".join(lines)


def entry(check: str, outcomes: Mapping[str, str]) -> str:
    """Return an entry of ``healthy.yaml`` without its reason.

    >>> print(entry("KVM-KSM-002", {"kvm01": "pass"}))
      KVM-KSM-002: {kvm01: pass, why: "?"}
    """
    pairs = [f"{subject}: {outcome}" for subject, outcome in outcomes.items()] + [f'why: "{WHY}"']
    line = f"  {check}: {{{', '.join(pairs)}}}"
    return line if len(line) <= 128 else "\n".join([f"  {check}:", *(f"    {pair}" for pair in pairs)])


def turns(wrong: Mapping[str, str | None]) -> str:
    """Return the lines under ``turns`` that say what was found. None: what stands there must go.

    >>> print(turns({"KVM-TIM-001@kvm01": "fail: kvm01: no time daemon answers, expected one.", "KVM-TIM-002@kvm01": None}))
        KVM-TIM-001@kvm01: "fail: no time daemon answers"
        # take away KVM-TIM-002@kvm01
    """
    return "\n".join(
        f"    # take away {name}" if found is None else f"    {name}: {json.dumps(words(found))}" for name, found in wrong.items()
    )


def words(found: str) -> str:
    """Return outcome and some words of a description: those that tell the fault and not the place.

    >>> words("unknown: blocked by KVM-SVC-001 kvm01: no daemon answers"), words("pass: "), words("gone")
    ('unknown: blocked by KVM-SVC-001', 'pass', 'gone')
    """
    outcome, _, said = found.partition(": ")
    if blocked := re.match(r"blocked by KVM-[A-Z]+-\d+", said):
        said = blocked[0]
    elif cause := re.match(r"(not permitted|command missing|timed out|truncated|unparsable|unreachable|lost|empty)\b", said):
        said = cause[0]
    else:
        # The first clause behind the name of the subject.
        said = re.split(r"(?:, |; |\. |\.$)", re.sub(r"^[\w.:/%-]+: ", "", said))[0][:60].strip()
    return f"{outcome}: {said}" if said else outcome


def names(results: Iterable[tuple[str, str]]) -> set[str]:
    """Return the checks of *results*."""
    return {check for check, _ in results}
