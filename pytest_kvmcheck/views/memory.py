"""Facts about memory: NUMA nodes, huge pages, KSM."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError
from pytest_kvmcheck.facts.ksm import Ksm, parse_ksm
from pytest_kvmcheck.facts.numa import NumaNode, parse_numa
from pytest_kvmcheck.views.host import Host, fact


def demand_sysfs(host: Host) -> None:
    """Raise :class:`EvidenceMissing` when /sys itself is hidden: then a missing file proves nothing."""
    host.evidence.files("cpu_lists").need("/sys/devices/system/cpu/online")


@fact
def numa_nodes(host: Host) -> tuple[NumaNode, ...]:
    """NUMA nodes, sorted by id; empty when the kernel knows no NUMA."""
    files = host.evidence.files("numa")
    if not files:
        files.demand_all_readable()
        demand_sysfs(host)
    try:
        return parse_numa(files)
    except ParseError as exc:
        raise EvidenceMissing(Cause.UNPARSABLE, f"numa: {exc}", "numa") from exc


@fact
def ksm(host: Host) -> Ksm:
    """KSM as the kernel runs it."""
    files = host.evidence.files("ksm")
    files.need("/sys/kernel/mm/ksm/run")
    try:
        return parse_ksm(files)
    except ParseError as exc:
        raise EvidenceMissing(Cause.UNPARSABLE, f"ksm: {exc}", "ksm") from exc
