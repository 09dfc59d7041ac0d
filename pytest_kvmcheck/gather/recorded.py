"""Evidence without a host: a saved reply of ``kvmcheck collect-script``, and sosreports."""

from __future__ import annotations

from enum import StrEnum

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Evidence, Record
from pytest_kvmcheck.gather import budget, soslibvirt
from pytest_kvmcheck.gather import reply as replies
from pytest_kvmcheck.gather.archive import DAMAGED, TooLarge
from pytest_kvmcheck.gather.files import open_plain
from pytest_kvmcheck.gather.sostext import FORMS, SYSCTL
from pytest_kvmcheck.gather.sostree import MAX_LISTING, Tree, glob_regex
from pytest_kvmcheck.probes import Probe, probes_for
from pytest_kvmcheck.targets import Target

_PROC_SYS = "/proc/sys/"


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
    if probe.id == soslibvirt.DOMAIN or probe.sos_sections or any(key != probe.id for key in _keys(probe)):
        return Held.PART
    if probe.sos or _keys(probe):
        return Held.COMMAND
    return Held.FILES if probe.paths else Held.NO


def places(probe: Probe) -> tuple[str, ...]:
    """Return where a sosreport keeps the answer of *probe*: globs below its root."""
    forms = tuple(
        dict.fromkeys(place for key in _keys(probe) for form in FORMS[key] for place in (form.place, form.beside) if place)
    )
    sections = tuple(place for _, place in probe.sos_sections)
    settings = (SYSCTL,) if any(path.startswith(_PROC_SYS) for path in probe.paths) else ()
    return forms + sections + soslibvirt.places(probe) + probe.sos or tuple(path.lstrip("/") for path in probe.paths) + settings


def from_reply(target: Target) -> Evidence:
    """Return the evidence in the saved output of ``kvmcheck collect-script``."""
    try:
        with open_plain(target.path) as file:
            data = file.read(budget.REPLY_BYTES + 1)
    except OSError as exc:
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNREACHABLE, f"{target.path}: {exc.strerror}"))
    reply = replies.read(data, None, probes_for(target.role))
    if reply is None:
        detail = f"{target.path} {replies.OLD if replies.is_old(data) else 'does not hold the output of kvmcheck collect-script'}"
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNPARSABLE, detail))
    return Evidence(target.name, reply.records, sudo=reply.sudo)


def from_sosreport(target: Target) -> Evidence:
    """Return what a sosreport (directory or archive) answers of our probes.

    What it does not hold is "not collected": a sosreport without a file does not prove that the host has none.
    """
    probes = probes_for(target.role)
    try:
        tree = Tree(target.path, (place for probe in probes for place in places(probe)))
    except TooLarge as exc:
        detail = f"{target.path}: larger than a sosreport can be: {exc}"
        return Evidence(target.name, failure=EvidenceMissing(Cause.TRUNCATED, detail))
    except DAMAGED as exc:
        detail = f"{target.path} cannot be read as a sosreport: neither a directory nor a sound tar archive ({_first_line(exc)})"
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNPARSABLE, detail))
    if not any(name.startswith(("sos_commands/", "proc/", "etc/")) for name in tree.names):
        detail = f"{target.path} holds no sosreport (no sos_commands, proc or etc)"
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNPARSABLE, detail))
    records: dict[str, Record] = {}
    for probe in probes:
        if probe.sos_sections:
            records |= soslibvirt.sections(tree, probe)
        elif _keys(probe):
            records |= _from_forms(probe, tree)
        elif probe.id != soslibvirt.DOMAIN:
            records |= _from_tree(probe, tree)
    if any(probe.id == soslibvirt.DOMAIN for probe in probes):
        records |= soslibvirt.domains(tree)
    return Evidence(target.name, records, partial=True)


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0].rstrip(":")


def _from_forms(probe: Probe, tree: Tree) -> dict[str, Record]:
    """Return what a sosreport tells in another form than ours; a text that does not tell it is "unparsable"."""
    records = {}
    for key in _keys(probe):
        for form in FORMS[key]:
            beside = [tree.read(name, MAX_LISTING) for name in tree.matching(form.beside)[:1]] if form.beside else []
            for name in tree.matching(form.place) if beside or not form.beside else ():
                text, cut = tree.read(name, MAX_LISTING)
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


def _from_tree(probe: Probe, tree: Tree) -> dict[str, Record]:
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
            told = [name for name in settings if glob_regex(path).fullmatch(name[1:]) and name[1:] not in names]
            parts += ["".join(f"{name}:{line}\n" for line in settings[name].splitlines()) for name in told]
            cut |= too_long and bool(told)
    if not parts:
        return {}
    return {probe.id: Record(probe.id, "".join(parts), cause=Cause.TRUNCATED if cut else None)}
