"""Size and allocation of disk images: ``stat -L -c '%b %B %s %F|%n' FILE...``.

Source: stat(1).

>>> parse_image_stat("8192 512 4194304 regular file|/images/a b.raw\\n")["/images/a b.raw"].sparse
False
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class ImageStat:
    """What a disk image takes: allocated and apparent size in bytes, and whether it is a block device."""

    allocated_bytes: int
    size_bytes: int
    block_device: bool

    @property
    def sparse(self) -> bool:
        """Whether a file has holes."""
        return not self.block_device and self.allocated_bytes < self.size_bytes


@empty_is_an_answer("there is no image")
def parse_image_stat(text: str) -> dict[str, ImageStat]:
    """Return the images by path. Raises :class:`ParseError`."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+) (\d+) (\d+) ([a-z ]+)\|(/.*)", line)
        if not match:
            raise ParseError(f"not a line of stat: {line[:80]!r}")
        found[match[5]] = ImageStat(int(match[1]) * int(match[2]), int(match[3]), match[4] == "block special file")
    return found
