r"""Secrets in what images begin with: headers of qcow2 in hexadecimal, whose backing file may be a URL with a password.

Of a header, the fields that a parser of ours reads and the name of the backing file are kept; the rest, extensions with names of
data files among it, becomes zeros. Source: QEMU docs/interop/qcow2.rst.
"""

from __future__ import annotations

import re

from pytest_kvmcheck.facts.qcow2 import HEADER_BYTES
from pytest_kvmcheck.gather.redact.pseudonym import Hide
from pytest_kvmcheck.gather.redact.text import redact_words

#: Fields of version 3 end here; a name that was changed is put behind them.
_FIELDS = 112
_OLD_FIELDS = 72
_ENTRY = 40


def redact_headers(text: str, hide: Hide) -> str:
    """Return headers of qcow2 images, a KiB each; what is no such text is taken out."""
    digits = re.sub(r"\s+", "", text)
    if not digits:
        return text
    step = 2 * HEADER_BYTES
    if len(digits) % 2 or not re.fullmatch(r"[0-9a-f]+", digits):
        stripped = text.strip()
        return text.replace(stripped, hide(stripped), 1)
    headers = [digits[place : place + step] for place in range(0, len(digits), step)]
    return "\n".join(_header(bytes.fromhex(header), hide).hex() for header in headers) + "\n"


def _header(data: bytes, hide: Hide) -> bytes:
    if len(data) < _OLD_FIELDS or data[:4] != b"QFI\xfb":
        return bytes(len(data))
    version, place, length = (int.from_bytes(data[start : start + size], "big") for start, size in ((4, 4), (8, 8), (16, 4)))
    fields = min(_FIELDS if version >= 3 else _OLD_FIELDS, len(data), place if place >= _OLD_FIELDS else len(data))
    kept = bytearray(data[:fields]) + bytes(len(data) - fields)
    if not place or not 0 < length <= 1023 or place + length > len(data):
        return bytes(kept)
    name = data[place : place + length].decode("utf-8", "surrogateescape")
    told = _name(name, hide)
    if told == name:
        kept[place : place + length] = data[place : place + length]
        return bytes(kept)
    shown = told.encode("utf-8", "surrogateescape")
    if _FIELDS + len(shown) > len(data):
        shown = hide(name).encode()
    kept[8:16], kept[16:20] = _FIELDS.to_bytes(8, "big"), len(shown).to_bytes(4, "big")
    kept[_FIELDS : _FIELDS + len(shown)] = shown
    return bytes(kept[: len(data)])


def _name(name: str, hide: Hide) -> str:
    """Return the name of a backing file: a path is kept, what is passed to a driver of QEMU only as far as it is no secret."""
    if name.startswith("json:"):
        return f"json:{hide(name[5:])}"
    if re.match(r"[A-Za-z][\w+.-]*:", name):
        scheme, _, rest = name.partition(":")
        told = redact_words(name, hide)
        if "?" in rest or "=" in rest or told != name:
            return f"{scheme}:{hide(rest)}"
    return redact_words(name, hide)


def redact_snapshots(text: str, hide: Hide) -> str:
    """Return a table of snapshots within an image: times and names. What follows the last one belongs to the guest."""
    digits = re.sub(r"\s+", "", text)
    if not digits:
        return text
    if len(digits) % 2 or not re.fullmatch(r"[0-9a-f]+", digits):
        stripped = text.strip()
        return text.replace(stripped, hide(stripped), 1)
    data, place, rebuilt = bytes.fromhex(digits), 0, bytearray()
    while place + _ENTRY <= len(data) and any(data[place : place + _ENTRY]):
        ident, length, extra = (
            int.from_bytes(data[place + start : place + start + size], "big") for start, size in ((12, 2), (14, 2), (36, 4))
        )
        start = place + _ENTRY + extra + ident
        if start + length > len(data):
            break
        name = redact_words(data[start : start + length].decode("utf-8", "surrogateescape"), hide).encode(
            "utf-8", "surrogateescape"
        )
        entry = bytearray(data[place : place + 36]) + bytes(4) + name
        entry[12:14], entry[14:16] = bytes(2), len(name).to_bytes(2, "big")
        rebuilt += entry + bytes(-len(entry) % 8)
        place = (start + length + 7) & ~7
    return f"{rebuilt.hex()}\n"
