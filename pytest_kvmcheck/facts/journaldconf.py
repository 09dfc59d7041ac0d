r"""Settings of the journal: ``journald.conf`` and its drop-ins.

Source: journald.conf(5), https://www.freedesktop.org/software/systemd/man/latest/journald.conf.html. The main file of the first
place that has one is read, then the drop-ins by their names; one in /etc hides its namesakes elsewhere; the last setting counts.

>>> files = {"/etc/systemd/journald.conf": "[Journal]\n#Storage=auto\nStorage=volatile\n",
...          "/usr/lib/systemd/journald.conf.d/10-x.conf": "[Journal]\nStorage=persistent\nRateLimitBurst=1000\n"}
>>> parse_journald_conf(files)
{'Storage': 'persistent', 'RateLimitBurst': '1000'}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

#: Places of settings, the most important one first.
_PLACES = ("/etc", "/run", "/usr/local/lib", "/usr/lib")


def _rank(path: str) -> int:
    return next((number for number, place in enumerate(_PLACES) if path.startswith(f"{place}/")), len(_PLACES))


@empty_is_an_answer("all settings are the defaults")
@takes_any_line("systemd passes over lines that are no settings")
def parse_journald_conf(files: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in force, those of the section [Journal]. Raises :class:`ParseError` for binary texts."""
    mains = sorted((path for path in files if path.endswith("/journald.conf")), key=_rank)
    drop_ins: dict[str, str] = {}
    for path in sorted((path for path in files if path not in mains), key=_rank):
        drop_ins.setdefault(PurePosixPath(path).name, path)
    settings: dict[str, str] = {}
    for path in (*mains[:1], *(drop_ins[name] for name in sorted(drop_ins))):
        text = files[path]
        if "\0" in text:
            raise ParseError(f"not a text file: {path[:60]!r}")
        section = ""
        for line in map(str.strip, text.splitlines()):
            if match := re.fullmatch(r"\[(\w+)\]", line):
                section = match[1]
            elif section == "Journal" and (match := re.fullmatch(r"(\w+)\s*=\s*(.*)", line)):
                settings[match[1]] = match[2]
    return settings
