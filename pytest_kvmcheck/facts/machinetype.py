"""When a machine type came out: from its name, as of ``pc-q35-7.2``, ``virt-rhel9.4.0`` or ``pc-i440fx-jammy-hpb``.

Source: https://www.qemu.org/download/ (three releases a year since 2014: April, August, December; the number is the year's since
4.0), https://access.redhat.com/articles/3078 (the Red Hat family names its own after the minor release),
https://wiki.ubuntu.com/Releases (Ubuntu after the series).

>>> parse_release("pc-q35-7.2"), parse_release("virt-4.0"), parse_release("pc-i440fx-2.11")
((2022, 12), (2019, 4), (2017, 12))
>>> parse_release("pc-q35-rhel9.4.0"), parse_release("pc-i440fx-focal"), parse_release("pc-q35-noble-v2")
((2024, 4), (2020, 4), (2024, 4))
>>> parse_release("microvm")
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

Month = tuple[int, int]

_RHEL = {
    (6, 0): (2010, 11), (6, 1): (2011, 5), (6, 2): (2011, 12), (6, 3): (2012, 6), (6, 4): (2013, 2), (6, 5): (2013, 11),
    (6, 6): (2014, 10), (7, 0): (2014, 6), (7, 1): (2015, 3), (7, 2): (2015, 11), (7, 3): (2016, 11), (7, 4): (2017, 8),
    (7, 5): (2018, 4), (7, 6): (2018, 10), (8, 0): (2019, 5), (8, 1): (2019, 11), (8, 2): (2020, 4), (8, 3): (2020, 11),
    (8, 4): (2021, 5), (8, 5): (2021, 11), (8, 6): (2022, 5), (9, 0): (2022, 5), (9, 2): (2023, 5), (9, 4): (2024, 4),
    (9, 6): (2025, 5), (9, 8): (2026, 5), (10, 0): (2025, 5), (10, 2): (2026, 5),
}  # fmt: skip

#: The first letters of Ubuntu's series run through the alphabet, one each half year, from trusty (2014-04) on.
_UBUNTU = (
    *("trusty", "utopic", "vivid", "wily", "xenial", "yakkety", "zesty", "artful", "bionic", "cosmic", "disco", "eoan"),
    *("focal", "groovy", "hirsute", "impish", "jammy", "kinetic", "lunar", "mantic", "noble", "oracular", "plucky", "questing"),
)


@empty_is_an_answer("the name tells no release")
@takes_any_line("a machine may have any name")
def parse_release(text: str) -> Month | None:
    """Return year and month of the release that brought the machine type in, None for a name without a known one.

    Raises :class:`ParseError` for what is no name of a machine.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,63}", text, re.ASCII):
        raise ParseError(f"not a machine type: {text[:60]!r}")
    if match := re.search(r"rhel(\d{1,2})\.(\d{1,2})(?:\.\d{1,2})?$", text, re.ASCII):
        return _RHEL.get((int(match[1]), int(match[2])))
    for number, series in enumerate(_UBUNTU):
        if series in text.split("-"):
            return 2014 + number // 2, 4 if number % 2 == 0 else 10
    match = re.search(r"-(\d{1,2})\.(\d{1,2})$", text, re.ASCII)
    return _qemu(int(match[1]), int(match[2])) if match else None


def _qemu(major: int, minor: int) -> Month | None:
    if major < 2:
        return 2013, 12  # or before
    if major == 2:
        return 2014 + minor // 3, (4, 8, 12)[minor % 3]
    if major == 3:
        return 2018, 8 if minor == 0 else 12
    return (major + 2015, (4, 8, 12)[minor]) if minor < 3 else None
