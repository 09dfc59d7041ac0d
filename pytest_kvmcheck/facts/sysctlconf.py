"""Kernel settings applied at boot: ``sysctl.d``.

Source: sysctl.d(5). Files are applied in the order of their names, whatever their directory; a file hides one of the same
name in a later directory of /etc, /run, /usr/local/lib, /usr/lib. /etc/sysctl.conf comes last.

>>> effective({"/etc/sysctl.d/10-a.conf": "vm.nr_hugepages=1", "/usr/lib/sysctl.d/50-b.conf": "-vm/nr_hugepages = 2 # x"})
{'vm.nr_hugepages': '2'}
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

_ORDER = ("/etc/sysctl.d/", "/run/sysctl.d/", "/usr/local/lib/sysctl.d/", "/usr/lib/sysctl.d/", "/lib/sysctl.d/")
_LINE = re.compile(r"\s*-?\s*(?P<key>[\w./*?\[\]-]+?)\s*=\s*(?P<value>[^#;]*?)\s*(?:[#;].*)?")


@empty_is_an_answer("nothing is set")
@takes_any_line("systemd-sysctl passes over lines that are no settings")
def effective(files: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that win, with dotted names. Raises :class:`ParseError` for binary files."""
    chosen: dict[str, str] = {}
    for directory in _ORDER:
        for path in files:
            if path.startswith(directory):
                chosen.setdefault(path.rpartition("/")[2], path)
    paths = [chosen[name] for name in sorted(chosen)]
    if "/etc/sysctl.conf" in files:
        paths.append("/etc/sysctl.conf")
    settings: dict[str, str] = {}
    for path in paths:
        if "\0" in files[path]:
            raise ParseError(f"{path} is not a text file")
        for line in files[path].splitlines():
            match = _LINE.fullmatch(line)
            if match and not line.lstrip().startswith(("#", ";")):
                settings[_dotted(match["key"])] = match["value"]
    return settings


def _dotted(key: str) -> str:
    """Return *key* with dots: the first separator decides which of / and . parts the words.

    >>> _dotted("net/ipv4/conf/eth0.1/forwarding"), _dotted("vm.nr_hugepages")
    ('net.ipv4.conf.eth0/1.forwarding', 'vm.nr_hugepages')
    """
    first = re.search(r"[./]", key)
    if first and first[0] == "/":
        return key.translate(str.maketrans("/.", "./"))
    return key
