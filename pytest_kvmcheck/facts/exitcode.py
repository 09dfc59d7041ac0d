r"""Answers of commands that a probe ends with ``rc=N``, their exit code.

Source: timeout(1).

>>> answer("192.0.2.7 kvm01\n\nrc=2\n", "getent")
(['192.0.2.7 kvm01'], 2)
>>> ended_well("table ip filter\nrc=0\n", "nft")
['table ip filter']
>>> ended_well("Inst tzdata [2024a]\nE: Could not open lock file\nrc=100\n", "apt-get")
Traceback (most recent call last):
pytest_kvmcheck.errors.ParseError: apt-get failed: 'E: Could not open lock file rc=100'
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import takes_any_line

#: What timeout(1) ends with when it had to end the command.
TIMED_OUT = 124


@takes_any_line("it only divides: who asked knows what the lines may be")
def answer(text: str, tool: str) -> tuple[list[str], int]:
    """Return the lines that say something, stripped, and the exit code. Raises :class:`ParseError` when the answer has no end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or not re.fullmatch(r"rc=\d{1,3}", lines[-1], re.ASCII):
        raise ParseError(f"an answer of {tool} without its end: {text.strip()[:60]!r}")
    return lines[:-1], int(lines[-1][3:])


@takes_any_line("it only divides: who asked knows what the lines may be")
def ended_well(text: str, tool: str) -> list[str]:
    """Return the lines of an answer that ended with 0. Raises :class:`ParseError` with the error: told last, or marked ``E:``."""
    lines, code = answer(text, tool)
    if code:
        told = [line for line in lines if line.startswith("E:")] or lines[-1:]
        raise ParseError(f"{tool} failed: {' '.join([*told, f'rc={code}'])[:120]!r}")
    return lines
