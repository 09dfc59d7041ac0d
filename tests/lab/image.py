"""The image of kvm01: built once per recipe, kept in the user's cache, removed when nobody uses it any more."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.files import digest, made, remove_unused

RECIPE = Path(__file__).parent / "recipe"

#: What must be installed: command and Debian package.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "cpio": "cpio",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "setpriv": "util-linux",
}

#: Suites of Debian 12, and where they are when the machine has no mirror of its own.
_ARCHIVES = {
    "bookworm": "http://deb.debian.org/debian/",
    "bookworm-updates": "http://deb.debian.org/debian/",
    "bookworm-security": "http://deb.debian.org/debian-security/",
}

#: What lies in the cache besides the images (emulator.py).
EMULATOR = "emulator"

#: Debian's own keys.
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_NEEDED_MEMORY_BYTES = 3 * 2**30
_NEEDED_DISK_BYTES = 6 * 2**30


def why_not() -> str | None:
    """Return why this machine cannot run the lab, or None when it can."""
    if platform.machine() != "x86_64":
        return f"the lab emulates x86_64 and builds its image by running it: this machine is {platform.machine()}"
    if os.geteuid() != 0:
        return "the lab builds a root file system: it needs root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if missing := sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)}):
        return f"not installed: apt-get install {' '.join(missing)}"
    if not KEYRING.exists():
        return "not installed: apt-get install debian-archive-keyring"
    available = next(
        int(line.split()[1]) * 1024 for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line
    )
    if available < _NEEDED_MEMORY_BYTES:
        return f"the lab needs {_NEEDED_MEMORY_BYTES // 2**30} GiB of free memory"
    cache().mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(cache()).free < _NEEDED_DISK_BYTES:
        return f"the lab needs {_NEEDED_DISK_BYTES // 2**30} GiB of free disk below {cache()}"
    return None


def cache() -> Path:
    """Return where images and templates are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kvmcheck-lab"


@dataclass(frozen=True)
class Image:
    """The files of a built image."""

    place: Path

    def __getattr__(self, name: str) -> Path:
        files = {
            "disk": "rootfs.qcow2", "lun": "lun.qcow2", "kernel": "vmlinuz", "initrd": "initrd.img", "key": "key",
            "host_key": "host_key.pub",
        }  # fmt: skip
        try:
            return self.place / files[name]
        except KeyError:
            raise AttributeError(name) from None


def image() -> Image:
    """Return the image of the recipe as it is now. Images of former recipes are removed."""
    files = sorted(path for path in RECIPE.rglob("*") if path.is_file())
    name = digest(*(f"{path.relative_to(RECIPE)}\0".encode() + path.read_bytes() for path in files))
    place = cache() / name / "image"
    made(place, _build)
    remove_unused((path for path in place.parent.iterdir() if path.is_dir()), idle_s=7 * 86400)
    for other in cache().iterdir():
        if other.name not in (name, EMULATOR) and other.is_dir():
            remove_unused(path for path in other.iterdir() if path.is_dir())
            if not any(path.is_dir() for path in other.iterdir()):
                shutil.rmtree(other, ignore_errors=True)
    return Image(place)


def _build(place: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", place / "key"], check=True)
    log = place / "build.log"
    with log.open("wb") as output:
        command = ["sh", RECIPE / "build.sh", place, place / "key.pub", *_sources()]
        environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, timeout=900)
    if done.returncode:
        raise RuntimeError(f"the image could not be built: {log.read_text(errors='replace')[-3000:]}")


def _sources() -> list[str]:
    """Return the apt sources of Debian 12."""
    return [f"deb {mirror(suite)} {suite} main" for suite in _ARCHIVES]


def mirror(suite: str) -> str:
    """Return where *suite* of Debian 12 is: the machine's own mirror where it has one."""
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    mirrors = {
        codename: uri
        for uri, codename, component in (line.split() for line in found.stdout.splitlines() if line.count(" ") == 2)
        if component == "main"
    }
    return mirrors.get(suite, _ARCHIVES[suite])
