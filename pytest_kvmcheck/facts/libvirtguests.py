r"""Which file the script of libvirt-guests reads its settings from: the lines of ``libvirt-guests.sh`` that tell.

Source: libvirt tools/libvirt-guests.sh.in. Upstream, RHEL and SUSE read /etc/sysconfig, Debian and Ubuntu /etc/default; a file
elsewhere is never read.

>>> parse_settings_file('sysconfdir="/etc"\nON_BOOT="ignore"\ntest -f "$sysconfdir"/default/libvirt-guests &&\n')
'/etc/default/libvirt-guests'
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer
from pytest_kvmcheck.facts.shellvars import parse_assignments

_TEST = re.compile(
    r"^test -f \"?\$\{?(?P<name>[A-Za-z_]{1,40})\}?\"?(?P<rest>(?:/[a-z.]{1,40}){0,4}/libvirt-guests)\b", re.MULTILINE
)


@empty_is_an_answer("the script does not tell")
def parse_settings_file(text: str) -> str:
    """Return the path of the file, empty when the script does not tell. Raises :class:`ParseError` for any other line."""
    for line in text.splitlines():
        if line.strip() and not re.match(r"[A-Za-z_]+=|test -f ", line):
            raise ParseError(f"not a line of libvirt-guests.sh that was asked for: {line[:60]!r}")
    variables = parse_assignments(text)
    match = _TEST.search(text)
    root = variables.get(match["name"], "") if match else ""
    return root + match["rest"] if match and root.startswith("/") else ""
