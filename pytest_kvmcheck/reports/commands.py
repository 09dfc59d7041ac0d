"""The list of everything that can run on a target: for review, for a machine, and for sudo."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.probes import Probe, Root
from pytest_kvmcheck.probes.touches import TOUCHES

#: Where sudo finds what the probes run; its secure_path has both on every distribution with a merged /usr.
_PLACES = {
    "/usr/bin": frozenset(
        ["cat", "dnf", "du", "firewall-cmd", "grep", "journalctl", "ls", "ovs-vsctl", "virt-admin", "virt-host-validate", "yum"]
    ),
    "/usr/sbin": frozenset(
        [
            "auditctl",
            "ausearch",
            "dmsetup",
            "ip6tables-legacy-save",
            "ip6tables-save",
            "iptables-legacy-save",
            "iptables-save",
            "lvs",
            "multipathd",
            "nft",
            "pvs",
        ]
    ),
}


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
        blocks.append("\n".join([*lines, *(f"    {line}" for line in shown)]))
    head = (
        "@@$N starts a section of an answer, $N being a secret that the target makes; 'uri' is how virsh begins one. $SUDO is\n"
        "empty, or 'sudo -n' with --sudo. Around all of this run: sh, id, timeout (or setsid and sleep), head, cat,\n"
        "base64 (or od) and, if it is there, gzip for answers that may be large.\n"
        "named (awk) puts names for owners, by /etc/passwd and /etc/group; awake asks systemctl whether libvirt may be asked.\n"
        "What is read is not changed. What a probe touches besides is told with it; docs/touches.md has the whole list.\n\n"
    )
    return head + "\n\n".join(blocks) + "\n"


def sudoers_line(command: str) -> str:
    r"""Return *command* as sudoers(5) wants it: an absolute path, and its special characters escaped.

    >>> sudoers_line("grep -H ^ -- /etc/libvirt/qemu.conf")
    '/usr/bin/grep -H ^ -- /etc/libvirt/qemu.conf'
    """
    tool, _, rest = command.partition(" ")
    place = next((place for place, tools in _PLACES.items() if tool in tools), "")
    if not place:
        raise KvmcheckError(f"no known place of {tool} for sudoers")
    arguments = re.sub(r"([,:=\\])", r"\\\1", rest)
    return f"{place}/{tool} {arguments}".rstrip()


def as_sudoers(probes: Iterable[Probe], user: str) -> str:
    """Return a sudoers fragment that lets *user* run, without a password, exactly what the probes run as root."""
    if not re.fullmatch(r"[a-z_][a-z0-9_.-]{0,31}\$?", user):
        raise KvmcheckError(f"{user!r} is no name of a user")
    lines = ["# pytest-kvmcheck: read-only commands that need root. Install with: visudo -f /etc/sudoers.d/kvmcheck"]
    for probe in probes:
        for command in probe.sudo:
            lines += [f"# {probe.id}: {probe.purpose}", f"{user} ALL=(root) NOPASSWD: {sudoers_line(command)}"]
    return "\n".join(dict.fromkeys(lines)) + "\n"
