"""Archives that strangers packed: read once from begin to end, within bounds, and how damage to them shows."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from pytest_kvmcheck.gather import budget
from pytest_kvmcheck.gather.files import open_plain

#: What reading an archive raises when it is damaged, by its compression, or cannot be read at all.
DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)

_CHUNK = 1 << 20


class TooLarge(tarfile.TarError):
    """An archive holds more than what it is taken for can hold."""


def members(path: Path, most_bytes: int = budget.STREAM_BYTES) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yield the members of the tar archive at *path* in turn, and of a plain file its content, to be read before the next.

    Raises one of :data:`DAMAGED`; :class:`TooLarge` for what would unpack to more than *most_bytes*, or to too many files. Whatever
    is passed over is unpacked as well, piece by piece: its checksum stands behind it.
    """
    with open_plain(path) as file:
        stream = _Forward(_unpacked(file), most_bytes)
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as archive:
            count = 0
            while (member := archive.next()) is not None:
                count += 1
                if count > budget.MEMBERS:
                    raise TooLarge(f"it holds more than {budget.MEMBERS} files")
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile remembers all of them
                stream.header = None
                yield member, archive.extractfile(member) if member.isreg() and not member.issparse() else None
                stream.header = budget.HEADER_BYTES
            stream.header = None
        # Compression keeps its checksum behind the last member, and tarfile stops before. Source: RFC 1952, 2.3.1; .xz, 3.4.
        while stream.read(_CHUNK):
            pass


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if head.startswith(b"BZh"):
        return cast(IO[bytes], bz2.BZ2File(file))
    if head == b"\xfd7zXZ\x00":
        return cast(IO[bytes], io.BufferedReader(_Xz(file), _CHUNK))
    return file


class _Xz(io.RawIOBase):
    """Unpacks xz. ``lzma.LZMAFile`` has no bound on the memory that an archive asks for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=budget.XZ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # all that we hand it
        data = b""
        while not data:
            if self._unpacker.eof:  # another stream may follow, after zeros. Source: the .xz file format, 2.2
                rest = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(_CHUNK).lstrip(b"\0")
                if not rest:
                    if self._file.read(1):
                        raise lzma.LZMAError("too much padding")
                    return 0
                self._unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=budget.XZ_BYTES)
                data = self._unpacker.decompress(rest, len(buffer))
                continue
            more = self._file.read(_CHUNK // 8) if self._unpacker.needs_input else b""
            if self._unpacker.needs_input and not more:
                raise EOFError("the compressed archive ends in its middle")
            data = self._unpacker.decompress(more, len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Forward:
    """A stream as tarfile wants it, which goes forward only. ``header`` tells how much may be read of a header, None of content."""

    def __init__(self, stream: IO[bytes], most_bytes: int) -> None:
        self._stream = stream
        self._most = most_bytes
        self._at = 0
        self.header: int | None = budget.HEADER_BYTES

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        if self.header is not None:
            self.header -= size
            if self.header < 0:
                raise TooLarge(f"a member has a header of more than {budget.HEADER_BYTES >> 10} KiB")
        return self._next(size)

    def seek(self, place: int) -> None:
        """Go forward to *place*, as when a member is passed over."""
        if place < self._at:
            raise tarfile.ReadError("a member leads backwards")
        while self._at < place and self._next(min(_CHUNK, place - self._at)):
            pass

    def _next(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._most - self._at + 1))
        self._at += len(data)
        if self._at > self._most:
            raise TooLarge(f"it unpacks to more than {self._most >> 20} MiB")
        return data
