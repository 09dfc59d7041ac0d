"""Reach a host: one command, one answer, within a deadline and a bound. testinfra does the reaching.

testinfra knows how to build the command line for ssh, docker, podman, kubectl, ansible and the rest. How that command is
run is ours: testinfra's own runner has no deadline and no bound.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from typing import IO, Any, cast

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.targets import Target

#: No reply of a host may be larger than this.
MAX_REPLY_BYTES = 256 * 2**20

#: A dead network ends, a password is never asked for, an unknown host key is refused, and no connection is left behind
#: (an open one of the user's, by ControlPath in ssh_config, is used).
_SSH_ARGUMENTS = (
    "-T -o BatchMode=yes -o StrictHostKeyChecking=yes -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no"
    " -o ConnectTimeout={connect} -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
    " -o ControlMaster=no -o ForwardX11=no -o ForwardAgent=no -o ClearAllForwardings=yes"
    " -o LogLevel=ERROR"
)


@dataclass(frozen=True)
class Connection:
    """What the user said about reaching hosts: testinfra's own options."""

    ssh_config: str | None = None
    ssh_identity_file: str | None = None
    ssh_extra_args: str | None = None
    ansible_inventory: str | None = None
    connect_timeout_s: int = 10
    deadline_s: float = 180


@dataclass(frozen=True)
class Answer:
    """What came back: both streams, the exit code (None when it was stopped) and why it was stopped.

    ``arrivals`` tells how many bytes of standard output were there when (seconds since 1970, by our clock); empty when the
    transport wraps what the target said, so that nothing can be told of the moment.
    """

    stdout: bytes
    stderr: bytes
    rc: int | None
    stopped: Cause | None = None
    asked_s: float = 0.0
    arrivals: tuple[tuple[int, float], ...] = ()

    def arrived_s(self, count: int) -> float | None:
        """Return when the first *count* bytes of standard output were there, None when that is not known."""
        return next((moment for there, moment in self.arrivals if there >= count), None)

    @property
    def silence_s(self) -> float:
        """How long nothing had come when standard output ended; 0 where that is not known."""
        moments = [moment for _, moment in self.arrivals[-2:]]
        return moments[1] - moments[0] if len(moments) == 2 else 0.0


def run(target: Target, command: str, connection: Connection) -> Answer:
    """Run *command* on *target* through testinfra and return its answer.

    Raises :class:`EvidenceMissing` (unreachable) when testinfra cannot even build the connection.
    """
    answers: list[Answer] = []
    try:
        backend = _backend(target, connection)

        def run_local(text: str, *arguments: str) -> object:
            line = backend.quote(text, *arguments)
            _refuse_password(line)
            answer = bounded(["/bin/sh", "-c", line], connection.deadline_s)
            answers.append(answer)
            return backend.result(answer.rc if answer.rc is not None else -1, b"", answer.stdout, answer.stderr)

        backend.run_local = run_local
        with contextlib.suppress(RuntimeError):  # testinfra's word for "ssh ended with 255": we have the answer
            result = backend.run(command)
            if not answers or answers[-1].stopped is None:  # salt has a client of its own; others may wrap the answer
                said = answers[-1] if answers else Answer(b"", b"", None)
                arrivals = said.arrivals if result.stdout_bytes == said.stdout else ()
                answers.append(
                    replace(said, stdout=result.stdout_bytes, stderr=result.stderr_bytes, rc=result.rc, arrivals=arrivals)
                )
    except EvidenceMissing:
        raise
    except Exception as exc:
        text = str(exc).strip() or type(exc).__name__
        raise EvidenceMissing(Cause.UNREACHABLE, text.splitlines()[0][:300]) from exc
    if not answers:
        raise EvidenceMissing(Cause.UNREACHABLE, f"{target.kind}: testinfra ran nothing")
    return answers[-1]


def _backend(target: Target, connection: Connection) -> Any:
    """Return testinfra's backend for *target*. Of an ansible host, it is the one that ansible's connection stands for.

    testinfra would run that one by itself, without our options; and where it knows none, ansible would write modules to the target.
    """
    import testinfra

    ours = _SSH_ARGUMENTS.format(connect=connection.connect_timeout_s)
    backend = testinfra.get_host(
        target.spec,
        ssh_config=connection.ssh_config,
        ssh_identity_file=connection.ssh_identity_file,
        ssh_extra_args=" ".join(filter(None, (ours, connection.ssh_extra_args))),
        ansible_inventory=connection.ansible_inventory,
        controlpersist=0,
    ).backend
    if backend.NAME != "ansible":
        return backend
    if str(backend.get_variables().get("ansible_connection", "")).startswith("paramiko"):
        raise EvidenceMissing(Cause.UNREACHABLE, "paramiko accepts unknown SSH host keys; set ansible_connection to ssh")
    inner = backend.ansible_runner.get_host(
        backend.host, ssh_config=connection.ssh_config, ssh_identity_file=connection.ssh_identity_file
    )
    if backend.force_ansible or inner is None:
        raise EvidenceMissing(
            Cause.UNREACHABLE, "ansible itself would write files to it; of its connections, use ssh, local, docker or lxc"
        )
    if inner.backend.NAME == "ssh":  # of two equal options, ssh takes the first
        inner.backend.ssh_extra_args = " ".join(filter(None, (ours, connection.ssh_extra_args, inner.backend.ssh_extra_args)))
        inner.backend.controlpersist = 0
    return inner.backend


def _refuse_password(line: str) -> None:
    if shlex.split(line)[:1] == ["sshpass"]:
        raise EvidenceMissing(Cause.UNREACHABLE, "a password would stand on a command line; use a key")


def bounded(argv: list[str], deadline_s: float, max_bytes: int = MAX_REPLY_BYTES) -> Answer:
    """Run *argv* without standard input; stop it, with its children, at the deadline (s) or beyond *max_bytes*."""
    asked_s, began = time.time(), time.monotonic()
    arrivals: list[tuple[int, float]] = []
    told = 0
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    stdout, stderr = cast(IO[bytes], process.stdout), cast(IO[bytes], process.stderr)
    out, err = stdout.fileno(), stderr.fileno()
    streams: dict[int, list[bytes]] = {out: [], err: []}
    end = time.monotonic() + deadline_s
    size, stopped = 0, None
    with selectors.DefaultSelector() as selector, stdout, stderr:
        for descriptor in streams:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and not stopped:
            events = selector.select(max(0.0, end - time.monotonic()))
            if not events:
                stopped = Cause.TIMEOUT
            for key, _ in events:
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fd)
                streams[key.fd].append(chunk)
                if key.fd == out:
                    told += len(chunk)
                    arrivals.append((told, asked_s + time.monotonic() - began))
                size += len(chunk)
                if size > max_bytes:
                    stopped = Cause.TRUNCATED
        if stopped:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    try:
        rc = process.wait(max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        rc = process.wait()
    return Answer(b"".join(streams[out]), b"".join(streams[err]), None if stopped else rc, stopped, asked_s, tuple(arrivals))
