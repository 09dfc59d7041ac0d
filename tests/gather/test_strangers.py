"""Processes are found by their names, which anybody may give to his: whose they are decides."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_kvmcheck.gather import reply
from pytest_kvmcheck.gather.script import build
from pytest_kvmcheck.probes import PROBES
from pytest_kvmcheck.probes.quiet import QUIET

TOKEN = "0123456789abcdef"
STRANGER = 61234
SHELLS = [["dash"], ["bash"], ["busybox", "sh"], ["ksh"], ["mksh"]]

Start = Callable[[int], int]


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a process called chronyd of an account; returns its number."""
    running: list[subprocess.Popen[bytes]] = []
    place = Path(shutil.copy("/bin/sleep", tmp_path_factory.mktemp("bin", numbered=True) / "chronyd"))
    for folder in (place, *place.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)

    def start(uid: int) -> int:
        process = subprocess.Popen(["setpriv", f"--reuid={uid}", "--clear-groups", str(place), "60"], stdin=subprocess.DEVNULL)
        running.append(process)
        for _ in range(200):
            if Path(f"/proc/{process.pid}/comm").read_text() == "chronyd\n":
                return process.pid
            time.sleep(0.02)
        raise AssertionError("it did not start")

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_strangers_daemon_keeps_no_clock(daemon: Start, shell: list[str]) -> None:
    ours, his = daemon(0), daemon(STRANGER)
    probe = PROBES["time_daemons"]
    done = subprocess.run([*shell, "-c", build([probe], TOKEN)], capture_output=True, timeout=60, check=True)
    found = reply.read(done.stdout, TOKEN, [probe])
    assert found
    assert f"time_daemons:{ours}" in found.records
    assert found.records[f"time_daemons:{ours}"].stdout.endswith("/chronyd\n60\n")
    assert f"time_daemons:{his}" not in found.records


@pytest.mark.parametrize(
    ("uid", "systemd", "group", "believed"),
    [
        (0, True, "0::/user.slice/user-0.slice/session-1.scope", True),
        (104, True, "0::/system.slice/chrony.service", True),
        (104, True, "1:name=systemd:/system.slice/chrony.service\n0::/", True),
        (104, True, "0::/user.slice/user-104.slice/session-1.scope", False),
        (STRANGER, True, "0::/system.slice/web.service", True),
        (STRANGER, True, "0::/user.slice/user@1000.service/system.slice/chrony.service", False),
        (STRANGER, True, "0::/user.slice/x:/system.slice/chrony.service", False),
        (STRANGER, True, "9:cpu:/system.slice/chrony.service\n0::/user.slice", False),
        (104, False, "0::/", True),
        (STRANGER, False, "0::/system.slice/chrony.service", False),
    ],
)
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_whose_a_process_is(shell: list[str], tmp_path: Path, uid: int, systemd: bool, group: str, believed: bool) -> None:
    (tmp_path / "status").write_text(f"Name:\tchronyd\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    (tmp_path / "cgroup").write_text(f"{group}\n")
    if systemd:
        (tmp_path / "systemd").mkdir()
    script = QUIET.replace("/run/systemd/system ]", f"{tmp_path}/systemd ]") + f"\nsystem ../{tmp_path}"
    done = subprocess.run([*shell, "-c", script], capture_output=True, check=False)
    assert done.returncode == (0 if believed else 1), done.stderr


def test_what_was_logged_under_a_name_is_asked_of_root_alone() -> None:
    """journald's own fields begin with an underscore; -t is what the sender says (systemd.journal-fields(7))."""
    asked = [probe for probe in PROBES.values() if "journalctl" in probe.script and " -t " in probe.script]
    assert asked
    for probe in asked:
        assert "_UID=0" in probe.script, probe.id
