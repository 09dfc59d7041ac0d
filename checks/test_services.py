"""Checks of the libvirt services and of systemd."""

from __future__ import annotations

import math
import re

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.shellvars import parse_assignments
from pytest_kvmcheck.views.domains import DAEMON_CHECK, running_domains, virsh
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.identity import versions
from pytest_kvmcheck.views.services import (
    MODULAR,
    MONOLITHIC,
    failed_units,
    in_use,
    managers,
    qemu_conf,
    stop_timeout_s,
    system_state,
    unit,
    validation,
)

#: How virsh says that the account may not ask. That is not the daemon's fault.
_DENIED = re.compile(r"Permission denied|authentication (?:unavailable|failed)|access denied|not permitted", re.IGNORECASE)


@check(
    DAEMON_CHECK,
    title="A libvirt QEMU daemon answers, with its sockets enabled at boot",
    severity=Severity.CRITICAL,
    reads=("virsh", "systemd_units"),
)
def test_libvirt_answers(host: Host) -> None:
    """Guests can be started, asked and shut down now, and after the next boot too.

    What it checks
        ``virsh -r -c qemu:///system`` connects within 30 s, and virtqemud or libvirtd (socket or service) is enabled. A
        service that is off while its socket listens is healthy: the daemons stop when idle.

    Why it matters
        Without the daemon no guest can be managed at all; with it not enabled, that happens after the next reboot.

    How to fix
        now: systemctl enable --now virtqemud.socket virtqemud-ro.socket virtqemud-admin.socket (monolithic: the same
            sockets of libvirtd)
        after a reboot: enable the service besides the sockets, so that guests with autostart come up
        roll back: systemctl disable --now the same units
        verify: virsh -r -c qemu:///system uri; systemctl is-enabled virtqemud.socket libvirtd.socket

    When not to
        Never on a KVM host.

    References
        https://libvirt.org/daemons.html
    """
    record = host.evidence.record("virsh")
    known = (*MODULAR, *MONOLITHIC)
    with Findings() as findings:
        try:
            if not host.evidence.keyed("virsh"):
                host.evidence.whole("virsh")
            if not virsh(host, "uri").startswith("qemu"):
                raise EvidenceMissing(Cause.UNPARSABLE, "virsh uri does not name the connection", "virsh")
        except EvidenceMissing as missing:
            said = " ".join(line.removeprefix("error: ") for line in record.stdout.splitlines() if line.strip())
            if missing.cause is Cause.TIMEOUT:
                findings.fail(f"{host}: libvirt did not answer within the time that virsh was given (30 s).")
            elif missing.cause is Cause.MISSING and not any(unit(host, name).exists for name in known):
                findings.fail(f"{host}: libvirt is not installed: no virsh, and systemd knows no libvirtd or virtqemud.")
                return
            elif missing.blocked_by and _DENIED.search(said):
                findings.unknown(EvidenceMissing(Cause.NOT_PERMITTED, f"virsh: {said[:200]}", "virsh"))
            elif missing.blocked_by:
                findings.fail(f"{host}: no libvirt daemon answers: {said[:200] or record.complaint}.")
            else:
                findings.unknown(missing)
        # What is enabled for this boot only does not help the next one.
        enabled = [name for name in known if unit(host, name).unit_file_state == "enabled"]
        if not enabled:
            findings.fail(f"{host}: neither virtqemud nor libvirtd is enabled: after a reboot nothing will answer.")
        else:
            note(f"enabled: {', '.join(enabled)}")


@check(
    "KVM-SVC-002",
    title="Monolithic and modular libvirt daemons are not mixed",
    severity=Severity.HIGH,
    reads=("systemd_units",),
)
def test_one_set_of_daemons(host: Host) -> None:
    """Either libvirtd or the modular daemons manage the guests, never both.

    What it checks
        Not both of libvirtd (service, socket) and virtqemud (service, socket) are enabled or active; virtproxyd.socket,
        which takes libvirtd's place, only goes with the modular daemons.

    Why it matters
        Two daemons on the same state directory lose domains and fight over their cgroups.

    How to fix
        now: systemctl disable --now and systemctl mask the set that is not used, with guests stopped or moved away
        after a reboot: the same; follow the switch procedure of libvirt's daemons page
        verify: systemctl list-unit-files 'libvirtd*' 'virt*d*'

    When not to
        Never; virtlogd and virtlockd belong to both sets and are not judged.

    References
        https://libvirt.org/daemons.html
    """
    monolithic, modular = in_use(host, MONOLITHIC), in_use(host, MODULAR)
    with Findings() as findings:
        if monolithic and modular:
            both = f"{', '.join(monolithic)} and {', '.join(modular)}"
            findings.fail(f"{host}: {both} are in use at the same time, expected one set of daemons.")
        if monolithic and in_use(host, ("virtproxyd.socket",)):
            findings.fail(f"{host}: virtproxyd.socket is in use beside {', '.join(monolithic)}, which it replaces.")


@condition
def guests_are_ours(host: Host) -> str | None:
    """Hold unless a platform owns the life of the guests."""
    owners = managers(host)
    return f"{', '.join(owners)} manages the guests" if owners else None


#: The release of libvirt that brought the auto_shutdown settings of qemu.conf.
AUTO_SHUTDOWN_SINCE = (11, 2, 0)


def _auto_shutdown(host: Host) -> dict[str, str]:
    """Return the auto_shutdown settings of qemu.conf that do something; libvirt before 11.2 has none."""
    keys = ("auto_shutdown_try_save", "auto_shutdown_try_shutdown", "auto_shutdown_poweroff")
    try:
        conf = qemu_conf(host)
    except EvidenceMissing as missing:
        # The file is often closed to all but root; a libvirt that does not know the settings cannot have them in use.
        if missing.cause is Cause.NOT_PERMITTED and versions(host).libvirt < AUTO_SHUTDOWN_SINCE:
            return {}
        raise
    return {key: str(conf[key]) for key in keys if str(conf.get(key, "none")) != "none"}


@check(
    "KVM-SVC-005",
    title="Host shutdown handling of guests is enabled by exactly one mechanism",
    severity=Severity.HIGH,
    reads=("systemd_units", "qemu_conf", "managers", "virsh"),
    applies=guests_are_ours,
)
def test_guests_are_shut_down(host: Host) -> None:
    """When the host goes down, one thing and one only takes care of its guests.

    What it checks
        libvirt-guests.service is enabled and active, or an auto_shutdown setting of qemu.conf is in use; not both, and
        not neither.

    Why it matters
        Otherwise guests are killed with the host, without a flush; with both, the two fight over each guest.

    How to fix
        now: systemctl enable --now libvirt-guests
        after a reboot: nothing more; or set auto_shutdown_try_shutdown in /etc/libvirt/qemu.conf and disable
            libvirt-guests
        roll back: systemctl disable libvirt-guests (stopping it shuts guests down now)
        verify: systemctl show -p ActiveState,UnitFileState libvirt-guests

    When not to
        Where oVirt, OpenStack or KubeVirt decides about the guests.

    References
        https://libvirt.org/manpages/libvirt-guests.html
    """
    service = unit(host, "libvirt-guests.service")
    works = service.enabled and service.active
    with Findings() as findings:
        if (service.enabled or service.active) and not works:
            state = f"{service.unit_file_state or 'no unit file'}, {service.active_state}"
            findings.fail(f"{host}: libvirt-guests is {state}; it has to be enabled and active to act at shutdown.")
        other = _auto_shutdown(host)
        if works and other:
            findings.fail(f"{host}: both libvirt-guests and {', '.join(other)} of qemu.conf act at shutdown.")
        elif not works and not other and not findings.failures:
            findings.fail(f"{host}: nothing takes care of the guests at shutdown: libvirt-guests is not enabled.")


@condition
def libvirt_guests_acts(host: Host) -> str | None:
    """Hold where libvirt-guests is what acts at shutdown."""
    if reason := guests_are_ours(host=host):
        return reason
    if unit(host, "libvirt-guests.service").enabled:
        return None
    other = _auto_shutdown(host)
    return f"guests are handled by {', '.join(other)}" if other else None


@check(
    "KVM-SVC-006",
    title="libvirt-guests actions and time budget are explicit and realistic",
    severity=Severity.MEDIUM,
    reads=("libvirt_guests_conf", "libvirt_guests_script", "systemd_units", "virsh", "managers", "qemu_conf"),
    params={
        "on_boot": "start",
        "on_shutdown": "shutdown",
        "start_delay": 5,
        "stagger_over": 8,
        "min_shutdown_timeout_s": 120,
        "serial_max": 3,
        "max_total_s": 1800,
    },
    applies=libvirt_guests_acts,
)
def test_libvirt_guests_settings(host: Host, params: Params) -> None:
    """What happens to guests at shutdown and boot is written down, and fits into the time that there is.

    What it checks
        ON_SHUTDOWN and ON_BOOT are as the profile wants (ON_BOOT=ignore is fine while every running guest has
        autostart) and not left to a default; START_DELAY staggers many guests; SHUTDOWN_TIMEOUT is long enough and not
        endless; more than a few guests are shut down in parallel; the worst case fits into TimeoutStopUSec of the unit
        and the profile's bound.

    Why it matters
        Defaults differ between distributions, and many guests one after the other outlast any UPS.

    How to fix
        now: set ON_BOOT, ON_SHUTDOWN, SHUTDOWN_TIMEOUT, PARALLEL_SHUTDOWN and START_DELAY in
            /etc/default/libvirt-guests (Debian, Ubuntu) or /etc/sysconfig/libvirt-guests (RHEL, SUSE)
        after a reboot: the file is read each time; align the UPS and systemd's limits with it
        verify: grep -v '^#' /etc/default/libvirt-guests /etc/sysconfig/libvirt-guests

    When not to
        ON_SHUTDOWN=suspend is fine for guests without state; databases and cluster nodes resume with stale time and
        leases.

    References
        https://libvirt.org/manpages/libvirt-guests.html
    """
    with Findings() as findings:
        settings = _GuestSettings(host)
        for judge in (_judge_actions, _judge_start, _judge_time):
            try:
                judge(host, params, settings, findings)
            except EvidenceMissing as missing:
                findings.unknown(missing)


class _GuestSettings:
    """Settings of libvirt-guests: those of its file over the defaults of its script, which are read when needed."""

    def __init__(self, host: Host) -> None:
        files = host.evidence.files("libvirt_guests_conf")
        files.demand_all_readable()
        self.host = host
        self.given: dict[str, str] = {}
        for path in files:
            self.given |= parsing("libvirt_guests_conf", parse_assignments, files[path])

    def __getitem__(self, name: str) -> str:
        if name in self.given:
            return self.given[name]
        try:
            return self.host.evidence.parsed("libvirt_guests_script", parse_assignments)[name]
        except KeyError:
            raise EvidenceMissing(Cause.MISSING, f"nothing tells {name}", "libvirt_guests_script") from None

    def number(self, name: str) -> int:
        """Return a setting that has to be a number."""
        if not self[name].isdecimal():
            raise EvidenceMissing(Cause.UNPARSABLE, f"{name} is {self[name][:20]!r}", "libvirt_guests_conf")
        return int(self[name])


def _judge_actions(host: Host, params: Params, settings: _GuestSettings, findings: Findings) -> None:
    """Report what is wrong about ON_SHUTDOWN and ON_BOOT."""
    shutdown = settings["ON_SHUTDOWN"]
    if shutdown != params.on_shutdown:
        findings.fail(f"{host}: ON_SHUTDOWN={shutdown}, expected {params.on_shutdown}.")
    boot = settings["ON_BOOT"]
    if boot != params.on_boot:
        found = f"{host}: ON_BOOT={boot}, expected {params.on_boot}"
        if boot != "ignore":
            findings.fail(f"{found}.")
        elif left := [str(item) for item in running_domains(host) if item.persistent and not item.autostart]:
            findings.fail(f"{found}, as {', '.join(left)} has no autostart.")
    for name in ("ON_BOOT", "ON_SHUTDOWN"):
        if name not in settings.given:
            findings.warn(f"{host}: {name} is not set, the default {settings[name]} acts.")


def _judge_start(host: Host, params: Params, settings: _GuestSettings, findings: Findings) -> None:
    """Report many guests that start at once. With ON_BOOT=ignore, libvirt-guests starts none."""
    guests, least = len(running_domains(host)), params.start_delay
    if settings["ON_BOOT"] == "start" and guests > params.stagger_over:
        delay = settings.number("START_DELAY")
        findings.fail_if(delay < least, f"{host}: START_DELAY={delay} with {guests} guests, expected {least} s or more.")


def _judge_time(host: Host, params: Params, settings: _GuestSettings, findings: Findings) -> None:
    """Report what is wrong about the time that shutting down takes."""
    if settings["ON_SHUTDOWN"] != "shutdown":
        return
    timeout = settings.number("SHUTDOWN_TIMEOUT")
    if timeout == 0:
        findings.fail(f"{host}: SHUTDOWN_TIMEOUT=0 waits without end for a guest that hangs.")
        return
    if timeout < params.min_shutdown_timeout_s:
        findings.fail(f"{host}: SHUTDOWN_TIMEOUT={timeout} s, expected {params.min_shutdown_timeout_s} s or more.")
    parallel, guests = settings.number("PARALLEL_SHUTDOWN"), len(running_domains(host))
    if parallel < 2 and guests > params.serial_max:
        serial = f"{guests} guests are shut down one after the other (PARALLEL_SHUTDOWN={parallel})"
        findings.fail(f"{host}: {serial}, at most {params.serial_max} should be.")
    # The guests of one URI share one time budget when they are shut down in parallel.
    worst = timeout * (len(settings["URIS"].split()) if parallel >= 2 else max(1, guests))
    if worst > params.max_total_s:
        findings.fail(f"{host}: shutting down takes up to {worst} s, at most {params.max_total_s} s are allowed.")
    limit = stop_timeout_s(host, "libvirt-guests.service")
    if worst > limit:
        findings.fail(f"{host}: shutting down takes up to {worst} s, but systemd stops libvirt-guests after {limit:.0f} s.")
    note(f"up to {worst} s for {guests} guests, " + ("no limit" if limit == math.inf else f"systemd allows {limit:.0f} s"))


@condition
def validator_installed(host: Host) -> str | None:
    """Hold where virt-host-validate is installed."""
    missing = host.evidence.record("virt_host_validate").cause is Cause.MISSING
    return "virt-host-validate is not installed" if missing else None


@check(
    "KVM-SVC-009",
    title="virt-host-validate reports no failure",
    severity=Severity.HIGH,
    reads=("virt_host_validate",),
    params={"require_secure_guests": False},
    applies=validator_installed,
)
def test_host_validates(host: Host, params: Params) -> None:
    """The host is fit for QEMU by libvirt's own tool.

    What it checks
        No line of ``virt-host-validate qemu``, run as root, says FAIL. Its warnings are left to checks of their own,
        except for secure guests where the profile demands them.

    Why it matters
        It is the upstream definition of a sane host, and a cross-check of our own evidence.

    How to fix
        now: follow the hint that the tool prints after FAIL
        verify: LC_ALL=C virt-host-validate qemu

    When not to
        Without root the tool reports failures that do not exist; it is not run then.

    References
        https://libvirt.org/manpages/virt-host-validate.html
    """
    ignored = []
    with Findings() as findings:
        for verdict in validation(host):
            hint = f" ({verdict.hint})" if verdict.hint else ""
            if verdict.state == "FAIL":
                findings.fail(f"{host}: {verdict.subject}: FAIL{hint}.")
            elif verdict.state == "WARN" and params.require_secure_guests and "secure guest" in verdict.subject:
                findings.fail(f"{host}: {verdict.subject}: WARN{hint}, expected PASS.")
            elif verdict.state == "WARN":
                ignored.append(verdict.subject)
        if ignored:
            note(f"warnings: {', '.join(ignored)}")


@check(
    "KVM-SVC-010",
    title="systemd has no failed unit",
    severity=Severity.MEDIUM,
    reads=("systemd_failed", "systemd_state"),
    params={"ignore_units": ()},
)
def test_no_failed_unit(host: Host, params: Params) -> None:
    """Every unit that should have started did.

    What it checks
        systemd lists no failed unit besides those in ignore_units, and the system is running (or degraded by those
        only). Still starting is a warning, maintenance a failure.

    Why it matters
        A failed multipathd, network or mount unit is what many later failures of guests go back to.

    How to fix
        now: journalctl -b -u UNIT, mend it, then systemctl restart UNIT; systemctl reset-failed forgets old failures
        verify: systemctl --failed

    When not to
        Units that are known to fail without harm belong in ignore_units.

    References
        https://www.freedesktop.org/software/systemd/man/latest/systemctl.html
    """
    with Findings() as findings:
        listed = failed_units(host)
        failed = [name for name in listed if name not in params.ignore_units]
        findings.fail_if(bool(failed), f"{host}: failed units: {', '.join(failed)}.")
        state, count = system_state(host)
        findings.fail_if(state in ("maintenance", "stopping", "offline"), f"{host}: the system is in state {state}.")
        if state == "degraded" and not listed:
            findings.fail(f"{host}: the system is degraded ({count} failed units), though none is listed.")
        elif count is not None and count > len(listed):
            seen = f"systemd counts {count} failed units, but lists {len(listed)}"
            findings.unknown(EvidenceMissing(Cause.FAILED, seen, "systemd_failed"))
        findings.warn_if(state in ("starting", "initializing"), f"{host}: the system is still {state}: a job is queued.")
        if state == "unknown":
            seen = "systemd does not know the state of the system"
            findings.unknown(EvidenceMissing(Cause.FAILED, seen, "systemd_state"))
