"""Subjects: what each check is run on, found in what the hosts really have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from pytest_kvmcheck.errors import Cause, EvidenceMissing, NotApplicable
from pytest_kvmcheck.evidence import Evidence, Noted
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.gather import budget
from pytest_kvmcheck.targets import Target, safe_id
from pytest_kvmcheck.views.cluster import Cluster
from pytest_kvmcheck.views.domains import Domain, known_domains
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import numa_nodes
from pytest_kvmcheck.views.network import cards, uplinks_in_use
from pytest_kvmcheck.views.storage import multipath_maps

#: The cluster of a run without an inventory: all hosts that were named together.
IMPLICIT_CLUSTER = "run"

#: How the name of a cluster's subject, and of the profile that it is judged by, begins.
CLUSTER = "cluster:"


@dataclass(frozen=True, eq=False)
class Subject:
    """One thing to judge. ``host`` is the host's name, or ``cluster:<name>``; ``id`` starts with it.

    ``problem`` stands for subjects that could not be listed (unknown) or that do not exist (not applicable); ``read`` is the
    evidence by which it was found, or not.
    """

    host: str
    id: str
    values: dict[str, Any] = field(default_factory=dict)
    problem: EvidenceMissing | NotApplicable | None = None
    read: Noted = field(default_factory=Noted)
    profile: str = ""


def _subject(host: Host, parts: Sequence[str], problem: Exception | None = None, **values: Any) -> Subject:
    ident = "/".join(safe_id(part) if part not in ("?", "-") else part for part in (host.name, *parts))
    return Subject(host.name, ident, {"host": host, **values}, problem, profile=host.target.profile)  # type: ignore[arg-type]


P = TypeVar("P")
Lister = Callable[[Host], Iterable[Subject]]


def _host(host: Host) -> Iterator[Subject]:
    yield _subject(host, ())


def _guest(host: Host) -> Iterator[Subject]:
    yield _subject(host, (), guest=host)


def _each_domain(host: Host) -> Iterator[Subject]:
    known, others = known_domains(host)
    for domain in known:
        yield _subject(host, (domain.name,), domain=domain)
    if others:
        yield _subject(host, ("?",), others)


def _in_domains(attribute: str, of: Callable[[Domain], Iterable[tuple[str, Any]]], none: str) -> Lister:
    """Return a lister of the parts of every domain. A definition that cannot be read is unknown, and the others go on."""

    def listed(host: Host) -> Iterator[Subject]:
        known, others = known_domains(host)
        if others:
            yield _subject(host, ("?",), others)
        for domain in known:
            found: list[Subject] = []
            with host.evidence.noting() as read:
                try:
                    for name, part in of(domain):
                        subject = _subject(host, (domain.name, name), domain=domain, **{attribute: part})
                        found.append(replace(subject, read=read.sealed()))
                except EvidenceMissing as missing:
                    found.append(_subject(host, (domain.name, "?"), missing, domain=domain))
            if not found:
                found.append(_subject(host, (domain.name, "-"), NotApplicable(f"{domain}: {none}"), domain=domain))
            host.evidence.note(read.sealed())
            yield from (subject if subject.read else replace(subject, read=read.sealed()) for subject in found)

    return listed


def _vcpus(domain: Domain) -> Iterator[tuple[str, int]]:
    # A hostile <vcpu>99999999</vcpu> must not make as many tests; libvirt's own bound is far below.
    for index in range(min(domain.saved.vcpus, 4096)):
        yield f"vcpu{index:03d}" if domain.saved.vcpus > 10 else f"vcpu{index}", index


def _saved_and_live(
    parts: Callable[[DomainXml], Iterable[P]], name: Callable[[P], str]
) -> Callable[[Domain], Iterator[tuple[str, P]]]:
    """Return a lister of parts of the saved definition, and of those that were attached to the running guest only."""

    def of(domain: Domain) -> Iterator[tuple[str, P]]:
        known = set()
        for part in parts(domain.saved):
            known.add(name(part))
            yield name(part), part
        try:
            live = parts(domain.live) if domain.running else ()
        except EvidenceMissing:
            if not domain.host.evidence.partial:  # whether the guest runs is told in few sosreports
                raise
            return
        yield from ((name(part), part) for part in live if name(part) not in known)

    return of


def _nodes(host: Host) -> Iterator[Subject]:
    for node in numa_nodes(host):
        yield _subject(host, (f"node{node.id}",), numa_node=node)


def _maps(host: Host) -> Iterator[Subject]:
    for item in multipath_maps(host):
        yield _subject(host, (item.name,), multipath_map=item)


def _uplinks(host: Host) -> Iterator[Subject]:
    for link in uplinks_in_use(host):
        yield _subject(host, (link.name,), uplink=link)


def _cards(host: Host) -> Iterator[Subject]:
    for device in cards(host):
        yield _subject(host, (device.address,), pci_device=device)


#: How the subjects of each scope are listed, and what is said when there are none.
LISTERS: dict[str, tuple[Lister, str]] = {
    "host": (_host, ""),
    "guest": (_guest, ""),
    "numa_node": (_nodes, "the kernel shows no NUMA nodes"),
    "uplink": (_uplinks, "no physical network card is in use"),
    "pci_device": (_cards, "no network card, storage adapter or GPU on the PCI bus"),
    "domain": (_each_domain, "no domains"),
    "multipath_map": (_maps, "no multipath map"),
    "vcpu": (_in_domains("vcpu", _vcpus, "no vCPU"), "no domains"),
    "disk": (
        _in_domains("disk", _saved_and_live(lambda xml: xml.disks, lambda disk: disk.target), "no disk"),
        "no domains",
    ),
    "nic": (
        _in_domains("nic", _saved_and_live(lambda xml: xml.nics, lambda nic: nic.name), "no network card"),
        "no domains",
    ),
}


def list_subjects(scope: str, hosts: Iterable[Host], absent: Mapping[str, Sequence[str]] | None = None) -> list[Subject]:
    """Return the subjects of *scope* on *hosts*, sorted by id, each id once. Only clusters may be none.

    *absent* are the hosts of clusters that are not in this run: what they would have told is unknown.
    """
    hosts = [host for host in hosts if (host.target.role == "guest") == (scope == "guest")]
    if scope == "cluster":
        together = (_cluster_subject(one, (absent or {}).get(one.name, ())) for one in clusters(hosts))
        found = [subject for subject in together if subject]
    else:
        found = [subject for host in hosts for subject in _of_host(scope, host)]
    return _distinct(sorted(found, key=lambda subject: subject.id))


def _of_host(scope: str, host: Host) -> list[Subject]:
    lister, none = LISTERS[scope]
    with host.evidence.noting() as read:
        try:
            found = list(islice(lister(host), budget.SUBJECTS + 1)) or [_subject(host, ("-",), NotApplicable(none))]
            if len(found) > budget.SUBJECTS:
                raise EvidenceMissing(Cause.TRUNCATED, f"{host} shows more than {budget.SUBJECTS} of the kind {scope}")
        except EvidenceMissing as missing:
            found = [_subject(host, ("?",), missing)]
    return [item if item.read else replace(item, read=read) for item in found]


def clusters(hosts: Iterable[Host]) -> list[Cluster]:
    """Return the clusters of *hosts*, sorted by name."""
    members: dict[str, list[Host]] = {}
    for host in hosts:
        if host.target.cluster:
            members.setdefault(host.target.cluster, []).append(host)
    return [Cluster(name, tuple(sorted(found, key=lambda host: host.name))) for name, found in sorted(members.items())]


def _cluster_subject(cluster: Cluster, absent: Sequence[str]) -> Subject | None:
    """Return the subject of *cluster*; None for a host that was asked alone: nothing is to be compared."""
    if len(cluster.hosts) < 2 and (absent or cluster.name == IMPLICIT_CLUSTER):
        return None
    problem = NotApplicable("a single host") if len(cluster.hosts) < 2 else None
    strangers = [
        Host(
            Target(name, "", cluster=cluster.name),
            Evidence(name, failure=EvidenceMissing(Cause.NOT_COLLECTED, "it is not part of this run")),
        )
        for name in absent
    ]
    whole = Cluster(cluster.name, tuple(sorted([*cluster.hosts, *strangers], key=lambda host: host.name)))
    name = f"{CLUSTER}{cluster.name}"
    return Subject(name, f"{CLUSTER}{safe_id(cluster.name)}", {"cluster": whole}, problem, profile=name)


def _distinct(subjects: list[Subject]) -> list[Subject]:
    """Give subjects that share an id (two disks without target) a number, so that no verdict hides another."""
    seen: dict[str, int] = {}
    result = []
    for subject in subjects:
        count = seen[subject.id] = seen.get(subject.id, 0) + 1
        result.append(subject if count == 1 else replace(subject, id=f"{subject.id}#{count}"))
    return result
