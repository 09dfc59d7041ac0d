"""Lists of domains: ``virsh list --all --uuid``.

Source: https://libvirt.org/manpages/virsh.html#list. One UUID a line, then an empty line.

>>> parse_uuids("6d1a6e8a-0000-4000-8000-000000000001\\n\\n")
['6d1a6e8a-0000-4000-8000-000000000001']
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@empty_is_an_answer("there are no domains")
def parse_uuids(text: str) -> list[str]:
    """Return the UUIDs in *text*. Raises :class:`ParseError` for any other line: an error message is not "no domains".

    Nothing at all is no list either: virsh ends an empty one with a line too.
    """
    if not text:
        raise ParseError("virsh printed no list, not even an empty one")
    uuids = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if not _UUID.fullmatch(line):
            raise ParseError(f"not a UUID: {line[:80]!r}")
        uuids.append(line.lower())
    return uuids
