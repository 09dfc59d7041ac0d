"""Targets: what is to be judged and how it is reached."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from pytest_kvmcheck.errors import KvmcheckError

#: Recorded evidence, and libvirt's own API: kinds of target that testinfra does not know.
RECORDED = ("bundle", "sosreport", "reply")

#: Connections of testinfra that we let through. paramiko would accept unknown SSH host keys, safe-ssh writes files to the target,
#: winrm reaches no Linux.
CONNECTIONS = (
    "local",
    "ssh",
    "docker",
    "podman",
    "ansible",
    "salt",
    "kubectl",
    "openshift",
    "lxc",
    "chroot",
)


@dataclass(frozen=True)
class Target:
    """One host or guest. ``spec`` is what the user wrote; ``name`` is how reports call it.

    ``tags`` maps glob patterns of domain names to tags (inventory.Tag).
    """

    name: str
    spec: str
    role: str = "host"
    cluster: str = ""
    profile: str = ""
    sudo: bool = False
    tags: tuple[tuple[str, frozenset[str]], ...] = field(default=())

    @property
    def kind(self) -> str:
        """``local``, ``ssh``, ``docker`` ..., ``libvirt``, ``bundle``, ``sosreport`` or ``reply``."""
        head = self.spec.split(":", 1)[0] if ":" in self.spec else "local"
        return "libvirt" if head.startswith("libvirt+") else head

    @property
    def path(self) -> Path:
        """Where the recorded evidence is; only for the kinds in ``RECORDED``."""
        return Path(self.spec.split(":", 1)[1]).expanduser()


def hide_password(spec: str) -> str:
    """Return *spec* without its password.

    >>> hide_password("ssh://root:hunter2@kvm01")
    'ssh://root:***@kvm01'
    >>> hide_password("ssh://root%3Ahunter/2@kvm01")
    'ssh://root%3A***@kvm01'
    """
    return re.sub(r"(//[^/:@]*?)(:|%3a).*@", r"\1\2***@", spec, flags=re.IGNORECASE)


def safe_id(name: str) -> str:
    """Return *name* as a part of a test id or file name: short, printable, without separators, and still one to one.

    >>> safe_id("web-01.example.org"), safe_id("../../etc/x"), safe_id("a b")
    ('web-01.example.org', '..%2F..%2Fetc%2Fx', 'a%20b')
    """
    quoted = quote(name, safe="@+", encoding="utf-8", errors="backslashreplace").replace("~", "%7E")
    if quoted.startswith("-") or quoted in ("", ".", ".."):
        quoted = "".join(f"%{byte:02X}" for byte in name[:1].encode()) + quoted[1:]
    if len(quoted) > 96:
        from hashlib import sha256

        quoted = f"{quoted[:80]}~{sha256(name.encode('utf-8', 'backslashreplace')).hexdigest()[:12]}"
    return quoted or "%"


def check_spec(spec: str, where: str = "--hosts") -> None:
    """Raise :class:`KvmcheckError` when *spec* cannot be a target or would put a password on a command line."""
    if not spec or spec != spec.strip() or any(ord(char) < 32 for char in spec):
        raise KvmcheckError(f"{where}: {spec!r} is not a host; write ssh://kvm01, local://, bundle:DIR or sosreport:PATH")
    if re.search(r"//[^/]*:[^/]*@", spec):
        raise KvmcheckError(
            f"{where}: {hide_password(spec)}: a password in a host spec ends up in process lists; use a key or ~/.ssh/config"
        )
    scheme, colon, rest = spec.partition(":")
    if not colon:
        meant = "local://" if spec in ("local", "localhost") else f"ssh://{spec}"
        raise KvmcheckError(f"{where}: {spec}: say how to reach it; did you mean {meant}?")
    if scheme.startswith("libvirt+"):
        return
    if scheme in RECORDED:
        if not Path(rest).expanduser().exists():
            raise KvmcheckError(f"{where}: {spec}: there is no file or directory {rest}")
        return
    if scheme == "paramiko":
        raise KvmcheckError(f"{where}: {spec}: paramiko accepts unknown SSH host keys; use ssh:// instead of paramiko://")
    if scheme == "safe-ssh":
        raise KvmcheckError(f"{where}: {spec}: safe-ssh writes files to the target; use ssh:// instead, it copes with banners too")
    if scheme not in CONNECTIONS or not rest.startswith("//"):
        known = ", ".join([*(f"{name}://" for name in CONNECTIONS), *(f"{name}:PATH" for name in RECORDED), "libvirt+URI"])
        raise KvmcheckError(f"{where}: {spec}: unknown kind of target; known are {known}")
    if rest == "//" and scheme != "local":
        raise KvmcheckError(f"{where}: {spec}: no host is named after {scheme}://")
    if rest.startswith("//-"):
        raise KvmcheckError(f"{where}: {spec}: a host cannot start with a dash")


def name_of(spec: str) -> str:
    """Return the name by which reports call a target that has no name of its own.

    >>> [name_of(spec) for spec in ("ssh://root@kvm01:2222", "ssh://kvm02?sudo=true", "local://", "libvirt+test:///default")]
    ['kvm01:2222', 'kvm02', 'localhost', 'test:///default']
    """
    scheme, _, rest = spec.partition(":")
    if scheme.startswith("libvirt+"):
        return hide_password(spec.removeprefix("libvirt+"))
    if scheme in RECORDED:
        return Path(rest).name
    rest = rest.removeprefix("//").split("?", 1)[0].rpartition("@")[2]
    return unquote(rest) or "localhost"


def distinct(targets: Iterable[Target]) -> list[Target]:
    """Return *targets* with each spec once; raises :class:`KvmcheckError` when two different ones share a name."""
    seen: dict[str, Target] = {}
    for target in targets:
        other = seen.setdefault(target.name, target)
        if other.spec != target.spec:
            raise KvmcheckError(
                f"two targets are called {target.name}: {hide_password(other.spec)} and {hide_password(target.spec)};"
                " name them in an inventory file"
            )
    return list(seen.values())
