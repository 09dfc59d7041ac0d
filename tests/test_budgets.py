"""A host that shows more than can be judged is unknown where it does so, alone, and at little cost."""

from __future__ import annotations

import time

import pytest

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import Evidence, Record, parsing
from pytest_kvmcheck.gather import budget
from pytest_kvmcheck.subjects import LISTERS, Subject, list_subjects
from pytest_kvmcheck.targets import Target
from pytest_kvmcheck.views.host import Host
from tests.casefile import domain_records

UUID = "6d1a6e8a-0000-4000-8000-{:012d}"
DOMAIN = "<domain type='kvm'><name>web</name><uuid>{uuid}</uuid><vcpu>{vcpus}</vcpu><devices>{devices}</devices></domain>"
OF_DOMAINS = ("domain", "vcpu", "disk", "nic")


def host(name: str, records: list[Record]) -> Host:
    return Host(Target(name, f"ssh://{name}"), Evidence(name, {record.probe: record for record in records}))


def guest(vcpus: int = 1, devices: str = "") -> list[Record]:
    return list(domain_records([{"xml": DOMAIN.format(uuid=UUID.format(1), vcpus=vcpus, devices=devices), "running": True}]))


@pytest.mark.parametrize("scope", OF_DOMAINS)
def test_a_list_of_a_hundred_thousand_domains(scope: str) -> None:
    uuids = "".join(f"{UUID.format(number)}\n" for number in range(100_000))
    lists = [Record(f"virsh:{name}", uuids) for name in ("all", "running", "autostart", "persistent")]
    hostile, good = host("hostile", [Record("virsh"), *lists]), host("good", guest(1, "<disk><target dev='vda'/></disk>"))
    begin = time.process_time()
    found = list_subjects(scope, [hostile, good])
    assert time.process_time() - begin < 5
    [unknown] = [subject for subject in found if subject.host == "hostile"]
    assert isinstance(unknown.problem, EvidenceMissing)
    assert unknown.problem.cause is Cause.TRUNCATED
    assert unknown.problem.detail == f"hostile lists 100000 domains, more than {budget.DOMAINS}"
    assert [subject.id for subject in found if subject.host == "good"]


DISK = "<disk type='file'><source file='/v/{0}'/><target dev='vd{0}'/></disk>"
NIC = "<interface type='bridge'><mac address='52:54:00:00:{0:02x}:{1:02x}'/></interface>"


@pytest.mark.parametrize(
    ("scope", "records"),
    [
        ("vcpu", guest(4096)),
        ("disk", guest(1, "".join(DISK.format(number) for number in range(300)))),
        ("nic", guest(1, "".join(NIC.format(*divmod(number, 256)) for number in range(300)))),
    ],
)
def test_more_parts_than_can_be_judged(monkeypatch: pytest.MonkeyPatch, scope: str, records: list[Record]) -> None:
    assert len(list_subjects(scope, [host("hostile", records)])) >= 300
    monkeypatch.setattr(budget, "SUBJECTS", 250)
    [unknown] = list_subjects(scope, [host("hostile", records)])
    assert unknown.id == "hostile/?"
    assert isinstance(unknown.problem, EvidenceMissing)
    assert unknown.problem.cause is Cause.TRUNCATED


def test_every_scope_has_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SUBJECTS", 3)
    assert LISTERS
    for scope, (_, none) in dict(LISTERS).items():
        monkeypatch.setitem(LISTERS, scope, (lambda host: (Subject(host.name, host.name) for _ in range(4)), none))
        target = Target("x", "ssh://x", "guest" if scope == "guest" else "host")
        [unknown] = list_subjects(scope, [Host(target, Evidence("x"))])
        assert isinstance(unknown.problem, EvidenceMissing), scope


@pytest.mark.parametrize("error", [RecursionError, MemoryError, OverflowError, ValueError])
def test_a_text_that_is_too_much_for_python_is_unparsable(error: type[Exception]) -> None:
    def parse(_: str) -> None:
        raise error

    with pytest.raises(EvidenceMissing) as caught:
        parsing("ip_link", parse, "[" * 10**6)
    assert caught.value.cause is Cause.UNPARSABLE
    assert caught.value.detail


def test_deep_texts_are_unparsable() -> None:
    import json

    from pytest_kvmcheck.facts.domain import parse_domain

    deep = "<domain>" + "<a>" * 10**5 + "</a>" * 10**5 + "</domain>"
    for parse, text in ((json.loads, "[" * 10**5 + "]" * 10**5), (parse_domain, deep)):
        with pytest.raises(EvidenceMissing):
            parsing("x", parse, text)
