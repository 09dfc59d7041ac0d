"""Archives that others packed: how damage to them shows."""

from __future__ import annotations

import lzma
import tarfile
import zlib

#: What reading an archive raises when it is damaged, by its compression, or cannot be read at all.
DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


def check_end(archive: tarfile.TarFile) -> None:
    """Read what follows the last member: compression keeps its checksum there, and tarfile stops before it.

    Raises one of :data:`DAMAGED` when the checksum is wrong. Source: RFC 1952 (gzip), 2.3.1; the .xz file format, 3.4.
    """
    while archive.fileobj and archive.fileobj.read(1 << 20):
        pass
