"""Where guests are bound to run: pins and NUMA nodes."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import numa_nodes


@fact
def node_of_cpu(host: Host) -> dict[int, int]:
    """NUMA node by online CPU."""
    return {cpu: node.id for node in numa_nodes(host) for cpu in node.cpus}


def nodes_of(host: Host, cpus: Iterable[int]) -> frozenset[int]:
    """Return the nodes of *cpus*; CPUs that are offline have none."""
    known = node_of_cpu(host)
    return frozenset(known[cpu] for cpu in cpus if cpu in known)


def pinned_cpus(xml: DomainXml, vcpus: Iterable[int]) -> frozenset[int] | None:
    """Return the CPUs that *vcpus* of the domain may run on, None when one of them is not restricted."""
    total: set[int] = set()
    for vcpu in vcpus:
        pins = xml.pin_of(vcpu)
        if not pins:
            return None
        total |= pins
    return frozenset(total)


def bound(host: Host, xml: DomainXml) -> bool:
    """Whether the domain cannot leave one NUMA node: its vCPUs are pinned there, and its memory is strict or huge pages."""
    cpus = pinned_cpus(xml, range(xml.vcpus))
    if cpus is None or len(nodes_of(host, cpus)) > 1:
        return False
    modes = {xml.numatune_mode, *(cell.memnode_mode for cell in xml.cells)}
    return bool(modes & {"strict", "restrictive"}) or xml.hugepages is not None


def size(value: int) -> str:
    """Return bytes for people.

    >>> size(2 * 2**20), size(2**30), size(1500)
    ('2 MiB', '1 GiB', '1500 B')
    """
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value and value % factor == 0:
            return f"{value // factor} {unit}"
    return f"{value} B"
