"""The list of everything that can run on a target: for review, for a machine, and for sudo."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.probes import Probe, Root
from pytest_kvmcheck.probes.touches import TOUCHES

#: Where sudo finds what the probes run: only root writes there. Which of the two it is differs between distributions, and a rule
#: for a file that does not exist allows nothing. sudo compares files, not names: with a merged /usr these are /bin and /sbin too.
_PLACES = ("/usr/bin", "/usr/sbin")

#: What may vary in a command, and the patterns that stand for it. They are no longer than what they stand for, and hold neither
#: ``*`` nor ``?``: in arguments these match blanks and slashes too, and with them other options and other files.
_VARIABLES = {
    "{pid}": tuple("[1-9]" + "[0-9]" * more for more in range(7)),  # below PID_MAX_LIMIT, 4194304
    "{nic}": tuple("[a-zA-Z0-9_]" + "[a-zA-Z0-9_.-]" * more for more in range(15)),  # below IFNAMSIZ
}


def how_to_permit(sudo: str) -> str:
    """Return what helps where something was not permitted, by how sudo was answered there (``Evidence.sudo``).

    >>> print(how_to_permit("off"))
    Use --sudo, or log in as root; `kvmcheck commands --sudoers` prints the rules.
    >>> print(how_to_permit("root"))
    Root itself was refused: a container, a security module or the kernel's lockdown keeps it.
    """
    return {
        "root": "Root itself was refused: a container, a security module or the kernel's lockdown keeps it.",
        "granted": "Its sudoers lack rules that `kvmcheck commands --sudoers` prints, or no rule lifts it: log in as root.",
        "denied": "sudo refused without a password; `kvmcheck commands --sudoers` prints the rules.",
        "absent": "There is no sudo: log in as root.",
    }.get(sudo, "Use --sudo, or log in as root; `kvmcheck commands --sudoers` prints the rules.")


def as_json(probes: Iterable[Probe]) -> list[dict[str, Any]]:
    """Return the probes as plain data."""
    return [
        {
            "id": probe.id,
            "purpose": probe.purpose,
            "script": probe.script,
            "when": probe.when,
            "files": list(probe.paths),
            "root": str(probe.root),
            "sudo": list(probe.sudo),
            "no_rule": probe.no_rule,
            "active": probe.active,
            "touches": [{"what": touch.what, "why": touch.why} for touch in TOUCHES if probe.id in touch.probes],
            "timeout_s": probe.timeout_s,
            "max_bytes": probe.max_bytes,
            "roles": sorted(probe.roles),
        }
        for probe in probes
    ]


def as_text(probes: Iterable[Probe]) -> str:
    """Return the probes for people: one block each."""
    blocks = []
    for probe in probes:
        root = {Root.NO: "", Root.MAY: ", root where the file modes demand it", Root.MUST: ", root"}[probe.root]
        lines = [f"{probe.id}: {probe.purpose}  (at most {probe.timeout_s} s, {probe.max_bytes // 1024} KiB{root})"]
        if probe.active:
            lines.append("    only with --kvmcheck-active: it sends packets")
        lines += [f"    touches {touch.what}: {touch.why}" for touch in TOUCHES if probe.id in touch.probes]
        if probe.when:
            lines.append(f"    only if {probe.when}")
        shown = [f"read {path}" for path in probe.paths] if probe.reads_files else probe.script.splitlines()
        if probe.no_rule:
            lines.append(f"    not all of it by sudo: {probe.no_rule}")
        blocks.append("\n".join([*lines, *(f"    {line}" for line in shown)]))
    head = (
        "@@$N starts a section of an answer, $N being a secret that the target makes; 'uri' is how virsh begins one. $SUDO is\n"
        "empty, or 'sudo -n' with --sudo. Around all of this run: sh, id, timeout (or setsid and sleep), head, cat,\n"
        "base64 (or od) and, if it is there, gzip for answers that may be large.\n"
        "named (awk) puts names for owners, by /etc/passwd and /etc/group; awake asks systemctl whether libvirt may be asked.\n"
        "What is read is not changed. What a probe touches besides is told with it; docs/touches.md has the whole list.\n\n"
    )
    return head + "\n\n".join(blocks) + "\n"


def _argument(text: str) -> str:
    r"""Return one argument as sudoers(5) wants it: what is special to fnmatch(3) or to sudoers stands for itself.

    >>> print(_argument("^node.startup = "), _argument("--include=*.log"), _argument(r"%p\n"))
    ^node.startup\ \=\  --include\=\\*.log %p\\\\n
    """
    return re.sub(r"([,:=\\ \t#])", r"\\\1", re.sub(r"([*?\[\]\\])", r"\\\1", text))


def sudoers_forms(command: str) -> list[str]:
    r"""Return what sudoers(5) calls *command* (shell words, see :class:`Probe`): an absolute path and exactly its arguments.

    A command without arguments has ``""`` for them: none at all would allow any. Raises :class:`KvmcheckError` for a command
    that cannot be written so.

    >>> print(sudoers_forms("grep -H ^ -- /etc/libvirt/qemu.conf")[0])
    /usr/bin/grep -H ^ -- /etc/libvirt/qemu.conf
    >>> print(sudoers_forms("ls -l /proc/{pid}/fd")[2])
    /usr/bin/ls -l /proc/[1-9][0-9][0-9]/fd
    >>> print(sudoers_forms("iptables-save")[1])
    /usr/sbin/iptables-save ""
    """
    tool, *arguments = shlex.split(command)
    if "/" in tool or _argument(tool) != tool or not all(arguments) or any(map(str.startswith, arguments[:1], "^")):
        raise KvmcheckError(f"sudoers has no form for {command!r}")
    written = [" ".join(map(_argument, arguments)) or '""']
    for variable, patterns in _VARIABLES.items():
        written = [text.replace(variable, pattern) for text in written for pattern in (patterns if variable in text else ("",))]
    return [f"{place}/{tool} {text}" for place in _PLACES for text in written]


def as_sudoers(probes: Iterable[Probe], user: str) -> str:
    """Return a sudoers fragment that lets *user* run, without a password, exactly what the probes run as root."""
    if not re.fullmatch(r"[a-z_][a-z0-9_.-]{0,31}\$?", user):
        raise KvmcheckError(f"{user!r} is no name of a user")
    lines = [
        "# pytest-kvmcheck: read-only commands that need root, each with exactly its arguments, wherever a distribution has them.",
        "# Install with: visudo -f /etc/sudoers.d/kvmcheck",
        f"Defaults:{user} !requiretty",
    ]
    ruled = set[str]()
    for probe in probes:
        commands = [command for command in probe.sudo if command not in ruled]
        ruled.update(commands)
        if probe.sudo or probe.no_rule:
            lines += ["", f"# {probe.id}: {probe.purpose}"]
        if probe.no_rule:
            lines.append(f"# Not all of it: {probe.no_rule}.")
        if commands:
            forms = [form for command in commands for form in sudoers_forms(command)]
            lines.append(f"{user} ALL=(root) NOPASSWD: \\\n    " + ", \\\n    ".join(forms))
        elif probe.sudo:
            lines.append("# Its rules stand above.")
    return "\n".join(lines) + "\n"
