"""The emulator: the machine's own QEMU, or that of Debian's backports where its own one loses processors."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import image
from tests.lab.files import made

#: QEMU 7.2, that of Debian 12, loses virtual processors or hurts their memory in most minutes in which a guest boots inside.
SOUND = (10, 0)

#: What is taken from the backports; the libraries are those of the machine's own QEMU.
_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")


@dataclass(frozen=True)
class Emulator:
    """The words with which QEMU is called, the version that it tells, and why it is not the one that should be."""

    words: tuple[str, ...]
    version: str
    note: str = ""


@functools.cache
def chosen() -> Emulator:
    """Return the emulator of this run. It is fetched when need be; nothing is installed on the machine."""
    own = _emulator("qemu-system-x86_64")
    if tuple(map(int, re.findall(r"\d+", own.version)[:2])) >= SOUND:
        return own
    try:
        place = made(image.cache() / image.EMULATOR / "qemu", _fetch)
        share = place / "usr/share"
        return _emulator(str(place / "usr/bin/qemu-system-x86_64"), "-L", str(share / "qemu"), "-L", str(share / "seabios"))
    except (RuntimeError, OSError) as exc:
        return replace(own, note=f"it loses processors, and a newer one could not be had: {exc}")


def _emulator(*words: str) -> Emulator:
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"QEMU does not run: {done.stderr.strip()[-500:]}")
    return Emulator(words, done.stdout.splitlines()[0])


def _fetch(place: Path) -> None:
    """Fetch QEMU of the backports into *place*, with apt's files kept there. Raises RuntimeError when that fails."""
    suite = "bookworm-backports"
    (place / "sources.list").write_text(f"deb [signed-by={image.KEYRING}] {image.mirror('bookworm')} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": place / "none",
        "Dir::State::lists": place / "lists",
        "Dir::Cache": place / "cache",
        "APT::Sandbox::User": "root",
        "APT::Default-Release": suite,
        "APT::Update::Error-Mode": "any",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]
    for folder in ("none", "lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True)
    for words in (
        [*apt, "update"],
        [*apt, "download", *_PACKAGES],
        ["sh", "-c", 'for package in *.deb; do dpkg-deb -x "$package" . && rm "$package" || exit; done'],
    ):
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600, env={**os.environ, "LC_ALL": "C"})
        if done.returncode:
            asked = " ".join(word for word in words if not word.startswith("-"))
            raise RuntimeError(f"{asked}: {(done.stderr or done.stdout).strip()[-500:]}")
    for folder in ("lists", "cache"):
        shutil.rmtree(place / folder)
