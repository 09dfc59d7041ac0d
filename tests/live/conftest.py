"""Real targets: sshd on loopback, and the command line under test in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live.sshd import Farm


@dataclass
class Run:
    """One run of ``pytest --kvmcheck`` and what it left."""

    rc: int
    stdout: str
    stderr: str
    seconds: float
    report: dict[str, Any] | None

    @property
    def results(self) -> list[dict[str, Any]]:
        assert self.report is not None, self.stdout + self.stderr
        return self.report["results"]

    def of(self, host: str) -> list[dict[str, Any]]:
        return [result for result in self.results if result["host"] == host]

    def one(self, check: str, subject: str) -> dict[str, Any]:
        found = [result for result in self.results if (result["check"], result["subject"]) == (check, subject)]
        assert len(found) == 1, f"{check} {subject}: {[(r['check'], r['subject']) for r in self.results if r['check'] == check]}"
        return found[0]

    def host(self, name: str) -> dict[str, Any]:
        assert self.report is not None
        return next(host for host in self.report["hosts"] if host["name"] == name)


@dataclass
class Kvmcheck:
    """Runs the command line in a clean directory and environment."""

    place: Path

    def __call__(self, *args: str, env: dict[str, str] | None = None, timeout: float = 300) -> Run:
        out = self.place / f"out{time.monotonic_ns()}.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--kvmcheck",
            "-p",
            "no:cacheprovider",
            f"--kvmcheck-json={out}",
            *args,
        ]
        keep = {key: value for key, value in os.environ.items() if not key.startswith(("KVMCHECK", "PYTEST"))}
        keep |= {"XDG_STATE_HOME": str(self.place / "state")}
        begin = time.monotonic()
        done = subprocess.run(
            command,
            cwd=self.place,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=keep | (env or {}),
            check=False,
        )
        seconds = time.monotonic() - begin
        report = json.loads(out.read_text()) if out.exists() else None
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        assert "INTERNALERROR" not in done.stdout + done.stderr, done.stdout + done.stderr
        return Run(done.returncode, done.stdout, done.stderr, seconds, report)


@pytest.fixture
def kvmcheck(tmp_path: Path) -> Kvmcheck:
    return Kvmcheck(tmp_path)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    farm = Farm(tmp_path_factory.mktemp("farm"))
    yield farm
    farm.close()
