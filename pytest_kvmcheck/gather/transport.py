"""Reach a host: one command, one answer, within a deadline and a bound. testinfra does the reaching.

testinfra knows how to build the command line for ssh, docker, podman, kubectl, ansible and the rest. How that command is
run is ours: testinfra's own runner has no deadline and no bound.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any, cast

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.gather import budget, leash
from pytest_kvmcheck.gather.crowd import Place
from pytest_kvmcheck.targets import Target

#: A dead network ends, a password is never asked for, an unknown host key is refused, and no connection is left behind
#: (an open one of the user's, by ControlPath in ssh_config, is used).
#: Of two equal options ssh takes the first: these come before the user's own arguments and before ssh_config. What would trust a
#: host without its key in known_hosts, hand our credentials on, write known_hosts or run something here is switched off.
SSH_ARGUMENTS = (
    "-T -o BatchMode=yes -o StrictHostKeyChecking=yes -o NoHostAuthenticationForLocalhost=no -o VerifyHostKeyDNS=no"
    " -o UpdateHostKeys=no -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no -o NumberOfPasswordPrompts=0"
    " -o ConnectTimeout={connect} -o ConnectionAttempts=1 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
    " -o ControlMaster=no -o ForwardX11=no -o ForwardAgent=no -o GSSAPIDelegateCredentials=no -o ClearAllForwardings=yes"
    " -o Tunnel=no -o PermitLocalCommand=no -o RemoteCommand=none"
    " -o LogLevel=ERROR"
)
#: A jump host's ssh must not ask for a password in a window either.
_ENVIRONMENT = {"SSH_ASKPASS_REQUIRE": "never"}
#: Moments of arrival closer than this (s) are one: a host that sends byte after byte costs no more memory than others.
_MOMENT_S = 0.001


@dataclass(frozen=True)
class Connection:
    """What the user said about reaching hosts, testinfra's own options; and the place of the one that is reached among all."""

    ssh_config: str | None = None
    ssh_identity_file: str | None = None
    ssh_extra_args: str | None = None
    ansible_inventory: str | None = None
    connect_timeout_s: int = 10
    deadline_s: float = 180
    place: Place = field(default_factory=Place, compare=False)


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
    from testinfra.backend.base import CommandResult

    answers: list[Answer] = []
    try:
        backend = _backend(target, connection)

        def run_local(text: str, *arguments: str) -> object:
            line = backend.quote(text, *arguments)
            _refuse_password(line)
            answer = bounded(["/bin/sh", "-c", line], connection.deadline_s, place=connection.place)
            answers.append(answer)
            # Made here: testinfra's own backend.result() writes all of it into the debugging log, secrets too.
            return CommandResult(backend, answer.rc if answer.rc is not None else -1, b"", answer.stdout, answer.stderr)

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

    ours = SSH_ARGUMENTS.format(connect=connection.connect_timeout_s)
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
    if line.split(maxsplit=1)[0] == "sshpass":  # shlex takes a tenth of a second for a line with our script in it
        raise EvidenceMissing(Cause.UNREACHABLE, "a password would stand on a command line; use a key")


def bounded(
    argv: list[str],
    deadline_s: float,
    max_bytes: int = budget.REPLY_BYTES,
    *,
    place: Place | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run *argv* without standard input; stop it, with its children, at the deadline (s) or beyond *max_bytes*.

    *place* is its place among others that run at the same time, *env* what its environment has besides ours.
    """
    place = place or Place()
    asked_s, began = time.time(), time.monotonic()
    process = leash.start(argv, {**os.environ, **_ENVIRONMENT, **(env or {})})
    stdout, stderr = cast(IO[bytes], process.stdout), cast(IO[bytes], process.stderr)
    out, streams = stdout.fileno(), {stdout.fileno(): bytearray(), stderr.fileno(): bytearray()}
    arrivals: list[tuple[int, float]] = []
    opened, stopped = 0.0, None
    end = began + deadline_s
    try:
        with place.waiting(process.pid), selectors.PollSelector() as selector, stdout, stderr:
            for descriptor in streams:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map() and not stopped:
                events = selector.select(max(0.0, end - time.monotonic()))
                if not events:
                    stopped = Cause.TIMEOUT
                for key, _ in events:
                    chunk = os.read(key.fd, 65536)
                    now = time.monotonic()
                    if not chunk:
                        selector.unregister(key.fd)
                        if key.fd == out:  # from the last bytes to this nothing came
                            arrivals.append((len(streams[out]), asked_s + now - began))
                        continue
                    streams[key.fd] += chunk
                    place.hear(len(chunk))
                    if key.fd == out:
                        if now - opened < _MOMENT_S:
                            arrivals.pop()
                        else:
                            opened = now
                        arrivals.append((len(streams[out]), asked_s + now - began))
                    if sum(map(len, streams.values())) > max_bytes:
                        stopped = Cause.TRUNCATED
            if stopped:
                leash.end(process.pid)
    except BaseException:
        leash.end(process.pid)
        raise
    finally:
        rc = leash.reap(process, max(1.0, end - time.monotonic()))
    stopped = place.stopped or stopped
    output, errors = map(bytes, streams.values())
    return Answer(output, errors, None if stopped else rc, stopped, asked_s, tuple(arrivals))
