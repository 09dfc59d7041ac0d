"""Evidence without a host: a saved reply of ``kvmcheck collect-script``, and sosreports."""

from __future__ import annotations

import fnmatch
import re
import tarfile
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Evidence, Record
from pytest_kvmcheck.facts.dominfo import DomInfo, parse_dominfo
from pytest_kvmcheck.gather import reply as replies
from pytest_kvmcheck.gather.sostext import FORMS, SYSCTL, sysctl_files
from pytest_kvmcheck.gather.transport import MAX_REPLY_BYTES
from pytest_kvmcheck.probes import Probe, probes_for
from pytest_kvmcheck.targets import Target

#: The definitions that sos copies: the inactive ones.
_DEFINITIONS = "etc/libvirt/qemu/*.xml"
_DOMAIN, _OBJECTS_PROBE = "domain", "objects"
#: Each names a domain at its end; what runs is told as it runs.
_DUMPS, _INFOS = "sos_commands/virsh/virsh_-r_dumpxml_*", "sos_commands/virsh/virsh_-r_dominfo_*"
_LIST = "sos_commands/virsh/virsh_-r_list_--all"
_MAX_DEFINITION = 4 * 2**20
_MAX_LISTING = 64 * 2**20
#: Networks and pools: the table of all of them (sos before 4.6.1 asks for active ones only), and their definitions.
_OBJECTS = {
    kind: (f"sos_commands/virsh/virsh_-r_{kind}-list_--all", f"sos_commands/virsh/virsh_-r_{kind}-dumpxml_*")
    for kind in ("net", "pool")
}
_POOL_FILE = "etc/libvirt/storage/*.xml"
_PROC_SYS = "/proc/sys/"

#: Bounds against archives that unpack to more than a sosreport can be.
MAX_MEMBERS = 200_000
_MAX_HOPS = 40


class Held(StrEnum):
    """How a sosreport answers a probe."""

    COMMAND = "command"
    FILES = "files"
    PART = "part"
    NO = "no"


def _keys(probe: Probe) -> list[str]:
    """Return the keys of the records of *probe* that a sosreport has in another form."""
    return [key for key in FORMS if key.partition(KEY_SEPARATOR)[0] == probe.id]


def held(probe: Probe) -> Held:
    """Return how a sosreport answers *probe*: by the output of a command, by files as far as sos copied them, or not."""
    if probe.id == _DOMAIN or probe.sos_sections or any(key != probe.id for key in _keys(probe)):
        return Held.PART
    if probe.sos or _keys(probe):
        return Held.COMMAND
    return Held.FILES if probe.paths else Held.NO


def places(probe: Probe) -> tuple[str, ...]:
    """Return where a sosreport keeps the answer of *probe*: globs below its root."""
    if probe.id == _DOMAIN:
        return (_DEFINITIONS, _DUMPS, _INFOS)
    forms = tuple(
        dict.fromkeys(place for key in _keys(probe) for form in FORMS[key] for place in (form.place, form.beside) if place)
    )
    sections = tuple(place for _, place in probe.sos_sections)
    if probe.id == _OBJECTS_PROBE:
        sections += tuple(place for pair in _OBJECTS.values() for place in pair)
    settings = (SYSCTL,) if any(path.startswith(_PROC_SYS) for path in probe.paths) else ()
    return forms + sections + probe.sos or tuple(path.lstrip("/") for path in probe.paths) + settings


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
        # At the top are links to what commands gave.
        wanted = re.compile(r"[^/]+/(?:(?:sos_commands|proc|sys|etc|run|(usr/(local/)?)?lib)/|[^/]+$)")
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
                    links[name] = member.linkname
                elif member.isfile() and (file := archive.extractfile(member)):
                    self._bodies[name] = file.read(MAX_REPLY_BYTES - total + 1)
                    total += len(self._bodies[name])
        for name in links:
            if (body := self._bodies.get(_resolved(name, links))) is not None:
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
        regex = _glob(pattern)
        return [name for name in self.names if regex.fullmatch(name)]

    @cached_property
    def settings(self) -> tuple[dict[str, str], bool]:
        """The files below /proc/sys by ``sysctl -a``, and whether its output was cut."""
        for name in self.matching(SYSCTL):
            text, cut = self.read(name, _MAX_LISTING)
            return sysctl_files(text), cut
        return {}, False


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile("/".join(fnmatch.translate(part)[4:-3] for part in pattern.lstrip("/").split("/")), re.DOTALL)


def _resolved(path: str, links: dict[str, str]) -> str:
    """Return where *path* leads by the links of an archive, those of directories on its way too; empty when nowhere.

    >>> _resolved("proc/mounts", {"proc/mounts": "self/mounts", "proc/self": "4711"})
    'proc/4711/mounts'
    >>> _resolved("a", {"a": "/b", "b": "../a"})
    ''
    """
    waiting, parts, hops = path.split("/"), list[str](), 0
    while waiting:
        part = waiting.pop(0)
        if part == "..":
            parts[-1:] = []
        elif part not in ("", "."):
            parts.append(part)
            target = links.get("/".join(parts))
            if target is not None:
                hops += 1
                if hops > _MAX_HOPS:
                    return ""
                parts = [] if target.startswith("/") else parts[:-1]
                waiting = target.split("/") + waiting
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
        if probe.sos_sections:
            records |= _libvirt(tree, probe)
        elif _keys(probe):
            records |= _from_forms(probe, tree)
        elif probe.id != _DOMAIN:
            records |= _from_tree(probe, tree)
    if any(probe.id == _DOMAIN for probe in probes_for(target.role)):
        records |= _domains(tree)
    return Evidence(target.name, records, partial=True)


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0].rstrip(":")


def _from_forms(probe: Probe, tree: _Tree) -> dict[str, Record]:
    """Return what a sosreport tells in another form than ours; a text that does not tell it is "unparsable"."""
    records = {}
    for key in _keys(probe):
        for form in FORMS[key]:
            beside = [tree.read(name, _MAX_LISTING) for name in tree.matching(form.beside)[:1]] if form.beside else []
            for name in tree.matching(form.place) if beside or not form.beside else ():
                text, cut = tree.read(name, _MAX_LISTING)
                cut |= any(too_long for _, too_long in beside)
                told = None if cut else form.convert(text, *(other for other, _ in beside))
                if told is not None:
                    records[key] = Record(key, told)
                elif key not in records:
                    records[key] = Record(
                        key, cause=Cause.TRUNCATED if cut else Cause.UNPARSABLE, stderr=f"{name} does not tell it"
                    )
            if key in records and records[key].cause is None:
                break
    return records


def _from_tree(probe: Probe, tree: _Tree) -> dict[str, Record]:
    names = [name for path in probe.sos or probe.paths for name in tree.matching(path)]
    if names and (probe.sos or probe.one_file):
        text, cut = tree.read(names[0], probe.max_bytes)
        return {probe.id: Record(probe.id, text, cause=Cause.TRUNCATED if cut else None)}
    parts, cut = [], False
    for name in names:
        body, too_long = tree.read(name, probe.max_bytes)
        parts.append("".join(f"/{name}:{line}\n" for line in body.splitlines()))
        cut |= too_long
    if not probe.one_file:
        for path in (path for path in probe.paths if path.startswith(_PROC_SYS)):
            settings, too_long = tree.settings
            told = [name for name in settings if _glob(path).fullmatch(name[1:]) and name[1:] not in names]
            parts += ["".join(f"{name}:{line}\n" for line in settings[name].splitlines()) for name in told]
            cut |= too_long and bool(told)
    if not parts:
        return {}
    return {probe.id: Record(probe.id, "".join(parts), cause=Cause.TRUNCATED if cut else None)}


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
    told = _objects(tree) if probe.id == _OBJECTS_PROBE else _lists(tree)
    for section, text in told.items():
        full = f"{probe.id}{KEY_SEPARATOR}{section}"
        records[full] = Record(full, text)
    return {probe.id: Record(probe.id)} | records if records else {}


def _objects(tree: _Tree) -> dict[str, str]:
    """Return lists, definitions and states of networks and pools, where all of them are told: a definition for each line."""
    found: dict[str, str] = {}
    for kind, (listing, definitions) in _OBJECTS.items():
        names = tree.matching(listing)
        rows = _rows(*tree.read(names[0], _MAX_DEFINITION)) if names else None
        if rows is None:
            continue
        xml: dict[str, tuple[str, str]] = {}
        for name in tree.matching(definitions):
            text, cut = tree.read(name, _MAX_DEFINITION)
            uuid, called = re.search(r"<uuid>([0-9a-fA-F-]{36})</uuid>", text), re.search(r"<name>([^<]+)</name>", text)
            if uuid and called and not cut:
                xml[called[1]] = uuid[1], text
        if not set(rows) <= set(xml):
            continue
        saved = {Path(name).stem for name in tree.matching(_POOL_FILE)}
        found[f"{kind}s"] = "".join(f"{xml[name][0]}\n" for name in rows)
        for name, row in rows.items():
            # The table of pools does not say it. One that is off and known is saved; of others the file tells.
            persistent = row.get("Persistent", "yes" if row["State"] == "inactive" or name in saved else "")
            found[f"{kind}/{xml[name][0]}/xml"] = xml[name][1]
            if persistent:
                active = "yes" if row["State"] == "active" else "no"
                info = {"Name": name, "Active": active, "Persistent": persistent, "Autostart": row["Autostart"]}
                found[f"{kind}/{xml[name][0]}/info"] = "".join(f"{key}: {value}\n" for key, value in info.items())
    return found


def _rows(text: str, cut: bool) -> dict[str, dict[str, str]] | None:
    """Return the rows of a table of networks or pools by name, None for any other text."""
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    head = lines[0].split() if lines else []
    if cut or head[:3] != ["Name", "State", "Autostart"] or len(lines) < 2 or set(lines[1]) != {"-"}:
        return None
    found = {}
    for line in lines[2:]:
        name, *words = line.rsplit(None, len(head) - 1)
        row = dict(zip(head[1:], words, strict=False))
        states = row.pop("State", ""), *row.values()
        if len(words) != len(head) - 1 or states[0] not in ("active", "inactive") or not set(states[1:]) <= {"yes", "no"}:
            return None
        found[name] = {"State": states[0]} | row
    return found


def _lists(tree: _Tree) -> dict[str, str]:
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
    lists = {
        "all": running,
        "running": [uuid for uuid, runs in running.items() if runs],
        "autostart": [uuid for uuid, info in infos.items() if info.autostart],
        "persistent": [uuid for uuid, info in infos.items() if info.persistent],
    }
    return {name: "".join(f"{uuid}\n" for uuid in sorted(uuids)) for name, uuids in lists.items()}


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
    running = lists.get("running", "").split()
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
