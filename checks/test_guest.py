"""Checks of Linux guests, seen from inside."""

from __future__ import annotations

from pytest_kvmcheck import EvidenceMissing, Severity, check
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.views.cpu import cpuinfo, uname
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.time import clocksource, virtualization

GOOD = {"aarch64": "arch_sys_counter", "s390x": "tod", "ppc64": "timebase", "ppc64le": "timebase"}


@condition
def is_a_kvm_guest(guest: Host) -> str | None:
    """Hold inside guests of KVM."""
    kind = virtualization(guest)
    if kind in ("kvm", "amazon", "google"):
        return None
    return (
        "not a virtual machine"
        if kind == "none"
        else f"a guest of {kind}, not of KVM"
        if kind != "qemu"
        else "an emulated guest (TCG)"
    )


@check(
    "KVM-GST-002",
    title="The guest clock source is kvm-clock or a trusted TSC",
    severity=Severity.MEDIUM,
    reads=("clocksource", "cpuinfo", "uname", "detect_virt"),
    applies=is_a_kvm_guest,
)
def test_guest_clock_source(guest: Host) -> None:
    """The guest reads the time without leaving its vCPU, from a source that its host vouches for.

    What it checks
        kvm-clock; or tsc, if the CPU flags have both constant_tsc and nonstop_tsc; hyperv_clocksource_tsc_page; on aarch64
        arch_sys_counter, on s390x tod, on ppc64 timebase. ``tsc=reliable`` on the command line is no excuse for missing flags.

    Why it matters
        hpet and acpi_pm cost an exit of the vCPU for each look at the clock; an untrusted TSC jumps when the guest migrates.

    How to fix
        now: echo kvm-clock > /sys/devices/system/clocksource/clocksource0/current_clocksource
        after a reboot: take clocksource=, tsc= and no-kvmclock off the guest's kernel command line; expose invtsc only to guests
            that never migrate
        verify: cat /sys/devices/system/clocksource/clocksource0/current_clocksource

    When not to
        Emulated guests and guests of other hypervisors.

    References
        https://docs.kernel.org/virt/kvm/x86/timekeeping.html
    """
    name, machine = clocksource(guest), uname(guest)
    if not machine.x86:
        wanted = GOOD.get(machine.machine)
        if wanted is None:
            raise EvidenceMissing(Cause.UNPARSABLE, f"no rule for the architecture {machine.machine}", "uname")
        assert name == wanted, f"{guest}: clock source is {name}, expected {wanted}."
        return
    if name in ("kvm-clock", "hyperv_clocksource_tsc_page"):
        return
    if name == "tsc":
        missing = {"constant_tsc", "nonstop_tsc"} - cpuinfo(guest).flags
        assert not missing, f"{guest}: clock source is tsc, but its CPU lacks {', '.join(sorted(missing))}; expected kvm-clock."
        return
    raise AssertionError(f"{guest}: clock source is {name}, expected kvm-clock.")
