r"""Shell-like settings: ``/etc/default/*``, ``/etc/sysconfig/*``.

Source: the files are read by sh (``. FILE``) or systemd (EnvironmentFile=).

>>> parse_assignments("# x\nON_BOOT=start\nexport ON_SHUTDOWN='shutdown'\n  START_DELAY=0 # none\n")
{'ON_BOOT': 'start', 'ON_SHUTDOWN': 'shutdown', 'START_DELAY': '0'}
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

_NAME = r"\s*(?:export\s+)?(?P<name>[A-Za-z_]\w*)="
_LINE = re.compile(_NAME + r"""(?P<value>"[^"]*"|'[^']*'|[^\s"']*)\s*(?:#.*)?""")
_OPEN = re.compile(_NAME + r"""(?:"[^"]*|'[^']*)""")


@empty_is_an_answer("nothing is set")
@takes_any_line("sh and systemd pass over other lines")
def parse_assignments(text: str) -> dict[str, str]:
    """Return the assignments; other lines are left out. Raises :class:`ParseError` for binary texts and open quotes."""
    if "\0" in text:
        raise ParseError("not a text file")
    found = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found[match["name"]] = match["value"].strip("\"'")
        elif _OPEN.fullmatch(line):
            raise ParseError(f"a quote is left open: {line.strip()[:60]!r}")
    return found
