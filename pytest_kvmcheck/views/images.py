"""Facts about disk images, the file systems that hold them, and their space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.df import Space, parse_places, parse_space
from pytest_kvmcheck.facts.imagestat import QCOW2, ImageStat, parse_image_stat, parse_magic
from pytest_kvmcheck.facts.mounts import Mount, mount_of
from pytest_kvmcheck.facts.qcow2 import Internal, Qcow2Header, parse_headers, parse_snapshot_table
from pytest_kvmcheck.views.domains import answered
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.system import mounts

#: Types of file systems that lie on a server or in user space.
REMOTE_TYPES = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "lustre")


def is_remote(kind: str) -> bool:
    """Whether a file system of this type lies on a server, or is served by a process (FUSE)."""
    return kind in REMOTE_TYPES or kind.startswith("fuse.")


@fact
def image_stats(host: Host) -> dict[str, ImageStat]:
    """Size, allocation and place of the disk images by path; those that could not be seen are left out."""
    answered(host, "images")
    found: dict[str, ImageStat] = {}
    for key in host.evidence.keyed("images"):
        if key.endswith("/stat"):
            found |= host.evidence.parsed(f"images{KEY_SEPARATOR}{key}", parse_image_stat)
    return found


def image(host: Host, path: str) -> ImageStat:
    """Return what is known of the image at *path*. Raises :class:`EvidenceMissing`."""
    found = image_stats(host).get(path)
    if found is None:
        raise _unseen(host, path, "could not be looked at")
    return found


def _unseen(host: Host, path: str, what: str) -> EvidenceMissing:
    hung = "remote/hung" in host.evidence.keyed("images")
    why = f"{path or 'the image'} {what}"
    return EvidenceMissing(Cause.TIMEOUT if hung else Cause.MISSING, f"{why}{', a file server hangs' if hung else ''}", "images")


@dataclass(frozen=True)
class Heads:
    """What the images and the layers below them begin with: four bytes, qcow2 headers, and snapshots within, by path."""

    magic: Mapping[str, str]
    headers: Mapping[str, Qcow2Header]
    internal: Mapping[str, tuple[Internal, ...] | EvidenceMissing]


@fact
def image_heads(host: Host) -> Heads:
    """The beginnings of all images that could be read."""
    answered(host, "images")
    magic: dict[str, str] = {}
    headers: dict[str, Qcow2Header] = {}
    internal: dict[str, tuple[Internal, ...] | EvidenceMissing] = {}
    keys = host.evidence.keyed("images")
    for key in keys:
        where, _, level = key.partition("/magic/")
        if not level:
            continue
        place = f"images{KEY_SEPARATOR}{where}"
        known = host.evidence.parsed(f"{place}/magic/{level}", parse_magic)
        magic |= known
        qcow2 = [path for path, first in known.items() if first == QCOW2]
        if not qcow2 or f"{where}/header/{level}" not in keys:
            continue
        found = host.evidence.parsed(f"{place}/header/{level}", parse_headers)
        if len(found) != len(qcow2):
            raise EvidenceMissing(Cause.UNPARSABLE, f"{len(found)} headers of {len(qcow2)} qcow2 images", f"{place}/header/{level}")
        for number, (path, header) in enumerate(zip(qcow2, found, strict=True), 1):
            headers[path] = header
            if header.snapshots and f"{where}/snapshots/{level}/{number}" in keys:
                table = f"{place}/snapshots/{level}/{number}"
                # One table that is longer than what is read, or damaged by its guest, keeps nothing from the other images.
                try:
                    internal[path] = parsing(
                        table, partial(parse_snapshot_table, count=header.snapshots), host.evidence.text(table)
                    )
                except EvidenceMissing as missing:
                    internal[path] = missing
    return Heads(magic, headers, internal)


def demand_images_seen(host: Host) -> None:
    """Raise :class:`EvidenceMissing` when there is an image that could not be looked at: on which file system is then unknown."""
    seen = image_stats(host)
    for where in ("local", "remote"):
        key = f"{where}/magic/1"
        if key not in host.evidence.keyed("images"):
            continue
        for path, first in host.evidence.parsed(f"images{KEY_SEPARATOR}{key}", parse_magic).items():
            if path not in seen and first != "absent":
                raise EvidenceMissing(Cause.NOT_PERMITTED, f"{path} may not be looked at by this account", "images")


def magic_of(host: Host, path: str) -> str:
    """Return the first four bytes of the image at *path* in hexadecimal. Raises :class:`EvidenceMissing`."""
    first = image_heads(host).magic.get(path)
    if first == "denied":
        raise EvidenceMissing(Cause.NOT_PERMITTED, f"{path} may not be read by this account", "images")
    if first == "absent":
        raise EvidenceMissing(Cause.MISSING, f"{path} does not exist", "images")
    if first is None or not first.isalnum() or len(first) != 8:
        raise _unseen(host, path, "could not be read")
    return first


def header_of(host: Host, path: str) -> Qcow2Header:
    """Return the header of the qcow2 image at *path*. Raises :class:`EvidenceMissing`."""
    found = image_heads(host).headers.get(path)
    if found is None:
        raise _unseen(host, path, "has a header that could not be read")
    return found


def chain_below(host: Host, path: str, enough: int) -> list[str]:
    """Return the layers below the image at *path*, nearest first, as the headers of the images tell.

    Raises :class:`EvidenceMissing` when a layer cannot be read, unless more than *enough* are known by then (the probe does not
    follow a chain for ever); a raw image is the last layer.
    """
    chain: list[str] = []
    while len(chain) < 1000:
        try:
            if magic_of(host, path) != QCOW2:
                return chain
            below = header_of(host, path).backing
        except EvidenceMissing:
            if len(chain) > enough:
                return chain
            raise
        if not below:
            return chain
        path = below if below.startswith("/") else f"{path.rpartition('/')[0]}/{below}"
        chain.append(path)
    return chain


def mount_at(host: Host, target: str) -> Mount | None:
    """Return what is mounted at *target*: the last one hides the others."""
    return next((item for item in reversed(mounts(host)) if item.target == target), None)


def mount_holding(host: Host, path: str) -> Mount:
    """Return the file system that holds the image at *path*: by stat, which follows links. Raises :class:`EvidenceMissing`."""
    target = image(host, path).mount
    found = mount_at(host, target) if target else mount_of(path, mounts(host))
    if found is None:
        raise EvidenceMissing(Cause.MISSING, f"the file system of {path} is not in /proc/mounts", "mounts")
    return found


def _space(host: Host, target: str, what: str) -> Space:
    own = f"{what}{target}"
    if own in host.evidence.keyed("df"):
        listed = host.evidence.parsed(f"df{KEY_SEPARATOR}{own}", _one_space)
        return next(iter(listed.values()))
    known = _local_space(host) if what == "blocks" else _local_inodes(host)
    if target in known:
        return known[target]
    mount = mount_at(host, target)
    # df lists a device that is mounted twice only once
    same = [space for space in known.values() if mount and space.source == mount.source and mount.source.startswith("/")]
    if not same:
        raise EvidenceMissing(Cause.MISSING, f"df tells nothing of {target}", "df")
    return same[0]


def _one_space(text: str) -> dict[str, Space]:
    if not text.strip():
        raise ParseError("df did not answer in time")
    return parse_space(text)


@fact
def _local_space(host: Host) -> dict[str, Space]:
    return host.evidence.parsed(f"df{KEY_SEPARATOR}blocks", parse_space)


@fact
def _local_inodes(host: Host) -> dict[str, Space]:
    return host.evidence.parsed(f"df{KEY_SEPARATOR}inodes", parse_space)


def space_at(host: Host, target: str) -> Space:
    """Return the bytes of the file system mounted at *target*. Raises :class:`EvidenceMissing`."""
    return _space(host, target, "blocks")


def inodes_at(host: Host, target: str) -> Space:
    """Return the inodes of the file system mounted at *target*; ``total`` is 0 where their number is not fixed."""
    return _space(host, target, "inodes")


@fact
def _places(host: Host) -> dict[str, str | None]:
    return host.evidence.parsed(f"df{KEY_SEPARATOR}places", parse_places)


def mount_of_directory(host: Host, path: str) -> str:
    """Return the mount point of the file system that holds the directory *path*, or would when it is made.

    The probe ``df`` asks stat about some directories; for others, and those that this account may not see, /proc/mounts tells.
    """
    if target := _places(host).get(path):
        return target
    found = mount_of(path, mounts(host))
    if found is None:
        raise EvidenceMissing(Cause.MISSING, f"nothing in /proc/mounts holds {path}", "mounts")
    return found.target


def space_of_directory(host: Host, path: str) -> Space:
    """Return the bytes of the file system that holds the directory *path*, or would when it is made."""
    return space_at(host, mount_of_directory(host, path))
