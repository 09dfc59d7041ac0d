"""Checks of the clocks of guests, as far as the host sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.services import GuestSettings, auto_shutdown, unit

#: The tag of guests that may have odd clocks.
TEST = "test"

#: The tag of guests that set their clock right by themselves after a pause, however long it was.
OWN_CLOCK = "own-clock"


#: What is wrong about a definition: how bad it is, what was found, and the rest of the sentence.
Fault = tuple[str, str, str]


def _judge(domain: Domain, findings: Findings, faults: Callable[[DomainXml], Iterator[Fault]]) -> None:
    """Report the faults of what the domain is to be, and, while it runs, those that only what it is has."""
    said: set[Fault] = set()
    for when, part in (("", "saved"), (" as it runs now", "live")):
        if when and not domain.running:
            continue
        for fault in faults(domain.saved if part == "saved" else domain.live):
            if fault not in said:
                said.add(fault)
                kind, found, rest = fault
                (findings.fail if kind == "fail" else findings.warn)(f"{domain}: {found}{when}, {rest}.")


@check(
    "KVM-TIM-008",
    title="The domain clock offset fits the guest OS",
    severity=Severity.LOW,
    reads=("virsh", "domain"),
    params={"allow_windows_utc": False},
)
def test_clock_offset_fits(domain: Domain, params: Params) -> None:
    """The guest finds the battery clock that its operating system expects.

    What it checks
        By the operating system in the metadata (libosinfo): Linux and BSD have clock offset utc, or variable with basis utc;
        Windows has localtime, timezone or variable (utc with allow_windows_utc); absolute is for domains tagged test. Where the
        system is not written down, utc and variable pass and anything else is unknown.

    Why it matters
        With the wrong base the guest is off by its time zone after each start.

    How to fix
        now: virsh edit $DOM: <clock offset='utc'> for Linux, <clock offset='localtime'> for Windows
        after a reboot: it acts when the guest was shut down and is started again
        roll back: virsh edit $DOM with the former offset
        verify: virsh dumpxml --inactive $DOM | grep '<clock'

    When not to
        Windows with RealTimeIsUniversal in its registry wants utc.

    References
        https://libvirt.org/formatdomain.html#time-keeping
    """

    def faults(xml: DomainXml) -> Iterator[Fault]:
        clock, system = xml.clock, xml.os.id
        offset = clock.offset or "utc"
        shown = f"clock has offset {offset}" + (f" (basis {clock.basis})" if clock.basis else "")
        local = offset in ("localtime", "timezone")
        if offset == "absolute":
            if TEST not in domain.tags:
                yield "fail", shown, f"though it is not tagged {TEST}"
        elif not system:
            if local:
                raise EvidenceMissing(Cause.MISSING, f"{domain}: {shown}, and the operating system is not written down", "domain")
        elif xml.os.windows:
            if offset == "utc" and not params.allow_windows_utc:
                yield "fail", shown, "expected localtime for Windows"
        elif local or (offset == "variable" and clock.basis == "localtime"):
            yield "fail", shown, f"expected utc for {system}"

    with Findings() as findings:
        _judge(domain, findings, faults)
        note(f"offset {domain.saved.clock.offset or 'utc'}, {domain.saved.os.id or 'operating system not written down'}")


@condition
def has_kvm_timers(domain: Domain) -> str | None:
    """Hold for accelerated domains of x86."""
    xml = domain.saved
    if xml.os.arch not in ("x86_64", "i686"):
        return f"{domain} is not x86 but {xml.os.arch or 'of unknown architecture'}"
    return None if xml.type == "kvm" else f"{domain} is of type {xml.type}, which has no timers of KVM"


@check(
    "KVM-TIM-009",
    title="Domain timers are the paravirtual ones",
    severity=Severity.LOW,
    reads=("virsh", "domain"),
    applies=has_kvm_timers,
)
def test_timers(domain: Domain) -> None:
    """The guest reads the time without leaving for the host.

    What it checks
        Linux, or an unknown system: kvmclock is not switched off; hpet is (left on, or not spoken of, is a warning); rtc catches up
        and pit delays, where a tick policy is given. Windows: hypervclock is on. No guest has an emulated TSC, unless tagged test.

    Why it matters
        Each reading of HPET or an emulated TSC is an exit to the hypervisor.

    How to fix
        now: virsh edit $DOM: <timer name='hpet' present='no'/>, <timer name='rtc' tickpolicy='catchup'/>,
            <timer name='pit' tickpolicy='delay'/>; Windows: <timer name='hypervclock' present='yes'/>
        after a reboot: it acts when the guest was shut down and is started again
        roll back: virsh edit $DOM with the former timers
        verify: virsh dumpxml $DOM | grep '<timer'

    When not to
        Guests that only know HPET.

    References
        https://libvirt.org/formatdomain.html#time-keeping
    """

    def faults(xml: DomainXml) -> Iterator[Fault]:
        timers = xml.clock.timers
        tsc, kvmclock, hpet, hyperv = (timers.get(name) for name in ("tsc", "kvmclock", "hpet", "hypervclock"))
        if tsc and tsc.mode == "emulate" and TEST not in domain.tags:
            yield "fail", "timer tsc has mode emulate", "expected native or none"
        if xml.os.windows:
            if not (hyperv and hyperv.present) and xml.cpu.hyperv_mode != "passthrough":
                yield "fail", "timer hypervclock is not on", "expected for Windows"
            return
        if kvmclock and kvmclock.present is False:
            yield "fail", "timer kvmclock is switched off", "expected on"
        for name, policy in (("rtc", "catchup"), ("pit", "delay")):
            given = timers[name].tickpolicy if name in timers else ""
            if given not in ("", policy):
                yield "fail", f"timer {name} has tickpolicy {given}", f"expected {policy}"
        if not (hpet and hpet.present is False):
            yield "warn", f"timer hpet is {'on' if hpet else 'not switched off'}", "expected present='no'"

    with Findings() as findings:
        _judge(domain, findings, faults)


def _suspended_at_shutdown(host: Host) -> bool:
    """Return whether libvirt-guests saves guests when the host goes down."""
    service = unit(host, "libvirt-guests.service")
    return (service.enabled or service.active) and GuestSettings(host)["ON_SHUTDOWN"] == "suspend"


@condition
def comes_back_from_the_past(host: Host, domain: Domain) -> str | None:
    """Hold for domains whose memory is, or will be, saved and restored."""
    if OWN_CLOCK in domain.tags:
        return f"{domain} is tagged {OWN_CLOCK}: it sets its clock right by itself"
    if domain.info.managed_save:
        return None
    if not (_suspended_at_shutdown(host) or "auto_shutdown_try_save" in auto_shutdown(host)):
        return "guests are not saved at shutdown, and no memory of this one is"
    return None if domain.running else f"{domain} is off, and no memory of it is saved"


@check(
    "KVM-TIM-011",
    title="Guests get their time corrected after suspend, restore or migration",
    severity=Severity.MEDIUM,
    reads=("systemd_units", "libvirt_guests_conf", "libvirt_guests_script", "qemu_conf", "virsh", "domain"),
    applies=comes_back_from_the_past,
)
def test_time_after_restore(host: Host, domain: Domain) -> None:
    """A guest that slept does not go on in the past.

    What it checks
        Where libvirt-guests suspends guests at shutdown, or the domain has a managed-save image: SYNC_TIME of libvirt-guests is not
        0, and the agent of the guest, if it runs, is connected. Where libvirt itself saves guests (auto_shutdown_try_save), nothing
        sets their clocks, which is a warning.

    Why it matters
        A guest that was saved for hours is hours late, and NTP alone may refuse to step that far.

    How to fix
        now: install and start qemu-guest-agent in the guest; virsh domtime $DOM --sync after it came back
        after a reboot: SYNC_TIME=1 in /etc/sysconfig/libvirt-guests (RHEL, SUSE) or /etc/default/libvirt-guests (Debian, Ubuntu)
        roll back: SYNC_TIME=0 in the same file; a step of the guest's clock cannot be taken back
        verify: virsh domtime $DOM --pretty

    When not to
        Guests that set their clock by themselves (chrony with makestep and no limit, or a PHC): tag them own-clock.

    References
        https://libvirt.org/manpages/libvirt-guests.html
        https://libvirt.org/manpages/virsh.html#domtime
    """
    with Findings() as findings:
        saved = domain.info.managed_save
        if saved or _suspended_at_shutdown(host):
            sync = GuestSettings(host)["SYNC_TIME"]
            why = "its memory is saved" if saved else "libvirt-guests suspends it at shutdown"
            findings.fail_if(sync in ("0", ""), f"{domain}: {why}, but SYNC_TIME is {sync or 'empty'}: its clock will be late.")
            if domain.running:
                agent = domain.live.devices.agent
                state = agent.state or "not connected" if agent else "not configured"
                findings.fail_if(state != "connected", f"{domain}: the guest agent, which sets the clock, is {state}.")
        else:
            findings.warn(
                f"{domain}: libvirt saves it at shutdown (auto_shutdown_try_save), and nothing sets its clock afterwards."
            )
