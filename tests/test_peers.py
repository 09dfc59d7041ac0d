"""Who is compared with whom."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import Evidence, Record
from pytest_kvmcheck.findings import compared, take_notes
from pytest_kvmcheck.targets import Target
from pytest_kvmcheck.views.cluster import acquaint
from pytest_kvmcheck.views.host import Host


def host(name: str, cluster: str = "", role: str = "host", **evidence: str) -> Host:
    records = {probe: Record(probe, text) for probe, text in evidence.items()}
    return Host(Target(name, f"ssh://{name}", role, cluster), Evidence(name, records))


def peers(*hosts: Host) -> dict[str, set[str]]:
    acquaint(hosts)
    return {one.name: {peer.name for peer in one.peers} for one in hosts}


def test_hosts_know_those_of_their_cluster_only() -> None:
    found = peers(host("a", "x"), host("b", "x"), host("c", "y"), host("d"), host("e"))
    assert found == {"a": {"b"}, "b": {"a"}, "c": set(), "d": set(), "e": set()}


def test_guests_are_peers_of_guests_and_never_of_hosts() -> None:
    found = peers(host("a", "x"), host("g", "", "guest"), host("h", "", "guest"), host("i", "x", "guest"))
    assert found == {"a": set(), "g": {"h"}, "h": {"g"}, "i": set()}


def test_who_is_silent_is_named_and_left_out() -> None:
    hosts = [host("a", "x"), host("b", "x", machine_id="1\n"), host("c", "x"), host("d", "x")]
    hosts[3].evidence.failure = EvidenceMissing(Cause.UNREACHABLE, "no route")
    acquaint(hosts)
    take_notes()
    for _ in range(2):  # a check may ask its peers several things
        answers = compared(hosts[0].peers, lambda peer: peer.evidence.text("machine_id"))
    assert {peer.name: text for peer, text in answers.items()} == {"b": "1\n"}
    assert take_notes() == "not compared with c, d: no answer from there"
