r"""Why the kernel is tainted: ``/proc/sys/kernel/tainted``.

Source: https://docs.kernel.org/admin-guide/tainted-kernels.html, a number whose bits each have a meaning.

>>> sorted(parse_tainted("640\n"))
[7, 9]
"""

from __future__ import annotations

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

MEANING = {
    0: "a proprietary module", 1: "a module that was forced in", 2: "a CPU that is out of specification",
    3: "a module that was forced out", 4: "a machine check", 5: "a bad page", 6: "a request of user space", 7: "an oops or BUG",
    8: "an overridden ACPI table", 9: "a kernel warning", 10: "a staging driver", 11: "a firmware bug", 12: "an out-of-tree module",
    13: "an unsigned module", 14: "a soft lockup", 15: "a live patch", 16: "an auxiliary taint", 17: "a randomized layout",
    18: "a test",
}  # fmt: skip


@empty_is_an_answer("the kernel is not tainted")
def parse_tainted(text: str) -> frozenset[int]:
    """Return the bits that are set. Raises :class:`ParseError`."""
    number = text.strip()
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        raise ParseError(f"not the number of kernel.tainted: {number[:40]!r}")
    return frozenset(bit for bit in range(64) if int(number) >> bit & 1)
