"""The rules for sudo, probe by probe. tests/live/test_sudo.py tries them with the real sudo."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.probes import PROBES, Probe, Root
from pytest_kvmcheck.reports.commands import as_sudoers, sudoers_forms

ASKING = [probe for probe in PROBES.values() if probe.root is not Root.NO or "$SUDO" in probe.script]


@pytest.mark.parametrize("probe", ASKING, ids=lambda probe: probe.id)
def test_every_tool_that_a_probe_runs_by_sudo_has_a_rule(probe: Probe) -> None:
    assert probe.root is not Root.NO, "$SUDO is empty in such a probe"
    ruled = {shlex.split(command)[0] for command in probe.sudo}
    if probe.reads_files:
        assert {shlex.split(command)[-1] for command in probe.sudo} == set(probe.paths)
        return
    run = set(re.findall(r"\$SUDO ([\w-]+)", probe.script))
    assert run <= ruled
    # The name of a tool may stand in a variable.
    assert run == ruled or "$SUDO $" in probe.script
    assert all(re.search(rf"\b{re.escape(tool)}\b", probe.script) for tool in ruled)
    assert not re.findall(r"(?<!\S)(?:sudo|doas|su|pkexec)(?!\S)", probe.script), "past $SUDO"


def test_nothing_in_a_rule_matches_more_than_it_says() -> None:
    """In arguments ``*`` matches blanks and slashes, and no arguments at all would mean any."""
    lines = as_sudoers(PROBES.values(), "checker").splitlines()
    rules = [line.strip().rstrip("\\").rstrip(", ") for line in lines if line.startswith("    ")]
    assert len(rules) > 100
    for rule in rules:
        path, _, arguments = rule.partition(" ")
        assert re.fullmatch(r"/usr/s?bin/[a-z0-9-]+", path), rule
        assert arguments, rule
        bare = re.sub(r"\[[a-zA-Z0-9_.-]+\]", "", re.sub(r"\\\\.|\\.", "", arguments))
        assert not re.search(r"[*?\[\]]", bare), rule


@pytest.mark.parametrize("command", ["/bin/sh -c id", "grep ^x$", "grep ''", "./a b", "a,b c"])
def test_what_sudoers_cannot_say_is_refused(command: str) -> None:
    with pytest.raises(KvmcheckError, match="no form"):
        sudoers_forms(command)


def test_the_printed_command_works(tmp_path: Path) -> None:
    """As the help has it: the rules of all probes go into a file, and visudo takes it."""
    visudo = shutil.which("visudo", path="/usr/sbin:/sbin:/usr/bin")
    assert visudo, "sudo is not installed; see tests/packages.txt"
    command = (
        f"{sys.executable} -m pytest_kvmcheck.cli commands --sudoers checker > kvmcheck.sudoers && {visudo} -c -f kvmcheck.sudoers"
    )
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = (tmp_path / "kvmcheck.sudoers").read_text()
    assert {probe.id for probe in PROBES.values() if probe.sudo} <= set(re.findall(r"^# (\w+): ", written, re.MULTILINE))
