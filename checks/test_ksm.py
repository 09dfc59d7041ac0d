"""Checks of kernel same-page merging."""

from __future__ import annotations

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Number, Params, Severity, Whole, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.shellvars import parse_assignments
from pytest_kvmcheck.views.cpu import uname
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import ksm, ksm_exists, ksmd_share, ksmtuned_conf, numa_nodes
from pytest_kvmcheck.views.services import unit

#: What ksm_policy may say: off, on, auto (ksmtuned decides), any (not judged).
KSM_POLICY = Choice("any", "off", "on", "auto")


@check(
    "KVM-KSM-001",
    title="KSM is available in the kernel when the policy wants it",
    severity=Severity.INFO,
    reads=("ksm", "cpu_lists"),
    params={"ksm_policy": KSM_POLICY},
)
def test_ksm_exists(host: Host, params: Params) -> None:
    """The kernel can merge equal pages where the profile wants that.

    What it checks
        /sys/kernel/mm/ksm exists while ksm_policy is on or auto; with off or any it is recorded only.

    Why it matters
        Without it ksmtuned runs for nothing, and memory that was overcommitted in its name is not there.

    How to fix
        now: nothing can be done with the running kernel
        after a reboot: use a kernel with CONFIG_KSM=y, as all server distributions have
        roll back: boot the former kernel
        verify: ls -d /sys/kernel/mm/ksm

    When not to
        Where KSM is to be off anyway.

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    policy, there = params.ksm_policy, ksm_exists(host)
    assert there or policy not in ("on", "auto"), (
        f"{host}: the kernel has no KSM (no /sys/kernel/mm/ksm), expected by policy {policy}."
    )
    note(f"{'available' if there else 'not in this kernel'}, policy {policy}")


@check(
    "KVM-KSM-002",
    title="KSM is on or off according to policy",
    severity=Severity.MEDIUM,
    reads=("ksm", "cpu_lists"),
    params={"ksm_policy": KSM_POLICY},
)
def test_ksm_policy(host: Host, params: Params) -> None:
    """Memory is shared between guests where the profile wants it, and nowhere else.

    What it checks
        ksm_policy off: /sys/kernel/mm/ksm/run is 0 or 2, or the kernel has no KSM; on: it is 1; auto: 0 or 1, as ksmtuned
        decides; any: recorded only.

    Why it matters
        Unless memory is overcommitted, guests run faster without KSM; shared pages also tell neighbours things by timing.

    How to fix
        now: systemctl stop ksmtuned ksm; echo 2 > /sys/kernel/mm/ksm/run (off), or echo 1 (on)
        after a reboot: systemctl disable ksmtuned ksm (off), systemctl enable --now both (on)
        roll back: the same with the former policy; pages that were parted merge again by themselves
        verify: cat /sys/kernel/mm/ksm/run

    When not to
        Hosts that pack many similar guests (profile consolidation).

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    policy = params.ksm_policy
    if not ksm_exists(host):
        assert policy not in ("on", "auto"), f"{host}: the kernel has no KSM, expected it by policy {policy}."
        note(f"the kernel has no KSM, policy {policy}")
        return
    run = ksm(host).run
    allowed = {"off": (0, 2), "on": (1,), "auto": (0, 1), "any": (0, 1, 2)}[policy]
    assert run in allowed, f"{host}: KSM run is {run}, expected {' or '.join(map(str, allowed))} (policy {policy})."
    note(f"run is {run}, policy {policy}")


@condition
def policy_is_set(params: Params) -> str | None:
    """Hold where the profile has an opinion on KSM."""
    return "the KSM policy is any" if params.ksm_policy == "any" else None


@check(
    "KVM-KSM-003",
    title="KSM services agree with the policy and with each other",
    severity=Severity.LOW,
    reads=("systemd_units", "ksm_defaults", "ksm"),
    params={"ksm_policy": KSM_POLICY},
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
        roll back: the same commands the other way round
        verify: systemctl is-enabled ksm ksmtuned

    When not to
        A unit of your own that sets KSM up is not known to this check.

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    services = ("ksm.service", "ksmtuned.service", "mom.service", "mom-vdsm.service")
    policy = params.ksm_policy
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
    halfway = [name for name in services[1:] if unit(host, name).enabled != unit(host, name).active]
    if ksm(host).advisor_mode == "scan-time":
        controllers.append("the kernel's advisor")
    if not controllers and not halfway and policy == "on" and unit(host, "ksm.service").enabled:
        note("ksm.service sets KSM up at boot, nothing tunes it")
        return
    with Findings() as findings:
        if len(controllers) != 1:
            found = f"KSM is controlled by {', '.join(controllers) or 'nothing'}"
            findings.fail(f"{host}: {found}, expected one of ksmtuned, MoM, the kernel's advisor.")
        for name in halfway:
            state = "active, but not enabled" if unit(host, name).active else "enabled, but not active"
            findings.fail(f"{host}: {name} is {state}: what controls KSM changes with the next reboot.")


#: What switches KSM on and off by itself while it runs.
CONTROLLERS = ("ksmtuned.service", "mom.service", "mom-vdsm.service")


@condition
def ksm_is_stopped_for_good(host: Host, params: Params) -> str | None:
    """Hold where KSM is stopped, and neither the policy nor a controller will start it again."""
    if params.ksm_policy in ("on", "auto"):
        return f"the KSM policy is {params.ksm_policy}"
    if not ksm_exists(host):
        return "the kernel has no KSM"
    run = ksm(host).run
    if run != 0:
        return f"run is {run}: " + ("KSM merges" if run == 1 else "unmerging is what 2 does")
    active = [name for name in CONTROLLERS if unit(host, name).active]
    return f"{', '.join(active)} switches KSM on and off" if active else None


@check(
    "KVM-KSM-004",
    title="After switching KSM off, pages are really unmerged",
    severity=Severity.LOW,
    reads=("ksm", "cpu_lists", "systemd_units"),
    params={"ksm_policy": KSM_POLICY},
    applies=ksm_is_stopped_for_good,
)
def test_ksm_is_unmerged(host: Host) -> None:
    """No page is shared any more once KSM is stopped.

    What it checks
        While run is 0 and no controller is at work, pages_sharing is 0.

    Why it matters
        run=0 stops the search and keeps the merged pages: guests go on sharing them, with faults at each write and the timing
        channel that is the reason to switch KSM off.

    How to fix
        now: with enough memory free: echo 2 > /sys/kernel/mm/ksm/run
        after a reboot: nothing is merged at boot; let whatever stops KSM write 2 instead of 0
        roll back: echo 1 > /sys/kernel/mm/ksm/run merges again
        verify: cat /sys/kernel/mm/ksm/pages_sharing

    When not to
        While memory is so short that the pages cannot be copied apart.

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    sharing = _count(host, "pages_sharing")
    assert sharing == 0, f"{host}: KSM is stopped (run=0), but {sharing} pages are still merged, expected 0: write 2 to run."


def _count(host: Host, name: str) -> int:
    """Return a count of KSM. Raises :class:`EvidenceMissing` when the kernel does not show it."""
    try:
        return ksm(host).counts[name]
    except KeyError:
        raise EvidenceMissing(Cause.MISSING, f"the kernel shows no {name}", "ksm") from None


@condition
def ksm_merges(host: Host) -> str | None:
    """Hold while KSM merges pages."""
    if not ksm_exists(host):
        return "the kernel has no KSM"
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
    reads=("ksm", "cpu_lists", "numa"),
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


#: Memory that each page costs which KSM looks at.
RMAP_ITEM_BYTES = 64

#: Page size of the architectures that have only one.
PAGE_BYTES = 4096


def _profit(host: Host) -> int:
    """Return the bytes that merging saves, less what it costs; reckoned on kernels before 6.4, which do not tell."""
    counts = ksm(host).counts
    if "general_profit" in counts:
        return counts["general_profit"]
    machine = uname(host)
    if not machine.x86 and machine.machine != "s390x":
        seen = f"the kernel shows no general_profit, and pages of {machine.machine} may have several sizes"
        raise EvidenceMissing(Cause.MISSING, seen, "ksm")
    pages = sum(_count(host, name) for name in ("pages_sharing", "pages_shared", "pages_unshared", "pages_volatile"))
    return _count(host, "pages_sharing") * PAGE_BYTES - pages * RMAP_ITEM_BYTES


@check(
    "KVM-KSM-006",
    title="KSM pays for itself",
    severity=Severity.LOW,
    reads=("ksm", "cpu_lists", "counters", "counters_later", "uname"),
    params={
        "min_scans": Whole(3, 1, 1000),
        "min_sharing_ratio": Number(2.0, 0.1, 100),
        "max_unshared_ratio": Number(10.0, 0.1, 1000),
        "max_ksmd_pct": Number(20, 1, 99),
    },
    applies=ksm_merges,
)
def test_ksm_pays(host: Host, params: Params) -> None:
    """Merging saves more memory than it costs, and does not eat a CPU.

    What it checks
        After min_scans whole scans (before that: unknown): general_profit is above 0 (before Linux 6.4 reckoned from the counts);
        pages_sharing / pages_shared is at least min_sharing_ratio; pages_unshared / pages_sharing at most max_unshared_ratio;
        ksmd took at most max_ksmd_pct of a CPU between the start and the end of gathering.

    Why it matters
        Guests that are not alike are scanned for nothing, at 64 bytes a page and the price of a CPU.

    How to fix
        now: echo 2 > /sys/kernel/mm/ksm/run, or lower pages_to_scan; on Linux 6.7 and later echo 1 > smart_scan
        after a reboot: KSM_NPAGES_MAX of /etc/ksmtuned.conf; or systemctl disable --now ksmtuned ksm
        roll back: echo the former values into /sys/kernel/mm/ksm; the former /etc/ksmtuned.conf
        verify: grep . /sys/kernel/mm/ksm/pages_* /sys/kernel/mm/ksm/general_profit

    When not to
        Right after many guests were started: let it scan for some time first.

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    scans = _count(host, "full_scans")
    if scans < params.min_scans:
        raise EvidenceMissing(Cause.SKIPPED, f"KSM made {scans} whole scans so far, {params.min_scans} are needed to judge", "ksm")
    shared, sharing, unshared = (_count(host, f"pages_{name}") for name in ("shared", "sharing", "unshared"))
    with Findings() as findings:
        profit = _profit(host)
        findings.fail_if(profit <= 0, f"{host}: KSM saves {profit} bytes in all, expected more than it costs.")
        if not shared:
            findings.fail(f"{host}: KSM merged nothing after {scans} scans.")
        elif sharing / shared < params.min_sharing_ratio:
            found = f"each merged page stands for {sharing / shared:.1f} others"
            findings.fail(f"{host}: {found}, expected {params.min_sharing_ratio:g} or more.")
        if sharing and unshared / sharing > params.max_unshared_ratio:
            found = f"for each page saved {unshared / sharing:.1f} are scanned in vain"
            findings.fail(f"{host}: {found}, at most {params.max_unshared_ratio:g} allowed.")
        share = 100 * ksmd_share(host)
        findings.fail_if(
            share > params.max_ksmd_pct, f"{host}: ksmd takes {share:.0f} % of a CPU, at most {params.max_ksmd_pct} % allowed."
        )
        note(f"saves {profit // 2**20} MiB, ksmd takes {share:.0f} % of a CPU")


@condition
def ksmtuned_runs(host: Host) -> str | None:
    """Hold where ksmtuned is at work."""
    return None if unit(host, "ksmtuned.service").active else "ksmtuned is not active"


#: What ksmtuned takes for keys that its file does not set.
KSMTUNED_DEFAULTS = {
    "KSM_MONITOR_INTERVAL": 60,
    "KSM_NPAGES_BOOST": 300,
    "KSM_NPAGES_DECAY": -50,
    "KSM_NPAGES_MIN": 64,
    "KSM_NPAGES_MAX": 1250,
    "KSM_THRES_COEF": 20,
}


@check(
    "KVM-KSM-007",
    title="ksmtuned settings are sane and not fighting the kernel advisor",
    severity=Severity.LOW,
    reads=("systemd_units", "ksmtuned_conf", "ksm"),
    applies=ksmtuned_runs,
)
def test_ksmtuned_settings(host: Host) -> None:
    """The tuner can do its work, within bounds that make sense.

    What it checks
        /etc/ksmtuned.conf over the packaged defaults: KSM_NPAGES_MIN is not above KSM_NPAGES_MAX, KSM_NPAGES_DECAY is negative and
        KSM_NPAGES_BOOST positive, KSM_THRES_COEF is 5 to 50 (percent of memory), KSM_MONITOR_INTERVAL 10 seconds or more, DEBUG
        is not set; and the kernel's own advisor (Linux 6.8) is none.

    Why it matters
        While the advisor is at work the kernel refuses what ksmtuned writes to pages_to_scan, so ksmtuned does nothing.

    How to fix
        now: echo none > /sys/kernel/mm/ksm/advisor_mode, or stop ksmtuned; correct /etc/ksmtuned.conf; systemctl restart ksmtuned
        after a reboot: the file is read at each start; go back to the defaults and change one value at a time
        roll back: the former /etc/ksmtuned.conf, and systemctl restart ksmtuned; echo the former mode into advisor_mode
        verify: grep -v '^#' /etc/ksmtuned.conf; cat /sys/kernel/mm/ksm/advisor_mode

    When not to
        Where the advisor is preferred, disable ksmtuned instead.

    References
        https://docs.kernel.org/admin-guide/mm/ksm.html
    """
    given = ksmtuned_conf(host)
    numbers = dict(KSMTUNED_DEFAULTS)
    with Findings() as findings:
        for name in KSMTUNED_DEFAULTS:
            text = given.get(name, "")
            if "$" in text or "`" in text:
                findings.unknown(EvidenceMissing(Cause.UNPARSABLE, f"{name} of ksmtuned is reckoned by the shell", "ksmtuned_conf"))
            elif text.removeprefix("-").isdecimal():
                numbers[name] = int(text)
            elif text:
                findings.fail(f"{host}: {name} of /etc/ksmtuned.conf is {text[:20]!r}, expected a number.")
        least, most = numbers["KSM_NPAGES_MIN"], numbers["KSM_NPAGES_MAX"]
        findings.fail_if(least > most, f"{host}: KSM_NPAGES_MIN={least} is above KSM_NPAGES_MAX={most}.")
        for name, good, wish in (
            ("KSM_NPAGES_DECAY", numbers["KSM_NPAGES_DECAY"] < 0, "less than 0"),
            ("KSM_NPAGES_BOOST", numbers["KSM_NPAGES_BOOST"] > 0, "more than 0"),
            ("KSM_THRES_COEF", 5 <= numbers["KSM_THRES_COEF"] <= 50, "5 to 50"),
            ("KSM_MONITOR_INTERVAL", numbers["KSM_MONITOR_INTERVAL"] >= 10, "10 or more"),
        ):
            findings.fail_if(not good, f"{host}: {name}={numbers[name]}, expected {wish}.")
        findings.fail_if(bool(given.get("DEBUG")), f"{host}: DEBUG is set in /etc/ksmtuned.conf, the log grows without end.")
        advisor = ksm(host).advisor_mode
        findings.fail_if(
            advisor not in ("none", ""), f"{host}: the kernel's advisor is {advisor} while ksmtuned runs, expected none."
        )


#: Domains with one of these tags should not share memory.
SENSITIVE = frozenset({"critical", "database", "security"})


@condition
def is_sensitive(domain: Domain) -> str | None:
    """Hold for domains whose memory nobody else should share."""
    return None if domain.tags & SENSITIVE else f"{domain} is not tagged {', '.join(sorted(SENSITIVE))}"


@check(
    "KVM-KSM-008",
    title="Sensitive guests opt out of page sharing",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "ksm", "cpu_lists"),
    applies=all_of(ksm_merges, is_sensitive),
)
def test_sensitive_guest_does_not_share(domain: Domain) -> None:
    """Memory of guests that matter is not merged with that of others.

    What it checks
        While KSM merges, domains tagged critical, database or security have <nosharepages/> or huge pages in <memoryBacking>, in
        their definition and, if they run, now.

    Why it matters
        A write to a merged page costs a fault, so latency varies; and how long it takes tells others what is in memory.

    How to fix
        now: nothing helps a running guest but echo 2 > /sys/kernel/mm/ksm/run for all
        after a reboot: virsh edit $DOM: <memoryBacking><nosharepages/></memoryBacking>; then shut the guest down and start it
        roll back: virsh edit $DOM and take the element away
        verify: virsh dumpxml $DOM | grep -A3 memoryBacking

    When not to
        Guests that are packed densely on purpose and hold nothing of value.

    References
        https://libvirt.org/formatdomain.html#memory-backing
        https://libvirt.org/kbase/kvm-realtime.html
    """
    with Findings() as findings:
        saved = domain.saved
        kept = saved.nosharepages or saved.hugepages is not None
        findings.fail_if(not kept, f"{domain}: KSM may merge its memory: neither nosharepages nor huge pages are set.")
        if domain.running and kept:
            live = domain.live
            running = live.nosharepages or live.hugepages is not None
            findings.fail_if(
                not running, f"{domain}: KSM merges its memory until it is shut down and started; then nosharepages acts."
            )
