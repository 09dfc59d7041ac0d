"""Texts that no parser may take for an answer."""

from __future__ import annotations

ERRORS = (
    "error: failed to connect to the hypervisor\nerror: no connection driver available\n",
    "error: Failed to connect socket to '/var/run/libvirt/libvirt-sock-ro': No such file or directory\n",
    "sh: 1: tool: not found\n",
    "cat: /x: Permission denied\n",
    "grep: /proc/1/status: Input/output error\n",
    "Failed to connect to bus: Host is down\n",
    "System has not been booted with systemd as init system (PID 1). Can't operate.\n",
    "sudo: a password is required\n",
    "Terminated\n",
    "bash: Befehl nicht gefunden: tool\n",
    "cat: /x: Keine Berechtigung\n",
    "Fehler: Verbindung zum Hypervisor fehlgeschlagen\nFehler: kein Verbindungstreiber verfügbar\n",
    "cat: /x: Aucun fichier ou dossier de ce type\n",
    "erreur : impossible de se connecter à l'hyperviseur\n",
    "cat: /x: 没有那个文件或目录\n",
    "错误：无法连接到管理程序\n",  # noqa: RUF001
)
BINARY = ("\0\0\0\0", "\x7fELF\x02\x01\x01\0\0\0", "\ufffd\ufffd\ufffd\n\ufffd", "\x1f\\x8b\x08\0\0", "a\0b\n")
EMPTY = ("", "\n", " \t\n\n", "\r\n")
HOSTILE = ERRORS + BINARY + EMPTY
