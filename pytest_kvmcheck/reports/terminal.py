"""What a person sees at the terminal: progress, and a summary with the worst first."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_kvmcheck import __version__, provenance
from pytest_kvmcheck.errors import Cause, printable
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Evidence
from pytest_kvmcheck.outcomes import TABLE, Outcome, rank
from pytest_kvmcheck.registry import Severity
from pytest_kvmcheck.reports.commands import how_to_permit
from pytest_kvmcheck.reports.score import counts, score
from pytest_kvmcheck.results import Result
from pytest_kvmcheck.tally import Tally
from pytest_kvmcheck.targets import Target

if TYPE_CHECKING:
    import pytest

    from pytest_kvmcheck.plan import Plan


def plural(count: int, word: str) -> str:
    """Return ``1 host``, ``2 hosts``."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def header(plan: Plan) -> list[str]:
    """Return the lines above the run: version, profile and its source, hosts, waivers."""
    source = plan.settings.sources.get("profile", "default")
    enabled = sum(1 for check_id in plan.checks if plan.profile.setting(check_id))
    roles = Counter(target.role for target in plan.targets)
    groups = {target.cluster for target in plan.targets if target.cluster}
    who = [plural(roles[role], role) for role in ("host", "guest") if roles[role]]
    if len(plan.targets) > 1 and groups:
        who.append(plural(len(groups), "cluster"))
    parts = [
        f"kvmcheck {__version__}",
        f"profile {plan.profile.name} ({source}), {plural(enabled, 'check')}",
        ", ".join(who),
    ]
    if plan.settings.active:
        parts.append(f"active probes ({plan.settings.sources.get('active', 'option')})")
    if plan.settings.waivers:
        at = plan.at if plan.started_at else None
        expired = sum(waiver.expired(at) for waiver in plan.waivers) if at else 0
        note = f", {expired} expired" if expired else ""
        parts.append(f"{plan.settings.waivers.name}: {plural(len(plan.waivers), 'waiver')}{note}")
    return [" | ".join(parts), *map(printable, provenance.lines(plan))]


def trouble(evidence: Evidence) -> str:
    """Return what kept probes of a host from answering, counted: ``2 not permitted, 1 timed out``."""
    if evidence.failure:
        return f"{evidence.failure.cause}: {evidence.failure.detail}"
    shown = (Cause.NOT_PERMITTED, Cause.TIMEOUT, Cause.TRUNCATED, Cause.LOST)
    found = Counter(record.cause for record in evidence.records.values())
    parts = [f"{found[cause]} {cause}" for cause in shown if found[cause]]
    if evidence.sudo in ("denied", "absent"):
        parts.append("sudo refused without a password" if evidence.sudo == "denied" else "no sudo there")
    return ", ".join(parts)


#: With more hosts than this, only those in trouble get a line of their own above the run.
MANY_HOSTS = 8


class Progress:
    """How gathering goes: at a terminal a moving line tells who is still awaited; ``lines`` sums it up afterwards."""

    def __init__(self, reporter: pytest.TerminalReporter | None, total: int) -> None:
        self._reporter = reporter if reporter and reporter.isatty and reporter.verbosity >= 0 else None
        self._total = total
        self._done: list[tuple[Target, Evidence, float]] = []

    def __enter__(self) -> Progress:
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self._reporter:
            self._reporter.rewrite("", erase=True)

    def _show(self, last: str = "") -> None:
        if self._reporter and len(self._done) < self._total:
            told = f", {last}" if last else ""
            self._reporter.rewrite(f"gathering  {len(self._done)} of {plural(self._total, 'host')}{told} ...", erase=True)

    def done(self, target: Target, evidence: Evidence, seconds: float) -> None:
        """Report that *target* has answered, or failed to, after *seconds*."""
        self._done.append((target, evidence, seconds))
        self._show(printable(target.name))

    def lines(self) -> list[str]:
        """Return the summary; empty when everything was replayed."""
        if not self._done:
            return []
        shown = sorted(self._done, key=lambda item: item[0].name)
        if len(shown) > MANY_HOSTS:
            troubled = [item for item in shown if trouble(item[1])]
            slowest = max(seconds for _, _, seconds in shown)
            head = f"gathering  {plural(len(shown), 'host')} in {slowest:.1f} s, {len(shown) - len(troubled)} without trouble"
            return [head, *(self._text(*item) for item in troubled)]
        return [self._text(*item) for item in shown]

    @staticmethod
    def _text(target: Target, evidence: Evidence, seconds: float) -> str:
        probes = sum(1 for name in evidence.records if KEY_SEPARATOR not in name)
        answered = f", {plural(probes, 'probe')}" if not evidence.failure else ""
        note = trouble(evidence)
        return printable(f"gathering  {target.name} {seconds:.1f} s{answered}{', ' + note if note else ''}")


def summary(
    reporter: pytest.TerminalReporter,
    plan: Plan,
    results: Sequence[Result],
    tally: Tally,
    selection: Sequence[str],
    stopped: str = "",
) -> None:
    """Print the section ``kvmcheck``: findings with their fix, folded unknowns, waivers, a table of hosts, what is missing."""
    reporter.ensure_newline()
    reporter.section("kvmcheck", "=")
    width = max(60, min(reporter._tw.fullwidth, 160))
    if not results:
        _missing(reporter, tally, selection, stopped, width)
        return
    _findings(reporter, results, width)
    _unknowns(reporter, results, {host.name: host.evidence.sudo for host in plan.hosts}, width)
    _waivers(reporter, plan, results, width)
    if reporter.verbosity > 0:
        for result in results:
            if result["outcome"] == Outcome.PASS:
                _line(reporter, result, width)
    _table(reporter, results)
    _missing(reporter, tally, selection, stopped, width)
    totals = counts(results)
    plain, waived = score(totals, with_waivers=False), score(totals, with_waivers=True)
    if plain is not None and tally.complete:
        with_waivers = f", {waived} % with waivers" if waived != plain else ""
        reporter.write_line(f"score: {plain} % of what applies passes{with_waivers}")
    if plan.settings.json:
        reporter.write_line(f"results: {plan.settings.json}")
    if plan.settings.record:
        reporter.write_line(f"evidence: {plan.settings.record} (sealed; kvmcheck verify {plan.settings.record})")
    bad = [result for result in results if result["outcome"] in (Outcome.FAIL, Outcome.UNKNOWN, Outcome.WARN)]
    if bad:
        worst = min(bad, key=_badness)
        reporter.write_line(f"explain: kvmcheck explain {worst['check']}")


def _badness(result: Mapping[str, Any]) -> tuple[int, int, str, str]:
    return (rank(result["outcome"]), Severity(result["severity"]).rank, result["check"], result["subject"])


def _line(reporter: pytest.TerminalReporter, result: Result, width: int) -> None:
    look = TABLE[Outcome(result["outcome"])]
    reporter.write(f"{look.word:<8}", **{look.markup: True})
    head = f"{result['severity']:<8}  {result['check']}  {result['subject']}"
    message = result["message"] or result["title"]
    body = textwrap.wrap(f"{head}  {message}", width - 8, subsequent_indent="  ", break_on_hyphens=False)
    reporter.write_line(("\n" + " " * 8).join(body))


def _findings(reporter: pytest.TerminalReporter, results: Iterable[Result], width: int) -> None:
    shown = (Outcome.FAIL, Outcome.ERROR, Outcome.WARN)
    for result in sorted((result for result in results if result["outcome"] in shown), key=_badness):
        _line(reporter, result, width)
        if reporter.verbosity < 0:
            continue
        for line in result["fix"].splitlines():
            for part in textwrap.wrap(line, width - 14, subsequent_indent="    ", break_on_hyphens=False):
                reporter.write_line(" " * 12 + part)
        if reporter.verbosity > 1:
            for proof in result["evidence"]:
                reporter.write_line(printable(f"{'':12}evidence: {proof['host']}/{proof['probe']} sha256 {proof['sha256'][:16]}"))


def _fold(reporter: pytest.TerminalReporter, word: str, text: str, width: int) -> None:
    reporter.write(f"{word:<12}", yellow=True)
    lines = textwrap.wrap(printable(text), width - 12, break_on_hyphens=False)
    reporter.write_line(("\n" + " " * 12).join(lines))


def _unknowns(reporter: pytest.TerminalReporter, results: Iterable[Result], sudo: Mapping[str, str], width: int) -> None:
    """Fold unknowns by host and cause, so that one dead daemon is one line. *sudo* tells how each host answered sudo."""
    blocked: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    unknown: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        if result["outcome"] != Outcome.UNKNOWN:
            continue
        if result["blocked_by"]:
            blocked[result["host"], result["blocked_by"], result["message"]].append(result)
        elif result["cause"] in (Cause.NOT_PERMITTED, Cause.NOT_COLLECTED, Cause.LOST):
            unknown[result["host"], result["cause"], ""].append(result)
        else:
            unknown[result["host"], result["cause"], result["message"]].append(result)
    for (host, cause, message), found in sorted(unknown.items()):
        checks = sorted({result["check"] for result in found})
        text = f"{host}: {cause}" + (f" ({message})" if message else "")
        if len(checks) <= 6 or reporter.verbosity > 0:
            text += f": {', '.join(checks)}"
        else:
            text += f": {', '.join(checks[:4])} and {len(checks) - 4} more checks"
        if cause == Cause.NOT_PERMITTED:
            text += f". {how_to_permit(sudo.get(host, 'off'))}"
        _fold(reporter, f"UNKNOWN {len(found)}", text, width)
    for (host, check, message), found in sorted(blocked.items()):
        _fold(reporter, f"BLOCKED {len(found)}", f"{host}: {check} ({message})", width)


def _missing(reporter: pytest.TerminalReporter, tally: Tally, selection: Sequence[str], stopped: str, width: int) -> None:
    """Tell that verdicts are missing, which and why: a part is no whole, and has no score."""
    by = f" by {', '.join(selection)}" if selection else ""
    if not tally.judged:
        _fold(reporter, "NOTHING", f"of {plural(tally.total, 'planned verdict')} none was reached: nothing was judged{by}", width)
        return
    if tally.selected_away:
        text = f"{tally.judged} of {plural(tally.total, 'planned verdict')} were selected{by}: no score for a part"
        _fold(reporter, "PART", text, width)
    if tally.lost:
        checks = ", ".join(tally.lost_checks[:6]) + (f" and {len(tally.lost_checks) - 6} more" if tally.lost_checks[6:] else "")
        why = (
            f"the run was stopped ({stopped})"
            if stopped
            else ("nobody asked for that: tests were not collected or not run (look at python_files, conftest.py, plugins)")
        )
        text = f"{tally.lost} of {plural(tally.total, 'planned verdict')} are missing, and {why}: {checks}"
        _fold(reporter, f"LOST {tally.lost}", text, width)
    if tally.bare:
        names = ", ".join(tally.bare[:8]) + (f" and {len(tally.bare) - 8} more" if tally.bare[8:] else "")
        _fold(reporter, f"BARE {len(tally.bare)}", f"without any verdict: {names}; name only who is to be judged (--hosts)", width)


def _waivers(reporter: pytest.TerminalReporter, plan: Plan, results: Sequence[Result], width: int) -> None:
    waived = [result for result in results if result["outcome"] == Outcome.WAIVED]
    if waived:
        texts = []
        for result in waived:
            ticket = f" ({result['waiver']['ticket']})" if result["waiver"]["ticket"] else ""
            texts.append(f"{result['check']} on {result['subject']} until {result['waiver']['until']}{ticket}")
        _fold(reporter, f"WAIVED {len(waived)}", "; ".join(texts), width)
    expired = [waiver for waiver in plan.waivers if waiver.expired(plan.at)]
    if expired:
        texts = [f"{waiver.check} on {waiver.subject} {waiver.ended}" for waiver in expired]
        _fold(reporter, f"EXPIRED {len(expired)}", "; ".join(texts), width)
    seen = {result["check"] for result in results}
    unused = [
        waiver
        for waiver in plan.waivers
        if not waiver.expired(plan.at)
        and waiver.check in seen
        and not any(waiver.matches(result["check"], result["subject"]) for result in waived)
    ]
    if unused:
        names = {target.name for target in plan.targets} | {f"cluster:{target.cluster}" for target in plan.targets}
        texts = [str(waiver) + ("" if any(map(waiver.speaks_of, names)) else " (names no host of this run)") for waiver in unused]
        _fold(reporter, f"UNUSED {len(unused)}", "waivers that no failure needs: " + "; ".join(texts), width)


def _table(reporter: pytest.TerminalReporter, results: Sequence[Result]) -> None:
    by_host: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_host[result["host"]].append(result)
    columns = [outcome for outcome in (Outcome.PASS, Outcome.FAIL, Outcome.ERROR, Outcome.WARN, Outcome.UNKNOWN, Outcome.NA,
                                       Outcome.WAIVED) if outcome is not Outcome.ERROR or any(
                                           result["outcome"] == Outcome.ERROR for result in results)]  # fmt: skip
    longest = max(map(len, by_host))
    reporter.write_line(f"{'':<{longest}}" + "".join(f"{outcome:>9}" for outcome in columns) + "   worst")
    for host, mine in sorted(by_host.items()):
        totals = counts(mine)
        failed = [result for result in mine if result["outcome"] in (Outcome.FAIL, Outcome.ERROR)]
        worst = min((Severity(result["severity"]) for result in failed), key=lambda found: found.rank, default="")
        row = f"{printable(host):<{longest}}" + "".join(f"{totals[outcome]:>9}" for outcome in columns)
        reporter.write_line(f"{row}   {worst}".rstrip())
