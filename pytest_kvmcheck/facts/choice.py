"""Files of the kernel that show a choice: ``always [madvise] never``.

Source: https://docs.kernel.org/admin-guide/mm/transhuge.html

>>> chosen("always [madvise] never\\n")
'madvise'
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError


def chosen(text: str) -> str:
    """Return the value in brackets. Raises :class:`ParseError` when there is not exactly one."""
    found = re.findall(r"\[([\w+-]+)\]", text)
    if len(found) != 1:
        raise ParseError(f"no choice in brackets: {text.strip()[:60]!r}")
    return str(found[0])
