r"""Running and installed kernels: ``uname -r``, ``uname -v`` and the names of images.

Source: uname(1); the images are /boot/vmlinuz-RELEASE, vmlinux-, Image- or image-, or /lib/modules/RELEASE/vmlinuz.

>>> parse_running("6.1.0-56-amd64\n#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)\n").release.flavour
'-amd'
>>> images = parse_images("/boot/vmlinuz-5.14.0-362.el9.x86_64\n/boot/vmlinuz-5.14.0-362.8.1.el9_3.x86_64\n"
...                       "/boot/vmlinuz-0-rescue-5f3a\n/boot/vmlinuz-5.14.0-362.8.1.el9_3.x86_64+rt\n")
>>> [(image.name, image.flavour) for image in images]
[('5.14.0-362.el9.x86_64', 'el.x_'), ('5.14.0-362.8.1.el9_3.x86_64', 'el.x_'), ('5.14.0-362.8.1.el9_3.x86_64+rt', 'el.x_+rt')]
>>> images[0] < images[1]
True
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_RELEASE = re.compile(r"(?P<number>\d+(?:[.-]\d+)+)(?P<rest>[-.+~_A-Za-z][\w.+~-]*|)", re.ASCII)
_IMAGE = re.compile(r"/boot/(?:vmlinu[xz]|[Ii]mage)-(?P<boot>\S+)|/lib/modules/(?P<module>[^/\s]+)/vmlinuz")

#: What a newer build of the same flavour may change: the release of the distribution, the mark of a backport.
_BUILD = re.compile(r"\+?(?:bpo|deb)[\d.]*|(?<=el)\d+(?:_\d+)?|(?<=fc)\d+|(?<=rt)[\d.]+|\d+")


@dataclass(frozen=True, order=True)
class Release:
    """The release of a kernel. Those of one flavour can be compared."""

    numbers: tuple[int, ...]
    later: tuple[int, ...]
    name: str = field(compare=False)
    flavour: str = field(compare=False)


@dataclass(frozen=True)
class Running:
    """The running kernel: its release, and the text of its build."""

    release: Release
    build: str


def release_of(name: str) -> Release | None:
    """Return the release called *name*, None for what is none, such as a rescue image."""
    match = _RELEASE.fullmatch(name)
    if not match or len(name) > 200 or name.startswith("0-"):
        return None
    rest = match["rest"].removeprefix(".")
    return Release(
        tuple(map(int, re.findall(r"\d{1,9}", match["number"]))),
        tuple(map(int, re.findall(r"\d{1,9}", rest))),
        name,
        _BUILD.sub("", rest),
    )


def parse_running(text: str) -> Running:
    """Return the running kernel. Raises :class:`ParseError`."""
    lines = text.splitlines()
    release = release_of(lines[0].strip()) if len(lines) == 2 else None
    if not release or not lines[1].startswith("#"):
        raise ParseError(f"not the answer of uname: {text.strip()[:60]!r}")
    return Running(release, lines[1])


@empty_is_an_answer("no image is to be seen")
def parse_images(text: str) -> tuple[Release, ...]:
    """Return the installed kernels, each once. Raises :class:`ParseError`."""
    found: dict[str, Release] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _IMAGE.fullmatch(line)
        if not match:
            raise ParseError(f"not a kernel image: {line[:60]!r}")
        name = match["boot"] or match["module"]
        if release := release_of(name):
            found[name] = release
    return tuple(found.values())
