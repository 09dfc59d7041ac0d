"""Files that a run will need, looked at before any connection: a mistake is told now, not after an hour of gathering."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.settings import Settings


def demand_writable(settings: Settings) -> None:
    """Demand that what the run is to write can be written, and overwrites nothing that it reads. Raises :class:`KvmcheckError`."""
    for option, path in (("--kvmcheck-json", settings.json), ("--kvmcheck-record", settings.record)):
        if path is not None:
            _demand_place(option, path)
    if (path := settings.json) and path.exists() and not path.is_file():
        raise KvmcheckError(f"--kvmcheck-json: {path} is {'a directory' if path.is_dir() else 'no plain file'}")
    if settings.record and settings.record.exists() and (settings.record.is_file() or any(settings.record.iterdir())):
        raise KvmcheckError(f"--kvmcheck-record: {settings.record} exists and is not empty: evidence is never overwritten")
    if settings.json and settings.record and settings.json.resolve().is_relative_to(settings.record.resolve()):
        raise KvmcheckError(f"--kvmcheck-json: {settings.json} is within the evidence ({settings.record}), which is sealed")
    read = [path for path in (settings.inventory, settings.waivers, Path(settings.profile).expanduser()) if path]
    if settings.json and any(path.exists() and settings.json.exists() and path.samefile(settings.json) for path in read):
        raise KvmcheckError(f"--kvmcheck-json: {settings.json} is read by this run: it would be overwritten")


def _demand_place(option: str, path: Path) -> None:
    place = path.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=place), contextlib.suppress(FileNotFoundError):
            path.stat()  # is told here: a name that is too long, a folder that cannot be entered
    except OSError as exc:
        why = "no permission" if isinstance(exc, PermissionError) else exc.strerror
        raise KvmcheckError(f"{option}: {path} cannot be written: {why} in {place}") from None


def demand_keys(connection: Connection) -> None:
    """Demand that the files exist that ssh is to read: it would go on without a key, and fail without a configuration."""
    for option, given, path in (
        ("--ssh-config", connection.ssh_config, Path(connection.ssh_config or "")),  # ssh(1): -F knows no ~, and "none" is no file
        ("--ssh-identity-file", connection.ssh_identity_file, Path(connection.ssh_identity_file or "").expanduser()),
    ):
        if not given or (option, given) == ("--ssh-config", "none"):
            continue
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with path.open("rb"):
                pass
        except OSError as exc:
            raise KvmcheckError(f"{option}: {given}: {exc.strerror}") from None
