r"""Lists of what is there, one a line: paths, and names that the kernel gives.

Nothing at all may be there; but a line that is none of these is no list.

>>> parse_paths("/dev/vhost-net\n/sys/module/vhost_net\n")
('/dev/vhost-net', '/sys/module/vhost_net')
>>> parse_scsi_names("sda\nsdaa\n"), sorted(parse_kvm_modules("kvm\nkvm_amd\n"))
(('sda', 'sdaa'), ['kvm', 'kvm_amd'])
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@empty_is_an_answer("nothing of it is there")
def parse_paths(text: str) -> tuple[str, ...]:
    """Return absolute paths. Raises :class:`ParseError` for any other line."""
    return _lines(text, r"/[^\0]*")


@empty_is_an_answer("there are no SCSI disks")
def parse_scsi_names(text: str) -> tuple[str, ...]:
    """Return the names of SCSI disks below /sys/block. Raises :class:`ParseError` for any other line."""
    return _lines(text, r"sd[a-z]+")


@empty_is_an_answer("KVM is not loaded")
def parse_kvm_modules(text: str) -> frozenset[str]:
    """Return the names of KVM's modules below /sys/module. Raises :class:`ParseError` for any other line."""
    return frozenset(_lines(text, r"kvm[a-z0-9_]*"))


def _lines(text: str, pattern: str) -> tuple[str, ...]:
    lines = tuple(filter(None, map(str.strip, text.split("\n"))))
    for line in lines:
        if not re.fullmatch(pattern, line):
            raise ParseError(f"not in such a list: {line[:60]!r}")
    return lines
