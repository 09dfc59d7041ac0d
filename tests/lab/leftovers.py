"""The directory of a test run, and what the run made elsewhere: ended with it, or by the next run when it was killed.

The directory is locked as long as the run lives. What was started below it is known by pid files; a process is ended only when
its command line names the directory of its pid file. Network namespaces and bridges bear the name of the directory.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.files import IN_USE, end, lock, remove

#: Where the directories are. Not where temporary files of this run go, which may be elsewhere for the next run.
_PARENT = Path("/var/tmp")

_PREFIX = "kvmlab-"


def workshop(before_removal: Callable[[], None] = lambda: None) -> Path:
    """Return a new directory for what one test run makes; runs that are no more are cleared away first.

    It is removed when this process ends, after *before_removal*.
    """
    sweep()
    place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PARENT))
    held = lock(place / IN_USE)
    owner = os.getpid()

    @atexit.register
    def leave() -> None:
        if os.getpid() == owner:
            before_removal()
            clear(place)
            held.close()

    return place


def sweep() -> None:
    """Clear away what is left of test runs that are no more."""
    for place in {*_PARENT.glob(f"{_PREFIX}????????"), *(_PARENT / name for name in _networks())}:
        if not place.exists():
            clear(place)
        # A run that is just beginning has no lock yet.
        elif (place / IN_USE).exists() or time.time() - place.stat().st_mtime > 60:
            with contextlib.suppress(OSError), lock(place / IN_USE, wait=False):
                clear(place)


def clear(place: Path) -> None:
    """End what belongs to the directory *place*, and remove it."""
    for namespace in _namespaces():
        if namespace.rpartition("-")[0] == place.name:
            for pid in _ip(f"netns pids {namespace}").split():
                end(int(pid))
            _ip(f"netns del {namespace}")
    if re.fullmatch(rf"{_PREFIX}\w{{8}}", place.name):
        _ip(f"link del {place.name}")
    remove(place)


def _networks() -> set[str]:
    """Return the names of the directories of all runs that have a namespace or a bridge."""
    bridges = re.findall(rf"^\d+: ({_PREFIX}\w{{8}})[:@]", _ip("-o link"), re.MULTILINE)
    return {*bridges, *(name.rpartition("-")[0] for name in _namespaces())}


def _namespaces() -> list[str]:
    return re.findall(rf"^({_PREFIX}\w{{8}}-\d+)\b", _ip("netns list"), re.MULTILINE)


def _ip(line: str) -> str:
    if not shutil.which("ip"):
        return ""
    return subprocess.run(["ip", *line.split()], capture_output=True, text=True).stdout
