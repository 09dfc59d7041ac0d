"""libvirt's configuration files: ``/etc/libvirt/*.conf``.

Source: libvirt src/util/virconf.c: ``key = value`` where a value is a number, a quoted text or a list of them.

>>> conf = parse_conf('#log_level = 1\\nlog_level = 3\\nlog_filters="1:qemu 1:libvirt"\\nacl = [ "a",\\n  "b" ]\\n')
>>> conf["log_level"], conf["log_filters"], conf["acl"]
(3, '1:qemu 1:libvirt', ('a', 'b'))
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError

Value = int | str | tuple[str, ...]

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:\#[^\n]*(?:\n|$)[ \t\r\n]*)*
    (?P<key>[A-Za-z_][\w.-]*)[ \t]*=[ \t]*
    (?:(?P<number>-?\d+)|(?P<text>\"\"\".*?\"\"\"|"[^"\n]*"|'[^'\n]*')|(?P<list>\[[^\]]*\]))
    [ \t]*(?:\#[^\n]*)?\r?(?:\n|$)""",
    re.VERBOSE | re.DOTALL,
)
_REST = re.compile(r"[ \t\r\n]*(?:#[^\n]*(?:\n|$)[ \t\r\n]*)*")


def parse_conf(text: str) -> dict[str, Value]:
    """Return the settings; the last of two equal keys counts, as it does for libvirt. Raises :class:`ParseError`."""
    settings: dict[str, Value] = {}
    place = 0
    while match := _TOKEN.match(text, place):
        place = match.end()
        if match["number"] is not None:
            settings[match["key"]] = int(match["number"])
        elif match["text"] is not None:
            settings[match["key"]] = match["text"].strip("\"'")
        else:
            items = re.findall(r"\"([^\"]*)\"|'([^']*)'|(-?\d+)", re.sub(r"(?m)#.*$", "", match["list"]))
            settings[match["key"]] = tuple(a or b or c for a, b, c in items)
    rest = _REST.match(text, place)
    if rest and rest.end() != len(text):
        line = text.count("\n", 0, rest.end()) + 1
        raise ParseError(f"line {line} is no setting of libvirt: {text[rest.end() : rest.end() + 60].splitlines()[0]!r}")
    return settings
