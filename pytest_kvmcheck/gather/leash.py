"""Every process that we start is on a leash: it ends with us, however we end.

Each is the leader of a session of its own, and all of its session ends with it. A watchdog, a small process beside us, hears of
each session through a pipe. When that closes, because we are done or something killed us, it ends the sessions that are left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

#: What ends a run from outside. What the caller ignores (nohup) stays ignored, and whoever has a handler of his own keeps it.
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_USUAL = (signal.SIG_DFL, signal.default_int_handler)

_sessions: set[int] = set()
#: The pipe to the watchdog; None while there is none.
_pipe: int | None = None
_cut = False


def start(argv: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start *argv* without standard input, its output in pipes. :func:`reap` it, whatever happens."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=env
    )
    _sessions.add(process.pid)
    _tell("+", process.pid)
    if _cut:  # it was started while all were being ended
        end(process.pid)
    return process


def reap(process: subprocess.Popen[bytes], within_s: float) -> int:
    """Return the exit code of *process*; end it and its session when it has not ended *within_s* (s)."""
    late, pause = time.monotonic() + within_s, 0.0005
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= late:
            end(process.pid)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    # Forgotten before its number is free: nobody else's process is ever ended.
    _sessions.discard(process.pid)
    _tell("-", process.pid)
    return process.wait()


def _tell(sign: str, session: int) -> None:
    if _pipe is not None:
        with contextlib.suppress(OSError):  # somebody ended the watchdog: then we do without
            os.write(_pipe, f"{sign}{session}\n".encode())


def end(session: int) -> None:
    """End all processes of *session*, those in groups of their own (``timeout``) too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    for _ in range(50):  # one that was not seen may have begun another; one that waits for a disk is not gone at once
        left = _members(session)
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _members(session: int) -> list[int]:
    """Return the processes of *session* that run. Source: proc(5): pid (comm) state ppid pgrp session ..."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, _, its = stat.read_bytes().rpartition(b") ")[2].split()[:4]
            if int(its) == session and state not in (b"Z", b"X"):
                found.append(int(stat.parent.name))
    return found


def end_all() -> None:
    """End whatever runs, and what is about to be started."""
    global _cut  # noqa: PLW0603 - signal handlers see nothing else
    _cut = True
    for session in list(_sessions):
        end(session)


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP are like Ctrl-C: KeyboardInterrupt, so that everybody tidies up behind himself.

    All that was started is ended before that is raised. Whoever is impatient and sends another within a second does not
    disturb that.
    """
    came = float("-inf")

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        if time.monotonic() - came < 1:
            return
        came = time.monotonic()
        end_all()
        raise KeyboardInterrupt(signal.Signals(number).name)

    ours = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _STOPS if ours and signal.getsignal(number) in _USUAL}
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within the block, what is started ends with us; at its end nothing is left."""
    global _pipe, _cut  # noqa: PLW0603 - one watchdog for all threads
    _cut = False
    with stops():
        watchdog = None
        try:
            watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            _pipe = watchdog.stdin.fileno() if watchdog.stdin else None
            yield
        except BaseException:
            end_all()
            raise
        finally:
            for session in list(_sessions):  # of hosts that were given up
                end(session)
            _pipe = None
            if watchdog and watchdog.stdin:
                watchdog.stdin.close()
                watchdog.wait()


def _watch(lines: Iterable[str]) -> None:
    """Hear of sessions until the one who tells is gone, and end those that are left."""
    for number in (*_STOPS, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    left: set[int] = set()
    for line in lines:
        session = int(line[1:])
        (left.add if line[0] == "+" else left.discard)(session)
    for session in left:
        end(session)


if __name__ == "__main__":
    _watch(sys.stdin)
