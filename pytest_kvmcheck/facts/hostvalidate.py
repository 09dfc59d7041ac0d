r"""libvirt's own opinion of a host: ``virt-host-validate qemu``.

Source: https://libvirt.org/manpages/virt-host-validate.html. Only the text can be trusted: the exit code treats
warnings inconsistently. A hint may stand after FAIL.

>>> parse_validation("  QEMU: Checking if device /dev/kvm exists : FAIL (Check that it is loaded)\n")
(Verdict(subject='Checking if device /dev/kvm exists', state='FAIL', hint='Check that it is loaded'),)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_LINE = re.compile(r"\s*QEMU:\s*(?P<subject>.+?)\s*:\s*(?P<state>PASS|FAIL|WARN|NOTE)\b\s*(?:\((?P<hint>.*)\))?\s*$")


@dataclass(frozen=True)
class Verdict:
    """One line: what was looked at, PASS, WARN, NOTE or FAIL, and the hint."""

    subject: str
    state: str
    hint: str


def parse_validation(text: str) -> tuple[Verdict, ...]:
    """Return the verdicts. Raises :class:`ParseError` when there are none, or for a line that is not understood."""
    verdicts = []
    for line in filter(None, map(str.strip, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())):
        match = _LINE.fullmatch(line)
        if not match:
            raise ParseError(f"not a line of virt-host-validate: {line[:80]!r}")
        verdicts.append(Verdict(match["subject"], match["state"], match["hint"] or ""))
    if not verdicts:
        raise ParseError("virt-host-validate printed nothing")
    return tuple(verdicts)
