r"""Limits of logins: ``/etc/security/limits.conf`` and ``/etc/security/limits.d/*.conf``.

Source: limits.conf(5). PAM applies them at a login; what systemd starts never sees them.

>>> text = "# who type item value\n@kvm\thard  memlock  8388608\n* - nofile 65536 # all\nftp -\n"
>>> [limit.item for limit in parse_limits_conf(text)]
['memlock', 'nofile']
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Limit:
    """A line of limits.conf; memlock is in KiB, or ``unlimited``, ``infinity`` or ``-1``."""

    who: str
    type: str
    item: str
    value: str


@empty_is_an_answer("no limit is set")
def parse_limits_conf(text: str) -> tuple[Limit, ...]:
    """Return the limits, in their order. Raises :class:`ParseError`."""
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) == 2 and words[1] == "-":  # switches all limits off
            continue
        if len(words) != 4 or words[1] not in ("soft", "hard", "-") or not "".join(words).isprintable():
            raise ParseError(f"not a line of limits.conf: {line[:60]!r}")
        found.append(Limit(*words))
    return tuple(found)
