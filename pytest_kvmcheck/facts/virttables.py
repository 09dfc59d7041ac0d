"""Tables of libvirt's secrets and network filters: ``virsh secret-list`` and ``nwfilter-list``.

Source: https://libvirt.org/manpages/virsh.html. Two columns below a line of dashes; secrets show their use, never their value.

>>> parse_table(" UUID                                   Usage\\n---------------------------------------\\n"
...             " 6d1a6e8a-0000-4000-8000-0000000000aa   ceph client.libvirt secret\\n\\n")
{'6d1a6e8a-0000-4000-8000-0000000000aa': 'ceph client.libvirt secret'}
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@empty_is_an_answer("nothing is defined")
def parse_table(text: str) -> dict[str, str]:
    """Return the second column by UUID. Raises :class:`ParseError` for what is no such table; one without rows is."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not re.fullmatch(r"\s*UUID\s+\S+", lines[0]) or set(lines[1]) != {"-"}:
        raise ParseError(f"not a table of virsh: {text.strip()[:60]!r}")
    found = {}
    for line in lines[2:]:
        match = re.fullmatch(r"\s*([0-9a-fA-F-]{36})(?:\s+(.*))?", line, re.ASCII)
        if not match:
            raise ParseError(f"not a row of a table of virsh: {line.strip()[:60]!r}")
        found[match[1].lower()] = (match[2] or "").strip()
    return found
