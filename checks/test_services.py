"""Checks of the libvirt services and of systemd."""

from __future__ import annotations

import math
import re
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Items, Number, Params, Severity, Text, Whole, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domaindrift import ELEMENTS, differences
from pytest_kvmcheck.facts.taint import MEANING
from pytest_kvmcheck.views.domains import (
    DAEMON_CHECK,
    Domain,
    daemon_hangs,
    domains,
    networks,
    refusal,
    running_domains,
    storage_pools,
    virsh,
)
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.identity import versions
from pytest_kvmcheck.views.images import space_of_directory
from pytest_kvmcheck.views.logs import log_of
from pytest_kvmcheck.views.processes import process_of
from pytest_kvmcheck.views.services import (
    MODULAR,
    MONOLITHIC,
    GuestSettings,
    auto_shutdown,
    debian_kernel_version,
    deleted_libraries,
    demand_security_advisories,
    failed_units,
    filter_tools,
    held_back,
    in_use,
    installed_kernels,
    libvirt_rules,
    managers,
    pending_security,
    programs,
    qemu_conf,
    reboot_flags,
    repositories,
    running_kernel,
    stop_timeout_s,
    system_state,
    tainted,
    unit,
    validation,
)
from pytest_kvmcheck.views.system import demand_whole_kernel_log, kernel_log, kernel_log_from_boot
from pytest_kvmcheck.views.time import now_s


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
        service that is off while its socket listens is healthy: the daemons stop when idle, and are woken to be asked. One that
        failed, or was stopped while guests run, is not woken, and this check fails.

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
            if daemon_hangs(record) and len(host.evidence.keyed("virsh")) <= 1:
                findings.fail(f"{host}: libvirt did not answer within the {record.seconds:.0f} s that virsh was given.")
            elif missing.cause is Cause.MISSING and not any(unit(host, name).exists for name in known):
                findings.fail(f"{host}: libvirt is not installed: no virsh, and systemd knows no libvirtd or virtqemud.")
                return
            elif missing.blocked_by and (cause := refusal(record)):
                findings.unknown(EvidenceMissing(cause, f"a libvirt daemon is there, and refuses: {said[:200]}", "virsh"))
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
        roll back: systemctl unmask and enable --now the former set, with guests stopped or moved away
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
        other = auto_shutdown(host)
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
    other = auto_shutdown(host)
    return f"guests are handled by {', '.join(other)}" if other else None


@check(
    "KVM-SVC-006",
    title="libvirt-guests actions and time budget are explicit and realistic",
    severity=Severity.MEDIUM,
    reads=("libvirt_guests_conf", "libvirt_guests_script", "systemd_units", "virsh", "managers", "qemu_conf"),
    params={
        "on_boot": Choice("start", "ignore"),
        "on_shutdown": Choice("shutdown", "suspend"),
        "start_delay": Whole(5, 0, 600),
        "stagger_over": Whole(8, 0, 1000),
        "min_shutdown_timeout_s": Whole(120, 1, 86_400),
        "serial_max": Whole(3, 0, 1000),
        "max_total_s": Whole(1800, 60, 86_400),
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
        roll back: the former file, from a copy
        verify: grep -v '^#' /etc/default/libvirt-guests /etc/sysconfig/libvirt-guests

    When not to
        ON_SHUTDOWN=suspend is fine for guests without state; databases and cluster nodes resume with stale time and
        leases.

    References
        https://libvirt.org/manpages/libvirt-guests.html
    """
    with Findings() as findings:
        settings = GuestSettings(host)
        for judge in (_judge_actions, _judge_start, _judge_time):
            try:
                judge(host, params, settings, findings)
            except EvidenceMissing as missing:
                findings.unknown(missing)


def _judge_actions(host: Host, params: Params, settings: GuestSettings, findings: Findings) -> None:
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


def _judge_start(host: Host, params: Params, settings: GuestSettings, findings: Findings) -> None:
    """Report many guests that start at once. With ON_BOOT=ignore, libvirt-guests starts none."""
    guests, least = len(running_domains(host)), params.start_delay
    if settings["ON_BOOT"] == "start" and guests > params.stagger_over:
        delay = settings.number("START_DELAY")
        findings.fail_if(delay < least, f"{host}: START_DELAY={delay} with {guests} guests, expected {least} s or more.")


def _judge_time(host: Host, params: Params, settings: GuestSettings, findings: Findings) -> None:
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
        after a reboot: the hint says whether firmware, module options or kernel command line have to change
        roll back: nothing to undo; where the hint was followed, by the check that judges the same thing
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
    params={"ignore_units": Items((), Text("", r"[\w.():\\-]+\.[a-z]+", "the name of a unit, such as foo.service"))},
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
        after a reboot: systemctl enable what has to start, systemctl mask what cannot
        roll back: nothing to undo: what was mended is mended
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


@condition
def modular_daemons(host: Host) -> str | None:
    """Hold where the modular daemons manage the guests."""
    if in_use(host, MODULAR):
        return None
    monolithic = in_use(host, MONOLITHIC)
    return f"{', '.join(monolithic)} is in use, one daemon for all" if monolithic else "no modular daemon is in use"


def _unused(host: Host, driver: str) -> bool:
    """Whether no network (pool) exists and no domain refers to one. What cannot be listed counts as used."""
    if driver == "network":
        if any(nic.type == "network" for item in domains(host) for nic in item.saved.nics):
            return False
    elif any(disk.type == "volume" for item in domains(host) for disk in item.saved.disks):
        return False
    try:
        return not (networks(host) if driver == "network" else storage_pools(host))
    except EvidenceMissing:
        return False


@check(
    "KVM-SVC-003",
    title="The secondary modular daemons needed by the configuration are enabled",
    severity=Severity.MEDIUM,
    reads=("systemd_units", "virsh", "domain", "objects"),
    params={
        "required_drivers": Items(
            ("network", "storage", "nodedev", "secret", "nwfilter"),
            Text("", "[a-z]+", "a driver of libvirt's, such as network"),
            least=1,
        )
    },
    applies=modular_daemons,
)
def test_secondary_daemons(host: Host, params: Params) -> None:
    """Each driver that guests may need has its daemon, now and after the next boot.

    What it checks
        The sockets virtnetworkd, virtstoraged, virtnodedevd, virtsecretd and virtnwfilterd are enabled, and they or their
        services are active. Network and storage are dropped when there is no network (pool) and no domain refers to one.
        virtproxyd, which old and remote clients need, is left to KVM-SVC-002 and to you.

    Why it matters
        Without virtnetworkd or virtstoraged guests fail to start with "no connection driver available".

    How to fix
        now: systemctl enable --now virtnetworkd.socket virtstoraged.socket virtnodedevd.socket virtsecretd.socket
            virtnwfilterd.socket (those that are named; on Fedora and RHEL each is a package libvirt-daemon-driver-...)
        after a reboot: nothing more; enable the .service too where networks or pools have autostart
        roll back: systemctl disable --now the same units
        verify: systemctl list-unit-files 'virt*d.socket'

    When not to
        With the monolithic libvirtd, which has all drivers in it.

    References
        https://libvirt.org/daemons.html
    """
    with Findings() as findings:
        for driver in params.required_drivers:
            try:
                socket, service = unit(host, f"virt{driver}d.socket"), unit(host, f"virt{driver}d.service")
                if socket.enabled and (socket.active or service.active):
                    continue
                if driver in ("network", "storage") and _unused(host, driver):
                    note(f"virt{driver}d is not needed")
                elif not socket.exists:
                    findings.fail(f"{host}: virt{driver}d is not installed, expected virt{driver}d.socket to be enabled.")
                elif not socket.enabled:
                    state = f"{socket.unit_file_state or 'without a unit file'} ({socket.active_state} now)"
                    findings.fail(f"{host}: virt{driver}d.socket is {state}, expected it enabled.")
                else:
                    findings.fail(f"{host}: virt{driver}d.socket is enabled but {socket.active_state} now, expected it to listen.")
            except EvidenceMissing as missing:
                findings.unknown(missing)


@check(
    "KVM-SVC-004",
    title="virtlogd protects the host from guest log floods",
    severity=Severity.MEDIUM,
    reads=("systemd_units", "qemu_conf"),
)
def test_virtlogd(host: Host) -> None:
    """What guests and QEMU print goes through virtlogd, which bounds and rotates it.

    What it checks
        virtlogd.socket is active and enabled, and qemu.conf leaves stdio_handler out or at "logd". The service may be
        inactive while no guest runs.

    Why it matters
        With stdio_handler = "file" a guest can fill /var through its console or QEMU's messages.

    How to fix
        now: systemctl enable --now virtlogd.socket
        after a reboot: remove stdio_handler from /etc/libvirt/qemu.conf and restart libvirtd (virtqemud); running guests
            keep the old way until their next start. Never stop virtlogd while guests run.
        roll back: the former stdio_handler in /etc/libvirt/qemu.conf, and restart of libvirtd (virtqemud)
        verify: systemctl is-enabled virtlogd.socket; grep stdio_handler /etc/libvirt/qemu.conf

    When not to
        Never.

    References
        https://libvirt.org/daemons.html
        https://gitlab.com/libvirt/libvirt/-/blob/master/src/qemu/qemu.conf.in
    """
    with Findings() as findings:
        socket = unit(host, "virtlogd.socket")
        if not socket.exists:
            findings.fail(f"{host}: virtlogd.socket is not installed, expected it active and enabled.")
        else:
            findings.fail_if(not socket.active, f"{host}: virtlogd.socket is {socket.active_state}, expected active.")
            state = socket.unit_file_state or "without a unit file"
            findings.fail_if(not socket.enabled, f"{host}: virtlogd.socket is {state}, expected enabled.")
        handler = qemu_conf(host).get("stdio_handler", "logd")
        findings.fail_if(handler != "logd", f'{host}: stdio_handler = "{handler}" in qemu.conf, expected "logd" or no such line.')


def _saves_guests(host: Host) -> str:
    """Return the setting by which guests are saved when the host goes down, empty when they are not."""
    service = unit(host, "libvirt-guests.service")
    if (service.enabled or service.active) and GuestSettings(host)["ON_SHUTDOWN"] == "suspend":
        return "ON_SHUTDOWN=suspend of libvirt-guests"
    scope = auto_shutdown(host).get("auto_shutdown_try_save")
    return f"auto_shutdown_try_save={scope} of qemu.conf" if scope else ""


def _cannot_be_saved(live: DomainXml) -> bool:
    """Whether libvirt refuses to save the guest for a device of the host: any but USB, and cards that are no transient ones."""
    return any(device.type != "usb" and device.teaming != "transient" for device in live.devices.hostdevs) or any(
        nic.type == "hostdev" and nic.teaming != "transient" for nic in live.nics
    )


@condition
def guests_are_saved(host: Host) -> str | None:
    """Hold where guests are saved to disk at shutdown."""
    return None if _saves_guests(host) else "guests are not saved at shutdown"


@check(
    "KVM-SVC-007",
    title="Managed-save space can hold the memory of the running guests",
    severity=Severity.HIGH,
    reads=(
        "df",
        "mounts",
        "domain",
        "domstats",
        "virsh",
        "systemd_units",
        "libvirt_guests_conf",
        "libvirt_guests_script",
        "qemu_conf",
    ),
    params={"save_headroom": Number(1.05, 1, 10)},
    applies=guests_are_saved,
)
def test_save_space(host: Host, params: Params) -> None:
    """All running guests fit on disk when they are saved at once.

    What it checks
        Where libvirt-guests or auto_shutdown_try_save saves guests at shutdown: the file system of
        /var/lib/libvirt/qemu/save has room for the current memory of the running persistent guests, times save_headroom.
        Guests with assigned devices other than USB cannot be saved; they are named.

    Why it matters
        A save file is as large as the guest's memory. Running out of space turns a reboot into a crash of the guests.

    How to fix
        now: free space, or choose save_image_format = "zstd" in /etc/libvirt/qemu.conf
        after a reboot: give /var/lib/libvirt/qemu/save a file system of its own, or set ON_SHUTDOWN=shutdown
        roll back: the former save_image_format and ON_SHUTDOWN; guests that were saved are restored in either format
        verify: df -h /var/lib/libvirt/qemu/save

    When not to
        Compression may save more than half; lower save_headroom if you rely on it.

    References
        https://libvirt.org/manpages/libvirt-guests.html
        https://gitlab.com/libvirt/libvirt/-/blob/master/src/qemu/qemu.conf.in
    """
    how = _saves_guests(host)
    all_guests = how.startswith("auto_shutdown_try_save=all")
    needed, stuck = 0, []
    for item in running_domains(host):
        if not (item.persistent or all_guests):
            continue
        if _cannot_be_saved(item.live):
            stuck.append(str(item))
            continue
        current = item.stats.kib("balloon.current")
        if current is None:
            raise EvidenceMissing(Cause.MISSING, f"libvirt does not tell balloon.current of {item}", "domstats")
        needed += current
    wanted = math.ceil(needed * params.save_headroom)
    free = space_of_directory(host, "/var/lib/libvirt/qemu/save").free
    if stuck:
        note(f"cannot be saved, as they own devices of the host: {', '.join(stuck)}")
    note(f"{free // 2**20} MiB are free for {wanted // 2**20} MiB")
    assert free >= wanted, (
        f"{host}: /var/lib/libvirt/qemu/save has {free // 2**20} MiB left, the running guests need {wanted // 2**20} MiB ({how})."
    )


@condition
def start_matters(domain: Domain) -> str | None:
    """Hold for domains of which it is known whether they are to start with the host."""
    if reason := guests_are_ours(host=domain.host):
        return reason
    return None if domain.critical or domain.tags & {"template", "test"} else "not tagged critical, template or test"


@check(
    "KVM-SVC-008",
    title="Guests that must run are set to start with the host",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "managers", "systemd_units", "libvirt_guests_conf", "libvirt_guests_script"),
    applies=start_matters,
)
def test_starts_with_host(domain: Domain) -> None:
    """After a power cut the guests that matter come back, and the others do not.

    What it checks
        A domain tagged critical (database, realtime) is persistent and has autostart. Without autostart, but with
        libvirt-guests and ON_BOOT=start, it is a warning. One tagged template or test has no autostart.

    Why it matters
        ON_BOOT=start only starts what ran at the last clean shutdown; after a power cut only autostart helps.

    How to fix
        now: virsh autostart $DOM
        after a reboot: virsh net-autostart and pool-autostart for what the guest uses
        roll back: virsh autostart --disable $DOM
        verify: virsh list --all --autostart

    When not to
        Where a cluster manager starts guests: two that do it corrupt disks.

    References
        https://libvirt.org/manpages/virsh.html#autostart
    """
    host = domain.host
    with Findings() as findings:
        if not domain.critical:
            tags = ", ".join(sorted(domain.tags & {"template", "test"}))
            findings.fail_if(domain.autostart, f"{domain}: has autostart, expected none for a domain tagged {tags}.")
            return
        if not domain.persistent:
            findings.fail(f"{domain}: is transient and gone when it stops, expected a persistent domain with autostart.")
        elif not domain.autostart:
            found = f"{domain}: has no autostart, expected it for a critical domain"
            if unit(host, "libvirt-guests.service").enabled and GuestSettings(host)["ON_BOOT"] == "start":
                findings.warn(f"{found}; ON_BOOT=start of libvirt-guests only helps after a clean shutdown.")
            else:
                findings.fail(f"{found}.")


#: Packages whose fixes close holes of the hypervisor, by name; summaries of zypper's patches speak of them too.
_HYPERVISOR = re.compile(
    r"^(?:linux-image|linux-modules|kernel(?:-|$)|pve-kernel|proxmox-kernel|qemu|libvirt|intel-microcode|amd64-microcode|amd-ucode"
    r"|microcode_ctl|ucode-|linux-firmware|firmware-|ovmf|edk2|seabios)"
    r"|Security update for (?:the Linux Kernel|qemu|libvirt|ucode|kernel-firmware|ovmf)",
    re.IGNORECASE,
)


#: Packages of that kind, for the patterns that a configuration leaves out.
_OF_HYPERVISOR = (
    "kernel kernel-core kernel-modules kernel-default linux-image-amd64 linux-image-6.1.0-1-amd64 kernel-firmware linux-firmware"
    " microcode_ctl intel-microcode amd64-microcode ucode-intel qemu qemu-kvm qemu-kvm-core qemu-system-x86 edk2-ovmf ovmf seabios"
    " seabios-bin libvirt libvirt0 libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-system"
)


def _concerns(pattern: str) -> bool:
    """Whether *pattern* of a package manager, which may end with an architecture, may mean a package of the hypervisor."""
    pattern = re.sub(r"\.(?:noarch|x86_64|aarch64|ppc64le|s390x)$", "", pattern).removeprefix("src:")[:200]
    if pattern.startswith("/"):  # a regular expression of a stranger's
        return bool(re.search("linux|kernel|qemu|libvirt|ucode|microcode|firmware|ovmf|edk2|seabios|[.][*+]/$", pattern))
    return bool(_HYPERVISOR.search(pattern)) or any(fnmatchcase(name, pattern) for name in _OF_HYPERVISOR.split())


@check(
    "KVM-SVC-011",
    title="Package repositories work and security updates are not pending for long",
    severity=Severity.MEDIUM,
    reads=("updates", "now"),
    params={"max_metadata_age_days": Number(7, 1, 366), "max_pending": Whole(0, 0, 1000)},
)
def test_updates(host: Host, params: Params) -> None:
    """Fixes of the hypervisor reach this host.

    What it checks
        A package repository is enabled, its metadata were fetched within max_metadata_age_days, and at most max_pending
        packages of kernel, QEMU, libvirt, microcode and firmware wait with a security update, those on hold among them. Only
        what is kept on the disk is read, nothing is fetched: of dnf and zypper the advisories of enabled repositories, which are
        compared with the installed packages. Where no repository tells security updates apart (CentOS, or sources of apt
        without that suite), or the configuration leaves such packages out (excludepkgs of dnf, pins of apt, locks of
        zypper), what waits is unknown.

    Why it matters
        Escapes from guests are mended in exactly these packages.

    How to fix
        now: apt-get update (dnf makecache, zypper refresh), then update in a window with guests moved away
        after a reboot: keep the timer that fetches metadata (apt-daily.timer, dnf-makecache.timer) enabled
        roll back: dnf history undo ID, apt-get install PACKAGE=VERSION, or zypper install --oldpackage, with the guests moved away
        verify: apt-get -s dist-upgrade; dnf updateinfo list --security; zypper list-patches -g security

    When not to
        oVirt hosts are updated by the engine, never with a blanket dnf update.

    References
        https://manpages.debian.org/apt-get
        https://dnf.readthedocs.io/en/latest/command_ref.html
    """
    with Findings() as findings:
        known = repositories(host)
        findings.fail_if(not known.enabled, f"{host}: no package repository is enabled ({known.tool}).")
        if known.fetched_s is None:
            many = f"{len(known.enabled)} enabled repositories"
            findings.fail(f"{host}: metadata of {many} were never fetched ({known.tool}), so what waits is not known.")
            return
        days = (now_s(host) - known.fetched_s) / 86400
        if days > params.max_metadata_age_days:
            limit = f"at most {params.max_metadata_age_days} expected"
            findings.fail(f"{host}: metadata of the package repositories are {days:.0f} days old, {limit}.")
        waiting = [name for name in pending_security(host) if _HYPERVISOR.search(name)]
        if len(waiting) > params.max_pending:
            some = ", ".join(waiting[:8]) + (", ..." if len(waiting) > 8 else "")
            findings.fail(f"{host}: {len(waiting)} security updates wait ({some}), at most {params.max_pending} may.")
        demand_security_advisories(host)
        if hidden := [pattern for pattern in held_back(host) if _concerns(pattern)]:
            seen = f"{known.tool} is told to leave out {', '.join(hidden[:8])}: whether updates of them wait is not known"
            raise EvidenceMissing(Cause.MISSING, seen, "updates")
        note(f"{known.tool}: {len(known.enabled)} repositories, metadata {days:.1f} days old")


def _daemon(path: str) -> bool:
    """Whether the program *path* is a daemon of libvirt."""
    return PurePosixPath(path).name in ("libvirtd", "virtqemud", "virtlogd", "virtlockd")


@check(
    "KVM-SVC-012",
    title="No reboot or service restart is outstanding",
    severity=Severity.MEDIUM,
    reads=("kernels", "programs", "systemd_units"),
)
def test_nothing_outstanding(host: Host) -> None:
    """What is installed is what runs.

    What it checks
        No flag asks for a reboot (Debian, Ubuntu: /run/reboot-required; SUSE: /run/reboot-needed). The running kernel is
        the newest installed one of its flavour, on Debian also the installed build of it. libvirt's daemons run the
        programs that are on the disk.

    Why it matters
        Fixes that are installed but do not run protect nobody, and a kernel whose modules were removed can load none.

    How to fix
        now: move the guests away and reboot; libvirtd (virtqemud) can be restarted with guests running, virtlogd and
            virtlockd only by systemctl reload
        after a reboot: it is done; keep the reboot in the plan of updates
        roll back: choose the former kernel in the boot loader
        verify: uname -rv; ls /boot/vmlinuz-*; ls -l /proc/$(pidof libvirtd)/exe

    When not to
        With live patches the kernel may stay older for a while; waive it until the next window.

    References
        https://libvirt.org/daemons.html
    """
    with Findings() as findings:
        for judge in (_judge_reboot, _judge_daemons):
            try:
                judge(host, findings)
            except EvidenceMissing as missing:
                findings.unknown(missing)


def _judge_reboot(host: Host, findings: Findings) -> None:
    """Report a reboot that is asked for, and a newer kernel."""
    if flags := reboot_flags(host):
        findings.fail(f"{host}: a reboot was asked for: {', '.join(flags[:6])}.")
    running = running_kernel(host)
    alike = [item for item in installed_kernels(host) if item.flavour == running.release.flavour]
    if not installed_kernels(host):
        raise EvidenceMissing(Cause.MISSING, "no kernel image is to be seen in /boot or /lib/modules", "kernels")
    if running.release not in alike:
        findings.fail(f"{host}: the image of the running kernel {running.release.name} is not installed any more.")
    elif (newest := max(alike)) > running.release:
        findings.fail(f"{host}: kernel {running.release.name} runs, {newest.name} is installed.")
    version = debian_kernel_version(host)
    if version and version not in running.build.split():
        findings.fail(f"{host}: the kernel was built from '{running.build}', its installed package is {version}.")


def _judge_daemons(host: Host, findings: Findings) -> None:
    """Report daemons whose program was replaced."""
    seen = {PurePosixPath(item.path).name: item for item in programs(host).values() if _daemon(item.path)}
    for name, item in sorted(seen.items()):
        how = "systemctl reload" if name in ("virtlogd", "virtlockd") else "systemctl restart"
        findings.fail_if(item.deleted, f"{host}: {name} runs a program that was replaced on the disk; {how} {name}.")
    for name in ("libvirtd", "virtqemud", "virtlogd", "virtlockd"):
        if unit(host, f"{name}.service").active and name not in seen:
            findings.unknown(EvidenceMissing(Cause.MISSING, f"{name} is active, but its process was not seen", "programs"))


@condition
def domain_runs(domain: Domain) -> str | None:
    """Hold for running domains."""
    return None if domain.running else "does not run"


@check(
    "KVM-SVC-013",
    title="Running guests use the installed QEMU binary",
    severity=Severity.HIGH,
    reads=("programs", "qemu_process", "virsh"),
    applies=domain_runs,
)
def test_qemu_is_current(domain: Domain) -> None:
    """The guest runs the QEMU, and the libraries, that are installed.

    What it checks
        /proc/PID/exe of the domain's QEMU and its mapped libraries (\\*.so\\*) are not marked "(deleted)". Other mappings
        are deleted on healthy guests too (huge pages, memfd, aio) and do not count.

    Why it matters
        After an update old guests keep the vulnerable program until they are started anew.

    How to fix
        now: virsh shutdown $DOM, then virsh start $DOM (a reboot from inside keeps the process), or migrate it to an
            updated host
        after a reboot: the guest starts with the new libraries
        roll back: downgrade the library, and start the guest anew
        verify: ls -l /proc/$(cat /run/libvirt/qemu/$DOM.pid)/exe

    When not to
        Never; plan the restart for a window.

    References
        https://man7.org/linux/man-pages/man5/proc_pid_exe.5.html
    """
    host = domain.host
    pid = int(process_of(domain).pid)
    with Findings() as findings:
        program = programs(host).get(pid)
        if program is None:
            raise EvidenceMissing(Cause.MISSING, f"/proc/{pid}/exe of {domain} was not seen", "programs")
        findings.fail_if(program.deleted, f"{domain}: runs {program.path}, which was replaced on the disk since its start.")
        if libraries := deleted_libraries(host).get(pid, ()):
            some = ", ".join(PurePosixPath(path).name for path in libraries[:5])
            findings.fail(f"{domain}: QEMU uses {len(libraries)} libraries that were replaced on the disk: {some}.")


#: What the kernel says when it went wrong itself.
_BROKEN = re.compile(r"soft lockup|hard LOCKUP|blocked for more than|\bBUG: |Oops\b|Kernel panic")


@check(
    "KVM-SVC-014",
    title="The kernel is not tainted by a crash or foreign code",
    severity=Severity.MEDIUM,
    reads=("tainted", "kernel_log"),
    params={
        "bad_bits": Items((1, 4, 5, 7, 14), Whole(0, 0, 31), least=1, most=32),
        "warn_bits": Items((9,), Whole(0, 0, 31), most=32),
    },
)
def test_kernel_is_sound(host: Host, params: Params) -> None:
    """The kernel has not been harmed since boot.

    What it checks
        No bit of bad_bits is set in kernel.tainted (forced module, machine check, bad page, oops, soft lockup), and the
        kernel's log of this boot has no oops, BUG, lockup or blocked task. Bits of warn_bits (a kernel warning) and a
        call trace alone are warnings; other bits (proprietary or out-of-tree modules) are told only.

    Why it matters
        After an oops or a machine check the host goes on, but nothing that it does can be trusted.

    How to fix
        now: journalctl -k -b | grep -iE 'oops|bug:|lockup|call trace'; move the guests away
        after a reboot: the taint is gone; remove the module, replace the memory, or update the kernel
        roll back: boot the former kernel, or load the module again
        verify: cat /proc/sys/kernel/tainted

    When not to
        Blocked tasks in a known outage of storage: waive it until the next reboot.

    References
        https://docs.kernel.org/admin-guide/tainted-kernels.html
    """
    with Findings() as findings:
        bits = tainted(host)
        for listed, report in ((params.bad_bits, findings.fail), (params.warn_bits, findings.warn)):
            for bit in sorted(bits & set(listed)):
                report(f"{host}: the kernel is tainted by {MEANING.get(bit, 'something new')} (bit {bit}).")
        if others := sorted(bits - {*params.bad_bits, *params.warn_bits}):
            note(f"also tainted by {', '.join(MEANING.get(bit, str(bit)) for bit in others)}")
        try:
            log = kernel_log(host)
        except EvidenceMissing as missing:
            # Without the log the taint alone decides, as it keeps what an oops or a lockup did; only that is said.
            if missing.cause is not Cause.NOT_PERMITTED:
                raise
            note("only the taint was judged: the journal may not be read")
            return
        broken = [item.text for item in log if _BROKEN.search(item.text)]
        if broken:
            findings.fail(f"{host}: the kernel's log of this boot says: {broken[-1][:160]} ({len(broken)} such lines).")
        elif traces := [item.text for item in log if "Call Trace:" in item.text]:
            findings.warn(f"{host}: the kernel's log of this boot has {len(traces)} call traces.")
        if not kernel_log_from_boot(host):
            note("the log does not reach back to the boot")
        demand_whole_kernel_log(host)


@condition
def has_packet_filter(host: Host) -> str | None:
    """Hold where a tool for packet filters is installed."""
    return None if filter_tools(host) else "neither nft nor iptables is installed"


@check(
    "KVM-SVC-015",
    title="No libvirt firewall rules are left over after libvirt was disabled",
    severity=Severity.LOW,
    reads=("libvirt_rules", "objects"),
    applies=has_packet_filter,
)
def test_no_rules_left(host: Host) -> None:
    """The packet filter holds rules of libvirt only while a network of libvirt needs them.

    What it checks
        While no network with forward mode nat, route or none is active, no rule stands in a chain LIBVIRT_* of iptables,
        and none names an interface in nftables' table libvirt_network. Empty chains and the jumps to them remain after
        net-destroy and do nothing. nft and iptables are asked only while their kernel modules are loaded.

    Why it matters
        Rules that are left over forward, masquerade or reject packets that nobody thinks of.

    How to fix
        now: systemctl reload firewalld (or nftables), or flush the named chains by hand
        after a reboot: virsh net-autostart --disable NETWORK for networks that nobody uses
        roll back: virsh net-autostart NETWORK; nft list ruleset or iptables-save into a file before, and load that again
        verify: iptables-save | grep '^-A LIBVIRT_'; nft list table ip libvirt_network

    When not to
        Never.

    References
        https://libvirt.org/firewall.html
    """
    rules = {place: found for place, found in libvirt_rules(host).rules.items() if found}
    active = [name for name, (net, info) in networks(host).items() if info.active and net.forward_mode in ("nat", "route", "none")]
    if active:
        note(f"active networks: {', '.join(active)}")
        return
    left = "; ".join(f"{len(found)} in {place} ({found[0][:100]})" for place, found in rules.items())
    assert not rules, f"{host}: rules of libvirt without an active network: {left}; expected none."


#: What libvirt says of each taint in dominfo, by the code that it writes into the log.
_TAINTS = {
    "custom-argv": "custom configuration parameters specified",
    "custom-monitor": "custom monitor control commands issued",
    "high-privileges": "running with undesirable elevated privileges",
    "shell-scripts": "network configuration using opaque shell scripts",
    "disk-probing": "potentially unsafe disk format probing",
    "external-launch": "managing externally launched configuration",
    "host-cpu": "potentially unsafe use of host CPU passthrough",
    "hook-script": "configuration potentially modified by hook script",
    "cdrom-passthrough": "use of host cdrom passthrough",
    "custom-dtb": "custom device tree blob used",
    "custom-ga-command": "custom guest agent control commands issued",
    "custom-hypervisor-feature": "hypervisor feature autodetection override",
    "deprecated-config": "use of deprecated configuration settings",
}

#: The release of libvirt that tells of taints in dominfo.
MESSAGES_SINCE = (7, 1, 0)


def _logged_taints(domain: Domain) -> list[str]:
    """Return the taints since the last start by the domain's log, as dominfo would tell them."""
    log = log_of(domain)
    if log is None or log.started_s is None:
        raise EvidenceMissing(Cause.MISSING, f"the log of {domain} does not hold its last start", "qemu_log")
    started = log.started_s
    codes = [
        match[1]
        for line in log.lines
        if line.time_s is not None and line.time_s >= started and (match := re.search(r"is tainted: ([\w-]+)", line.text))
    ]
    return [f"tainted: {_TAINTS.get(code, code)}" for code in dict.fromkeys(codes)]


@check(
    "KVM-SVC-016",
    title="No domain is tainted or uses deprecated configuration",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "qemu_log"),
    params={"allowed_taints": Items(("host-cpu", "custom-ga-command"), Choice(*_TAINTS))},
    applies=domain_runs,
)
def test_domain_is_not_tainted(domain: Domain, params: Params) -> None:
    """Libvirt still vouches for the guest.

    What it checks
        ``virsh dominfo`` of the running domain has no message besides those of allowed_taints. Before libvirt 7.1, which
        tells none, the domain's log since its last start is read (which needs root).

    Why it matters
        Raw monitor commands, QEMU options and deprecated machine types make the guest something that nobody tests, and
        that may not start after the next update.

    How to fix
        now: nothing; the taint lasts until the guest is started anew
        after a reboot: virsh edit $DOM: move <qemu:commandline> to supported elements, choose a current machine type
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dominfo $DOM

    When not to
        host-cpu only says that host-passthrough is used, custom-ga-command that a backup tool froze file systems.

    References
        https://libvirt.org/manpages/virsh.html#dominfo
    """
    allowed = {f"tainted: {_TAINTS.get(code, code)}" for code in params.allowed_taints}
    messages = list(domain.info.messages)
    if not messages and versions(domain.host).libvirt < MESSAGES_SINCE:
        messages = _logged_taints(domain)
    found = [text for text in messages if text not in allowed]
    if tolerated := [text for text in messages if text in allowed]:
        note("; ".join(tolerated))
    assert not found, f"{domain}: {'; '.join(found)[:300]}; expected no such message."


@condition
def has_two_definitions(domain: Domain) -> str | None:
    """Hold for running domains that have a saved definition."""
    if reason := domain_runs(domain=domain):
        return reason
    return None if domain.persistent else "is transient, it has no saved definition"


@check(
    "KVM-SVC-017",
    title="The running definition of each domain matches its saved one",
    severity=Severity.LOW,
    reads=("virsh", "domain"),
    params={"compared_elements": Items(ELEMENTS, Choice(*ELEMENTS), least=1)},
    applies=has_two_definitions,
)
def test_definitions_match(domain: Domain, params: Params) -> None:
    """What the guest is now is what it will be after its next start.

    What it checks
        The live and the saved definition agree in compared_elements: vCPUs, cputune, numatune, memory, memoryBacking, CPU,
        disks (bus, source, driver, iotune) and cards (type, source, model, driver). What libvirt itself changes at a start
        does not count: names of taps, expanded CPU models, nodes of placement auto, memory rounded up, media in drives.

    Why it matters
        Tuning that only the saved definition has is not in force; tuning that only the live one has is gone at the next
        start.

    How to fix
        now: repeat the change with both --live and --config (virsh vcpupin, blkdeviotune, attach-device ...)
        after a reboot: virsh shutdown $DOM and virsh start $DOM takes over the saved definition
        roll back: repeat the change with the former value, both --live and --config
        verify: diff <(virsh dumpxml $DOM) <(virsh dumpxml --inactive $DOM)

    When not to
        While a change waits for the next window.

    References
        https://libvirt.org/formatdomain.html
    """
    found = differences(domain.saved, domain.live, params.compared_elements)
    more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
    assert not found, f"{domain}: live and saved definition differ: {'; '.join(found[:8])}{more}."
