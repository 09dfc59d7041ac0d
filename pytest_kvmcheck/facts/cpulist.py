"""Lists of CPUs and NUMA nodes, as the kernel and libvirt write them.

Source: ``/sys/devices/system/cpu/online``, ``/sys/devices/system/node/node*/cpulist``, ``cpuset`` attributes of domain
XML (https://libvirt.org/formatdomain.html#cpu-allocation), which also know exclusions.

>>> sorted(parse_cpulist("0-2,8"))
[0, 1, 2, 8]
>>> sorted(parse_cpulist("0-7,^2,^5-6"))
[0, 1, 3, 4, 7]
>>> parse_cpulist("\\n")  # a NUMA node without CPUs: empty is an answer
frozenset()
>>> format_cpulist({0, 1, 2, 8})
'0-2,8'
>>> sorted(parse_cpumask("00000001,0000000f"))  # words of 32 bits, highest first
[0, 1, 2, 3, 32]
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

#: Linux supports fewer CPUs than this; a larger number is damage, or an attack on our memory.
MAX_CPUS = 65536


@empty_is_an_answer("a NUMA node without CPUs, or an empty set")
def parse_cpulist(text: str) -> frozenset[int]:
    """Return the numbers in *text*. Raises :class:`ParseError` for anything but numbers, ranges and exclusions."""
    included: set[int] = set()
    excluded: set[int] = set()
    for part in filter(None, (part.strip() for part in text.strip().split(","))):
        numbers = excluded if part.startswith("^") else included
        first, dash, last = part.removeprefix("^").partition("-")
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            raise ParseError(f"not a CPU list: {text.strip()[:80]!r}")
        low, high = int(first), int(last or first)
        if low > high or high >= MAX_CPUS:
            raise ParseError(f"not a CPU list: {text.strip()[:80]!r}")
        numbers.update(range(low, high + 1))
    return frozenset(included - excluded)


@empty_is_an_answer("a mask of zeros names no CPU")
def parse_cpumask(text: str) -> frozenset[int]:
    """Return the CPUs in a hexadecimal mask, as in ``/proc/irq/default_smp_affinity``. Raises :class:`ParseError`."""
    words = text.strip().removeprefix("0x").split(",")
    if not all(re.fullmatch(r"[0-9a-fA-F]{1,8}", word, re.ASCII) for word in words[1:]) or not re.fullmatch(
        r"[0-9a-fA-F]{1,256}", words[0], re.ASCII
    ):
        raise ParseError(f"not a CPU mask: {text.strip()[:80]!r}")
    mask = int("".join([words[0], *(word.zfill(8) for word in words[1:])]), 16)
    if mask.bit_length() > MAX_CPUS:
        raise ParseError("a CPU mask wider than Linux knows CPUs")
    return frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)


def format_cpulist(numbers: Iterable[int]) -> str:
    """Return *numbers* in the kernel's notation; the empty set as ``none``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs) or "none"
