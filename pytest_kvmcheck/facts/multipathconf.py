r"""multipath's settings for the loss of all paths: lines of ``multipathd show config``.

Source: multipath.conf(5). ``no_path_retry`` is a number of path checks, ``queue`` or ``fail``; devices and overrides have
their own.

>>> parse_retries("\tpolling_interval 5\n\tno_path_retry 12\n\t\tno_path_retry \"queue\"\n")
('12', 'queue')
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@empty_is_an_answer("no_path_retry is set nowhere")
def parse_retries(text: str) -> tuple[str, ...]:
    """Return the values of no_path_retry, each once, sorted. Raises :class:`ParseError`."""
    found = set()
    for line in text.splitlines():
        match = re.fullmatch(r'\s*(no_path_retry|polling_interval)\s+"?(\w+)"?\s*', line)
        if not match:
            raise ParseError(f"not a setting of multipath: {line.strip()[:60]!r}")
        if match[1] == "no_path_retry":
            found.add(match[2])
    return tuple(sorted(found))
