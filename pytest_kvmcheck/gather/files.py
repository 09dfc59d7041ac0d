"""Files that strangers made: only plain ones are opened, and no folder is too deep or leads elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def open_plain(path: Path | str) -> IO[bytes]:
    """Open the plain file at *path*. Whatever else stands there (a FIFO, a device) is OSError, and is never waited for."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a fleet has ten thousands of files, and Path is slow
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a plain file any more", str(path))
    return file


def walk(directory: Path, most: int) -> Iterator[tuple[str, os.DirEntry[str] | OSError]]:
    """Yield what is below *directory*, by its path from there; links are not followed.

    A folder that cannot be read (too deep, not permitted) comes with the error. Raises OSError beyond *most* entries.
    """
    waiting, count = [""], 0
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(f"{directory}/{place}") as entries:
                for entry in entries:
                    count += 1
                    if count > most:
                        raise OSError(errno.EFBIG, f"more than {most} files", str(directory))
                    name = f"{place}{entry.name}"
                    yield name, entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{name}/")
        except OSError as exc:
            if exc.errno == errno.EFBIG:
                raise
            yield place.rstrip("/"), exc
