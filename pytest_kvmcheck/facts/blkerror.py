"""I/O errors of a domain's disks: ``virsh domblkerror``.

Source: https://libvirt.org/manpages/virsh.html#domblkerror

>>> parse_blkerror("vda: no space\\nsdb: unspecified error\\n"), parse_blkerror("No errors found\\n")
({'vda': 'no space', 'sdb': 'unspecified error'}, {})
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@empty_is_an_answer("virsh says so in words")
def parse_blkerror(text: str) -> dict[str, str]:
    """Return the errors by target of the disk. Raises :class:`ParseError`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines == ["No errors found"]:
        return {}
    found = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]{1,32}): (unspecified error|no space)", line)
        if not match:
            raise ParseError(f"not the answer of virsh domblkerror: {line[:60]!r}")
        found[match[1]] = match[2]
    if not found:
        raise ParseError("virsh domblkerror says nothing")
    return found
