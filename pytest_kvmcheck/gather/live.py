"""Fetch the evidence of one live target: one connection, one command, one reply."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Evidence, Record
from pytest_kvmcheck.gather import reply as replies
from pytest_kvmcheck.gather.script import build, carry
from pytest_kvmcheck.gather.transport import Answer, Connection, run
from pytest_kvmcheck.probes import Probe, probes_for
from pytest_kvmcheck.targets import Target

_SSH_CAUSES = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", "its SSH host key has changed: find out why before you trust it again"),
    (
        r"Host key verification failed|No \S+ host key is known",
        "its SSH host key is unknown: compare its fingerprint with the host's console, then add it to known_hosts",
    ),
    (
        r"timed out during banner exchange",
        "it accepts the connection and then says nothing: it hangs, or something in between answers for it",
    ),
    (
        r"(?:connect to host|ssh:) .*(?P<s>Connection timed out|No route to host|Network is unreachable)",
        r"the network is silent: \g<s>",
    ),
    (r"(?P<s>Could not resolve hostname [^:\s]+)", r"\g<s>"),
    (r"(?P<s>connect to host .*Connection refused)", r"no sshd listens there: \g<s>"),
    (r"Permission denied \(([^)]*)\)", r"its sshd refused our key (it accepts: \1): check user, key and ssh-agent"),
)


def gather(
    target: Target,
    connection: Connection,
    *,
    sudo: bool = False,
    active: bool = False,
    probes: Sequence[Probe] | None = None,
) -> Evidence:
    """Return the evidence of *target*: what *probes* ask, by default all that its role has; active ones only when *active*.

    A host that cannot be reached gives evidence in which everything is unknown.
    """
    probes = probes_for(target.role) if probes is None else probes
    token = secrets.token_hex(16)
    try:
        answer = run(target, carry(build(probes, token, sudo=sudo or target.sudo, active=active)), connection)
        reply = replies.read(answer.stdout, token, probes)
        if reply is None:
            raise EvidenceMissing(*_why_nothing(answer, connection.deadline_s))
    except EvidenceMissing as missing:
        return Evidence(target.name, failure=missing)
    cause, why = _why_cut(answer, connection.deadline_s)
    cut = {name: Record(name, rc=-1, cause=cause, stderr=why) for name in reply.missing}
    records = reply.records | cut | _trip(answer, reply.secret)
    return Evidence(target.name, records, sudo=reply.sudo)


def _why_cut(answer: Answer, deadline_s: float) -> tuple[Cause, str]:
    """Return the cause and one line that tells why a reply began and did not end."""
    if answer.stopped is Cause.TIMEOUT:
        return Cause.TIMEOUT, f"stopped after {deadline_s:.0f} s"
    if answer.stopped:
        return answer.stopped, "the reply is too large"
    after = f" after {answer.silence_s:.0f} s of silence" if answer.silence_s >= 1 else ""
    return Cause.LOST, f"{replies.ENDED}{after} (exit code {answer.rc})"


def _trip(answer: Answer, secret: str) -> dict[str, Record]:
    """Return when the target was asked and when its clock's answer was here, as a record beside that answer."""
    end = answer.stdout.find(f"\n@{secret} END clock ".encode())
    arrived_s = answer.arrived_s(end + 2) if end >= 0 else None
    if arrived_s is None:
        return {}
    name = f"clock{KEY_SEPARATOR}trip"
    return {name: Record(name, f"asked {answer.asked_s:.6f}\nanswered {arrived_s:.6f}\n")}


def _why_nothing(answer: Answer, deadline_s: float) -> tuple[Cause, str]:
    """Return the cause and one line that tells why a target gave no reply at all."""
    text = replies.decode(answer.stderr[-8192:]) + "\n" + replies.decode(answer.stdout[:2048])
    for pattern, meaning in _SSH_CAUSES:
        if match := re.search(pattern, text):
            return Cause.UNREACHABLE, match.expand(meaning)
    if answer.stopped is Cause.TIMEOUT:
        return Cause.TIMEOUT, f"no answer within {deadline_s:.0f} s"
    if answer.stopped is Cause.TRUNCATED:
        return Cause.TRUNCATED, "it answers without end, and not with our reply"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = "".join(char if char.isprintable() else "?" for char in lines[0])[:200] if lines else "nothing"
    return Cause.UNREACHABLE, f"it did not run our script (exit code {answer.rc}); it said: {said}"
