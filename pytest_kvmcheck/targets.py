"""Targets: what is to be judged and how it is reached."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.names import folded, hidden, oddity

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


#: What a user is made of (POSIX, and DOMAIN\\user or user@REALM of directories). Whatever follows may be a password: the colon,
#: what an URL or a font makes of it, a blank.
_USER = re.compile(r"[\w.+$=~@\\-]*")

#: Parameters of an URL that carry a secret.
_SECRETS = r"(?i:pass(?:word|wd|phrase|code)?|pwd|pw|secret|token|api_?key|credentials?)"

_SCHEME = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?//")


#: A host and a path with parameters, where an @ is no user's.
_PLACE = re.compile(r"[\w.-]*(?::\d+)?(?:/[^?@]*)?\?")


def _parts(spec: str) -> tuple[str, str, str]:
    """Return what is before the user in *spec*, the user (whatever is before the last @), and the rest."""
    start = match.end() if (match := _SCHEME.match(spec)) else 0
    if spec.startswith("libvirt+") and _PLACE.match(spec, start):
        return spec[:start], "", spec[start:]
    head, at, tail = spec[start:].rpartition("@")
    return spec[:start], head, at + tail


def hide_password(spec: str) -> str:
    """Return *spec* without its password. The path of recorded evidence has none.

    >>> hide_password("ssh://root:hunter2@kvm01"), hide_password("ssh://root%3Aa/b@kvm01"), hide_password("root:a:b@c@kvm01")
    ('ssh://root:***@kvm01', 'ssh://root:***@kvm01', 'root:***@kvm01')
    >>> hide_password("libvirt+esx://kvm01/?password=hunter2&no=1"), hide_password("bundle:a:b@c")
    ('libvirt+esx://kvm01/?password=***&no=1', 'bundle:a:b@c')
    """
    if spec.partition(":")[0] in RECORDED:
        return spec
    scheme, user, rest = _parts(spec)
    known = _USER.match(user)
    if known and known.end() < len(user):
        user = f"{known[0]}:***"
    return re.sub(rf"([?&;,]\s*{_SECRETS}=)[^&;,]*", r"\1***", scheme + user + rest)


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
    scheme, colon, rest = spec.partition(":")
    shown = hide_password(spec)
    if not spec or spec != spec.strip() or hidden(spec) or (scheme not in RECORDED and re.search(r"\s", spec)):
        raise KvmcheckError(f"{where}: {shown!r} is not a host; write ssh://kvm01, local://, bundle:DIR or sosreport:PATH")
    if shown != spec:
        raise KvmcheckError(f"{where}: {shown}: a password in a host spec ends up in process lists; use a key or ~/.ssh/config")
    if not colon:
        meant = "local://" if spec in ("local", "localhost") else f"ssh://{spec}"
        raise KvmcheckError(f"{where}: {spec}: say how to reach it; did you mean {meant}?")
    if scheme in RECORDED:
        if not Path(rest).expanduser().exists():
            raise KvmcheckError(f"{where}: {spec}: there is no file or directory {rest}")
        return
    if scheme.startswith("libvirt+"):
        if not rest.startswith("//"):
            raise KvmcheckError(f"{where}: {spec}: not an URI of libvirt's, e.g. libvirt+qemu+ssh://kvm01/system")
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
    name = name_of(spec)
    if rest.startswith("//-") or name.startswith("-"):
        raise KvmcheckError(f"{where}: {spec}: a host cannot start with a dash")
    if problem := oddity(name):
        raise KvmcheckError(f"{where}: {spec}: the name {problem}")


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


def same_host(name: str) -> str:
    """Return *name* in the form in which two names of one host are equal: case, a dot behind it, IDNA and width do not count.

    >>> same_host("KVM01.example."), same_host("xn--bcher-kva.example") == same_host("Bücher.example")
    ('kvm01.example', True)
    """
    if "xn--" in name.lower():
        with contextlib.suppress(UnicodeError):
            name = name.encode("ascii").decode("idna")
    return folded(name)


def distinct(asked: Iterable[tuple[Target, str]]) -> list[Target]:
    """Return the targets of *asked*, pairs of a target and where its answers come from, each once and sorted by name.

    Raises :class:`KvmcheckError` when one host has two sources: the verdicts on one would hide those on the other.
    """
    seen: dict[str, tuple[Target, str]] = {}
    for target, source in asked:
        other, its = seen.setdefault(same_host(target.name), (target, source))
        if (other.name, its) == (target.name, source):
            continue
        names = target.name if other.name == target.name else f"{other.name} and {target.name} (one name)"
        what = f"both from {its}" if its == source else f"{hide_password(its)} and {hide_password(source)}"
        recorded = any(found.startswith("bundle:") for found in (its, source))
        advice = "judge them in two runs" if recorded else "ask for one of them, or name them in an inventory file"
        raise KvmcheckError(f"two targets are called {names}: {what}; {advice}")
    return sorted((target for target, _ in seen.values()), key=lambda target: target.name)
