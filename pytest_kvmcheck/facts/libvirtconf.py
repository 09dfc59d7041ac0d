r"""libvirt's configuration files: ``/etc/libvirt/*.conf``.

Source: libvirt src/util/virconf.c: ``key = value`` where a value is a number, a quoted text or a list of them.

>>> conf = parse_conf('#log_level = 1\nlog_level = 3\nlog_filters="1:qemu 1:libvirt"\nacl = [ "a",\n  "b" ]\n')
>>> conf["log_level"], conf["log_filters"], conf["acl"]
(3, '1:qemu 1:libvirt', ('a', 'b'))
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

Value = int | str | tuple[str, ...]

_GAP = r"(?:[ \t\r\n;]|\#[^\n]*(?:\n|$))*"
_TOKEN = re.compile(
    _GAP
    + r"""
    (?P<key>[A-Za-z]\w*)[ \t]*=[ \t]*
    (?: (?P<number>[+-]?\d+)
      | (?P<text>\"\"\".*?\"\"\"|"[^"\n]*"|'[^'\n]*')
      | \[(?P<list>(?:[^\]"'\#]|"[^"\n]*"|'[^'\n]*'|\#[^\n]*)*)\]
    )
    [ \t]*(?:\#[^\n]*|;)?\r?(?:\n|$|(?<=;))""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_REST = re.compile(_GAP)
_ITEM = re.compile(r"""(?P<text>"[^"\n]*"|'[^'\n]*')|(?P<number>[+-]?\d+)|\#[^\n]*""", re.VERBOSE)


@empty_is_an_answer("all settings are commented out")
def parse_conf(text: str) -> dict[str, Value]:
    """Return the settings; the first of two equal keys counts, as it does for libvirt. Raises :class:`ParseError`."""
    settings: dict[str, Value] = {}
    place = 0
    while match := _TOKEN.match(text, place):
        place = match.end()
        settings.setdefault(match["key"], _value(match))
    rest = _REST.match(text, place)
    if rest and rest.end() != len(text):
        line = text.count("\n", 0, rest.end()) + 1
        raise ParseError(f"line {line} is no setting of libvirt: {text[rest.end() : rest.end() + 60].splitlines()[0]!r}")
    return settings


def _value(match: re.Match[str]) -> Value:
    if match["number"] is not None:
        return int(match["number"])
    if match["text"] is not None:
        return _unquoted(match["text"])
    items = (_unquoted(item["text"]) if item["text"] else item["number"] for item in _ITEM.finditer(match["list"]))
    return tuple(item for item in items if item is not None)


def _unquoted(text: str) -> str:
    width = 3 if text.startswith('"""') and len(text) >= 6 else 1
    return text[width:-width]
