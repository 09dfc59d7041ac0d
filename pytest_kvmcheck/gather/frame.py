"""What stands in one frame of a reply: decoding it, and finding its sections by the secret of its frame, within a host's budget."""

from __future__ import annotations

import base64
import codecs
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_kvmcheck.gather import budget

SECRET = rb"[0-9A-Za-z-]{22,64}"
_SECTION_END = re.compile(rb"END (\S+)(?: ([\d.]{0,20}),([\d.]{0,20}) (\d{1,9}))?")
#: Where virsh marks a section (probes/virsh.py): this, the secret, and after it the key.
_VIRSH_MARK = b"qemu:///system?"
_VIRSH_KEY = re.compile(rb"\s*@@ ([^\n]*)\n")


class DamagedError(ValueError):
    """An answer is not what the target wrote; ``again``: asking once more within the same reply is no second answer."""

    def __init__(self, why: str, *, again: bool = False) -> None:
        super().__init__(f"the answer arrived damaged: {why}")
        self.again = again


class BeyondError(Exception):
    """A host tells more than any host has to tell."""


@dataclass
class Room:
    """What is left of a host's budget. Taking more raises :class:`BeyondError`."""

    decoded: int = budget.DECODED_BYTES
    frames: int = budget.FRAMES
    sections: int = budget.SECTIONS

    def take(self, *, decoded: int = 0, frames: int = 0, sections: int = 0) -> None:
        """Take from what is left."""
        self.decoded -= decoded
        self.frames -= frames
        self.sections -= sections
        for left, what in (
            (self.decoded, f"{budget.DECODED_BYTES // budget.MIB} MiB of answers"),
            (self.frames, f"{budget.FRAMES} frames"),
            (self.sections, f"{budget.SECTIONS} sections"),
        ):
            if left < 0:
                raise BeyondError(f"the host tells more than {what}")


@dataclass(frozen=True)
class Whole:
    """What one frame holds: its secret (empty when no shell came to make one) and both streams."""

    secret: bytes
    stdout: bytes
    stderr: bytes
    rc: int
    seconds: float | None


def as_text(data: bytes, room: Room) -> str:
    """Return *data* as text, with what is not UTF-8 as ``\\xNN``.

    What it takes in memory beyond its bytes is taken from *room* before it is put together.
    """
    if data.isascii():
        return data.decode()
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    parts, chars, width = [], 0, 1
    for at in range(0, len(data), budget.MIB):
        part = decoder.decode(data[at : at + budget.MIB], at + budget.MIB >= len(data))
        parts.append(part)
        chars += len(part)
        highest = max(part, default="")
        width = max(width, 4 if highest > "\uffff" else 2 if highest > "\xff" else 1)
        if chars * width - len(data) > room.decoded:
            break
    room.take(decoded=max(0, chars * width - len(data)))
    return "".join(parts)


def marks(data: bytes, mark: bytes, begin: int, end: int, *, own_line: bool) -> Iterator[tuple[int, int, bytes]]:
    """Yield where in *data* a mark and its line begin and end, and what the line says. A line without its end is none.

    With *own_line* it must stand at the beginning of a line; a secret within an answer is a mark wherever it stands, as what was
    printed before may lack the end of its line.
    """
    while (at := data.find(mark, begin, end)) >= 0:
        begin = data.find(b"\n", at, end) + 1
        if not begin:
            return
        if not own_line or at == 0 or data[at - 1] == 10:
            yield at, begin, data[at + len(mark) : begin].rstrip()


def decoded(text: bytes, encoding: bytes) -> bytes:
    """Return what was encoded as *encoding* (base64 or hex). Raises ValueError for anything else."""
    if encoding == b"hex":
        return bytes.fromhex(text.decode("ascii"))
    return base64.b64decode(text.translate(None, b" \r\n"), validate=True)


def unpacked(data: bytes, bound: int) -> bytes:
    """Return what gzip packed, up to *bound* bytes: a bomb costs no more memory. Raises ValueError for a damaged or cut stream.

    >>> import gzip
    >>> unpacked(gzip.compress(b"abc"), 9), unpacked(gzip.compress(b"a" * 10**6), 4)
    (b'abc', b'aaaa')
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, bound)
    except zlib.error as exc:
        raise ValueError(str(exc)) from None
    if len(text) < bound and (not unpacker.eof or unpacker.unused_data):
        raise ValueError("the compressed answer is cut or followed by something else")
    return text


def sections(whole: Whole, stream: bytes, asked: frozenset[str], room: Room) -> Iterator[tuple[str, bytes, re.Match[bytes] | None]]:
    """Yield name, text and end (None: it has none) of the sections of one stream of a batch.

    Raises :class:`DamagedError` for what the script does not write: a section that was not asked for, comes twice, begins within
    another, or ends without a beginning.
    """
    if not whole.secret:
        if whole.stdout:
            raise DamagedError("its beginning is missing")
        return
    seen: set[str] = set()
    name, begin = "", 0
    for at, end, word in marks(stream, b"@=" + whole.secret + b" ", 0, len(stream), own_line=False):
        match = _SECTION_END.fullmatch(word)
        if match and match[1].decode("ascii", "replace") == name:
            room.take(sections=1)
            yield name, stream[begin:at].removesuffix(b"\n"), match
            name = ""
            continue
        new = word.removeprefix(b"BEGIN ").decode("ascii", "replace")
        if match or name or new in seen or new not in asked:
            raise DamagedError(f"section {new} is out of place")
        seen.add(new)
        name, begin = new, end
    if name:
        yield name, stream[begin:], None


def keys(data: bytes, secret: bytes, room: Room) -> Iterator[tuple[str, int, int]]:
    """Yield the keys of the sections, where their marks begin and where what they hold begins."""
    at = -1
    while (at := data.find(secret, at + 1)) >= 0:
        after = at + len(secret)
        if data[at - 2 : at] == b"@@" and data[after : after + 1] == b" ":
            begin, end = at - 2, data.find(b"\n", after) + 1
            key = data[after:end]
        elif data[max(0, at - len(_VIRSH_MARK)) : at] == _VIRSH_MARK and (match := _VIRSH_KEY.match(data, after)):
            begin, end, key = at - len(_VIRSH_MARK), match.end(), match[1]
        else:
            continue
        if not end:
            return
        room.take(sections=1)
        yield as_text(key.strip(), room), begin, end
