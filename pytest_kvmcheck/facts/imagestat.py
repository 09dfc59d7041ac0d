r"""Size, allocation and place of disk images: ``stat -L -c '%b %B %s %t:%T %F|%m|%n' FILE...``, and what they begin with.

Source: stat(1). Device numbers are hexadecimal there, and 0:0 for what is no device. ``%m`` is the mount point of the file
itself, whatever links lead to it; busybox does not know it.

>>> image = parse_image_stat("8192 512 4194304 0:0 regular file|/srv|/images/a b.raw\n")["/images/a b.raw"]
>>> image.sparse, image.mount, image.device
(False, '/srv', None)
>>> parse_image_stat("0 512 0 fd:3 block special file|/dev|/dev/mapper/vm-db\n")["/dev/mapper/vm-db"].device
(253, 3)
>>> parse_magic("514649fb|/images/a|b.qcow2\ndenied|/dev/sdb\n")
{'/images/a|b.qcow2': '514649fb', '/dev/sdb': 'denied'}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

#: What a qcow2 image begins with.
QCOW2 = "514649fb"


@dataclass(frozen=True)
class ImageStat:
    """What a disk image takes: allocated and apparent size in bytes; whether it is a block device, and which.

    ``mount`` is the mount point of the file system that holds it, empty when stat cannot tell.
    """

    allocated_bytes: int
    size_bytes: int
    block_device: bool
    device: tuple[int, int] | None = None
    mount: str = ""

    @property
    def sparse(self) -> bool:
        """Whether a file has holes."""
        return not self.block_device and self.allocated_bytes < self.size_bytes


@empty_is_an_answer("there is no image")
def parse_image_stat(text: str) -> dict[str, ImageStat]:
    """Return the images by path. Raises :class:`ParseError`."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+) (\d+) (\d+) ([0-9a-f]{1,8}):([0-9a-f]{1,8}) ([a-z ]+)\|([^|]*)\|(/.*)", line)
        if not match:
            raise ParseError(f"not a line of stat: {line[:80]!r}")
        block = match[6] == "block special file"
        found[match[8]] = ImageStat(
            int(match[1]) * int(match[2]),
            int(match[3]),
            block,
            (int(match[4], 16), int(match[5], 16)) if block else None,
            match[7] if match[7].startswith("/") else "",
        )
    return found


@empty_is_an_answer("there is no image")
def parse_magic(text: str) -> dict[str, str]:
    """Return the first four bytes of each image in hexadecimal, or a word that says why there are none, by path.

    The words: ``denied``, ``absent``, ``other`` (neither file nor block device), ``skipped`` (too many), ``--------`` (could not
    be read). Raises :class:`ParseError`.
    """
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-f]{8}|denied|absent|other|skipped|-{8})\|(/.*)", line)
        if not match:
            raise ParseError(f"not the beginning of an image: {line[:80]!r}")
        found[match[2]] = match[1]
    return found
