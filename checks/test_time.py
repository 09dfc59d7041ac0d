"""Checks of the host's clock."""

from __future__ import annotations

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check, note
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.views.cpu import cmdline, cpuinfo, uname
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.services import unit
from pytest_kvmcheck.views.time import clocksource, now_s, ntp_variables, timesyncd_stamp_s, tracking, virtualization

SYNC_CHECK = "KVM-TIM-001"


@check(
    SYNC_CHECK,
    title="The host clock is synchronised",
    severity=Severity.HIGH,
    reads=("chrony_tracking", "ntpd_variables", "timesyncd_stamp", "systemd_units", "now"),
    params={"max_update_age_s": 4200},
)
def test_clock_is_synchronised(host: Host, params: Params) -> None:
    """Something keeps the clock right, and did so lately.

    What it checks
        chrony: it has a reference, stratum 1 to 15, and heard of it within max_update_age_s by the host's own clock. ntpd:
        leap_none (or a leap second to come) and a source. systemd-timesyncd, active and having set the clock, is accepted with a
        warning. No daemon at all fails.

    Why it matters
        Guests take their time from the host when they start, and by ptp_kvm ever after.

    How to fix
        now: apt-get or dnf install chrony; systemctl enable --now chronyd (Debian: chrony); name servers in chrony.conf
        after a reboot: the same; let UDP port 123 out
        verify: chronyc -n tracking; chronyc -n sources

    When not to
        Hosts that follow a PTP clock without chrony are judged by checks of their own.

    References
        https://chrony-project.org/doc/4.6/chronyc.html
    """
    with Findings() as findings:
        chrony = tracking(host)
        if chrony:
            if not chrony.synchronized:
                findings.fail(f"{host}: chrony follows no source (stratum {chrony.stratum}, {chrony.leap}).")
                return
            age = now_s(host) - chrony.reference_s
            limit = params.max_update_age_s
            findings.fail_if(age > limit, f"{host}: chrony last heard of its source {age:.0f} s ago, at most {limit} s allowed.")
            findings.fail_if(age < -limit, f"{host}: chrony's reference time lies {-age:.0f} s ahead of the clock.")
            note(f"chrony, stratum {chrony.stratum}, heard of its source {age:.0f} s ago")
            return
        ntp = ntp_variables(host)
        if ntp:
            findings.fail_if(not ntp.synchronized, f"{host}: ntpd follows no source.")
            return
        daemon = unit(host, "systemd-timesyncd.service")
        if unit(host, "chronyd.service").active:
            raise EvidenceMissing(Cause.MISSING, "chronyd runs, but chronyc is missing or not answered", "chrony_tracking")
        if not daemon.active:
            findings.fail(f"{host}: no time daemon answers: neither chrony nor ntpd nor systemd-timesyncd.")
        elif timesyncd_stamp_s(host) is None:
            findings.fail(f"{host}: systemd-timesyncd runs, but has not set the clock yet.")
        else:
            findings.warn(f"{host}: systemd-timesyncd keeps the clock; chrony would keep it better and tell how well.")


@check(
    "KVM-TIM-002",
    title="The host clock offset is small",
    severity=Severity.MEDIUM,
    reads=("chrony_tracking", "ntpd_variables", "now"),
    params={"max_offset_ms": 100.0, "max_error_ms": 1000.0},
)
def test_clock_offset(host: Host, params: Params) -> None:
    """The clock is right to within what the profile allows.

    What it checks
        The offset that chrony or ntpd knows is at most max_offset_ms, and root delay / 2 + root dispersion + offset, the bound of
        the error, at most max_error_ms.

    Why it matters
        Clustered databases, Kerberos and Ceph bear only little skew.

    How to fix
        now: chronyc -n sources -v: look for a bad source or an asymmetric path; chronyc makestep moves the clock at once, which
            guests notice
        after a reboot: nearer or better sources in chrony.conf
        verify: chronyc -n tracking

    When not to
        Never; the limits belong into the profile.

    References
        https://chrony-project.org/doc/4.6/chronyc.html
    """
    chrony, ntp = tracking(host), None
    if chrony and chrony.synchronized:
        offset, delay, dispersion = chrony.offset_s, chrony.root_delay_s, chrony.root_dispersion_s
        if now_s(host) - chrony.reference_s > 86400:
            raise EvidenceMissing(Cause.BLOCKED, "the clock is not synchronised", "chrony_tracking", SYNC_CHECK)
    elif not chrony and (ntp := ntp_variables(host)) and ntp.synchronized:
        offset, delay, dispersion = ntp.offset_s, ntp.root_delay_s, ntp.root_dispersion_s
    else:
        raise EvidenceMissing(
            Cause.BLOCKED, "no chrony or ntpd tells an offset of a synchronised clock", "chrony_tracking", SYNC_CHECK
        )
    offset_ms, error_ms = 1000 * abs(offset), 1000 * (delay / 2 + dispersion + abs(offset))
    with Findings() as findings:
        findings.fail_if(
            offset_ms > params.max_offset_ms,
            f"{host}: the clock is {offset_ms:.3g} ms off, at most {params.max_offset_ms:g} ms allowed.",
        )
        findings.fail_if(
            error_ms > params.max_error_ms,
            f"{host}: the clock may be {error_ms:.3g} ms wrong, at most {params.max_error_ms:g} ms allowed.",
        )
    note(f"{offset_ms:.3g} ms off, at most {error_ms:.3g} ms wrong")


#: The clock source that each architecture should use.
BY_ARCHITECTURE = {
    "aarch64": "arch_sys_counter",
    "s390x": "tod",
    "ppc64": "timebase",
    "ppc64le": "timebase",
    "riscv64": "riscv_clocksource",
}


@check(
    "KVM-TIM-006",
    title="The host uses a fast, stable clock source",
    severity=Severity.HIGH,
    reads=("clocksource", "cpuinfo", "uname", "detect_virt", "cmdline"),
)
def test_clock_source(host: Host) -> None:
    """The kernel reads the time from the processor, not from a slow chip.

    What it checks
        x86: tsc, with the CPU flags constant_tsc and nonstop_tsc (one missing is a warning on bare metal); in a VM kvm-clock and
        Hyper-V's sources too. aarch64 arch_sys_counter, s390x tod, ppc64 timebase, riscv64 riscv_clocksource.

    Why it matters
        With hpet or acpi_pm KVM loses its master clock: time gets slow and unsteady in all guests, and ptp_kvm fails.

    How to fix
        now: echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, if it is among the available ones
        after a reboot: take clocksource= off the kernel command line; update the firmware; the kernel log says why tsc was
            found unstable
        verify: cat /sys/devices/system/clocksource/clocksource0/current_clocksource

    When not to
        Never on a KVM host.

    References
        https://docs.kernel.org/virt/kvm/x86/timekeeping.html
    """
    name, machine = clocksource(host), uname(host)
    if not machine.x86:
        wanted = BY_ARCHITECTURE.get(machine.machine)
        if wanted is None:
            raise EvidenceMissing(Cause.UNPARSABLE, f"no rule for the architecture {machine.machine}", "uname")
        assert name == wanted, f"{host}: clock source is {name}, expected {wanted}."
        return
    forced = values(cmdline(host), "clocksource")
    hint = f" (the command line says clocksource={forced[-1]})" if forced else ""
    if name == "tsc":
        missing = {"constant_tsc", "nonstop_tsc"} - cpuinfo(host).flags
        if missing and virtualization(host) == "none":
            with Findings() as findings:
                findings.warn(f"{host}: clock source is tsc, but the CPU lacks {', '.join(sorted(missing))}.")
        return
    paravirtual = name == "kvm-clock" or name.startswith("hyperv_clocksource")
    assert paravirtual and virtualization(host) != "none", f"{host}: clock source is {name}, expected tsc{hint}."
