"""Checks of PTP: clocks by the network, and by the hypervisor."""

from __future__ import annotations

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, Whole, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.chronyconf import phc_paths
from pytest_kvmcheck.facts.ptplog import PtpLog, PtpOffset
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.services import units
from pytest_kvmcheck.views.system import modules_at_boot
from pytest_kvmcheck.views.time import (
    chrony_conf,
    chrony_sources,
    clock_devices,
    now_s,
    ptp_clocks,
    ptp_log,
    ptp_settings,
    time_daemons,
    tracking,
    virtualization,
)

#: What was said longer ago tells nothing of now.
FRESH_S = 300

#: So many of the last offsets are judged.
LAST = 10


def _ptp_units(host: Host) -> list[str]:
    """Return the units of ptp4l, and timemaster, that are enabled or active."""
    return sorted(
        {
            item.id
            for name, item in units(host).items()
            if (name.startswith("ptp4l") or name == "timemaster.service") and (item.enabled or item.active)
        }
    )


@condition
def ptp_is_used(host: Host) -> str | None:
    """Hold where ptp4l runs, or should."""
    if _ptp_units(host) or any(item.name == "ptp4l" for item in time_daemons(host)):
        return None
    return "no ptp4l is active or enabled"


@check(
    "KVM-TIM-005",
    title="PTP is locked where it is used",
    severity=Severity.HIGH,
    reads=("systemd_units", "time_daemons", "ptp_log", "ptp_conf", "chrony_sources", "chrony_tracking", "now"),
    params={"max_ptp_offset_ns": Whole(1000, 1, 1_000_000), "max_phc2sys_ns": Whole(2000, 1, 1_000_000)},
    applies=ptp_is_used,
)
def test_ptp_is_locked(host: Host, params: Params) -> None:
    """The network card follows a grandmaster, and the system clock follows the card.

    What it checks
        ptp4l runs with hardware time stamps (no -S, time_stamping hardware) and names its interface; its last ten offsets, told
        within five minutes and locked (s2), are within max_ptp_offset_ns, which only a port that is SLAVE of a grandmaster tells;
        those of phc2sys are within max_phc2sys_ns. Instead of phc2sys, chrony may follow a reference clock.

    Why it matters
        ptp4l alone steers the clock of the card: without phc2sys the system clock still runs free.

    How to fix
        now: name the interface: OPTIONS in /etc/sysconfig/ptp4l (RHEL, SUSE), ptp4l@IF.service (Debian, Ubuntu);
            systemctl enable --now ptp4l phc2sys; ethtool -T IF shows what the card can do
        after a reboot: the same
        roll back: systemctl disable --now ptp4l phc2sys; start chronyd again where it had been stopped
        verify: pmc -u -b 0 'GET TIME_STATUS_NP' 'GET PORT_DATA_SET'; journalctl -t ptp4l -t phc2sys -n 20

    When not to
        Hosts for which milliseconds do: chrony alone is simpler.

    References
        https://linuxptp.nwtime.org/documentation/ptp4l/
        https://linuxptp.nwtime.org/documentation/phc2sys/
    """
    daemons = [item for item in time_daemons(host) if item.name == "ptp4l"]
    with Findings() as findings:
        if not daemons:
            findings.fail(f"{host}: {', '.join(_ptp_units(host))} is enabled or active, but no ptp4l runs.")
            return
        interfaces: list[str] = []
        for item in daemons:
            named, stamped = item.value("i"), "S" if item.has("S") else "H" if item.has("H") else ""
            if not named or not stamped:
                settings = ptp_settings(host, item)
                interfaces += settings.interfaces
                stamped = stamped or ("H" if settings.hardware else "S")
            interfaces += [named] if named else []
            findings.fail_if(stamped == "S", f"{host}: ptp4l uses software time stamps, expected those of the card.")
        if not interfaces:
            findings.unknown(EvidenceMissing(Cause.MISSING, "nothing names the interface of ptp4l", "ptp_conf"))
        log, now = ptp_log(host), now_s(host)
        _judge_card(host, log, now, params.max_ptp_offset_ns, findings)
        if any(item.name == "phc2sys" and item.steers for item in time_daemons(host)):
            limit = params.max_phc2sys_ns
            _judge_offsets(host, log, now, "phc2sys", "the system clock", limit, findings)
        else:
            _judge_chrony(host, params.max_phc2sys_ns, findings)
        note(f"ptp4l on {', '.join(interfaces)}")


def _judge_card(host: Host, log: PtpLog, now: int, limit: int, findings: Findings) -> None:
    """Judge the clock of the card. What was said of a port after its last offset shows that it follows no longer."""
    last = max((item.time_s for item in log.offsets if item.program == "ptp4l"), default=0.0)
    lost = [item for item in log.states if item.time_s > last and item.lost]
    if lost:
        findings.fail(f"{host}: port {lost[-1].port} of ptp4l is {lost[-1].state}, expected SLAVE.")
    elif log.alone_s > last:
        findings.fail(f"{host}: ptp4l finds no grandmaster and follows its own clock.")
    else:
        _judge_offsets(host, log, now, "ptp4l", "the card's clock", limit, findings)


def _judge_offsets(host: Host, log: PtpLog, now: int, program: str, clock: str, limit: int, findings: Findings) -> None:
    told: list[PtpOffset] = [item for item in log.offsets if item.program == program and now - item.time_s <= FRESH_S]
    if not told:
        seen = f"{program} told no offset within {FRESH_S} s (its logging_level may be too low)"
        findings.unknown(EvidenceMissing(Cause.EMPTY, seen, "ptp_log"))
        return
    recent = told[-LAST:]
    worst = max(item.offset_ns for item in recent)
    if not recent[-1].locked:
        findings.fail(f"{host}: {program} is not locked (last offset {recent[-1].offset_ns} ns).")
    findings.fail_if(worst > limit, f"{host}: {clock} is up to {worst} ns off by {program}, at most {limit} ns allowed.")


def _judge_chrony(host: Host, limit: int, findings: Findings) -> None:
    """Judge chrony in place of phc2sys: it has to follow a reference clock, or nobody takes the time off the card."""
    followed = [item for item in chrony_sources(host) or () if item.refclock and item.state in ("*", "+") and item.reach]
    state = tracking(host)
    if not followed or state is None:
        findings.fail(f"{host}: neither phc2sys nor a reference clock of chrony takes the time from the card to the system clock.")
        return
    offset_ns = round(abs(state.offset_s) * 1e9)
    findings.fail_if(offset_ns > limit, f"{host}: the system clock is {offset_ns} ns off by chrony, at most {limit} ns allowed.")


@condition
def no_kvm_guest(host: Host) -> str | None:
    """Hold unless the host is a guest of KVM itself, where ptp_kvm belongs."""
    return "the host is itself a guest of KVM" if virtualization(host) == "kvm" else None


@check(
    "KVM-TIM-007",
    title="ptp_kvm is configured in guests, not on bare-metal hosts",
    severity=Severity.INFO,
    reads=("detect_virt", "modules_load_conf", "chrony_conf", "clock_devices", "ptp_clocks"),
    applies=no_kvm_guest,
)
def test_no_ptp_kvm_on_hosts(host: Host) -> None:
    """The clock that a hypervisor offers its guests is not asked for where there is no hypervisor above.

    What it checks
        No file of modules-load.d (or /etc/modules) names ptp_kvm, and the device of each refclock PHC in chrony.conf exists.

    Why it matters
        ptp_kvm calls the hypervisor and is refused on real hardware; chronyd does not start when a PHC is missing; and
        /dev/ptp0 of a host is the clock of a network card.

    How to fix
        now: take the lines out, systemctl restart chronyd
        after a reboot: put them into the images of the guests
        roll back: the former lines, and systemctl restart chronyd
        verify: grep -rs ptp_kvm /etc/modules /etc/modules-load.d; grep -rs '^refclock' /etc/chrony.conf /etc/chrony

    When not to
        Hosts that are guests of KVM themselves.

    References
        https://docs.kernel.org/virt/kvm/x86/hypercalls.html
        https://chrony-project.org/doc/4.6/chrony.conf.html
    """
    with Findings() as findings:
        findings.fail_if("ptp_kvm" in modules_at_boot(host), f"{host}: ptp_kvm is to be loaded at boot; it belongs in guests.")
        there = clock_devices(host).ptp
        for path in phc_paths(chrony_conf(host)):
            if path.startswith("/dev/ptp"):
                findings.fail_if(path not in there, f"{host}: chrony's reference clock PHC {path} does not exist.")
            else:
                findings.unknown(EvidenceMissing(Cause.NOT_COLLECTED, f"whether {path} exists was not asked", "clock_devices"))
        clocks = ptp_clocks(host)
        note(", ".join(f"{name} is {text}" for name, text in clocks.items()) or "no PTP clock")
