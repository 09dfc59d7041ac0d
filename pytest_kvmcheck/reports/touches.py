"""The page about what gathering touches besides reading files; it is made of the list that the tests hold it to.

``python -m pytest_kvmcheck.reports.touches >docs/touches.md`` writes it anew.
"""

from __future__ import annotations

import sys

from pytest_kvmcheck.probes import PROBES
from pytest_kvmcheck.probes.touches import TOUCHES, Touch

_HEAD = """\
# What gathering touches

Nothing on a target is changed. Most of what is asked is read from files. What is touched besides is here, each with its reason, and
nowhere else: `tests/live/test_read_only.py` runs every probe under strace on a real machine, as root and as nobody, and fails on
any write, packet, socket, lock, device, signal, daemon or kernel module that is not in this list. `kvmcheck commands` shows it with
the commands themselves. That files are read may be seen by their access times, where the file system keeps them.

Not asked at all: dnf and zypper (they write logs, caches and locks, and zypper connects), ss (its socket may load modules), getent
and `hostname -f` without `--kvmcheck-active` (they ask DNS and LDAP), multipathd, firewalld and libvirt's daemons' administration
while they do not run, packet filters whose modules are not loaded, dmidecode and dmsetup where the kernel has nothing for them.

"""


def _probes(touch: Touch) -> str:
    return ", ".join(f"`{name}`" for name in PROBES if name in touch.probes)


def page() -> str:
    """Return the page as Markdown."""
    tables = []
    for heading, chosen in (
        ("Without being asked", [touch for touch in TOUCHES if touch.probes and not touch.active]),
        ("Only with --kvmcheck-active", [touch for touch in TOUCHES if touch.active]),
        ("Around the probes", [touch for touch in TOUCHES if not touch.probes]),
    ):
        rows = "".join(f"| {_probes(touch) or 'none'} | {touch.what} | {touch.why} |\n" for touch in chosen)
        tables.append(f"## {heading}\n\n| probe | what it touches | why |\n|---|---|---|\n{rows}")
    return _HEAD + "\n".join(tables)


if __name__ == "__main__":
    sys.stdout.write(page())
