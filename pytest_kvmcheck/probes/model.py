"""What a probe is: one read-only question to a target, as data."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

#: Output of a probe beyond this is cut, and the answer marked truncated.
MAX_BYTES = 2**20


class Root(StrEnum):
    """Whether a probe needs root."""

    NO = "no"
    #: Depends on the distribution's file modes: tried as it is first, then with sudo.
    MAY = "may"
    #: Without root the tool tells falsehoods, so it is not even run.
    MUST = "must"


@dataclass(frozen=True)
class Probe:
    """One question. ``script`` is POSIX sh; it may use ``$SUDO``, empty or ``sudo -n``, before a command that needs root.

    ``keyed``: the output consists of sections, each after a mark ``@@$N <key>``, and becomes one record a section.
    ``when``: a shell condition; where it is false the question is not asked ("not asked" is unknown, never a pass).
    ``active``: it sends something into the network, and is asked only when --kvmcheck-active is given.
    ``first``: asked before all others, where the moment matters; ``last``: at the end of the script, for second samples.
    ``sos``: where a sosreport keeps the very answer (globs below its root); file probes are found by their own paths. What sos
    asks for in another form has its place in gather/sostext.py.
    ``sos_sections``: the same for single sections of a keyed probe, as pairs of section and place.
    ``alone``: it may wait for storage or a daemon that hangs, and others shall not wait with it.
    ``sudo``: the exact commands run by sudo, for the sudoers fragment, as a shell would read them. ``{pid}`` is the number of
    a process and ``{nic}`` the name of a network device; nothing else may vary, as a wildcard of sudoers opens other files too.
    ``no_rule``: why (some of) what it is refused is lifted by no rule, but only by logging in as root.
    """

    id: str
    purpose: str
    script: str
    paths: tuple[str, ...] = ()
    timeout_s: int = 10
    max_bytes: int = MAX_BYTES
    root: Root = Root.NO
    when: str = ""
    keyed: bool = False
    first: bool = False
    last: bool = False
    roles: frozenset[str] = frozenset({"host"})
    sos: tuple[str, ...] = ()
    sos_sections: tuple[tuple[str, str], ...] = ()
    sudo: tuple[str, ...] = ()
    no_rule: str = ""
    one_file: bool = False
    active: bool = False
    alone: bool = False

    @property
    def reads_files(self) -> bool:
        """Whether the probe does nothing but read files."""
        return self.script.startswith("g ")


EVERYWHERE = frozenset({"host", "guest"})


def file(id: str, path: str, purpose: str, **options: Any) -> Probe:
    """One file, read as it is."""
    return Probe(id, purpose, f"g {shlex.quote(path)}", paths=(path,), one_file=True, **_rooted((path,), options))


def files(id: str, paths: str, purpose: str, **options: Any) -> Probe:
    """Several files or globs (parted by blanks), read as ``path:line``."""
    split = tuple(paths.split())
    return Probe(id, purpose, f"g {' '.join(split)}", paths=split, **_rooted(split, options))


def command(id: str, argv: str, purpose: str, **options: Any) -> Probe:
    """One command."""
    root = options.get("root", Root.NO)
    if root is not Root.NO:
        options.setdefault("sudo", (argv,))
    prefix = "$SUDO " if root is not Root.NO else ""
    return Probe(id, purpose, prefix + argv, **options)


def shell(id: str, script: str, purpose: str, **options: Any) -> Probe:
    """A few lines of POSIX sh, for what no single command can say."""
    return Probe(id, purpose, script.strip(), **options)


def _rooted(paths: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Add the sudo commands of a file probe. Globs cannot be expanded below a directory that only root may read."""
    if options.get("root", Root.NO) is not Root.NO:
        if any(char in path for path in paths for char in "*?["):
            raise ValueError(f"a probe that may need root has to name its files: {paths}")
        options["sudo"] = tuple(f"grep -H ^ -- {path}" for path in paths)
    return options
