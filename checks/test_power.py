"""Checks of power management: frequency, idle states, and the profile that sets both."""

from __future__ import annotations

from collections import defaultdict

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Items, Params, Severity, Text, Whole, check, note
from pytest_kvmcheck.conditions import all_of, bare_metal, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.facts.cpulist import format_cpulist
from pytest_kvmcheck.views.cpu import cmdline, online_cpus
from pytest_kvmcheck.views.hardware import cpufreq, cpuidle, dma_latency_held
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.services import unit


@condition
def frequency_is_ours(host: Host) -> str | None:
    """Hold where the kernel has a say in the frequency."""
    return None if cpufreq(host) else "no cpufreq: the frequency is left to the firmware or the hypervisor"


@check(
    "KVM-CPU-012",
    title="The frequency policy (governor, EPP, turbo) favours performance",
    severity=Severity.MEDIUM,
    reads=("cpufreq", "cpu_lists"),
    params={
        "allowed_epp": Items(
            ("performance", "balance_performance"),
            Choice("performance", "balance_performance", "balance_power", "power", "default"),
            least=1,
        ),
        "turbo_policy": Choice("any", "on", "off"),
    },
    applies=frequency_is_ours,
)
def test_frequency_policy(host: Host, params: Params) -> None:
    """Processors are fast before a guest has to ask for it.

    What it checks
        Every CPU that is online has the governor performance; or the processor itself chooses (intel_pstate or amd-pstate-epp in
        active mode), governor powersave, with an energy preference among allowed_epp. Turbo is judged with turbo_policy on or off
        only.

    Why it matters
        The host does not see the load of a guest as it sees that of a process: slow ramps become latency of the guest.

    How to fix
        now: cpupower frequency-set -g performance; or tuned-adm profile virtual-host
        after a reboot: TuneD keeps its profile; else a unit that runs cpupower (RHEL: cpupower.service, Debian and Ubuntu:
            cpufrequtils or a unit of your own, SUSE: cpupower.service), or cpufreq.default_governor=performance
        roll back: cpupower frequency-set -g powersave
        verify: grep . /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor

    When not to
        Hosts that save power on purpose; the firmware may keep the frequency to itself, then there is nothing to judge.

    References
        https://docs.kernel.org/admin-guide/pm/cpufreq.html
        https://docs.kernel.org/admin-guide/pm/intel_pstate.html
    """
    found, wanted = cpufreq(host), {"on": True, "off": False}.get(params.turbo_policy)
    if found is None:
        raise EvidenceMissing(Cause.MISSING, "no CPU has a frequency policy", "cpufreq")
    allowed, slow, untold = tuple(params.allowed_epp), defaultdict[str, list[int]](list), []
    for cpu in sorted(online_cpus(host)):
        policy = found.policies.get(cpu)
        if policy is None:
            untold.append(cpu)
        elif policy.hardware and policy.governor == "powersave":
            # A number between 0 (performance) and 255 may stand for a word; only 0 is one for sure.
            if policy.preference not in allowed and not (policy.preference == "0" and "performance" in allowed):
                slow[f"energy preference {policy.preference or 'not set'} of {policy.driver}"].append(cpu)
        elif policy.governor != "performance":
            slow[f"governor {policy.governor} of {policy.driver}"].append(cpu)
    with Findings() as findings:
        for what, cpus in sorted(slow.items()):
            wish = f"{' or '.join(allowed)}, or governor performance" if what.startswith("energy") else "governor performance"
            findings.fail(f"{host}: CPUs {format_cpulist(cpus)} have {what}, expected {wish}.")
        if wanted is not None:
            if found.turbo is None:
                findings.unknown(EvidenceMissing(Cause.MISSING, "the driver shows no switch for turbo", "cpufreq"))
            elif found.turbo != wanted:
                findings.fail(f"{host}: turbo is {'on' if found.turbo else 'off'}, expected {'on' if wanted else 'off'}.")
        if untold:
            seen = f"CPUs {format_cpulist(untold)} are online without a frequency policy"
            findings.unknown(EvidenceMissing(Cause.MISSING, seen, "cpufreq"))
        turbo = {True: "on", False: "off", None: "without a switch"}[found.turbo]
        note(f"{', '.join(sorted({f'{item.driver}/{item.governor}' for item in found.policies.values()}))}, turbo {turbo}")


def _polls(host: Host) -> bool:
    return "poll" in values(cmdline(host), "idle")


@condition
def idles(host: Host) -> str | None:
    """Hold where CPUs have idle states to choose from, or are told to have none."""
    return None if _polls(host) or cpuidle(host) else "no idle driver: idle states are left to the firmware or the hypervisor"


@check(
    "KVM-CPU-013",
    title="Deep idle states are bounded for latency-sensitive guests",
    severity=Severity.LOW,
    reads=("detect_virt", "cmdline", "cpuidle", "cpu_lists", "dma_latency_holders"),
    params={"max_exit_latency_us": Whole(200, 0, 1000)},
    applies=all_of(bare_metal, idles),
)
def test_idle_states(host: Host, params: Params) -> None:
    """A CPU wakes up within the time that the profile allows.

    What it checks
        On every CPU that is online, the slowest idle state that is enabled, and that its pm_qos_resume_latency_us does not rule
        out, is left within max_exit_latency_us. idle=poll passes. /dev/cpu_dma_latency may bound all CPUs; its value could
        only be read by opening it, so while a process (TuneD mostly) holds it, a deeper state is unknown instead of a failure.

    Why it matters
        Waking from a deep state adds tens to hundreds of microseconds whenever a guest is woken.

    How to fix
        now: cpupower idle-set -D 10 (disables states slower than that many microseconds)
        after a reboot: tuned-adm profile latency-performance or realtime-virtual-host; or intel_idle.max_cstate=1
            processor.max_cstate=1 on the kernel command line; or the firmware's low-latency settings
        roll back: cpupower idle-set -E
        verify: cpupower idle-info; as root: od -An -td4 -N4 /dev/cpu_dma_latency

    When not to
        Without deep states there is less headroom for turbo; do not disable them everywhere for guests that do not need it.

    References
        https://docs.kernel.org/admin-guide/pm/cpuidle.html
        https://docs.kernel.org/power/pm_qos_interface.html
    """
    if _polls(host):
        note("idle=poll: CPUs never sleep")
        return
    idle, limit = cpuidle(host), params.max_exit_latency_us
    if idle is None:
        raise EvidenceMissing(Cause.MISSING, "no idle states are shown", "cpuidle")
    slow, untold = defaultdict[str, list[int]](list), []
    for cpu in sorted(online_cpus(host)):
        if cpu not in idle.states:
            untold.append(cpu)
        elif (state := idle.deepest(cpu)) and state.latency_us > limit:
            slow[f"{state.name} ({state.latency_us} us)"].append(cpu)
    with Findings() as findings:
        if slow:
            if dma_latency_held(host):
                seen = "a process holds /dev/cpu_dma_latency; the limit that it sets is not read, as that would open the device"
                raise EvidenceMissing(Cause.SKIPPED, seen, "dma_latency_holders")
            for what, cpus in sorted(slow.items()):
                findings.fail(f"{host}: CPUs {format_cpulist(cpus)} may sleep as deep as {what}, at most {limit} us allowed.")
        if untold:
            seen = f"CPUs {format_cpulist(untold)} are online and show no idle states"
            findings.unknown(EvidenceMissing(Cause.MISSING, seen, "cpuidle"))
        note(
            f"{idle.driver}, at most {max((state.latency_us for cpu in idle.states if (state := idle.deepest(cpu))), default=0)} us"
        )


@condition
def tuned_installed(host: Host) -> str | None:
    """Hold where TuneD is installed."""
    return None if unit(host, "tuned.service").exists else "TuneD is not installed, single checks judge what it would set"


@check(
    "KVM-CPU-014",
    title="The TuneD profile fits a hypervisor",
    severity=Severity.LOW,
    reads=("systemd_units", "tuned"),
    params={
        "allowed_profiles": Items(
            ("virtual-host", "throughput-performance", "latency-performance", "network-latency"), Text(""), least=1, most=30
        )
    },
    applies=tuned_installed,
)
def test_tuned_profile(host: Host, params: Params) -> None:
    """TuneD runs, comes back after a reboot, and has a profile made for hosts of guests.

    What it checks
        tuned.service is active and enabled, and one of the profiles in /etc/tuned/active_profile is among allowed_profiles.
        Whether the settings still are as the profile wants is left to ``tuned-adm verify`` by hand: it makes the daemon run the
        profile's own scripts, and this tool runs nothing that it does not know.

    Why it matters
        One profile sets governor, swappiness, dirty ratios and the scheduler to fit each other.

    How to fix
        now: systemctl enable --now tuned; tuned-adm profile virtual-host (real-time hosts: realtime-virtual-host or
            cpu-partitioning, after editing its variables file)
        after a reboot: TuneD keeps the profile
        roll back: tuned-adm profile balanced
        verify: tuned-adm active; tuned-adm verify --ignore-missing

    When not to
        Debian, Ubuntu and SUSE do not install it; a host that is tuned by other means should not have it installed.

    References
        https://tuned-project.org/
        https://github.com/redhat-performance/tuned/tree/master/profiles
    """
    service = unit(host, "tuned.service")
    with Findings() as findings:
        findings.fail_if(not service.active, f"{host}: tuned.service is {service.active_state}, expected active.")
        findings.fail_if(not service.enabled, f"{host}: tuned.service is {service.unit_file_state}, expected enabled.")
        files = host.evidence.files("tuned")
        text = files.get("/etc/tuned/active_profile")
        profiles = text.split() if text is not None else []
        allowed = tuple(params.allowed_profiles)
        if not set(profiles) & set(allowed):
            shown = " ".join(profiles)[:80] or "none"
            findings.fail(f"{host}: the TuneD profile is {shown}, expected {' or '.join(allowed)}.")
        note(f"profile {' '.join(profiles)}")
