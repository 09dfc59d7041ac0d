"""What becomes of a reply that did not end: the transport is ours, the rest is real."""

from __future__ import annotations

import base64
import re

import pytest

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.gather import live
from pytest_kvmcheck.gather.reply import ENDED
from pytest_kvmcheck.gather.transport import Answer, Connection
from pytest_kvmcheck.probes import Probe
from pytest_kvmcheck.targets import Target

SECRET = "5ec2e7-5ec2e7-5ec2e7-5ec2e7"


@pytest.mark.parametrize(
    ("rc", "stopped", "arrivals", "cause", "words"),
    [
        (
            255,
            None,
            ((10, 100.0), (10, 120.4)),
            Cause.LOST,
            f"{ENDED} after 20 s of silence (exit code 255)",
        ),
        (9, None, (), Cause.LOST, f"{ENDED} (exit code 9)"),
        (None, Cause.TIMEOUT, (), Cause.TIMEOUT, "stopped after 180 s"),
        (None, Cause.TRUNCATED, (), Cause.TRUNCATED, "the reply is too large"),
    ],
)
def test_a_cut_reply(
    rc: int | None,
    stopped: Cause | None,
    arrivals: tuple[tuple[int, float], ...],
    cause: Cause,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What never came says why; what came damaged, and what came whole, are what they are."""

    def run(_target: Target, command: str, _connection: Connection) -> Answer:
        match = re.search(r"@([0-9a-f]{32}) HELLO", command)
        assert match
        mark = f"@{SECRET}"
        said = base64.b64encode(b"1223e12-1223e12-1223e12\non").decode()
        frames = f"{mark} BEGIN whole\n{said}\n{mark} END whole , !0\n{mark} BEGIN damaged\n?\n{mark} END damaged , !0\n"
        return Answer(f"@{match[1]} HELLO 2 {SECRET} base64 uid=0 sudo=off\n{frames}".encode(), b"", rc, stopped, arrivals=arrivals)

    monkeypatch.setattr(live, "run", run)
    probes = [Probe(name, "", "true") for name in ("whole", "damaged", "never")]
    records = live.gather(Target("kvm01", "ssh://kvm01"), Connection(), probes=probes).records
    assert (records["whole"].cause, records["whole"].stdout) == (None, "on")
    assert records["damaged"].cause is Cause.LOST
    assert records["damaged"].stderr.startswith("the answer arrived damaged: ")
    assert (records["never"].cause, records["never"].stderr) == (cause, words)
