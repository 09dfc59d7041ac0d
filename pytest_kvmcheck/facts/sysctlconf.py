"""Kernel settings applied at boot: ``sysctl.d``.

Source: sysctl.d(5). Files are applied in the order of their names, whatever their directory; a file hides one of the same
name in a later directory of /etc, /run, /usr/local/lib, /usr/lib. systemd does not read /etc/sysctl.conf but by a link from
there (99-sysctl.conf), which shows as a file with the same text; Debian 13 has no such link any more.

>>> effective({"/etc/sysctl.d/10-a.conf": "vm.nr_hugepages=1", "/usr/lib/sysctl.d/50-b.conf": "-vm/nr_hugepages = 2 # x"})
{'vm.nr_hugepages': '2'}
>>> passed_over({"/etc/sysctl.conf": "vm.swappiness=5", "/etc/sysctl.d/10-a.conf": "vm.nr_hugepages=1"})
{'vm.swappiness': '5'}
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

_MAIN = "/etc/sysctl.conf"
_ORDER = ("/etc/sysctl.d/", "/run/sysctl.d/", "/usr/local/lib/sysctl.d/", "/usr/lib/sysctl.d/", "/lib/sysctl.d/")
_LINE = re.compile(r"\s*-?\s*(?P<key>[\w./*?\[\]-]+?)\s*=\s*(?P<value>[^#;]*?)\s*(?:[#;].*)?")


@empty_is_an_answer("nothing is set")
@takes_any_line("systemd-sysctl passes over lines that are no settings")
def effective(files: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that win, with dotted names. Raises :class:`ParseError` for binary files."""
    return _settings(files, _chosen(files))


@empty_is_an_answer("every file is read")
@takes_any_line("systemd-sysctl passes over lines that are no settings")
def passed_over(files: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a /etc/sysctl.conf that no file of sysctl.d links to. Raises :class:`ParseError` for binary files."""
    text = files.get(_MAIN)
    if text is None or any(files[path] == text for path in _chosen(files)):
        return {}
    return _settings(files, [_MAIN])


def _chosen(files: Mapping[str, str]) -> list[str]:
    """Return the paths of the files that are read, in this order. Raises :class:`ParseError`."""
    for path, text in files.items():
        if "\0" in text:
            raise ParseError(f"{path} is not a text file")
    chosen: dict[str, str] = {}
    for directory in _ORDER:
        for path in files:
            if path.startswith(directory):
                chosen.setdefault(path.rpartition("/")[2], path)
    return [chosen[name] for name in sorted(chosen)]


def _settings(files: Mapping[str, str], paths: list[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for path in paths:
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
