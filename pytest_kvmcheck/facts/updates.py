r"""Package repositories and what waits to be installed, by apt, dnf (or yum) and zypper.

Source: apt-get(8), sources.list(5), dnf(8), zypper(8), dnf.conf(5). The probe adds ``rc=N`` to the answer of a command. A security
update is one whose origin (apt) or advisory (dnf, zypper) says so. dnf and zypper are not asked any more, as they write: the probe
reads their repositories and advisories. What they themselves told stands in recordings of before.

>>> parse_apt_sources("file /etc/apt/sources.list\ndeb http://deb.debian.org/debian bookworm main\n--\n"
...                   "file /etc/apt/sources.list.d/x.sources\nEnabled: no\nTypes: deb\nURIs: http://x\nSuites: y\n")
('deb http://deb.debian.org/debian bookworm main',)
>>> text = '''Inst qemu-system-x86 [1:7.2+dfsg-7+deb12u7] (1:7.2+dfsg-7+deb12u12 Debian-Security:12/stable-security [amd64])
... Inst tzdata [2024a-0+deb12u1] (2025b-0+deb12u2 Debian:12.12/stable [all])
... rc=0
... '''
>>> parse_apt_pending(text)
('qemu-system-x86',)
>>> text = "file /etc/yum.repos.d/rocky.repo\n[baseos]\n[crb]\nenabled=0\n"
>>> parse_repo_files(text)
('baseos',)
>>> parse_waiting("waits kernel-core /var/cache/dnf/baseos-522ed8e2b2f761ff/repodata/1-updateinfo.xml.gz\ninstalled 812\nrc=0\n")
(Waiting(package='kernel-core', path='/var/cache/dnf/baseos-522ed8e2b2f761ff/repodata/1-updateinfo.xml.gz'),)
>>> cached("/var/cache/dnf/baseos-522ed8e2b2f761ff/repodata/repomd.xml"), cached("/var/cache/zypp/raw/repo-oss/cookie")
('baseos', 'repo-oss')
>>> parse_dnf_pending("RLSA-2023:5244 Important/Sec. kernel-core-5.14.0-284.30.1.el9_2.x86_64\nrc=0\n")
('kernel-core',)
>>> parse_dnf_repos("repo id                 repo name\nbaseos                  Rocky Linux 9 - BaseOS\nrc=0\n")
('baseos',)
>>> parse_zypper_repos("# | Alias | Name | Enabled | GPG Check | Refresh\n--+-------+------+---------+-----------+--------\n"
...                    "1 | oss   | Main | Yes     | (r ) Yes  | Yes\nrc=0\n")
('oss',)
>>> parse_zypper_pending("Repository | Name | Category | Severity | Interactive | Status | Since | Summary\n"
...                      "-----------+------+----------+----------+-------------+--------+-------+--------\n"
...                      "Updates | SUSE-2023-4072 | security | important | --- | needed | - | Security update for qemu\nrc=0\n")
('Security update for qemu',)
>>> parse_times("1795577666 /var/lib/apt/lists\n")
{'/var/lib/apt/lists': 1795577666}
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.exitcode import ended_well
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_NO_REPOSITORY = re.compile(
    r"No repositor(?:y|ies) (?:defined|available).*|Warning: No repositories.*|There are no enabled.*", re.I
)


@empty_is_an_answer("no source is enabled")
def parse_apt_sources(text: str) -> tuple[str, ...]:
    """Return the enabled sources of binary packages. Raises :class:`ParseError`."""
    found: list[str] = []
    stanza: dict[str, str] = {}

    def close() -> None:
        enabled = stanza.get("Enabled", "yes").lower() not in ("no", "false", "0")
        if {"URIs", "Suites"} <= set(stanza) and enabled and "deb" in stanza.get("Types", "deb").split():
            found.append(f"{stanza['URIs']} {stanza['Suites']}")
        stanza.clear()

    for line in map(str.strip, text.splitlines()):
        if not line or line == "--" or line.startswith("file /"):
            close()
        elif re.match(r"deb\s", line):
            found.append(" ".join(line.split()))
        elif match := re.fullmatch(r"(Types|URIs|Suites|Enabled):\s*(.*)", line):
            stanza[match[1]] = match[2]
        else:
            raise ParseError(f"not a source of packages: {line[:60]!r}")
    close()
    return tuple(found)


@empty_is_an_answer("nothing was ever fetched")
def parse_times(text: str) -> dict[str, int]:
    """Return the times (seconds since 1970) by path. Raises :class:`ParseError`."""
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = re.fullmatch(r"(\d{1,12}) (/.*)", line, re.ASCII)
        if not match:
            raise ParseError(f"not a time and a path: {line[:60]!r}")
        found[match[2]] = int(match[1])
    return found


@empty_is_an_answer("no list was ever fetched")
def parse_apt_lists(text: str) -> tuple[str, ...]:
    """Return the names of the indexes. Raises :class:`ParseError`.

    >>> parse_apt_lists("deb.debian.org_debian_dists_bookworm_InRelease\\n")
    ('deb.debian.org_debian_dists_bookworm_InRelease',)
    """
    names = tuple(filter(None, map(str.strip, text.splitlines())))
    for name in names:
        if not re.fullmatch(r"\S+_?(?:In)?Release", name):
            raise ParseError(f"not the name of an index: {name[:60]!r}")
    return names


@empty_is_an_answer("nothing waits")
def parse_apt_pending(text: str) -> tuple[str, ...]:
    """Return the packages for which a security update waits. Raises :class:`ParseError`."""
    found = []
    for line in ended_well(text, "apt-get"):
        match = re.match(r"Inst (\S+) (?:\[[^\]]*\] )?\(\S+ ([^\[)]*)", line)
        if not match:
            raise ParseError(f"not a package to install: {line[:60]!r}")
        if re.search(r"security", match[2], re.IGNORECASE):
            found.append(match[1])
    return tuple(found)


@empty_is_an_answer("no repository is enabled")
def parse_repo_files(text: str) -> tuple[str, ...]:
    """Return the ids of the repositories that .repo files enable: those that none of them disables. Raises :class:`ParseError`.

    What comes later overrides, as in /etc/dnf/repos.override.d, where an id may be a pattern.
    """
    found: dict[str, bool] = {}
    ids: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("file /"):
            ids = []
        elif match := re.fullmatch(r"\[([^\]]+)\]", line):
            ids = fnmatch.filter(found, match[1]) if "*" in match[1] else [] if match[1] == "main" else [match[1]]
            for name in ids:
                found.setdefault(name, True)
        elif match := re.fullmatch(r"enabled\s*[=:]\s*(\S*)", line):
            for name in ids:
                found[name] = match[1].lower() in ("1", "true", "yes", "on")
        else:
            raise ParseError(f"not a repository: {line[:60]!r}")
    return tuple(name for name, enabled in found.items() if enabled)


@dataclass(frozen=True)
class Waiting:
    """A package with a security update that waits, and the file with its advisory."""

    package: str
    path: str


def parse_waiting(text: str) -> tuple[Waiting, ...]:
    """Return what waits by the advisories that are kept. Raises :class:`ParseError`, also when rpm tells of no package at all."""
    found, installed = [], 0
    for line in ended_well(text, "reading advisories"):
        if match := re.fullmatch(r"waits (\S+) (/\S+)", line):
            found.append(Waiting(match[1], match[2]))
        elif match := re.fullmatch(r"installed (\d{1,6})", line, re.ASCII):
            installed = int(match[1])
        else:
            raise ParseError(f"not an advisory: {line[:60]!r}")
    if not installed:
        raise ParseError("rpm tells of no package")
    return tuple(found)


def cached(path: str) -> str:
    """Return the id of the repository whose metadata *path* is part of, as dnf, yum and zypper lay them out; empty for others."""
    match = re.match(r"/var/cache/(?:(?:dnf|libdnf5)/(.+)-[0-9a-f]{16}/|yum/[^/]+/[^/]+/([^/]+)/|zypp/raw/([^/]+)/)", path)
    return next(filter(None, match.groups()), "") if match else ""


@empty_is_an_answer("no repository is enabled")
def parse_dnf_repos(text: str) -> tuple[str, ...]:
    """Return the ids of the enabled repositories. Raises :class:`ParseError`."""
    lines = ended_well(text, "dnf")
    if not lines or all(_NO_REPOSITORY.fullmatch(line) for line in lines):
        return ()
    head = next((number for number, line in enumerate(lines) if re.match(r"repo id\s+(?:repo name|status)", line)), None)
    if head is None:
        raise ParseError(f"not a list of repositories: {lines[0][:60]!r}")
    return tuple(line.split()[0].lstrip("!*") for line in lines[head + 1 :] if not line.startswith("repolist:"))


@empty_is_an_answer("nothing waits")
def parse_dnf_pending(text: str) -> tuple[str, ...]:
    """Return the packages for which a security advisory waits. Raises :class:`ParseError`."""
    found = []
    for line in ended_well(text, "dnf"):
        if re.match(r"Name\s+Type\s+Severity\s+Package\b", line):
            continue
        match = re.fullmatch(r"\S+ +(?:\S+/Sec\.|security(?: +\S+)?) +(\S+-[^-\s]+-[^-\s]+)(?: +\d{4}-\d\d-\d\d.*)?", line)
        if not match:
            raise ParseError(f"not an advisory: {line[:60]!r}")
        found.append(match[1].rsplit("-", 2)[0])
    return tuple(dict.fromkeys(found))


@empty_is_an_answer("nothing is held back")
def parse_apt_held(text: str) -> tuple[str, ...]:
    """Return the patterns of packages that preferences pin to a version, or forbid. Raises :class:`ParseError`.

    Source: apt_preferences(5). What is said of all packages chooses between releases, and holds none of them back.

    >>> parse_apt_held("--\\nPackage: qemu* libvirt0\\nPin: version 1:7.2*\\nPin-Priority: 1001\\n"
    ...                "--\\nPackage: *\\nPin: release n=sid\\nPin-priority: -1\\n")
    ('qemu*', 'libvirt0')
    """
    found: list[str] = []
    for stanza in re.split(r"^\s*--\s*$", text, flags=re.MULTILINE):
        said: dict[str, str] = {}
        for line in filter(None, map(str.strip, stanza.splitlines())):
            match = re.fullmatch(r"(package|pin|pin-priority):\s*(.*)", line, re.IGNORECASE)
            if not match:
                raise ParseError(f"not a preference: {line[:60]!r}")
            said[match[1].lower()] = match[2]
        forbidden = said.get("pin-priority", "").startswith("-")
        if forbidden or said.get("pin", "").startswith("version"):
            found += [name for name in said.get("package", "").split() if name != "*"]
    return tuple(dict.fromkeys(found))


@empty_is_an_answer("nothing is held back")
def parse_dnf_held(text: str) -> tuple[str, ...]:
    """Return the patterns of packages that the main configuration excludes, from any repository. Raises :class:`ParseError`.

    Source: dnf.conf(5), yum.conf(5). With ``includepkgs`` all others are excluded: ``*``.

    >>> parse_dnf_held("excludepkgs=kernel*, qemu-kvm\\n  libvirt*\\nexclude = *.i686\\n")
    ('kernel*', 'qemu-kvm', 'libvirt*', '*.i686')
    >>> parse_dnf_held("includepkgs=bash\\n")
    ('*',)
    """
    found: list[str] = []
    option = ""
    for line in filter(str.strip, text.splitlines()):
        value = line
        if not option or not line[0].isspace():
            match = re.fullmatch(r"(exclude|excludepkgs|includepkgs)\s*[=:](.*)", line)
            if not match:
                raise ParseError(f"not a list of packages: {line[:60]!r}")
            option, value = match[1], match[2]
        found += ["*"] if option == "includepkgs" else value.replace(",", " ").split()
    return tuple(dict.fromkeys(found))


@empty_is_an_answer("nothing is held back")
def parse_zypper_held(text: str) -> tuple[str, ...]:
    """Return the patterns of packages that are locked (a regular expression in slashes). Raises :class:`ParseError`.

    Source: locks(5) of libzypp. Which packages a locked patch is about is not told there: it is ``*``.

    >>> parse_zypper_held("type: package\\nmatch_type: glob\\nsolvable_name: kernel-default*\\n--\\nsolvable_name: qemu\\n")
    ('kernel-default*', '*qemu*')
    """
    found: list[str] = []
    for stanza in re.split(r"^\s*--\s*$", text, flags=re.MULTILINE):
        said: dict[str, list[str]] = {}
        for line in filter(None, map(str.strip, stanza.splitlines())):
            match = re.fullmatch(r"(type|match_type|solvable_name|query_string):\s*(.*)", line)
            if not match:
                raise ParseError(f"not a lock: {line[:60]!r}")
            said.setdefault(match[1], []).append(match[2])
        form = {"exact": "{}", "glob": "{}", "word": "*{}*", "regex": "/{}/"}.get(said.get("match_type", [""])[-1], "*{}*")
        if "patch" in said.get("type", []):
            found.append("*")
        elif set(said.get("type", ["package"])) & {"package", "srcpackage"}:
            names = filter(None, [*said.get("solvable_name", []), *said.get("query_string", [])])
            found += [form.format(name) for name in names]
    return tuple(dict.fromkeys(found))


def _table(text: str) -> list[dict[str, str]]:
    """Return the rows of a table of zypper."""
    lines = ended_well(text, "zypper")
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if not re.fullmatch(r"[-+]+", line)]
    if len(lines) < 2 or len(rows) == len(lines):
        raise ParseError(f"not a table of zypper: {' '.join(lines)[:60]!r}")
    head, *body = rows
    for row in body:
        if len(row) < len(head):
            raise ParseError(f"a row of zypper is cut: {'|'.join(row)[:60]!r}")
    return [dict(zip(head, row, strict=False)) for row in body]


@empty_is_an_answer("no repository is enabled")
def parse_zypper_repos(text: str) -> tuple[str, ...]:
    """Return the aliases of the enabled repositories. Raises :class:`ParseError`."""
    lines = ended_well(text, "zypper")
    if any(re.match(r"No repositories defined|No repositories found", line) for line in lines):
        return ()
    try:
        return tuple(row["Alias"] for row in _table(text) if row["Enabled"] == "Yes")
    except KeyError as exc:
        raise ParseError(f"a table of zypper without {exc}") from None


@empty_is_an_answer("nothing waits")
def parse_zypper_pending(text: str) -> tuple[str, ...]:
    """Return the summaries of the security patches that wait. Raises :class:`ParseError`."""
    lines = ended_well(text, "zypper")
    if not lines or any(re.match(r"No updates found|No patches found", line) for line in lines):
        return ()
    try:
        return tuple(row["Summary"] for row in _table(text) if row["Category"] == "security" and row["Status"] == "needed")
    except KeyError as exc:
        raise ParseError(f"a table of zypper without {exc}") from None
