r"""The kernel's log: ``journalctl -k -o short-unix``.

Source: journalctl(1). A line reads ``seconds.micros host kernel: message``. The first line of a boot stands before those
that were picked on the target: it proves that the log may be read. The host's own name is no part of the message. What
programs write into it by /dev/kmsg (systemd before the journal runs) stands there under their names, and is left out.

>>> log = parse_kernel_log("1700000000.000001 kvm01 kernel: Linux version 6.1.0\n1700000012.5 oops01 kernel: EDAC MC0: 1 CE\n"
...                        "1700000013.0 kvm01 kernel: audit: type=1400 apparmor=\"DENIED\"\n"
...                        "1700000014.0 kvm01 systemd[1]: Inserted module 'autofs4'\n")
>>> len(log), log[0].time_s, log[0].text
(2, 1700000012.5, 'EDAC MC0: 1 CE')
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_LINE = re.compile(r"(?P<time>\d{1,12}\.\d{1,9}) \S+ (?:kernel|unknown)(?:\[\d+\])?: ?(?P<text>.*)")
#: systemd and others write into the kernel's log too.
_OTHERS = re.compile(r"\d{1,12}\.\d{1,9} \S+ [\w.@/()-]{1,80}(?:\[\d+\])?: .*")

#: What may stand before the version: of the early loader of microcode (Linux 4.4 to 6.6), of ARM, POWER, and Linux 3.10.
_FIRST = re.compile(
    r"Linux version |microcode: .*updated early|Booting Linux on |dt-cpu-ftrs: |(?:hash|radix)-mmu: |Initializing cgroup subsys "
)


@dataclass(frozen=True)
class KernelMessage:
    """A message of the kernel; ``time_s`` is seconds since 1970."""

    time_s: float
    text: str


@empty_is_an_answer("nothing was wrong since boot")
def parse_kernel_log(text: str) -> tuple[KernelMessage, ...]:
    """Return the picked messages, without the first line of the boot. Raises :class:`ParseError` when there is none."""
    lines = text.splitlines()
    if not lines or not _LINE.fullmatch(lines[0]):
        raise ParseError(f"not the kernel's log: {lines[0][:80] if lines else ''!r}")
    found = []
    for line in lines[1:]:
        match = _LINE.fullmatch(line)
        if match:
            found.append(KernelMessage(float(match["time"]), match["text"]))
        elif not line.startswith((" ", "\t")) and not _OTHERS.fullmatch(line):  # continuation lines of one message are indented
            raise ParseError(f"not a line of the kernel's log: {line[:80]!r}")
    return tuple(found)


def first_message(text: str) -> KernelMessage:
    """Return the first message, from which on the log tells everything. Raises :class:`ParseError` when there is none."""
    lines = text.splitlines()
    match = _LINE.fullmatch(lines[0]) if lines else None
    if not match:
        raise ParseError(f"not the kernel's log: {lines[0][:60] if lines else ''!r}")
    return KernelMessage(float(match["time"]), match["text"])


def begins_at_boot(text: str) -> bool:
    """Whether the first line is the first one of a boot. A journal that was rotated since then begins later.

    >>> begins_at_boot("1700000000.000001 kvm01 kernel: Linux version 6.1.0\\n")
    True
    >>> begins_at_boot("1700000000.0 kvm01 kernel: microcode: microcode updated early to revision 0xd0003a5, date = 2023-03-30\\n")
    True
    """
    return bool(_FIRST.match(first_message(text).text))
