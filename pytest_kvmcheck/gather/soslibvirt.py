"""What a sosreport tells of libvirt: definitions, lists and states, told in full or not at all."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_kvmcheck.errors import Cause, ParseError
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Record
from pytest_kvmcheck.facts.dominfo import DomInfo, parse_dominfo
from pytest_kvmcheck.gather.sostree import Tree
from pytest_kvmcheck.probes import Probe

#: The definitions that sos copies: the inactive ones.
_DEFINITIONS = "etc/libvirt/qemu/*.xml"
DOMAIN, OBJECTS = "domain", "objects"
#: Each names a domain at its end; what runs is told as it runs.
_DUMPS, _INFOS = "sos_commands/virsh/virsh_-r_dumpxml_*", "sos_commands/virsh/virsh_-r_dominfo_*"
_LIST = "sos_commands/virsh/virsh_-r_list_--all"
_MAX_DEFINITION = 4 * 2**20
#: Networks and pools: the table of all of them (sos before 4.6.1 asks for active ones only), and their definitions.
_OBJECTS = {
    kind: (f"sos_commands/virsh/virsh_-r_{kind}-list_--all", f"sos_commands/virsh/virsh_-r_{kind}-dumpxml_*")
    for kind in ("net", "pool")
}
_POOL_FILE = "etc/libvirt/storage/*.xml"


def sections(tree: Tree, probe: Probe) -> dict[str, Record]:
    """Return the sections that sos asked libvirt for, and the lists of domains where they are told in full."""
    records: dict[str, Record] = {}
    for section, place in probe.sos_sections:
        for name in tree.matching(place):
            text, cut = tree.read(name, probe.max_bytes)
            if "failed to connect to the hypervisor" in text:
                return {probe.id: Record(probe.id, rc=1, stderr=text)}
            full = f"{probe.id}{KEY_SEPARATOR}{section}"
            records[full] = Record(full, text, cause=Cause.TRUNCATED if cut else None)
    told = _objects(tree) if probe.id == OBJECTS else _lists(tree)
    for section, text in told.items():
        full = f"{probe.id}{KEY_SEPARATOR}{section}"
        records[full] = Record(full, text)
    return {probe.id: Record(probe.id)} | records if records else {}


def _objects(tree: Tree) -> dict[str, str]:
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


def _lists(tree: Tree) -> dict[str, str]:
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
    return {name: "".join(f"{uuid}\n" for uuid in sorted(uuids)) + "\n" for name, uuids in lists.items()}


def _infos(tree: Tree) -> dict[str, DomInfo]:
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


def domains(tree: Tree) -> dict[str, Record]:
    """Return the definitions that sos copied and asked for.

    dumpxml tells what runs of a domain that runs, and of any other the saved definition.
    """
    records: dict[str, Record] = {}
    for name in tree.matching(_DEFINITIONS):
        text, cut = tree.read(name, 4 * 2**20)
        match = re.search(r"<uuid>([0-9a-fA-F-]{36})</uuid>", text)
        key = match[1] if match else Path(name).stem
        full = f"{DOMAIN}{KEY_SEPARATOR}{key}/saved"
        records[full] = Record(full, text, cause=Cause.TRUNCATED if cut else None)
    lists = _lists(tree)
    running = lists.get("running", "").split()
    for name in tree.matching(_DUMPS) if lists else ():
        text, cut = tree.read(name, _MAX_DEFINITION)
        match = re.search(r"<uuid>([0-9a-fA-F-]{36})</uuid>", text)
        if not match:
            continue
        full = f"{DOMAIN}{KEY_SEPARATOR}{match[1]}/{'live' if match[1] in running else 'saved'}"
        records.setdefault(full, Record(full, text, cause=Cause.TRUNCATED if cut else None))
    for name in tree.matching(_INFOS):
        text, cut = tree.read(name, _MAX_DEFINITION)
        if match := re.search(r"^UUID: +([0-9a-fA-F-]{36})$", text, re.MULTILINE):
            full = f"{DOMAIN}{KEY_SEPARATOR}{match[1]}/info"
            records[full] = Record(full, text, cause=Cause.TRUNCATED if cut else None)
    return records


def places(probe: Probe) -> tuple[str, ...]:
    """Return where the answer of *probe* about domains, networks and pools is kept: globs below the report's root."""
    if probe.id == DOMAIN:
        return (_DEFINITIONS, _DUMPS, _INFOS)
    return tuple(place for pair in _OBJECTS.values() for place in pair) if probe.id == OBJECTS else ()
