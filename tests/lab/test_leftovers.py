"""What a test run that was killed leaves behind is ended by the next one, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import files, fleet, leftovers
from tests.lab.conftest import unable
from tests.lab.files import IN_USE, PID_FILE, lock, remove_unused

#: A run that has a process, a namespace with a process in it, and a bridge; it tells where, and waits to be killed.
RUN = """
import subprocess, sys, time
from tests.lab.leftovers import workshop
place = workshop()
(place / "machine").mkdir()
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
for directory, command in (("machine", [*sleep, str(place / "machine")]), (".", sleep)):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    (place / directory / "pid").write_text(f"{process.pid}")
    print(process.pid, end=" ")
subprocess.run(["ip", "netns", "add", f"{place.name}-1"], check=True)
subprocess.run(["ip", "link", "add", place.name, "type", "bridge"], check=True)
process = subprocess.Popen(["ip", "netns", "exec", f"{place.name}-1", *sleep], stdout=subprocess.DEVNULL)
print(process.pid, place, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _able() -> None:
    if reason := fleet.why_not():
        unable(reason)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and ") Z" not in Path(f"/proc/{pid}/stat").read_text()


def made(name: str) -> str:
    """Return the lines of ``ip`` about namespaces and links that are called *name*."""
    said = [subprocess.run(["ip", *words], capture_output=True, text=True).stdout for words in (("netns",), ("-o", "link"))]
    return "\n".join(line for text in said for line in text.splitlines() if name in line)


def test_killed_run() -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True)
    assert run.stdout
    with run.stdout:
        *pids, told = run.stdout.readline().split()
    machine, stranger, in_namespace = map(int, pids)
    place = Path(told)
    try:
        leftovers.sweep()
        assert place.exists(), "a living run is left alone"
        assert made(place.name)
        run.kill()
        run.wait()
        assert lives(machine)
        end = time.monotonic() + 20
        while place.exists() and time.monotonic() < end:
            leftovers.sweep()
        assert not place.exists()
        assert not lives(machine)
        assert not lives(in_namespace)
        assert not made(place.name)
        assert lives(stranger), "its command line does not name the directory: the number may be another's by now"
    finally:
        run.kill()
        for pid in (machine, stranger, in_namespace):
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


def test_cache(tmp_path: Path) -> None:
    """What is being made or used stays; what a killed run was making goes, and what was not used for long."""
    for name in ("used", "idle", "fresh", "being-made.partial", "abandoned.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").touch()
        (tmp_path / name / IN_USE).touch()
    os.utime(tmp_path / "idle" / IN_USE, (0, 0))
    os.utime(tmp_path / "used" / IN_USE, (0, 0))
    with lock(tmp_path / "used" / IN_USE, shared=True), lock(tmp_path / "being-made.making"):
        remove_unused([path for path in tmp_path.iterdir() if path.is_dir()], idle_s=3600)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"used", "fresh", "being-made.partial"}


def test_forgotten(tmp_path: Path) -> None:
    """What is forgotten is made anew, unless somebody else uses it."""
    place, count = tmp_path / "evidence", []
    files.made(place, count.append)
    files.made(place, count.append)
    assert len(count) == 1
    files.forget(place)
    files.made(place, count.append)
    assert len(count) == 2
    with lock(place / IN_USE, shared=True):
        files.forget(place)
    files.made(place, count.append)
    assert len(count) == 2
    files.forget(place)


def test_bystanders(place: Path) -> None:
    """This very run holds its lock: a sweep does not touch it."""
    (place / PID_FILE).write_text(str(os.getpid()))
    leftovers.sweep()
    assert place.exists()
    (place / PID_FILE).unlink()
