"""Checks of the host's clock."""

from __future__ import annotations

from pytest_kvmcheck import EvidenceMissing, Findings, Number, Params, Severity, Text, Whole, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.chrony import Source
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.facts.ntp import Peer
from pytest_kvmcheck.findings import compared
from pytest_kvmcheck.views.cpu import cmdline, cpuinfo, uname
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.services import unit, units
from pytest_kvmcheck.views.time import (
    UNASKED_UNITS,
    chrony_sources,
    clock_devices,
    clocksource,
    now_s,
    ntp_peers,
    ntp_variables,
    rtc_keeps,
    time_daemons,
    timesyncd_stamp_s,
    tracking,
    virtualization,
)

SYNC_CHECK = "KVM-TIM-001"


@condition
def clock_is_not_left_to_ptp(host: Host) -> str | None:
    """Hold unless PTP alone keeps the clock, which has a check of its own."""
    if tracking(host) or ntp_variables(host):
        return None
    ptp = [name for name, item in sorted(units(host).items()) if name.startswith(("phc2sys", "timemaster")) and item.active]
    return f"{ptp[0]} keeps the clock (KVM-TIM-005 judges it)" if ptp else None


@check(
    SYNC_CHECK,
    title="The host clock is synchronised",
    severity=Severity.HIGH,
    reads=("chrony_tracking", "ntpd_variables", "timesyncd_stamp", "systemd_units", "now"),
    params={"max_update_age_s": Whole(4200, 60, 604_800)},
    applies=clock_is_not_left_to_ptp,
)
def test_clock_is_synchronised(host: Host, params: Params) -> None:
    """Something keeps the clock right, and did so lately.

    What it checks
        chrony: it has a reference, stratum 1 to 15, and heard of it within max_update_age_s by the host's own clock. ntpd:
        leap_none (or a leap second to come) and a source. Their own clock (local, 127.127.1.0) is no source. systemd-timesyncd,
        active and having set the clock within max_update_age_s, is accepted with a warning. No daemon at all fails.

    Why it matters
        Guests take their time from the host when they start, and by ptp_kvm ever after.

    How to fix
        now: apt-get or dnf install chrony; systemctl enable --now chronyd (Debian: chrony); name servers in chrony.conf
        after a reboot: the same; let UDP port 123 out
        roll back: systemctl disable --now chronyd (Debian: chrony); the former chrony.conf; start the former daemon again
        verify: chronyc -n tracking; chronyc -n sources

    When not to
        Hosts that follow a PTP clock without chrony are judged by KVM-TIM-005.

    References
        https://chrony-project.org/doc/4.6/chronyc.html
    """
    with Findings() as findings:
        chrony = tracking(host)
        if chrony:
            if not chrony.synchronized:
                what = "its own clock only" if chrony.alone else "no source"
                findings.fail(f"{host}: chrony follows {what} (stratum {chrony.stratum}, {chrony.leap}).")
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
        if unit(host, "chronyd.service").active or ("chrony.service" in units(host) and unit(host, "chrony.service").active):
            raise EvidenceMissing(Cause.MISSING, "chronyd runs, but chronyc is missing or not answered", "chrony_tracking")
        if others := [name for name in UNASKED_UNITS if name in units(host) and unit(host, name).active]:
            raise EvidenceMissing(Cause.MISSING, f"{others[0]} runs, and nothing tells how well", "ntpd_variables")
        if not daemon.active:
            findings.fail(f"{host}: no time daemon answers: neither chrony nor ntpd nor systemd-timesyncd.")
        elif (stamp := timesyncd_stamp_s(host)) is None:
            findings.fail(f"{host}: systemd-timesyncd runs, but has not set the clock yet.")
        elif (age := now_s(host) - stamp) > params.max_update_age_s:
            findings.fail(f"{host}: systemd-timesyncd last set the clock {age} s ago, at most {params.max_update_age_s} s allowed.")
        else:
            findings.warn(f"{host}: systemd-timesyncd keeps the clock; chrony would keep it better and tell how well.")


@check(
    "KVM-TIM-002",
    title="The host clock offset is small",
    severity=Severity.MEDIUM,
    reads=("chrony_tracking", "ntpd_variables", "now"),
    params={"max_offset_ms": Number(100.0, 0.000_001, 10_000), "max_error_ms": Number(1000.0, 0.000_1, 60_000)},
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
        roll back: the former chrony.conf; a step of the clock cannot be taken back
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


@condition
def sources_are_known(host: Host) -> str | None:
    """Hold where chrony or ntpd tells of its sources; whether one of them has to run is for ``SYNC_CHECK`` to say."""
    if chrony_sources(host) is not None or ntp_peers(host) is not None:
        return None
    if unit(host, "chronyd.service").active or unit(host, "chrony.service").active:
        raise EvidenceMissing(Cause.MISSING, "chronyd runs, but chronyc is missing or not answered", "chrony_sources")
    return "neither chrony nor ntpd answers"


@check(
    "KVM-TIM-003",
    title="Enough independent time sources are reachable",
    severity=Severity.MEDIUM,
    reads=("chrony_sources", "ntpd_peers", "systemd_units"),
    params={"min_sources": Whole(4, 1, 100)},
    applies=sources_are_known,
)
def test_time_sources(host: Host, params: Params) -> None:
    """The clock can be checked against several others.

    What it checks
        chrony (or ntpd) hears at least min_sources servers that it trusts (marked *, + or -, reach above 0), with different
        addresses where more than one is wanted; a reference clock that it follows stands for all. At most one is a false ticker.

    Why it matters
        Of two clocks that disagree nobody knows which is right; with four, one may be wrong and one away.

    How to fix
        now: add servers or a pool to chrony.conf (RHEL and SUSE: /etc/chrony.conf, Debian and Ubuntu: /etc/chrony/chrony.conf or
            a file in /etc/chrony/sources.d), chronyc reload sources; let UDP port 123 out
        after a reboot: the same
        roll back: the former files, and chronyc reload sources (servers of chrony.conf: restart chronyd)
        verify: chronyc -n sources; ntpq -pn

    When not to
        Hosts that follow PTP or a reference clock.

    References
        https://www.rfc-editor.org/rfc/rfc8633
        https://chrony-project.org/doc/4.6/chronyc.html
    """
    sources: tuple[Source | Peer, ...] | None = chrony_sources(host)
    if sources is None:
        sources = ntp_peers(host) or ()
    wanted = params.min_sources
    used = [source for source in sources if source.used]
    false = [source for source in sources if (source.state if isinstance(source, Source) else source.tally) == "x"]
    clocks = [source for source in used if source.refclock and not (isinstance(source, Source) and source.state == "-")]
    with Findings() as findings:
        if len(false) > 1:
            findings.fail(
                f"{host}: {len(false)} sources are false tickers ({', '.join(item.address for item in false)}), at most 1 may be."
            )
        if clocks:
            note(f"reference clock {clocks[0].address}")
            return
        if len(used) < wanted:
            findings.fail(f"{host}: {len(used)} of {len(sources)} time sources answer and are trusted, expected {wanted} or more.")
        elif wanted > 1 and len({source.address for source in used}) < 2:
            findings.fail(f"{host}: all time sources are {used[0].address}, expected several.")
        note(f"{len(used)} of {len(sources)} sources")


#: Units that discipline the system clock while they are active, whatever their options; chronyd and phc2sys depend on theirs.
STEERING_UNITS = (
    *("ntpd.service", "ntp.service", "ntpsec.service", "ntpd-rs.service", "openntpd.service"),
    *("systemd-timesyncd.service", "timemaster.service"),
)


@check(
    "KVM-TIM-004",
    title="Only one service disciplines the system clock",
    severity=Severity.MEDIUM,
    reads=("systemd_units", "time_daemons"),
)
def test_one_clock_keeper(host: Host) -> None:
    """One daemon and one only sets the system clock.

    What it checks
        Exactly one of chronyd (without -x), ntpd, ntpsec, ntpd-rs, openntpd, systemd-timesyncd, timemaster, and phc2sys that steers
        CLOCK_REALTIME is active. A unit with two names counts once; so do the chronyd and phc2sys that timemaster starts.

    Why it matters
        Two daemons pull the clock to and fro, and each takes the other's work for its own error.

    How to fix
        now: systemctl disable --now the ones that should not be (chronyd is called chrony on Debian and Ubuntu)
        after a reboot: the same; mask what packages enable again
        roll back: systemctl unmask and enable --now the former one, after the other is disabled
        verify: systemctl list-units 'chrony*' 'ntp*' 'systemd-timesyncd*' 'phc2sys*' timemaster.service

    When not to
        A container host whose clock somebody else keeps.

    References
        https://chrony-project.org/doc/4.6/chronyd.html
        https://linuxptp.nwtime.org/documentation/phc2sys/
    """
    known, processes = units(host), time_daemons(host)
    keepers = {unit(host, name).id for name in STEERING_UNITS if unit(host, name).active}
    mastered = "timemaster.service" in keepers
    for name in ("chronyd.service", "chrony.service"):
        found = unit(host, name)
        if not found.active:
            continue
        seen = [item for item in processes if item.name == "chronyd"]
        if not seen:
            raise EvidenceMissing(Cause.NOT_PERMITTED, "the options of chronyd cannot be seen", "time_daemons")
        if any(item.steers for item in seen):
            keepers.add(found.id)
    if not mastered:
        steering = [item for item in processes if item.name == "phc2sys" and item.steers]
        keepers |= {f"phc2sys {number}" if len(steering) > 1 else "phc2sys" for number, _ in enumerate(steering, 1)}
        hidden = [name for name, item in known.items() if name.startswith("phc2sys") and item.active]
        if hidden and not any(item.name == "phc2sys" for item in processes):
            raise EvidenceMissing(Cause.NOT_PERMITTED, f"the options of {hidden[0]} cannot be seen", "time_daemons")
    assert len(keepers) <= 1, f"{host}: {' and '.join(sorted(keepers))} steer the system clock, expected one."
    assert keepers, f"{host}: nothing steers the system clock: no time daemon is active."
    note(keepers.pop())


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
        roll back: echo the former name into the same file; the former kernel command line, and reboot
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


#: Names of the one zone.
_UTC = frozenset({"UTC", "Etc/UTC", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal"})


def _zone(host: Host) -> str | None:
    """Return the time zone, by one name where it has several."""
    zone = clock_devices(host).zone
    return "UTC" if zone in _UTC else zone


@check(
    "KVM-TIM-010",
    title="RTC and time zone follow policy",
    severity=Severity.LOW,
    reads=("clock_devices", "adjtime"),
    params={
        "max_rtc_drift_s": Whole(5, 0, 3600),
        "expected_tz": Text(None, r"[A-Za-z][\w+/-]*", "a time zone, such as UTC or Europe/Berlin"),
    },
    compares=True,
)
def test_rtc_and_zone(host: Host, params: Params) -> None:
    """The battery clock keeps UTC and is right, and the host is in the zone where it should be.

    What it checks
        The third line of /etc/adjtime is not LOCAL (no file means UTC); rtc0 is within max_rtc_drift_s of the system clock; the
        zone that /etc/localtime links to is expected_tz where the profile names one, else that of more than half of its cluster.
        Without a battery clock (s390x) only the zone is judged.

    Why it matters
        Guests with clock offset localtime take the host's zone, and a wrong battery clock breaks TLS and Kerberos early at boot.

    How to fix
        now: timedatectl set-local-rtc 0; hwclock --systohc; timedatectl set-timezone ZONE
        after a reboot: rtcsync in chrony.conf keeps the battery clock right
        roll back: timedatectl set-local-rtc 1; timedatectl set-timezone OLDZONE
        verify: timedatectl

    When not to
        Machines that also start Windows from disk keep local time.

    References
        https://www.freedesktop.org/software/systemd/man/latest/timedatectl.html
        https://man7.org/linux/man-pages/man8/hwclock.8.html
    """
    with Findings() as findings:
        clocks, keeps = clock_devices(host), rtc_keeps(host)
        if keeps == "LOCAL":
            findings.fail(f"{host}: the battery clock keeps local time (/etc/adjtime), expected UTC.")
        elif clocks.rtc_s is not None and clocks.system_s is not None:
            drift, limit = clocks.rtc_s - clocks.system_s, params.max_rtc_drift_s
            if abs(drift) > limit:
                side = "ahead of" if drift > 0 else "behind"
                findings.fail(f"{host}: the battery clock is {abs(drift)} s {side} the system clock, at most {limit} s allowed.")
        expected = params.expected_tz
        theirs = compared(host.peers, _zone) if expected is None else {}
        if expected is None and not theirs:
            pass
        elif (mine := _zone(host)) is None:
            findings.unknown(EvidenceMissing(Cause.UNPARSABLE, "/etc/localtime is no link into zoneinfo", "clock_devices"))
        elif expected is not None:
            wanted = "UTC" if expected in _UTC else expected
            findings.fail_if(mine != wanted, f"{host}: the time zone is {clocks.zone}, expected {expected}.")
        else:
            others = sorted(f"{zone} on {peer}" for peer, zone in theirs.items() if zone not in (None, mine))
            alike = sum(zone == mine for zone in theirs.values()) + 1
            findings.fail_if(
                bool(others) and alike <= len(others), f"{host}: the time zone is {clocks.zone}, but {', '.join(others[:8])}."
            )
        note(f"zone {clocks.zone or 'not told'}" + ("" if clocks.rtc_s is not None else ", no battery clock"))
