"""The kernel command line: ``/proc/cmdline``.

Source: https://docs.kernel.org/admin-guide/kernel-parameters.html. Order matters (``hugepages=`` belongs to the
``hugepagesz=`` before it), quotes protect blanks, and ``-`` and ``_`` mean the same in a name.

>>> parse_cmdline('ro quiet hugepagesz=1G hugepages=4 dyndbg="file a +p"')
(('ro', None), ('quiet', None), ('hugepagesz', '1G'), ('hugepages', '4'), ('dyndbg', 'file a +p'))
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import takes_any_line

Cmdline = tuple[tuple[str, str | None], ...]

_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')


@takes_any_line("a flag may be any word")
def parse_cmdline(text: str) -> Cmdline:
    """Return the parameters in order; a flag has the value None. Raises :class:`ParseError`, for an error message too.

    What follows ``--`` goes to init, not to the kernel.
    """
    words = _WORD.findall(text)
    if not words or not text.strip().replace("\t", " ").isprintable() or words[0].endswith(":"):
        raise ParseError(f"not a kernel command line: {text[:60]!r}")
    parameters = []
    for word in words:
        if word == "--":
            break
        name, equals, value = word.partition("=")
        parameters.append((name.strip('"'), value.replace('"', "") if equals else None))
    return tuple(parameters)


def values(cmdline: Cmdline, name: str) -> list[str]:
    """Return the values of parameter *name* in order; a flag without value counts as the empty text.

    >>> values((("kvm-intel.nested", "1"), ("kvm_intel.nested", "0")), "kvm_intel.nested")
    ['1', '0']
    """
    wanted = name.replace("-", "_")
    return [value or "" for key, value in cmdline if key.replace("-", "_") == wanted]
