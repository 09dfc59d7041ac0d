r"""Queues of a network card: ``ethtool -l DEVICE``.

Source: ethtool(8). First what is possible, then what is in use; "n/a" where the driver has no such queues.

>>> text = "Channel parameters for eth0:\nPre-set maximums:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\nCombined:\t4\n" \
...        "Current hardware settings:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\nCombined:\t1\n"
>>> parse_channels(text)
Channels(possible=4, used=1)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class Channels:
    """Combined queues of a card."""

    possible: int
    used: int


def parse_channels(text: str) -> Channels:
    """Return the queues. Raises :class:`ParseError`, for ethtool's own messages too."""
    found = re.findall(r"^Combined:\s+(\d{1,5})\s*$", text, re.MULTILINE | re.ASCII)
    if not text.startswith("Channel parameters for ") or len(found) != 2 or "Current hardware settings:" not in text:
        raise ParseError(f"not the channels of a network card: {text.strip()[:60]!r}")
    return Channels(int(found[0]), int(found[1]))
