"""Checks of kernel same-page merging."""

from __future__ import annotations

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.shellvars import parse_assignments
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import ksm, numa_nodes
from pytest_kvmcheck.views.services import unit

#: What ksm_policy may say: off, on, auto (ksmtuned decides), any (not judged).
POLICIES = ("off", "on", "auto", "any")


def _policy(params: Params) -> str:
    policy = str(params.ksm_policy)
    if policy not in POLICIES:
        raise ValueError(f"ksm_policy is {policy!r}, expected one of {', '.join(POLICIES)}")
    return policy


@check(
    "KVM-KSM-002",
    title="KSM is on or off according to policy",
    severity=Severity.MEDIUM,
    reads=("ksm",),
    params={"ksm_policy": "any"},
)
def test_ksm_policy(host: Host, params: Params) -> None:
    """Memory is shared between guests where the profile wants it, and nowhere else.

    What it checks
        ksm_policy off: /sys/kernel/mm/ksm/run is 0 or 2; on: it is 1; auto: 0 or 1, as ksmtuned decides; any: recorded only.

    Why it matters
        Unless memory is overcommitted, guests run faster without KSM; shared pages also tell neighbours things by timing.

    How to fix
        now: systemctl stop ksmtuned ksm; echo 2 > /sys/kernel/mm/ksm/run (off), or echo 1 (on)
        after a reboot: systemctl disable ksmtuned ksm (off), systemctl enable --now both (on)
        verify: cat /sys/kernel/mm/ksm/run

    When not to
        Hosts that pack many similar guests (profile consolidation).

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    run, policy = ksm(host).run, _policy(params)
    allowed = {"off": (0, 2), "on": (1,), "auto": (0, 1), "any": (0, 1, 2)}[policy]
    assert run in allowed, f"{host}: KSM run is {run}, expected {' or '.join(map(str, allowed))} (policy {policy})."
    note(f"run is {run}, policy {policy}")


@condition
def policy_is_set(params: Params) -> str | None:
    """Hold where the profile has an opinion on KSM."""
    return "the KSM policy is any" if _policy(params) == "any" else None


@check(
    "KVM-KSM-003",
    title="KSM services agree with the policy and with each other",
    severity=Severity.LOW,
    reads=("systemd_units", "ksm_defaults", "ksm"),
    params={"ksm_policy": "any"},
    applies=policy_is_set,
)
def test_ksm_services(host: Host, params: Params) -> None:
    """Nothing switches KSM against the policy, and only one thing controls it.

    What it checks
        Policy off: ksm, ksmtuned and MoM are neither enabled nor active, and KSM_ENABLED of qemu-kvm is not 1 or AUTO. Policy on
        or auto: exactly one controller (ksmtuned, MoM or the kernel's advisor) is enabled and active; ksm.service goes with
        ksmtuned.

    Why it matters
        ksmtuned starts merging again even after an echo 0 by hand.

    How to fix
        now: systemctl disable --now ksmtuned ksm, in this order (off); systemctl enable --now ksm ksmtuned (on)
        after a reboot: the same; Debian's and Ubuntu's old switch is KSM_ENABLED in /etc/default/qemu-kvm
        verify: systemctl is-enabled ksm ksmtuned

    When not to
        A unit of your own that sets KSM up is not known to this check.

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    services = ("ksm.service", "ksmtuned.service", "mom.service", "mom-vdsm.service")
    policy = _policy(params)
    files = host.evidence.files("ksm_defaults")
    files.demand_all_readable()
    switch = ""
    if (text := files.get("/etc/default/qemu-kvm")) is not None:
        switch = parsing("ksm_defaults", parse_assignments, text).get("KSM_ENABLED", "")
    if policy == "off":
        used = [name for name in services if unit(host, name).enabled or unit(host, name).active]
        with Findings() as findings:
            findings.fail_if(bool(used), f"{host}: {', '.join(used)} enabled or active, though KSM is to be off.")
            findings.fail_if(switch in ("1", "AUTO"), f"{host}: KSM_ENABLED={switch} in /etc/default/qemu-kvm, expected 0.")
        return
    controllers = [name for name in services[1:] if unit(host, name).enabled and unit(host, name).active]
    if ksm(host).advisor_mode == "scan-time":
        controllers.append("the kernel's advisor")
    if not controllers and policy == "on" and unit(host, "ksm.service").enabled:
        note("ksm.service sets KSM up at boot, nothing tunes it")
        return
    assert len(controllers) == 1, (
        f"{host}: KSM is controlled by {', '.join(controllers) or 'nothing'}, expected one of ksmtuned, MoM, the kernel's advisor."
    )


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
    if across is None:
        raise EvidenceMissing(Cause.MISSING, "the kernel shows no merge_across_nodes", "ksm")
    assert across == 0 or params.allow_merge_across, (
        f"{host}: KSM merges across NUMA nodes (merge_across_nodes={across}, expected 0)."
    )
