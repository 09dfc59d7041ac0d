"""Names come from files, and no libvirt daemon is woken that failed or was stopped; in every shell at hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_kvmcheck.probes.quiet import QUIET

SHELLS = [["dash"], ["bash", "--posix"], ["busybox", "sh"]]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def shell(request: pytest.FixtureRequest) -> list[str]:
    return request.param


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host in a directory: with systemd, which tells what ``states`` and ``others`` hold."""
    for directory in ("run/systemd/system", "run/libvirt/qemu", "etc/default", "bin", "proc"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "states").write_text("ActiveState=inactive\n\nActiveState=inactive\n")
    (tmp_path / "others").write_text("inactive\ninactive\n")
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(
        f'#!/bin/sh\ncd {tmp_path}; echo "$@" >>asked; case $1 in is-failed) cat others ;; *) cat states ;; esac\n'
    )
    systemctl.chmod(0o755)
    return tmp_path


def run(shell: list[str], root: Path, call: str, given: str = "") -> subprocess.CompletedProcess[str]:
    functions = QUIET
    for place in ("/run/", "/etc/", "/proc/"):
        functions = functions.replace(place, f"{root}{place}")
    environment = os.environ | {"PATH": f"{root}/bin:{os.environ['PATH']}"}
    return subprocess.run(
        [*shell, "-c", functions + call], input=given, capture_output=True, text=True, env=environment, timeout=20
    )


def test_a_daemon_that_runs_is_asked_and_systemd_is_not(shell: list[str], root: Path) -> None:
    (root / "run/libvirtd.pid").write_text("42")
    (root / "proc/42").mkdir()
    assert run(shell, root, "awake").returncode == 0
    assert not (root / "asked").exists()


def test_a_pid_file_left_behind_proves_nothing(shell: list[str], root: Path) -> None:
    (root / "run/libvirtd.pid").write_text("42")
    (root / "states").write_text("ActiveState=failed\n\nActiveState=inactive\n")
    done = run(shell, root, "awake")
    assert (done.returncode, done.stderr) == (1, "libvirt is not asked, as that would start a daemon that failed\n")


@pytest.mark.parametrize("states", ["active", "activating", "reloading"])
def test_a_daemon_that_systemd_knows_to_run_is_asked(shell: list[str], root: Path, states: str) -> None:
    (root / "states").write_text(f"ActiveState=failed\n\nActiveState={states}\n")
    assert run(shell, root, "awake").returncode == 0


def test_a_daemon_that_sleeps_is_asked(shell: list[str], root: Path) -> None:
    (root / "run/libvirt/qemu/driver.pid").write_text("42")  # virtqemud's own, left behind
    (root / "proc/42").mkdir()
    (root / "etc/default/libvirtd").write_text('#LIBVIRTD_ARGS="--listen"\nLIBVIRTD_ARGS="--timeout 60"\n')
    assert run(shell, root, "awake").returncode == 0


def test_a_daemon_that_was_stopped_beside_its_guests_is_not(shell: list[str], root: Path) -> None:
    (root / "run/libvirt/qemu/web.pid").write_text("43")
    assert run(shell, root, "awake").returncode == 0, "that guest is gone"
    (root / "proc/43").mkdir()
    done = run(shell, root, "awake || exit 1")
    assert (done.returncode, "while guests run" in done.stderr) == (1, True)


def test_a_daemon_that_never_sleeps_was_stopped(shell: list[str], root: Path) -> None:
    (root / "etc/default/libvirtd").write_text('LIBVIRTD_ARGS=""\n')
    done = run(shell, root, "awake || exit 1")
    assert (done.returncode, "never stops by itself" in done.stderr) == (1, True)


def test_without_systemd_nobody_is_woken_by_a_connection(shell: list[str], root: Path) -> None:
    (root / "run/systemd/system").rmdir()
    (root / "states").write_text("ActiveState=failed\n")
    assert run(shell, root, "awake").returncode == 0


def test_a_modular_daemon_that_failed_is_not_asked(shell: list[str], root: Path) -> None:
    (root / "run/virtqemud.pid").write_text("42")
    (root / "proc/42").mkdir()
    assert run(shell, root, "awake virtnetworkd virtstoraged").returncode == 0
    (root / "others").write_text("inactive\nfailed\n")
    assert run(shell, root, "awake").returncode == 0
    done = run(shell, root, "awake virtnetworkd virtstoraged")
    assert (done.returncode, "one of virtnetworkd virtstoraged that failed" in done.stderr) == (1, True)


def test_names_are_those_of_the_files(shell: list[str], root: Path) -> None:
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\nqemu:x:107:107::/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nkvm:x:36:qemu\n")
    given = "600 107 36 regular file|/srv/107 36  two  blanks\n644 4711 4712 regular file|/x\n1777 0 0 directory|/tmp\n"
    named = "600 qemu kvm regular file|/srv/107 36  two  blanks\n644 4711 4712 regular file|/x\n1777 root root directory|/tmp\n"
    assert run(shell, root, "named 2 3", given).stdout == named
    assert run(shell, root, "named 2 0", "600 107 36 x\n").stdout == "600 qemu 36 x\n"
    assert run(shell, root, "named 2 0", "short\n").stdout == "short\n"
    done = run(shell, root, "owned 1 2 sh -c 'echo 107 36 x; echo told >&2; exit 5'")
    assert (done.returncode, done.stdout, done.stderr) == (5, "qemu kvm x\n", "told\n")
    (root / "etc/group").unlink()
    assert run(shell, root, "named 2 3", given).stdout == given
