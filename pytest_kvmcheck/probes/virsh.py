"""How probes ask libvirt: read-only, and about all domains by few processes.

``virsh -r`` takes many commands in one argument and goes on after run-time errors. UUIDs are used throughout, as names are
chosen by strangers.

What virsh says is written by strangers too: descriptions may hold any line. So a section is begun by :func:`section`, whose mark
is virsh's own answer to ``uri``: the secret of the frame stands in the URI that the environment of :data:`ASK` names, and nobody
reads that but the account itself. libvirt hands a query it does not know to the daemon, which takes no notice of it
(https://libvirt.org/uri.html); ``uri`` asks nobody.
"""

from __future__ import annotations

VIRSH = "virsh -r -c qemu:///system"

#: The same for commands that begin sections. The environment of a process is not for other users, as its arguments are.
ASK = "VIRSH_DEFAULT_CONNECT_URI=qemu:///system?$N virsh -r"

#: Ends a script where there is no virsh, or where it would start what somebody stopped.
NEEDS_VIRSH = "command -v virsh >/dev/null || { echo 'virsh: not found' >&2; exit 127; }\nawake || exit 1\n"

#: Linux refuses an argument beyond 128 KiB, in which the commands of so many domains have room.
_AT_ONCE = 100


def section(key: str) -> str:
    """Return the commands that begin the section *key* of the answer of :data:`ASK` (gather/reply.py reads it).

    >>> section("$i/live")
    'uri; echo @@ $i/live;'
    """
    return f"uri; echo @@ {key};"


def each_domain(commands: str, *, running: bool = False) -> str:
    """Return the beginning of a script: ``$u`` holds the UUIDs of all or of the *running* domains, ``v`` asks about each.

    *commands* of virsh, each ended by a semicolon, name the domain by ``$i``, and arguments of ``v`` by ``$1``. The script
    ends with 1 when the domains cannot be listed.
    """
    return (
        NEEDS_VIRSH + f"u=$({VIRSH} list {'' if running else '--all '}--uuid) || exit 1\n"
        f'v() {{ b= n=0; for i in $u; do b="$b {commands}"; n=$((n+1))\n'
        f'[ $n -lt {_AT_ONCE} ] || {{ {ASK} "$b"; b= n=0; }}; done; [ -z "$b" ] || {ASK} "$b"; }}\n'
    )
