"""QEMU's control socket."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any, Self


class QmpError(RuntimeError):
    """QEMU refused a command."""


class Qmp:
    """A connection to the QMP socket of one QEMU."""

    def __init__(self, path: Path, timeout_s: float = 60) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rw")
        self._file.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run *command*; underscores of argument names stand for dashes."""
        message = {"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()
        while line := self._file.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise QmpError(f"{command}: QEMU is gone")

    def monitor(self, line: str) -> str:
        """Return the answer of the human monitor to *line*."""
        return str(self("human-monitor-command", command_line=line))

    def ignore_shared(self) -> None:
        """Leave memory that lives in a shared file out of the frozen state, when saving and when loading."""
        self("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def wait(self, command: str, status: set[str], timeout_s: float = 60) -> None:
        """Ask *command* until its status is one of *status*."""
        end = time.monotonic() + timeout_s
        while (answer := self(command)).get("status") not in status:
            if answer.get("status") == "failed" or time.monotonic() > end:
                raise QmpError(f"{command}: {answer}")
            time.sleep(0.02)

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
