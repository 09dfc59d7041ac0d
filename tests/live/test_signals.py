"""A run that is stopped from outside ends at once, says so in one line, and leaves no process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.sshd import Farm

MARK = "THE_TEST_RUN"


def started_by(mark: str) -> list[str]:
    """The command lines of processes whose environment says that this run started them, on this side of ssh."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in environ.read_bytes().split(b"\0"):
                found.append((environ.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        except OSError:
            continue
    return found


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a listener that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        yield listener.getsockname()[1]


def begin(farm: Farm, place: Path, port: int, *args: str) -> tuple[subprocess.Popen[str], str]:
    """A run that hangs: on hosts that say nothing, on one that sleeps behind its login, and on this machine."""
    hosts = [f"silent{number}" for number in range(6)]
    with farm.config.open("a") as file:
        file.writelines(f"Host {name}-{port}\n HostName 127.0.0.1\n Port {port}\n" for name in hosts)
    farm.host(f"sleeper-{port}", login="sleep 600")
    with farm.config.open("a") as file:  # a process beside ssh, which ends when nobody needs it any more
        file.write(f"Host proxied-{port}\n ProxyCommand sleep 600; true\n")
    mark = f"{port}-{time.monotonic_ns()}"
    specs = ",".join(f"ssh://{name}-{port}" for name in (*hosts, "sleeper", "proxied"))
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--kvmcheck", "-p", "no:cacheprovider", f"--hosts={specs},local://",
         f"--ssh-config={farm.config}", *args],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, MARK: mark, "XDG_STATE_HOME": str(place)},
    )  # fmt: skip
    assert until(lambda: sum(line.startswith("ssh ") for line in started_by(mark)) >= len(hosts) + 2, 30), started_by(mark)
    return process, mark


@pytest.mark.parametrize("args", [(), ("-n", "2"), ("-q", "--kvmcheck-record=e", "--kvmcheck-json=o.json")], ids=str)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it(farm: Farm, tmp_path: Path, silent: int, number: signal.Signals, args: tuple[str, ...]) -> None:
    process, mark = begin(farm, tmp_path, silent, *args)
    process.send_signal(number)
    output, _ = process.communicate(timeout=2)
    assert process.returncode == 2, output
    assert f"kvmcheck.Interrupted: {number.name} while gathering: " in output, output
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
    assert until(lambda: not started_by(mark), 0.2), started_by(mark)
    assert not (tmp_path / "e").exists()
    assert not list(tmp_path.glob(".e*"))


def test_impatience_leaves_nothing_either(farm: Farm, tmp_path: Path, silent: int) -> None:
    process, mark = begin(farm, tmp_path, silent)
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.communicate(timeout=3)
    assert process.returncode == 2
    assert until(lambda: not started_by(mark), 0.5), started_by(mark)


def test_a_killed_run_leaves_nothing(farm: Farm, tmp_path: Path, silent: int) -> None:
    """Nobody tidies up behind SIGKILL but the watchdog."""
    process, mark = begin(farm, tmp_path, silent)
    process.kill()
    process.communicate(timeout=5)
    assert until(lambda: not started_by(mark), 2), started_by(mark)


@pytest.mark.parametrize("end", ["pytest.exit('enough')", "raise RuntimeError('broken plugin')", "os._exit(7)"])
def test_whatever_ends_it_leaves_nothing(farm: Farm, tmp_path: Path, silent: int, end: str) -> None:
    """A plugin of somebody else's that ends the run from a timer's signal, in the middle of gathering."""
    (tmp_path / "conftest.py").write_text(
        "import os, signal, pytest\n\n\ndef stop(*_):\n    " + end + "\n\n\nsignal.signal(signal.SIGALRM, stop)\nsignal.alarm(4)\n"
    )
    process, mark = begin(farm, tmp_path, silent, f"--confcutdir={tmp_path}", "-p", "conftest")
    process.communicate(timeout=10)
    assert process.returncode not in (0, 1)
    assert until(lambda: not started_by(mark), 2), started_by(mark)
