r"""Directives of chrony: ``chrony.conf``.

Source: https://chrony-project.org/doc/4.6/chrony.conf.html. A line is a directive and its arguments; ``#``, ``%``, ``!`` and
``;`` begin a comment line, and directives are the same in capitals.

>>> conf = parse_chrony_conf({"/etc/chrony.conf": "# NTP\npool 2.rhel.pool.ntp.org iburst\nrefclock PHC /dev/ptp0:nopps poll 0\n"})
>>> conf
(('pool', ('2.rhel.pool.ntp.org', 'iburst')), ('refclock', ('PHC', '/dev/ptp0:nopps', 'poll', '0')))
>>> phc_paths(conf)
('/dev/ptp0',)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

Directives = tuple[tuple[str, tuple[str, ...]], ...]


@empty_is_an_answer("nothing is set")
@takes_any_line("a directive may be any word")
def parse_chrony_conf(files: Mapping[str, str]) -> Directives:
    """Return the directives of all files, in order of their paths. Raises :class:`ParseError` for what is no text."""
    found = []
    for path in sorted(files):
        if "\0" in files[path]:
            raise ParseError("not a text file")
        for line in files[path].splitlines():
            words = line.split()
            if words and not words[0].startswith(("#", "%", "!", ";")):
                found.append((words[0].lower(), tuple(words[1:])))
    return tuple(found)


def phc_paths(directives: Directives) -> tuple[str, ...]:
    """Return the devices of the reference clocks of kind PHC."""
    return tuple(
        re.sub(r":.*", "", words[1])
        for name, words in directives
        if name == "refclock" and len(words) > 1 and words[0].upper() == "PHC"
    )
