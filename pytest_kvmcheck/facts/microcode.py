r"""Model and microcode of each CPU: ``/proc/cpuinfo`` of an x86 host.

Source: proc(5); arch/x86/kernel/cpu/proc.c of Linux. Sockets of different steppings have revisions of their own, so these are
told by signature (family, model, stepping).

>>> text = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 85\nstepping\t: 7\nmicrocode\t: 0x5003604\n"
>>> parse_microcode(text + text.replace(": 0\n", ": 1\n"))
{(6, 85, 7): {83899908: frozenset({0, 1})}}
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError

Signature = tuple[int, int, int]

_LINE = re.compile(r"(processor|cpu family|model|stepping|microcode)\s*:\s*((?:0x)?[0-9a-f]{1,16})\s*", re.ASCII)


def parse_microcode(text: str) -> dict[Signature, dict[int, frozenset[int]]]:
    """Return, by signature, the CPUs of each revision. Raises :class:`ParseError`, also when a CPU does not tell all of it."""
    blocks: list[dict[str, int]] = []
    for line in filter(str.strip, text.splitlines()):
        match = _LINE.fullmatch(line)
        if not match:
            raise ParseError(f"not a line of cpuinfo: {line[:60]!r}")
        if match[1] == "processor":
            blocks.append({})
        if not blocks or match[1] in blocks[-1]:
            raise ParseError("cpuinfo does not part its processors")
        try:
            blocks[-1][match[1]] = int(match[2], 16 if match[1] == "microcode" else 10)
        except ValueError:
            raise ParseError(f"not a number in cpuinfo: {line[:60]!r}") from None
    found: dict[Signature, dict[int, frozenset[int]]] = {}
    for block in blocks:
        if len(block) < 5:
            raise ParseError(f"processor {block['processor']} tells no {'microcode' if 'microcode' not in block else 'model'}")
        revisions = found.setdefault((block["cpu family"], block["model"], block["stepping"]), {})
        revisions[block["microcode"]] = revisions.get(block["microcode"], frozenset()) | {block["processor"]}
    if not found:
        raise ParseError("cpuinfo lists no processor")
    return found
