"""How probes ask libvirt: read-only, and about all domains by few processes.

``virsh -r`` takes many commands in one argument and goes on after run-time errors. UUIDs are used throughout, as names are
chosen by strangers.
"""

from __future__ import annotations

VIRSH = "virsh -r -c qemu:///system"

#: Ends a script where there is no virsh, or where it would start what somebody stopped.
NEEDS_VIRSH = "command -v virsh >/dev/null || { echo 'virsh: not found' >&2; exit 127; }\nawake || exit 1\n"

#: Linux refuses an argument beyond 128 KiB, in which the commands of so many domains have room.
_AT_ONCE = 100


def each_domain(commands: str, *, running: bool = False) -> str:
    """Return the beginning of a script: ``$u`` holds the UUIDs of all or of the *running* domains, ``v`` asks about each.

    *commands* of virsh, each ended by a semicolon, name the domain by ``$i``, and arguments of ``v`` by ``$1``. The script
    ends with 1 when the domains cannot be listed.
    """
    return (
        NEEDS_VIRSH + f"u=$({VIRSH} list {'' if running else '--all '}--uuid) || exit 1\n"
        f'v() {{ b= n=0; for i in $u; do b="$b {commands}"; n=$((n+1))\n'
        f'[ $n -lt {_AT_ONCE} ] || {{ {VIRSH} "$b"; b= n=0; }}; done; [ -z "$b" ] || {VIRSH} "$b"; }}\n'
    )
