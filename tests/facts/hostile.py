"""Texts that no parser may take for an answer."""

from __future__ import annotations

ERRORS = (
    "error: failed to connect to the hypervisor\nerror: no connection driver available\n",
    "sh: 1: tool: not found\n",
    "cat: /x: Permission denied\n",
    "Failed to connect to bus: Host is down\n",
    "System has not been booted with systemd as init system (PID 1). Can't operate.\n",
    "bash: Befehl nicht gefunden: tool\n",
)
BINARY = ("\0\0\0\0", "\x7fELF\x02\x01\x01\0\0\0", "\ufffd\ufffd\ufffd\n\ufffd")
EMPTY = ("", "\n", " \t\n\n")
HOSTILE = ERRORS + BINARY + EMPTY
