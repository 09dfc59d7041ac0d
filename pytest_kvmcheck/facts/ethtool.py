r"""What a network card can do: ``ethtool DEVICE``; and numbers in files of /sys and /proc.

Source: ethtool(8). Modes read ``10000baseT/Full``; the list goes on in lines without a name.

>>> text = "Settings for eno1:\n\tSupported ports: [ FIBRE ]\n\tSupported link modes:   1000baseT/Full\n" \
...        "\t                        10000baseT/Full\n\tSupported pause frame use: Symmetric\n\tSpeed: 1000Mb/s\n"
>>> parse_fastest(text), parse_fastest("Settings for x:\n\tSupported link modes:   Not reported\n")
(10000, 0)
>>> parse_count("-1\n")
-1
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError


def parse_fastest(text: str) -> int:
    """Return the fastest supported mode in Mbit/s, 0 when the driver reports none. Raises :class:`ParseError`."""
    if not text.startswith("Settings for "):
        raise ParseError(f"not the settings of a network card: {text[:60]!r}")
    match = re.search(r"Supported link modes:((?:[ \t]+\S+)*(?:\r?\n[ \t]+[\w/]+(?: [\w/]+)*[ \t]*(?=\r?\n|$))*)", text)
    if not match or not match[1].strip():
        raise ParseError(f"ethtool tells no supported link modes: {text[:60]!r}")
    speeds = [int(speed) for speed in re.findall(r"\b(\d{2,7})base", match[1], re.ASCII)]
    if not speeds and "Not reported" not in match[1]:
        raise ParseError(f"not link modes: {match[1].strip()[:60]!r}")
    return max(speeds, default=0)


def parse_count(text: str) -> int:
    """Return the whole number that a file holds. Raises :class:`ParseError`."""
    if not re.fullmatch(r"-?\d{1,20}", text.strip(), re.ASCII):
        raise ParseError(f"not a number: {text.strip()[:40]!r}")
    return int(text.strip())
