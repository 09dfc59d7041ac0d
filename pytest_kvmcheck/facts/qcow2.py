"""Headers and snapshot tables of qcow2 images, in hexadecimal as od prints them.

Source: QEMU docs/interop/qcow2.rst. All numbers are big endian. The first KiB of each image is read.

>>> header = parse_header("514649fb00000003" + "0000000000000070" + "00000009" + "00000010" + "0000000004000000" + "0" * 56
...                       + "00000001" + "0000000000040000" + "0000000000000002" + "0" * 64 + "/base.img".encode().hex())
>>> header.version, header.virtual_bytes, header.backing, header.corrupt, header.snapshots
(3, 67108864, '/base.img', True, 1)
>>> parse_headers("514649fb00000002" + "0" * 48 + "00" * 992)[0].version
2
>>> table = ("0000000000040000 00000001 0001 0002 6b065f2b 07653040 0000000000000000 00000000 00000018 0000000000000000 "
...          "0000000000100000 ffffffffffffffff 31 7331")
>>> parse_snapshot_table(table, 1)
(Internal(name='s1', created_s=1795579691),)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

HEADER_BYTES = 1024


@dataclass(frozen=True)
class Qcow2Header:
    """What the header tells. ``backing`` is empty without a backing file, and ``?`` when its name stands elsewhere."""

    version: int
    virtual_bytes: int
    backing: str
    snapshots: int
    dirty: bool
    corrupt: bool


@dataclass(frozen=True)
class Internal:
    """A snapshot within an image; ``created_s`` in seconds since 1970."""

    name: str
    created_s: int


def _bytes(text: str) -> bytes:
    digits = re.sub(r"\s+", "", text)
    if len(digits) % 2 or not re.fullmatch(r"[0-9a-f]+", digits):
        raise ParseError(f"not hexadecimal: {text.strip()[:60]!r}")
    return bytes.fromhex(digits)


def parse_header(text: str) -> Qcow2Header:
    """Return the header of one image. Raises :class:`ParseError`."""
    data = _bytes(text)
    if len(data) < 72 or data[:4] != b"QFI\xfb":
        raise ParseError(f"not the header of a qcow2 image: {text.strip()[:60]!r}")

    def number(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "big")

    version, place, length = number(4, 4), number(8, 8), number(16, 4)
    name = ""
    if place:
        whole = 0 < length <= 1023 and place + length <= len(data)
        name = data[place : place + length].decode("utf-8", "replace") if whole else "?"
    features = number(72, 8) if version >= 3 and len(data) >= 80 else 0
    return Qcow2Header(version, number(24, 8), name, number(60, 4), bool(features & 1), bool(features & 2))


def parse_headers(text: str) -> tuple[Qcow2Header, ...]:
    """Return the headers of several images, a KiB each. Raises :class:`ParseError` when one is cut."""
    digits = re.sub(r"\s+", "", text)
    step = 2 * HEADER_BYTES
    if not digits or len(digits) % step:
        raise ParseError(f"not whole headers of qcow2 images: {len(digits)} digits")
    return tuple(parse_header(digits[place : place + step]) for place in range(0, len(digits), step))


def parse_snapshot_table(text: str, count: int) -> tuple[Internal, ...]:
    """Return the *count* snapshots in a snapshot table. Raises :class:`ParseError` when there are fewer."""
    data = _bytes(text)
    found: list[Internal] = []
    place = 0
    while len(found) < count:
        if place + 40 > len(data):
            raise ParseError(f"the snapshot table ends after {len(found)} of {count} snapshots")
        ident, name, extra = (
            int.from_bytes(data[place + start : place + start + size], "big") for start, size in ((12, 2), (14, 2), (36, 4))
        )
        start = place + 40 + extra + ident
        if start + name > len(data):
            raise ParseError(f"the snapshot table ends after {len(found)} of {count} snapshots")
        created = int.from_bytes(data[place + 16 : place + 20], "big")
        found.append(Internal(data[start : start + name].decode("utf-8", "replace"), created))
        place = (start + name + 7) & ~7
    return tuple(found)
