"""Results: one plain, JSON-ready mapping per verdict, and the judging of one item."""

from __future__ import annotations

import datetime as dt
import shlex
import string
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pytest_kvmcheck.errors import Cause, CheckWarning, EvidenceMissing, NotApplicable, printable
from pytest_kvmcheck.evidence import Noted
from pytest_kvmcheck.findings import take_notes
from pytest_kvmcheck.outcomes import Outcome
from pytest_kvmcheck.profiles import Level, Profile
from pytest_kvmcheck.proofs import Proof, of_peers, proofs
from pytest_kvmcheck.registry import Check
from pytest_kvmcheck.subjects import Subject
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.waivers import Waiver

#: Longer messages are cut: they may quote what a stranger wrote.
MAX_MESSAGE = 2000

Result = dict[str, Any]


@dataclass(eq=False)
class Trial:
    """How the run of a check went: it came to its end, or *raised* what is its verdict; neither while nobody ran it.

    ``read`` tells which records were read, by name of the host.
    """

    ended: bool = False
    raised: BaseException | None = None
    read: dict[str, Noted] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A check on a subject under a profile, with the waivers that speak of it, as of the time of the evidence."""

    check: Check
    subject: Subject
    profile: Profile
    waivers: Sequence[Waiver]
    at: dt.datetime
    trials: list[Trial] = field(default_factory=list)

    def __call__(self) -> None:
        """Run the check; what it raises is its verdict. It is remembered here: a pass is what is known to have ended."""
        trial = Trial()
        self.trials[:] = [trial]
        try:
            with ExitStack() as stack:
                for host in self.hosts:
                    trial.read[host.name] = stack.enter_context(host.evidence.noting())
                self._demand_applicable()
                self.check.function(**self._arguments())
        except BaseException as exc:
            trial.raised = exc
            raise
        trial.ended = True

    def __repr__(self) -> str:
        return f"<{self.check.id} {self.subject.id}>"

    def _arguments(self) -> dict[str, Any]:
        """Return what the check function asks for."""
        values = {**self.subject.values, "params": self.profile.params(self.check)}
        return {name: values[name] for name in self.check.arguments}

    @property
    def hosts(self) -> list[Host]:
        """The hosts that are looked at: that of the subject, with its peers where they are compared; or those of the cluster."""
        host = self.subject.values.get("host")
        if isinstance(host, Host):
            return [host, *host.peers] if self.check.compares else [host]
        cluster = self.subject.values.get("cluster")
        return list(cluster.hosts) if cluster else []

    def _demand_applicable(self) -> None:
        """Raise what stands against judging: :class:`EvidenceMissing` or :class:`NotApplicable`."""
        if self.subject.problem:
            raise self.subject.problem.with_traceback(None)
        if isinstance(host := self.subject.values.get("host"), Host) and host.evidence.failure:
            raise host.evidence.failure.with_traceback(None)
        if self.check.applies:
            reason = self.check.applies(**self.subject.values, params=self.profile.params(self.check))
            if reason:
                raise NotApplicable(reason)


#: What is said of a check that nobody ran.
NOT_RUN = "the check did not run to its end: something took its place (a plugin, a debugger, a mark)"


def _verdict(trial: Trial, told: BaseException | None) -> BaseException | None:
    """Return what the check said, whatever pytest was *told*: a check that was not run, or stopped from outside, is unknown."""
    if trial.raised is not None:
        return trial.raised
    if told is not None:
        return EvidenceMissing(Cause.NOT_JUDGED, f"{NOT_RUN}: {type(told).__name__}: {str(told)[:200]}")
    return None if trial.ended else EvidenceMissing(Cause.NOT_JUDGED, NOT_RUN)


def judge(case: Case, told: BaseException | None) -> Result:
    """Return the result of *case*, in which pytest was *told* of an exception or of none."""
    trial = case.trials[-1] if case.trials else Trial()
    raised = _verdict(trial, told)
    setting = case.profile.setting(case.check.id)
    notes = take_notes()
    message, cause, blocked_by, waiver = "", "", "", None
    match raised:
        case None:
            outcome, message = Outcome.PASS, notes
        case EvidenceMissing():
            outcome, message, cause, blocked_by = Outcome.UNKNOWN, raised.detail, str(raised.cause), raised.blocked_by
            if blocked_by == case.check.id:  # the root cause itself is not blocked, it is what blocks
                blocked_by = ""
        case NotApplicable():
            outcome, message = Outcome.NA, f"not applicable: {raised}"
        case AssertionError():
            warned = isinstance(raised, CheckWarning) or (setting is not None and setting.level is Level.WARN)
            outcome, message = (Outcome.WARN if warned else Outcome.FAIL), _told(raised)
        case _:
            outcome, message = Outcome.ERROR, f"{type(raised).__name__}: {_told(raised)}"
    trial.raised = None  # its traceback holds on to all that the check looked at
    expired = ""
    if outcome in (Outcome.FAIL, Outcome.WARN):
        in_force = [waiver for waiver in case.waivers if not waiver.expired(case.at)]
        if in_force and outcome is Outcome.FAIL:
            outcome, waiver = Outcome.WAIVED, in_force[0]
        elif case.waivers and not in_force:
            expired = str(case.waivers[0].until)
            message += f" A waiver for this {case.waivers[0].ended}."
    return {
        "check": case.check.id,
        "title": case.check.title,
        "severity": str(case.profile.severity(case.check)),
        "host": case.subject.host,
        "subject": case.subject.id,
        "outcome": str(outcome),
        "message": printable(message)[:MAX_MESSAGE],
        "fix": fix(case) if outcome in (Outcome.FAIL, Outcome.WARN, Outcome.WAIVED) else "",
        "cause": cause,
        "blocked_by": blocked_by,
        "profile": case.profile.name,
        "waiver": _waiver(waiver) if waiver else None,
        "expired_waiver": expired,
        "evidence": _evidence(case, trial),
    }


def _told(raised: BaseException) -> str:
    """Return the message; pytest's assertion rewriting adds lines of its own, which start with ``assert``."""
    return str(raised).partition("\nassert ")[0].strip() or type(raised).__name__


def fix(case: Case) -> str:
    """Return the check's way to fix, with ``$HOST``, ``$DOM`` and ``$NODE`` filled in, fit to be pasted into a shell."""
    values = case.subject.values
    names = {"HOST": shlex.quote(case.subject.host)}
    domain = values.get("domain")
    if isinstance(domain, Domain):
        names["DOM"] = shlex.quote(domain.name)
    if "numa_node" in values:
        names["NODE"] = str(values["numa_node"].id)
    text = string.Template(case.check.sections["How to fix"]).safe_substitute(names)
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and lines:  # the docstring's line was full
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(map(printable, lines))


def _evidence(case: Case, trial: Trial) -> list[Proof]:
    """Return the proofs of a verdict; a fact that was remembered counts like one that was read for this check.

    Where the check read nothing, the subject itself decided: by what it was found.
    """
    own: list[Proof] = []
    peers: list[list[Proof]] = []
    for host in case.hosts:
        read = [trial.read[host.name]] if trial.read.get(host.name) else []
        if host.name == case.subject.host:
            own = proofs(host.evidence, read or [case.subject.read], host.summaries)
        elif read:
            peers.append(proofs(host.evidence, read, host.summaries))
    return sorted([*own, *of_peers(peers, _circle(case))], key=lambda proof: (str(proof["host"]), str(proof["probe"])))


def _circle(case: Case) -> str:
    """Return how the hosts around a subject are called together."""
    host = case.subject.values.get("host")
    return f"cluster:{host.target.cluster}" if isinstance(host, Host) else case.subject.host


def _waiver(waiver: Waiver) -> dict[str, str]:
    return {
        "reason": waiver.reason,
        "owner": waiver.owner,
        "approver": waiver.approver,
        "until": waiver.until,
        "ticket": waiver.ticket,
    }


def sort_key(result: Mapping[str, Any]) -> tuple[str, str, str]:
    """Order of results in every report: host, subject, check."""
    return (result["host"], result["subject"], result["check"])
