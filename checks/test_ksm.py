"""Checks of kernel same-page merging."""

from __future__ import annotations

from pytest_kvmcheck import Params, Severity, check
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import ksm, numa_nodes


@condition
def ksm_merges(host: Host) -> str | None:
    """Hold while KSM merges pages."""
    run = ksm(host).run
    return None if run == 1 else f"KSM is off (run={run})"


@condition
def several_nodes_with_memory(host: Host) -> str | None:
    """Hold where memory can be remote."""
    count = sum(node.has_memory for node in numa_nodes(host))
    return None if count > 1 else f"{count} NUMA node with memory"


@check(
    "KVM-KSM-005",
    title="KSM does not merge across NUMA nodes unless allowed",
    severity=Severity.MEDIUM,
    reads=("ksm", "numa"),
    params={"allow_merge_across": False},
    applies=all_of(ksm_merges, several_nodes_with_memory),
)
def test_ksm_stays_on_its_node(host: Host, params: Params) -> None:
    """Pages are shared only by guests of one NUMA node.

    What it checks
        ``merge_across_nodes`` is 0 while KSM merges on a host with several NUMA nodes, unless the profile allows it.

    Why it matters
        By default a merged page lives on one node for all its sharers, and is remote memory to most of them.

    How to fix
        now: echo 2 > /sys/kernel/mm/ksm/run; echo 0 > /sys/kernel/mm/ksm/merge_across_nodes; echo 1 > /sys/kernel/mm/ksm/run
        after a reboot: virsh node-memory-tune --shm-merge-across-nodes 0 in a start-up unit, or a line in /etc/tmpfiles.d
        roll back: the same with 1; run has to be 2 while the value is changed
        verify: grep . /sys/kernel/mm/ksm/merge_across_nodes

    When not to
        Where saving memory matters more than latency (profile consolidation).

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    across = ksm(host).merge_across_nodes
    assert across == 0 or params.allow_merge_across, (
        f"{host}: KSM merges across NUMA nodes (merge_across_nodes={across}, expected 0)."
    )
