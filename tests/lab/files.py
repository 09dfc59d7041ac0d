"""Directories that several test runs share: made once, whole or not at all, and removed when nobody uses them."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

#: A process that is started with its directory in its command line writes its number to this file there.
PID_FILE = "pid"

#: Lies in each directory, locked by those who use it.
IN_USE = "in-use"

#: Locks of the directories that this process uses; they end with it, however it ends.
_held: dict[Path, IO[str]] = {}


@atexit.register
def _let_go() -> None:
    while _held:
        _held.popitem()[1].close()


def digest(*parts: bytes) -> str:
    """Return a short name for *parts*."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def made(place: Path, make: Callable[[Path], None]) -> Path:
    """Return the directory *place*, filled by *make* when it is not there: whole or not at all, by one process at a time.

    It will not be removed as long as this process lives.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if place in _held:
        return place
    with lock(place.with_suffix(".making")):
        if not place.exists():
            partial = place.with_suffix(".partial")
            remove(partial)
            partial.mkdir()
            try:
                make(partial)
            except BaseException:
                remove(partial)
                raise
            partial.rename(place)
        if place not in _held:
            _held[place] = lock(place / IN_USE, shared=True)
            os.utime(place / IN_USE)
    return place


def forget(place: Path) -> None:
    """Remove the directory *place* unless another process uses it: it will be made anew."""
    if place in _held:
        _held.pop(place).close()
    remove_unused([place])


def lock(path: Path, *, shared: bool = False, wait: bool = True) -> IO[str]:
    """Return *path* opened and locked. Raises BlockingIOError when it is locked by another and *wait* is false."""
    file = path.open("a")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        file.close()
        raise
    return file


def remove_unused(places: Iterable[Path], idle_s: float = 0) -> None:
    """Remove those directories of *places* that no living process uses, and none has used for *idle_s*.

    What nobody makes any more is removed in any case: whoever was making it has been killed.
    """
    for place in places:
        if place.suffix == ".partial":
            with contextlib.suppress(OSError), lock(place.with_suffix(".making"), wait=False):
                remove(place)
        else:
            with contextlib.suppress(OSError), lock(place / IN_USE, wait=False):
                if time.time() - (place / IN_USE).stat().st_mtime >= idle_s:
                    remove(place)


def remove(place: Path) -> None:
    """Remove the directory *place*, and end the processes that were started in it."""
    for file in place.rglob(PID_FILE):
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            if str(file.parent) in _command(pid):
                end(pid)
    shutil.rmtree(place, ignore_errors=True)


def end(pid: int) -> None:
    """Kill the process *pid*, and wait until it is gone or a zombie."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while _command(pid) and time.monotonic() < until:
        time.sleep(0.02)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""
