"""Case files: raw evidence of one host (or of a cluster), and the verdict that one check must give on it.

# tests/cases/<CHECK-ID>/<scenario>.<outcome>.yaml
subject: web/vda              # below the host (with hosts: one of them, and below it); leave out for the host itself and clusters
message: part of the message  # optional
params: {max: 3}              # optional: parameters, as a profile would set them
severity: high, level: warn   # optional, likewise
role: guest                   # optional
tags: {"web*": [critical]}    # optional: tags as an inventory would set them
optional: [ntpd_variables]    # probes that this pass can do without (with hosts: b/ntpd_variables, that of one of them)
evidence:
  uname: "Linux 6.1.0 x86_64"                     # standard output
  ksm: {files: {/sys/kernel/mm/ksm/run: "1"}}     # files, as `grep -H ^` prints them
  chrony_tracking: {rc: 127, stderr: "sh: chronyc: not found"}   # how it ended; the cause follows as it does live
  virsh: {cause: timed out}                       # or the cause itself
  domstats: {rc: 137, seconds: 30.01}             # and after how long
domains:                      # optional: libvirt's answers for these domains (virsh:*, domain:*, domstats:*)
  - {xml: "<domain>...", running: true, autostart: true, persistent: true, snapshots: "...", live: "<domain>...",
     info: "...", state: "...", stats: "Domain: ...", later: "Domain: ..."}   # later: second sample, ten seconds on
hosts: {a: {evidence: ..., domains: ...}, b: ...}  # instead of evidence: a cluster
flip: {probe: ksm, from: "run:1", to: "run:0", outcome: na}    # change the decisive value: the verdict must change
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import RC_NOTHING_THERE, Evidence, Record
from pytest_kvmcheck.facts.domain import parse_domain
from pytest_kvmcheck.gather.reply import cause_of

CASES = Path(__file__).parent / "cases"
KEYS = {
    "subject", "message", "params", "severity", "level", "role", "tags", "optional", "evidence", "domains", "hosts", "flip",
}  # fmt: skip


@dataclass
class CaseFile:
    check: str
    scenario: str
    outcome: str
    data: dict[str, Any]
    path: Path

    @property
    def name(self) -> str:
        return f"{self.check}.{self.scenario}"

    @property
    def hosts(self) -> dict[str, dict[str, Any]]:
        """Host name -> its part of the file; one nameless host unless the case is a cluster."""
        if "hosts" in self.data:
            return {f"{self.name}.{key}": part for key, part in self.data["hosts"].items()}
        return {self.name: self.data}

    @property
    def subject(self) -> str:
        if "hosts" in self.data:
            return f"{self.name}.{self.data['subject']}" if "subject" in self.data else f"cluster:{self.name}"
        return f"{self.name}/{self.data['subject']}" if self.data.get("subject") else self.name


def load(path: Path) -> CaseFile:
    scenario, outcome, _ = path.name.rsplit(".", 2)
    data = yaml.safe_load(path.read_text("utf-8"))
    assert set(data) <= KEYS, f"{path}: unknown keys {set(data) - KEYS}"
    return CaseFile(path.parent.name, scenario, outcome, data, path)


def all_cases() -> list[CaseFile]:
    return [load(path) for path in sorted(CASES.glob("*/*.yaml"))]


def record(probe: str, value: Any) -> Record:
    if not isinstance(value, dict):
        return Record(probe, str(value))
    if value.get("files") == {} and "stderr" not in value:
        return record(probe, {"rc": RC_NOTHING_THERE})
    if "files" in value:
        lines = [f"{path}:{line}\n" for path, text in value["files"].items() for line in (str(text).splitlines() or [""])]
        return Record(probe, "".join(lines), stderr=value.get("stderr", ""))
    stdout, stderr, rc = str(value.get("stdout", "")), str(value.get("stderr", "")), int(value.get("rc", 0))
    cause = Cause(value["cause"]) if "cause" in value else cause_of(rc, stdout, stderr)
    return Record(probe, stdout, rc, stderr, cause, value.get("seconds"))


def domain_records(domains: list[dict[str, Any]]) -> Iterator[Record]:
    lists: dict[str, list[str]] = {"all": [], "running": [], "autostart": [], "persistent": []}
    for probe in ("virsh", "domain", "domstats", "domstats_later"):
        yield Record(probe)
    yield Record("domstats:uptime", "1000.00\n")
    yield Record("domstats_later:uptime", "1010.00\n")
    for number, domain in enumerate(domains):
        try:
            uuid = parse_domain(domain["xml"]).uuid
        except ValueError:
            uuid = ""
        uuid = uuid or f"00000000-0000-4000-8000-{number:012d}"
        lists["all"].append(uuid)
        for name, default in (("running", False), ("autostart", False), ("persistent", True)):
            if domain.get(name, default):
                lists[name].append(uuid)
        yield Record(f"domain:{uuid}/saved", domain["xml"])
        yield Record(f"domain:{uuid}/live", domain.get("live", domain["xml"]))
        empty = " Name   Creation Time   State\n-------------------------------\n\n"
        yield Record(f"domain:{uuid}/snapshots", domain.get("snapshots", empty))
        for part in ("info", "state"):
            if part in domain:
                yield Record(f"domain:{uuid}/{part}", domain[part])
        for probe, part in (("domstats", "stats"), ("domstats_later", "later")):
            if part in domain:
                yield Record(f"{probe}:{uuid}", domain[part])
    for name, uuids in lists.items():
        yield Record(f"virsh:{name}", "".join(f"{uuid}\n" for uuid in uuids) + "\n")


def evidence(host: str, part: dict[str, Any]) -> Evidence:
    records = {item.probe: item for item in domain_records(part["domains"])} if "domains" in part else {}
    records |= {probe: record(probe, value) for probe, value in (part.get("evidence") or {}).items()}
    return Evidence(host, records)


def flipped(case: CaseFile) -> CaseFile:
    """The case with its decisive value changed, as its ``flip`` says. ``probe`` may be ``domains`` or ``HOST.probe``."""
    flip = case.data["flip"]
    data = copy.deepcopy(case.data)
    part = data
    probe = flip["probe"]
    if "hosts" in data:
        host, probe = probe.split(".", 1)
        part = data["hosts"][host]
    if probe == "domains":
        text = yaml.safe_dump(part["domains"], width=10**6)
        assert flip["from"] in text, f"{case.path}: flip.from is not in its domains"
        part["domains"] = yaml.safe_load(text.replace(flip["from"], flip["to"]))
    else:
        before = record(probe, part["evidence"][probe])
        assert flip["from"] in before.stdout, f"{case.path}: flip.from is not in {probe}:\n{before.stdout}"
        part["evidence"][probe] = {"stdout": before.stdout.replace(flip["from"], flip["to"]), "stderr": before.stderr}
    return CaseFile(case.check, f"{case.scenario}-flipped", flip["outcome"], data, case.path)


def without(case: CaseFile, probe: str, number: int) -> CaseFile:
    """The case with the answer of one probe (``host/probe``) gone."""
    return instead(case, probe, {"cause": "lost", "rc": -1}, f"without-{number}")


def hurried(case: CaseFile) -> CaseFile:
    """The case as it is when the deadline of a run ends the gathering before anything was answered."""
    data = copy.deepcopy(case.data)
    for part in data["hosts"].values() if "hosts" in data else [data]:
        part["evidence"] = {
            name: {"cause": "timed out", "rc": -1, "stderr": "stopped after 1 s"} for name in evidence("", part).records
        }
        part.pop("domains", None)
    return CaseFile(case.check, f"{case.scenario}-hurried", "", data, case.path)


def says(case: CaseFile, probe: str, answer: dict[str, Any]) -> bool:
    """Whether the answer of one probe (``host/probe``) is this one already."""
    host, _, key = probe.partition("/")
    part = case.data["hosts"][host] if "hosts" in case.data else case.data
    return evidence("", part).records.get(key) == record(key, answer)


def instead(case: CaseFile, probe: str, answer: dict[str, Any], name: str) -> CaseFile:
    """The case, called *name*, with another answer of one probe (``host/probe``)."""
    data = copy.deepcopy(case.data)
    host, _, key = probe.partition("/")
    part = data["hosts"][host] if "hosts" in data else data
    part["evidence"] = {**(part.get("evidence") or {}), key: answer}
    return CaseFile(case.check, f"{case.scenario}-{name}", "", data, case.path)
