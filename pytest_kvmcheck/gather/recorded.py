"""Evidence without a host: a saved reply of ``kvmcheck collect-script``, and sosreports."""

from __future__ import annotations

import fnmatch
import re
import tarfile
from enum import StrEnum
from pathlib import Path

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Evidence, Record
from pytest_kvmcheck.facts.dominfo import DomInfo, parse_dominfo
from pytest_kvmcheck.gather import reply as replies
from pytest_kvmcheck.gather.transport import MAX_REPLY_BYTES
from pytest_kvmcheck.probes import Probe, probes_for
from pytest_kvmcheck.targets import Target

#: The definitions that sos copies: the inactive ones.
_DEFINITIONS = "etc/libvirt/qemu/*.xml"
_DOMAIN = "domain"
#: Each names a domain at its end; what runs is told as it runs.
_DUMPS, _INFOS = "sos_commands/virsh/virsh_-r_dumpxml_*", "sos_commands/virsh/virsh_-r_dominfo_*"
_MICROCODE = re.compile(r"(processor|cpu family|model|stepping|microcode)\s*:")
_LIST = "sos_commands/virsh/virsh_-r_list_--all"
_MAX_DEFINITION = 4 * 2**20
_MAX_LISTING = 64 * 2**20
#: What systemctl is asked for by our own probe; sos asks for all properties of a unit.
_UNIT_PROPERTIES = ("Id", "Names", "LoadState", "ActiveState", "SubState", "UnitFileState", "TimeoutStopUSec")

#: Bounds against archives that unpack to more than a sosreport can be.
MAX_MEMBERS = 200_000


class Held(StrEnum):
    """How a sosreport answers a probe."""

    COMMAND = "command"
    FILES = "files"
    PART = "part"
    NO = "no"


def held(probe: Probe) -> Held:
    """Return how a sosreport answers *probe*: by the output of a command, by files as far as sos copied them, or not."""
    if probe.id == _DOMAIN or probe.sos_sections:
        return Held.PART
    if probe.sos:
        return Held.COMMAND
    return Held.FILES if probe.paths else Held.NO


def places(probe: Probe) -> tuple[str, ...]:
    """Return where a sosreport keeps the answer of *probe*: globs below its root."""
    if probe.id == _DOMAIN:
        return (_DEFINITIONS, _DUMPS, _INFOS)
    if probe.sos_sections:
        return tuple(place for _, place in probe.sos_sections)
    return probe.sos or tuple(path.lstrip("/") for path in probe.paths)


def from_reply(target: Target) -> Evidence:
    """Return the evidence in the saved output of ``kvmcheck collect-script``."""
    try:
        with target.path.open("rb") as file:
            data = file.read(MAX_REPLY_BYTES + 1)
    except OSError as exc:
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNREACHABLE, f"{target.path}: {exc.strerror}"))
    text = replies.decode(data)
    nonce = replies.find_nonce(text)
    reply = replies.read(text, nonce, probes_for(target.role)) if nonce else None
    if reply is None:
        detail = f"{target.path} does not hold the output of kvmcheck collect-script"
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNPARSABLE, detail))
    return Evidence(target.name, reply.records, sudo=reply.sudo)


class _Tree:
    """The files of a sosreport, from a directory or an archive, with paths as they were on the host."""

    def __init__(self, path: Path) -> None:
        self._bodies: dict[str, bytes] = {}
        self._directory: Path | None = None
        if path.is_dir():
            root = path
            inner = [child for child in path.iterdir() if child.is_dir()]
            if not (path / "sos_commands").is_dir() and len(inner) == 1 and (inner[0] / "sos_commands").is_dir():
                root = inner[0]
            self._directory = root.resolve()
            self.names = sorted(
                str(found.relative_to(root)) for found in root.rglob("*") if found.is_file() and self._inside(found)
            )
        else:
            self._read_archive(path)
            self.names = sorted(self._bodies)

    def _inside(self, found: Path) -> bool:
        """Tell whether a link stays within the report: it was made elsewhere and is not to be trusted."""
        return self._directory is not None and found.resolve().is_relative_to(self._directory)

    def _read_archive(self, path: Path) -> None:
        wanted = re.compile(r"[^/]+/(sos_commands|proc|sys|etc|run|(usr/(local/)?)?lib)/")
        links: dict[str, str] = {}
        total = 0
        with tarfile.open(path) as archive:
            for count, member in enumerate(archive):
                if count > MAX_MEMBERS or total > MAX_REPLY_BYTES:
                    raise EvidenceMissing(Cause.TRUNCATED, f"{path}: larger than a sosreport can be")
                if not wanted.match(member.name):
                    continue
                name = member.name.split("/", 1)[1]
                if member.issym():
                    links[name] = str((Path("/") / name).parent / member.linkname)
                elif member.isfile() and (file := archive.extractfile(member)):
                    self._bodies[name] = file.read(MAX_REPLY_BYTES - total + 1)
                    total += len(self._bodies[name])
        for name, destination in links.items():
            if body := self._bodies.get(_normal(destination)):
                self._bodies[name] = body

    def read(self, name: str, bound: int) -> tuple[str, bool]:
        """Return the text of *name* up to *bound* bytes, and whether it was cut."""
        if self._directory:
            with (self._directory / name).open("rb") as file:
                data = file.read(bound + 1)
        else:
            data = self._bodies[name]
        return replies.decode(data[:bound]), len(data) > bound

    def matching(self, pattern: str) -> list[str]:
        """Return the names that match the glob *pattern*; ``*`` does not cross a ``/``."""
        regex = re.compile("/".join(fnmatch.translate(part)[4:-3] for part in pattern.lstrip("/").split("/")), re.DOTALL)
        return [name for name in self.names if regex.fullmatch(name)]


def _normal(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts[-1:] = []
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def from_sosreport(target: Target) -> Evidence:
    """Return what a sosreport (directory or archive) answers of our probes.

    What it does not hold is "not collected": a sosreport without a file does not prove that the host has none.
    """
    try:
        tree = _Tree(target.path)
    except EvidenceMissing as missing:
        return Evidence(target.name, failure=missing)
    except (OSError, tarfile.TarError, EOFError) as exc:
        detail = f"{target.path} cannot be read as a sosreport: neither a directory nor a sound tar archive ({_first_line(exc)})"
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNPARSABLE, detail))
    if not any(name.startswith(("sos_commands/", "proc/", "etc/")) for name in tree.names):
        detail = f"{target.path} holds no sosreport (no sos_commands, proc or etc)"
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNPARSABLE, detail))
    records: dict[str, Record] = {}
    for probe in probes_for(target.role):
        records |= _libvirt(tree, probe) if probe.sos_sections else {} if probe.id == _DOMAIN else _from_tree(probe, tree)
    if any(probe.id == _DOMAIN for probe in probes_for(target.role)):
        records |= _domains(tree)
    return Evidence(target.name, records, partial=True)


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0].rstrip(":")


def _from_tree(probe: Probe, tree: _Tree) -> dict[str, Record]:
    names = [name for path in places(probe) for name in tree.matching(path)]
    if not names:
        return {}
    if probe.id == "systemd_units":
        text, cut = tree.read(names[0], _MAX_LISTING)
        text = _whole_units(text)
        if not text:
            return {probe.id: Record(probe.id, cause=Cause.UNPARSABLE)}
    elif probe.id == "microcode":
        text, cut = tree.read(names[0], _MAX_LISTING)
        text = "".join(f"{line}\n" for line in text.splitlines() if _MICROCODE.match(line))
    elif probe.sos or probe.one_file:
        text, cut = tree.read(names[0], probe.max_bytes)
    else:
        parts, cut = [], False
        for name in names:
            body, too_long = tree.read(name, probe.max_bytes)
            parts.append("".join(f"/{name}:{line}\n" for line in body.splitlines()))
            cut |= too_long
        text = "".join(parts)
    return {probe.id: Record(probe.id, text, cause=Cause.TRUNCATED if cut else None)}


def _whole_units(text: str) -> str:
    """Return the units in *text* that are told in full, with the properties that our own probe asks for.

    A listing that was stopped ends within a unit, and half a unit looks like one that is down.
    """
    blocks = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip()):
        lines = [line for line in block.split("\n") if line.partition("=")[0] in _UNIT_PROPERTIES]
        if {"Id", "LoadState", "ActiveState", "SubState", "UnitFileState"} <= {line.partition("=")[0] for line in lines}:
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _libvirt(tree: _Tree, probe: Probe) -> dict[str, Record]:
    """Return the sections that sos asked libvirt for, and the lists of domains where they are told in full."""
    records: dict[str, Record] = {}
    for section, place in probe.sos_sections:
        for name in tree.matching(place):
            text, cut = tree.read(name, probe.max_bytes)
            if "failed to connect to the hypervisor" in text:
                return {probe.id: Record(probe.id, rc=1, stderr=text)}
            full = f"{probe.id}{KEY_SEPARATOR}{section}"
            records[full] = Record(full, text, cause=Cause.TRUNCATED if cut else None)
    for section, uuids in _lists(tree).items():
        full = f"{probe.id}{KEY_SEPARATOR}{section}"
        records[full] = Record(full, "".join(f"{uuid}\n" for uuid in uuids))
    return {probe.id: Record(probe.id)} | records if records else {}


def _lists(tree: _Tree) -> dict[str, list[str]]:
    """Return the UUIDs of all domains, of running, persistent and autostarted ones.

    ``virsh list`` names domains, and dominfo tells each one's UUID: unless there is one for every line, nothing is told.
    """
    names = tree.matching(_LIST)
    if not names:
        return {}
    text, cut = tree.read(names[0], _MAX_DEFINITION)
    lines = text.rstrip().splitlines()
    if cut or len(lines) < 2 or lines[0].split() != ["Id", "Name", "State"] or set(lines[1].strip()) != {"-"}:
        return {}
    rows = [line.split(None, 1) for line in lines[2:]]
    infos = _infos(tree)
    if any(len(row) != 2 for row in rows) or len(rows) != len(infos):
        return {}
    by_name = {info.name: info for info in infos.values()}
    running = {}
    for number, rest in rows:
        found = [name for name in by_name if re.fullmatch(rf"{re.escape(name)} +{re.escape(by_name[name].state)}", rest.rstrip())]
        if len(found) != 1:
            return {}
        running[by_name[found[0]].uuid] = number != "-"
    if set(running) != set(infos):
        return {}
    return {
        "all": sorted(running),
        "running": sorted(uuid for uuid, runs in running.items() if runs),
        "autostart": sorted(uuid for uuid, info in infos.items() if info.autostart),
        "persistent": sorted(uuid for uuid, info in infos.items() if info.persistent),
    }


def _infos(tree: _Tree) -> dict[str, DomInfo]:
    """Return what dominfo told of the domains, by UUID; an error in place of an answer is left out."""
    found = {}
    for name in tree.matching(_INFOS):
        text, cut = tree.read(name, _MAX_DEFINITION)
        # Without these lines, "no" would be a guess.
        if cut or not re.search(r"^Persistent: +(yes|no)$", text, re.MULTILINE):
            continue
        if not re.search(r"^Autostart: +(enable|disable)( once)?$", text, re.MULTILINE):
            continue
        try:
            info = parse_dominfo(text)
        except ParseError:
            continue
        found[info.uuid] = info
    return found


def _domains(tree: _Tree) -> dict[str, Record]:
    """Return the definitions that sos copied and asked for.

    dumpxml tells what runs of a domain that runs, and of any other the saved definition.
    """
    records: dict[str, Record] = {}
    for name in tree.matching(_DEFINITIONS):
        text, cut = tree.read(name, 4 * 2**20)
        match = re.search(r"<uuid>([0-9a-fA-F-]{36})</uuid>", text)
        key = match[1] if match else Path(name).stem
        full = f"{_DOMAIN}{KEY_SEPARATOR}{key}/saved"
        records[full] = Record(full, text, cause=Cause.TRUNCATED if cut else None)
    lists = _lists(tree)
    running = lists.get("running", [])
    for name in tree.matching(_DUMPS) if lists else ():
        text, cut = tree.read(name, _MAX_DEFINITION)
        match = re.search(r"<uuid>([0-9a-fA-F-]{36})</uuid>", text)
        if not match:
            continue
        full = f"{_DOMAIN}{KEY_SEPARATOR}{match[1]}/{'live' if match[1] in running else 'saved'}"
        records.setdefault(full, Record(full, text, cause=Cause.TRUNCATED if cut else None))
    for name in tree.matching(_INFOS):
        text, cut = tree.read(name, _MAX_DEFINITION)
        if match := re.search(r"^UUID: +([0-9a-fA-F-]{36})$", text, re.MULTILINE):
            full = f"{_DOMAIN}{KEY_SEPARATOR}{match[1]}/info"
            records[full] = Record(full, text, cause=Cause.TRUNCATED if cut else None)
    return records
