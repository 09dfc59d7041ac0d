"""Checks of multipath and of storage over a network."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter

from pytest_kvmcheck import EvidenceMissing, Findings, Items, Number, Params, Severity, Text, Whole, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import KEY_SEPARATOR
from pytest_kvmcheck.facts.iplink import Link
from pytest_kvmcheck.facts.iscsi import Session
from pytest_kvmcheck.facts.lvm import parse_lvmconfig, parse_pvs
from pytest_kvmcheck.facts.mounts import mount_of
from pytest_kvmcheck.facts.multipath import MultipathMap
from pytest_kvmcheck.facts.multipathconf import parse_retries
from pytest_kvmcheck.views.blocks import device_named, device_of, lun_of
from pytest_kvmcheck.views.domains import domains, storage_pools
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.images import image_stats, mount_at
from pytest_kvmcheck.views.network import below, interfaces, links, ports
from pytest_kvmcheck.views.san import (
    ORDINARY_MTU,
    adapter_of,
    asked_actively,
    block_peers,
    by_target,
    egress_of,
    fibre,
    fibre_later,
    nfs_mounts,
    nodes,
    nvme,
    on_a_san,
    pinged,
    remote_port_of,
    route_to,
    session_of,
    sessions,
    storage_peers,
    way_of,
)
from pytest_kvmcheck.views.services import unit
from pytest_kvmcheck.views.storage import (
    daemon_answers,
    dm_maps,
    kernel_paths,
    multipath_maps,
    multipath_maps_later,
    scsi_disks,
    wwids,
)
from pytest_kvmcheck.views.system import mounts


@condition
def several_paths(host: Host) -> str | None:
    """Hold where a LUN is seen more than once, or a multipath map exists."""
    if any(len(disks) > 1 for disks in wwids(host).values()) or any(item.multipath for item in dm_maps(host)):
        return None
    return "no LUN with several paths, and no multipath map"


@check(
    "KVM-STO-001",
    title="multipathd is active and enabled where a LUN has several paths",
    severity=Severity.HIGH,
    reads=("scsi_disks", "scsi_wwids", "dm_maps", "dm_slaves", "systemd_units"),
    applies=several_paths,
)
def test_multipathd_runs(host: Host) -> None:
    """Someone watches the paths to storage, now and after a reboot.

    What it checks
        Where a WWID occurs on several SCSI disks, or a multipath map exists: multipathd.service is active and enabled, and every
        such disk belongs to a multipath map.

    Why it matters
        Without it the failure of one path takes the LUN and its guests down.

    How to fix
        now: systemctl enable --now multipathd (RHEL: mpathconf --enable --with_multipathd y)
        after a reboot: the same; rebuild the initramfs where the root file system is on multipath
        roll back: systemctl disable --now multipathd with no map in use; rebuild the initramfs again
        verify: systemctl is-active multipathd; multipath -ll

    When not to
        Native NVMe multipath has nothing to do with it.

    References
        https://manpages.debian.org/bookworm/multipath-tools/multipathd.8.en.html
    """
    service = unit(host, "multipathd.service")
    below = {slave for item in dm_maps(host) if item.multipath for slave in item.slaves}
    with Findings() as findings:
        if not service.active:
            findings.fail(f"{host}: multipathd is {service.active_state or 'not there'}, expected active.")
        if not service.enabled or service.unit_file_state == "enabled-runtime":
            findings.fail(f"{host}: multipathd is {service.unit_file_state or 'not installed'}, expected enabled.")
        for wwid, disks in sorted(wwids(host).items()):
            bare = [disk for disk in disks if disk not in below]
            if len(disks) > 1 and bare:
                findings.fail(f"{host}: {', '.join(bare)} (WWID {wwid}, {len(disks)} paths) not in a multipath map.")


@check(
    "KVM-STO-002",
    title="Each multipath map has the expected number of active paths",
    severity=Severity.HIGH,
    reads=("multipath_maps", "dm_maps", "dm_slaves", "multipath_dmsetup", "device_places"),
    params={"min_paths": Whole(2, 1, 32), "min_paths_fc": Whole(2, 1, 32), "expected_paths": Whole(None, 1, 64)},
)
def test_enough_paths(host: Host, multipath_map: MultipathMap, params: Params) -> None:
    """Every LUN can lose a path and live on.

    What it checks
        Paths that device-mapper calls active and the checker ready (or ghost: a standby port) are at least min_paths
        (min_paths_fc on Fibre Channel) and exactly expected_paths when given; one at least is ready. Maps of one vendor and
        product with different numbers of paths are a warning. While multipathd is off, the kernel's own states count.

    Why it matters
        With one path missing, the next maintenance is an outage.

    How to fix
        now: multipath -ll; look for the missing path in zoning, masking, cabling or iSCSI sessions; rescan-scsi-bus.sh
        after a reboot: nothing more
        roll back: nothing to undo: what was mended is mended
        verify: multipathd show maps json

    When not to
        LUNs with a single path by design.

    References
        https://manpages.debian.org/bookworm/multipath-tools/multipath.conf.5.en.html
    """
    name, paths = multipath_map.name, multipath_map.paths
    with Findings() as findings:
        if not daemon_answers(host):
            states = kernel_paths(host).get(name)
            if states is None:
                raise EvidenceMissing(Cause.MISSING, f"dmsetup does not list {name}", "multipath_dmsetup")
            good, total, minimum = states.count("A"), len(states), params.min_paths
            if params.min_paths_fc > minimum and _by_fibre(host, multipath_map):
                minimum = params.min_paths_fc
        else:
            good, total = multipath_map.usable, len(paths)
            minimum = params.min_paths_fc if paths and _by_fibre(host, multipath_map) else params.min_paths
            if good and not any(path.usable and path.checker_state == "ready" for path in paths):
                findings.fail(f"{host}: {name} has standby paths only, none is ready.")
        if good < minimum:
            findings.fail(f"{host}: {name} has {good} usable of {total} paths, expected {minimum} or more.")
        if params.expected_paths is not None and good != params.expected_paths:
            findings.fail(f"{host}: {name} has {good} usable paths, expected exactly {params.expected_paths}.")
        if daemon_answers(host) and multipath_map.product:
            model = (multipath_map.vendor, multipath_map.product)
            sizes = Counter(len(item.paths) for item in multipath_maps(host) if (item.vendor, item.product) == model)
            if len(sizes) > 1:
                findings.warn(f"{host}: maps of {' '.join(model)} have different numbers of paths: {sorted(sizes)}.")


def _by_fibre(host: Host, multipath_map: MultipathMap) -> bool:
    """Whether the paths of a map go by Fibre Channel: by multipathd, or by their places in sysfs where an old one does not tell."""
    told = [path.fibre for path in multipath_map.paths]
    if told and None not in told:
        return any(told)
    slaves = next((item.slaves for item in dm_maps(host) if item.name == multipath_map.name), ())
    disks = [path.dev for path in multipath_map.paths] or slaves
    return any("/rport-" in way_of(host, disk) for disk in disks if disk.startswith("sd"))


PENDING = ("i/o pending", "delayed", "undef")


@check(
    "KVM-STO-003",
    title="No path is failed, faulty, marginal or flapping",
    severity=Severity.HIGH,
    reads=("multipath_maps", "multipath_maps_later", "dm_maps", "dm_slaves", "multipath_dmsetup"),
    params={"max_faults": Whole(0, 0, 1000)},
)
def test_paths_are_sound(host: Host, multipath_map: MultipathMap, params: Params) -> None:
    """All paths to storage work, and none comes and goes.

    What it checks
        Each path: device-mapper active, device running, checker ready or ghost, not marginal. The map's fault counter does not
        grow by more than max_faults between the two looks of one gathering. States in between (i/o pending, delayed, undef)
        warn, and fail when the second look still shows them.

    Why it matters
        Redundancy is already lost, though I/O goes on.

    How to fix
        now: follow the path to its HBA, switch and target; multipathd reinstate path PATH after the repair
        after a reboot: nothing more
        roll back: multipathd fail path PATH takes it out again
        verify: multipathd show paths format '%d %m %t %o %T %0'

    When not to
        During announced work on the storage network.

    References
        https://manpages.debian.org/bookworm/multipath-tools/multipathd.8.en.html
    """
    name = multipath_map.name
    with Findings() as findings:
        if not daemon_answers(host):
            states = kernel_paths(host).get(name)
            if states is None:
                raise EvidenceMissing(Cause.MISSING, f"dmsetup does not list {name}", "multipath_dmsetup")
            findings.fail_if("F" in states, f"{host}: {states.count('F')} of {len(states)} paths of {name} failed.")
            raise EvidenceMissing(Cause.SKIPPED, f"multipathd is not running: faults of {name} are not known", "multipath_maps")
        later = multipath_maps_later(host).get(name)
        for path in multipath_map.paths:
            where = f"{host}: path {path.dev} of {name}"
            if path.checker_state in PENDING:
                again = next((item for item in later.paths if item.dev == path.dev), None) if later else None
                still = again is not None and again.checker_state in PENDING
                (findings.fail if still else findings.warn)(f"{where} is {path.checker_state}.")
                continue
            if path.dm_state != "active" or path.checker_state not in ("ready", "ghost"):
                findings.fail(f"{where} is {path.dm_state}, {path.checker_state}; expected active, ready.")
            elif path.dev_state != "running":
                findings.fail(f"{where}: the device is {path.dev_state or 'not told'}, expected running.")
            elif path.marginal not in ("", "normal"):
                findings.fail(f"{where} is {path.marginal}.")
        if not any(path.checker_state in ("ready", *PENDING) for path in multipath_map.paths):
            findings.fail(f"{host}: {name} has {'no ready path' if multipath_map.paths else 'no path at all'}.")
        if later is None:
            findings.fail(f"{host}: {name} was gone at the second look.")
        elif later.faults is not None and multipath_map.faults is not None:
            grown = later.faults - multipath_map.faults
            findings.fail_if(grown > params.max_faults, f"{host}: {name} had {grown} path faults while it was looked at.")
        else:
            raise EvidenceMissing(Cause.MISSING, f"multipathd does not count faults of {name}", "multipath_maps")


PCI_SLOT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}")


def demand_daemon(host: Host, name: str) -> None:
    """Raise :class:`EvidenceMissing` while multipathd is off: it was not asked, as that would start it."""
    if not daemon_answers(host):
        raise EvidenceMissing(Cause.SKIPPED, f"multipathd is not running: {name} cannot be asked about", "multipath_maps")


@check(
    "KVM-STO-004",
    title="Paths of a map are spread over adapters and target ports",
    severity=Severity.MEDIUM,
    reads=(
        *("multipath_maps", "dm_maps", "dm_slaves", "device_places", "iscsi", "fc_hosts"),
        *("ip_addr", "ip_route", "ip_route6"),
    ),
    params={"min_adapters": Whole(2, 1, 16), "min_targets": Whole(2, 1, 16)},
)
def test_paths_are_spread(host: Host, multipath_map: MultipathMap, params: Params) -> None:
    """No single card, cable or controller takes all paths along.

    What it checks
        The usable paths go over at least min_adapters initiator ports (PCI functions; for iSCSI the network devices by which the
        portals are reached), and on Fibre Channel and iSCSI to at least min_targets ports of the array. All ports on one PCI card,
        and path groups of equal priority with one path each (failover on an array that could use all), are warnings.

    Why it matters
        Four paths through one card or one controller fail together.

    How to fix
        now: log in to, or zone, the second fabric or portal
        after a reboot: add the second adapter; zone each port to both controllers; path_grouping_policy group_by_prio
        roll back: log out of the second portal (iscsiadm -m node -T IQN -p PORTAL --logout), or the former zoning
        verify: multipath -ll; ls -l /sys/block | grep sd

    When not to
        Blades with one card of two ports: that is a warning only.

    References
        https://manpages.debian.org/bookworm/multipath-tools/multipath.conf.5.en.html
    """
    name = multipath_map.name
    demand_daemon(host, name)
    usable = [path for path in multipath_map.paths if path.usable]
    if not usable:
        raise EvidenceMissing(Cause.EMPTY, f"{name} has no usable path", "multipath_maps")
    with Findings() as findings:
        adapters = {adapter_of(host, path.dev) for path in usable}
        if len(adapters) < params.min_adapters:
            findings.fail(f"{host}: {name} uses {' and '.join(sorted(adapters))} only, expected {params.min_adapters} adapters.")
        slots = {match[0] if (match := PCI_SLOT.match(item)) else item for item in adapters}
        if len(adapters) > 1 and len(slots) == 1:
            findings.warn(f"{host}: all adapters of {name} are on one card, {slots.pop()}.")
        if any(on_a_san(host, path.dev) for path in usable):
            targets: set[str] = set()
            for path in usable:
                session = session_of(host, path.dev)
                told = session.portals if session else (path.target_port if path.fibre else remote_port_of(host, path.dev),)
                targets |= {item for item in told if item and item != "[undef]"}
            if not targets:
                raise EvidenceMissing(Cause.MISSING, f"the target ports of {name} are not told", "fc_hosts")
            if len(targets) < params.min_targets:
                findings.fail(
                    f"{host}: {name} reaches {' and '.join(sorted(targets))} only, expected {params.min_targets} target ports."
                )
        sizes = Counter(path.group for path in multipath_map.paths)
        if len(sizes) > 1 and set(sizes.values()) == {1} and len({multipath_map.groups[number] for number in sizes}) == 1:
            findings.warn(f"{host}: {name} has {len(sizes)} groups of equal priority with one path each: one path carries all.")


@check(
    "KVM-STO-005",
    title="Queueing on total path loss is bounded",
    severity=Severity.HIGH,
    reads=("multipath_maps", "multipath_config", "dm_maps", "dm_slaves"),
    params={"min_retries": Whole(4, 0, 1000), "max_retries": Whole(60, 1, 1000), "allow_queue": False, "allow_fail": False},
)
def test_queueing_is_bounded(host: Host, multipath_map: MultipathMap, params: Params) -> None:
    """When all paths are lost, I/O waits for a while, and then fails.

    What it checks
        no_path_retry in force is a number of path checks from min_retries to max_retries. Endless queueing fails unless
        allow_queue, immediate failure fails unless allow_fail. The feature queue_if_no_path alone says nothing: it stands there
        while a bounded retry is in force. While all paths of the map are down the configuration is judged instead.

    Why it matters
        Endless queueing leaves QEMU where nobody can kill it: no fencing, no migration, no shutdown. Immediate failure makes an
        I/O error in every guest of a blip.

    How to fix
        now: multipathd disablequeueing map MAP, when guests hang for good
        after a reboot: no_path_retry 12 (times polling_interval seconds) in defaults, devices or overrides of multipath.conf; then
            multipathd reconfigure
        roll back: multipathd restorequeueing map MAP; the former multipath.conf, and multipathd reconfigure
        verify: multipathd show maps format '%n %Q %N %f'

    When not to
        Arrays whose vendor wants queueing (allow_queue); oVirt: VDSM owns multipath.conf and wants failing (allow_fail).

    References
        https://manpages.debian.org/bookworm/multipath-tools/multipath.conf.5.en.html
        https://github.com/oVirt/vdsm/blob/master/lib/vdsm/tool/configurators/multipath.py
    """
    name = multipath_map.name
    demand_daemon(host, name)
    told = multipath_map.queueing
    if not told:
        raise EvidenceMissing(Cause.MISSING, f"this multipathd does not tell how {name} queues", "multipath_maps")
    all_down = told.endswith(" sec") or (told == "off" and not multipath_map.usable)
    if all_down:
        values = host.evidence.parsed("multipath_config", parse_retries)
        if len(values) != 1:
            shown = " or ".join(values) or "set nowhere"
            raise EvidenceMissing(
                Cause.MISSING,
                f"all paths of {name} are down, and no_path_retry is {shown}: what is in force for it is not told",
                "multipath_config",
            )
        told = {"queue": "on", "fail": "off"}.get(values[0], f"{values[0]} chk")
    elif told == "-":
        told = "on" if "queue_if_no_path" in multipath_map.features else "off"
    retries, _, unit_of = told.partition(" ")
    where = f"{host}: {name}"
    if told == "on":
        assert params.allow_queue, f"{where} queues without end when all paths are lost, expected {_bounds(params)}."
    elif told == "off":
        assert params.allow_fail, f"{where} fails at once when all paths are lost, expected {_bounds(params)}."
    elif unit_of == "chk" and retries.isdigit():
        inside = params.min_retries <= int(retries) <= params.max_retries
        assert inside, f"{where} retries {retries} times when all paths are lost, expected {_bounds(params)}."
    else:
        raise EvidenceMissing(Cause.UNPARSABLE, f"queueing of {name} is {told[:40]!r}", "multipath_maps")
    note(f"no_path_retry in force: {told}")


def _bounds(params: Params) -> str:
    return f"{params.min_retries} to {params.max_retries} retries"


BY_ONE_PATH = re.compile(r"/dev/sd[a-z]+\d*|/dev/disk/by-path/.*")


def block_sources(host: Host) -> dict[str, list[str]]:
    """Return the domains that have each block device of the host as a disk, live or saved, by its path."""
    found: dict[str, list[str]] = {}
    for domain in domains(host):
        definitions = [domain.saved, *([domain.live] if domain.running else [])]
        for path in sorted(
            {disk.source for item in definitions for disk in item.disks if disk.type == "block" and disk.source and disk.is_disk}
        ):
            found.setdefault(path, []).append(domain.name)
    return found


@condition
def block_disks_or_luns(host: Host) -> str | None:
    """Hold where a guest has a block device as its disk, or the host has LUNs of a SAN."""
    if block_sources(host) or any(item.multipath for item in dm_maps(host)):
        return None
    if any(on_a_san(host, disk) for disk in scsi_disks(host)):
        return None
    return "no guest has a block device, and there is no LUN of a SAN"


@check(
    "KVM-STO-006",
    title="Block disks of guests sit on the multipath map, and host LVM leaves guest LUNs alone",
    severity=Severity.HIGH,
    reads=(
        *("virsh", "domain", "images", "block_devices", "scsi_disks", "scsi_wwids", "dm_maps", "dm_slaves", "device_places"),
        "lvm",
    ),
    applies=block_disks_or_luns,
)
def test_block_disks_are_on_maps(host: Host) -> None:
    """Guests use all paths of their LUNs, and nobody but they writes there.

    What it checks
        No block device of a guest is a single path: an sdX below a multipath map, or one of several with the same WWID, whatever
        link led to it; LUNs of a SAN are not named sdX or by-path. No LVM physical volume of the host lies on a whole disk of a
        guest, and those on a SAN are on the map. LVM that may look at guests' LUNs (neither a devices file nor a rejecting filter,
        or scan_lvs) is a warning.

    Why it matters
        A guest on one path dies with it, and sdX is another disk after a reboot. A host that activates the volume group of a guest
        can destroy it.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit DOM: <source dev='/dev/mapper/MAP'/>; RHEL 9 and SUSE: lvmdevices --adddev DEVICE with
        use_devicesfile=1; others: global_filter in /etc/lvm/lvm.conf, then update-initramfs -u or dracut -f
        roll back: virsh define FILE, with what virsh dumpxml --inactive DOM had written to FILE before the change; lvmdevices
            --deldev DEVICE, or the former lvm.conf and initramfs
        verify: virsh domblklist --details DOM; multipath -ll; pvs -a

    When not to
        Local disks without a second path may be given to guests as they are.

    References
        https://manpages.debian.org/bookworm/multipath-tools/multipath.conf.5.en.html
        https://man7.org/linux/man-pages/man8/lvmdevices.8.html
    """
    with Findings() as findings:
        below = {slave for item in dm_maps(host) if item.multipath for slave in item.slaves}
        several = {disk for disks in wwids(host).values() if len(disks) > 1 for disk in disks}
        used: dict[str, str] = {}
        for path, names in block_sources(host).items():
            who = f"{host}: {path}, a disk of {' and '.join(names)},"
            with findings.part():
                device = device_of(host, path)
                used[device] = names[0]
                if device in below or device in several:
                    findings.fail(f"{who} is {device}, one path of several; expected the multipath map.")
                elif lun_of(host, device) and on_a_san(host, device) and BY_ONE_PATH.fullmatch(path):
                    findings.fail(f"{who} is a LUN of a SAN, expected a name that stays (by-id, map).")
        record = host.evidence.record("lvm")
        if record.cause is Cause.MISSING:
            return  # without LVM's tools nothing on the host looks for volume groups
        host.evidence.head("lvm")
        for volume, group in host.evidence.parsed(f"lvm{KEY_SEPARATOR}pvs", parse_pvs).items():
            device = device_named(host, volume)
            if device in used:
                findings.fail(f"{host}: {volume}, a disk of {used[device]}, is a physical volume of the host's {group or 'LVM'}.")
            elif device in below:
                findings.fail(f"{host}: physical volume {volume} of {group} is one path of a multipath map, expected the map.")
        config = host.evidence.parsed(f"lvm{KEY_SEPARATOR}config", parse_lvmconfig)
        if used and (config.scan_lvs or not (config.use_devicesfile or config.rejects)):
            why = "scan_lvs is on" if config.scan_lvs else "neither a devices file nor a filter keeps it away"
            findings.warn(f"{host}: LVM may look at the disks of guests: {why}.")


@condition
def has_iscsi(host: Host) -> str | None:
    """Hold where iSCSI sessions or records of targets exist."""
    if sessions(host):
        return None
    try:
        return None if nodes(host) else "no iSCSI session, and no target on record"
    except EvidenceMissing as missing:
        if missing.cause is Cause.NOT_PERMITTED:
            raise EvidenceMissing(
                missing.cause, "no iSCSI session; the records of targets may not be read", missing.probe
            ) from None
        raise


@check(
    "KVM-STO-007",
    title="iSCSI sessions are complete, logged in, persistent and tuned for multipath",
    severity=Severity.HIGH,
    reads=("iscsi", "iscsi_nodes", "scsi_disks", "device_places", "dm_maps", "dm_slaves"),
    params={"min_sessions": Whole(2, 1, 16), "max_replacement_s": Whole(15, 1, 600), "managed_login": False},
    applies=has_iscsi,
)
def test_iscsi_sessions(host: Host, params: Params) -> None:
    """Every iSCSI target is reached twice, now and after a reboot, and a dead path is noticed soon.

    What it checks
        Each target has at least min_sessions working sessions (LOGGED_IN, connection up) at different portals, and none that
        failed. The records say node.startup automatic or onboot, unless managed_login. Where the disks of a session are below a
        multipath map, its recovery_tmo in force is at most max_replacement_s.

    Why it matters
        With the default of 120 s a dead path is hidden from multipath for two minutes, and I/O waits. A session that nobody
        starts is missing after the next reboot.

    How to fix
        now: iscsiadm -m node -T IQN -p PORTAL --login; iscsiadm -m session -r SID -o update is not enough: log in again
        after a reboot: iscsiadm -m node -T IQN -o update -n node.startup -v automatic;
            -n node.session.timeo.replacement_timeout -v 5
        roll back: iscsiadm -m node -T IQN -o update -n NAME -v VALUE with the former value; --logout ends the session
        verify: iscsiadm -m session -P 1; grep . /sys/class/iscsi_session/session*/recovery_tmo

    When not to
        A root disk on iSCSI without multipath wants a long timeout. oVirt logs in by itself (managed_login).

    References
        https://github.com/open-iscsi/open-iscsi#readme
    """
    by_name: dict[str, list[Session]] = {}
    for session in sessions(host):
        by_name.setdefault(session.target, []).append(session)
    with Findings() as findings:
        for target, own in sorted(by_name.items()):
            good = [session for session in own if session.logged_in]
            portals = {portal for session in good for portal in session.portals}
            for session in own:
                if not session.logged_in:
                    state = session.state if session.up is not False else f"{session.state}, its connection is not up"
                    findings.fail(f"{host}: {session.name} of {target} is {state}, expected LOGGED_IN.")
            if len(portals) < params.min_sessions:
                at = " and ".join(sorted(portals)) or "no portal"
                findings.fail(f"{host}: {target} is reached at {at}, expected {params.min_sessions} portals.")
        below = {slave for item in dm_maps(host) if item.multipath for slave in item.slaves}
        slow = {}
        for disk in scsi_disks(host):
            if disk in below and (session_there := session_of(host, disk)):
                if session_there.recovery_s is None:
                    raise EvidenceMissing(Cause.MISSING, f"recovery_tmo of {session_there.name} is not told", "iscsi")
                if session_there.recovery_s > params.max_replacement_s or session_there.recovery_s < 0:
                    slow[session_there.name] = session_there
        for name, session in sorted(slow.items()):
            findings.fail(
                f"{host}: {name} of {session.target} hides a dead path for {session.recovery_s} s from multipath,"
                f" expected at most {params.max_replacement_s}."
            )
        if params.managed_login:
            return
        known = nodes(host)
        for target, own in sorted(by_name.items()):
            portals = {portal for session in own for portal in session.portals}
            starts = {node.address.strip("[]"): node.startup for node in known if node.target == target}
            for portal in sorted(portals):
                if portal not in starts:
                    findings.fail(f"{host}: {target} at {portal} is not on record: it is not logged in to after a reboot.")
                elif starts[portal] not in ("automatic", "onboot"):
                    findings.fail(f"{host}: node.startup of {target} at {portal} is {starts[portal]}, expected automatic.")
        for node in known:
            if node.target not in by_name and node.startup in ("automatic", "onboot"):
                findings.fail(f"{host}: {node.target} at {node.address} should be logged in to, and has no session.")


@condition
def several_portals(host: Host) -> str | None:
    """Hold where a target of iSCSI or NVMe has several portals."""
    if any(len(peers) > 1 for peers in by_target(block_peers(host)).values()):
        return None
    return "no iSCSI or NVMe target with several portals"


def _arp_is_kept(host: Host, device: str) -> bool:
    """Whether a device answers for its own addresses only, and announces no others."""
    files = host.evidence.files("net_settings")
    found = {}
    for key in ("arp_ignore", "arp_announce"):
        values = [files.get(f"/proc/sys/net/ipv4/conf/{place}/{key}") for place in ("all", device)]
        if any(value is None or not value.strip().isdigit() for value in values):
            raise EvidenceMissing(Cause.MISSING, f"{key} of {device} is not told", "net_settings")
        found[key] = max(int(value or 0) for value in values)
    return found["arp_ignore"] >= 1 and found["arp_announce"] == 2


@check(
    "KVM-STO-008",
    title="IP storage paths use separate subnets and interfaces",
    severity=Severity.MEDIUM,
    reads=("iscsi", "nvme", "ip_addr", "ip_route", "ip_route6", "net_settings"),
    applies=several_portals,
)
def test_storage_paths_are_apart(host: Host) -> None:
    """Two paths to a target really are two: other subnets, other network cards.

    What it checks
        The portals of each iSCSI target and NVMe subsystem lie in at least two subnets of the host, are reached by different
        devices and without a gateway. Or the iSCSI sessions are bound to different interfaces (iface records), each of which
        answers for its own addresses only (arp_ignore 1, arp_announce 2).

    Why it matters
        In one subnet the kernel sends everything by one card, and answers for the addresses of all: the second path is there in
        name only.

    How to fix
        now: nothing without moving addresses
        after a reboot: one subnet and VLAN a path, on a card of its own; or iscsiadm -m iface -I IFACE --op=update -n
            iface.net_ifacename -v NIC, with net.ipv4.conf.NIC.arp_ignore=1 and arp_announce=2 in /etc/sysctl.d
        roll back: the former addresses; iscsiadm -m iface -I IFACE --op=delete; remove the file from /etc/sysctl.d
        verify: ip route get PORTAL, for each portal

    When not to
        Arrays that demand a single subnet: bind the interfaces.

    References
        https://docs.kernel.org/networking/ip-sysctl.html
        https://github.com/open-iscsi/open-iscsi#readme
    """
    with Findings() as findings:
        for (kind, target), peers in sorted(by_target(block_peers(host)).items()):
            if len(peers) < 2:
                continue
            who = f"{host}: {kind} target {target}"
            bound = {session.iface for session in sessions(host) if session.target == target} - {"default", "", "<NULL>"}
            devices = {peer.address: egress_of(host, peer) for peer in peers}
            if kind == "iscsi" and len(bound) >= 2:
                for device in sorted(set(devices.values())):
                    if not _arp_is_kept(host, device):
                        findings.fail(
                            f"{who}: sessions are bound, but {device} answers for others' addresses; expected arp_ignore 1."
                        )
                continue
            for peer in peers:
                gateway = "" if devices[peer.address] == "lo" else route_to(host, peer.address).gateway
                findings.fail_if(bool(gateway), f"{who}: {peer.address} is reached by the gateway {gateway}, expected none.")
            if len(set(devices.values())) < len(devices):
                shared = ", ".join(f"{address} by {device}" for address, device in sorted(devices.items()))
                findings.fail(f"{who}: portals share a network device ({shared}), expected one each.")
            subnets = {
                str(item.network)
                for item in interfaces(host)
                for peer in peers
                if item.scope != "host" and ipaddress.ip_address(peer.address.partition("%")[0]) in item.network
            }
            findings.fail_if(
                len(subnets) < 2,
                f"{who}: its portals lie in {' and '.join(sorted(subnets)) or 'no subnet of the host'}, expected two.",
            )


@condition
def has_block_peers(host: Host) -> str | None:
    """Hold where iSCSI or NVMe is reached by IP."""
    return None if block_peers(host) else "no iSCSI or NVMe over IP"


#: Modes of a bond by the names of ip, and what they are.
STANDBY = "active-backup"


@check(
    "KVM-STO-009",
    title="No link aggregation carries iSCSI or NVMe-TCP multipath traffic",
    severity=Severity.MEDIUM,
    reads=("iscsi", "nvme", "ip_addr", "ip_route", "ip_route6", "ip_link"),
    params={"allow_lacp": False},
    applies=has_block_peers,
)
def test_no_bond_below_multipath(host: Host, params: Params) -> None:
    """Multipath chooses between links by itself.

    What it checks
        No team and no bond (but active-backup, which is a warning) lies below the network device by which a target with several
        portals is reached, unless allow_lacp.

    Why it matters
        One iSCSI session uses one link of the bond whatever its width, and the bond hides from multipath which link is ill.

    How to fix
        now: nothing without an outage of the storage
        after a reboot: take the bond apart, and give each link a subnet of its own (KVM-STO-008)
        roll back: the former bond and its address, again with the storage out of use
        verify: ip -d link show; multipath -ll

    When not to
        Blades with two uplinks for everything (allow_lacp). Bonds are right for NFS, Ceph, management and guests.

    References
        https://docs.kernel.org/networking/bonding.html
    """
    with Findings() as findings:
        for (kind, target), peers in sorted(by_target(block_peers(host)).items()):
            if len(peers) < 2:
                continue
            for device in sorted({egress_of(host, peer) for peer in peers}):
                for link in below(host, device):
                    if link.kind not in ("bond", "team"):
                        continue
                    mode = str(link.data.get("mode", "not told")) if link.kind == "bond" else "team"
                    text = (
                        f"{host}: {kind} target {target} is reached by {device} over {link.name} ({mode}), expected no aggregation."
                    )
                    if mode == STANDBY:
                        findings.warn(text)
                    elif not params.allow_lacp:
                        findings.fail(text)


@condition
def has_storage_peers(host: Host) -> str | None:
    """Hold where storage is reached by IP: iSCSI, NVMe or NFS."""
    return None if storage_peers(host) else "no storage over IP"


@check(
    "KVM-STO-010",
    title="Every layer of a storage path carries the MTU of the interface on top",
    severity=Severity.MEDIUM,
    reads=("iscsi", "nvme", "mounts", "ip_addr", "ip_route", "ip_route6", "ip_link", "virsh", "domain"),
    params={"storage_mtu": Whole(None, 576, 65_535)},
    applies=has_storage_peers,
)
def test_mtu_of_storage_paths(host: Host, params: Params) -> None:
    """A frame that the host sends fits through all its own devices.

    What it checks
        The device by which each iSCSI portal, NVMe target and NFS server is reached has storage_mtu, when that is set. Every
        device below it (VLAN's parent, bond, members, ports of a bridge) has at least its MTU; taps of guests on that bridge have
        just that, and no guest is told a larger one. All devices to one target have the same MTU.

    Why it matters
        The smallest layer drops large frames without a word: small requests work, large ones hang.

    How to fix
        now: ip link set dev DEVICE mtu 9000, the lowest device first; the switch too
        after a reboot: nmcli con mod CON 802-3-ethernet.mtu 9000 (RHEL, SUSE), mtu in netplan or /etc/network/interfaces
        roll back: ip link set dev DEVICE mtu with the former value, the highest device first; the former configuration
        verify: ip link show; ping -M do -s 8972 PORTAL

    When not to
        A VLAN smaller than its bond is sound, and passes.

    References
        https://docs.kernel.org/networking/netdevices.html
    """
    known = links(host)
    with Findings() as findings:
        for (kind, target), peers in sorted(by_target(storage_peers(host)).items()):
            sizes: dict[str, int] = {}
            for device in sorted({egress_of(host, peer) for peer in peers}):
                top = known.get(device)
                if top is None:
                    raise EvidenceMissing(Cause.MISSING, f"ip link does not list {device}", "ip_link")
                sizes[device] = top.mtu
                who = f"{host}: {device}, the way to {kind} {target},"
                if params.storage_mtu is not None and top.mtu != params.storage_mtu and device != "lo":
                    findings.fail(f"{who} has MTU {top.mtu}, expected {params.storage_mtu}.")
                taps = {link.name: link.mtu for link in ports(host, device) if link.kind == "tun"} if top.kind == "bridge" else {}
                for name, size in sorted(taps.items()):
                    findings.fail_if(size != top.mtu, f"{who} has MTU {top.mtu}, but its port {name} {size}.")
                for link in below(host, device):
                    if link.name not in taps and link.kind != "veth" and link.mtu < top.mtu:
                        findings.fail(f"{who} has MTU {top.mtu}, but {link.name} below it {link.mtu}.")
                if taps:
                    _judge_guests(findings, host, top)
            if len(set(sizes.values())) > 1:
                shown = ", ".join(f"{device} {size}" for device, size in sorted(sizes.items()))
                findings.fail(f"{host}: the ways to {kind} {target} have different MTUs: {shown}.")


def _judge_guests(findings: Findings, host: Host, bridge: Link) -> None:
    for domain in domains(host):
        for definition in (domain.saved, *([domain.live] if domain.running else [])):
            for nic in definition.nics:
                if nic.source == bridge.name and nic.mtu is not None and nic.mtu > bridge.mtu:
                    findings.fail(f"{host}: {domain} is told an MTU of {nic.mtu}, more than {bridge.mtu} of {bridge.name}.")


@condition
def probes_actively(host: Host) -> str | None:
    """Hold where the user lets us send packets."""
    return None if asked_actively(host) else "active probes were not asked for (--kvmcheck-active)"


@condition
def has_jumbo_frames(host: Host, params: Params) -> str | None:
    """Hold where a way to storage has an MTU above the ordinary, or should have."""
    if params.storage_mtu is not None or any(pinged(host, peer).full for peer in storage_peers(host)):
        return None
    return f"no way to storage has an MTU above {ORDINARY_MTU}"


@check(
    "KVM-STO-011",
    title="Jumbo frames really pass end to end",
    severity=Severity.HIGH,
    reads=("iscsi", "nvme", "mounts", "storage_ping"),
    params={"storage_mtu": Whole(None, 576, 65_535)},
    applies=all_of(has_storage_peers, probes_actively, has_jumbo_frames),
)
def test_jumbo_frames_pass(host: Host, params: Params) -> None:
    """A large frame reaches the storage, and comes back.

    What it checks
        Active, by --kvmcheck-active only: three pings that may not be fragmented, as large as the MTU of the device (which is
        storage_mtu when that is set), come back from each iSCSI portal, NVMe target and NFS server. When ordinary ones do not
        come back either, ICMP is filtered and nothing is known.

    Why it matters
        With one small port on the way, logging in and small requests work, and large writes hang.

    How to fix
        now: tracepath PORTAL tells where the large frame ends; raise the MTU of that switch port
        after a reboot: the same at the switch; KVM-STO-010 for the host's own devices
        roll back: the former MTU of the port
        verify: ping -M do -s 8972 PORTAL

    When not to
        Networks that filter ICMP: test with the array's own tool.

    References
        https://man7.org/linux/man-pages/man8/ping.8.html
    """
    with Findings() as findings:
        for peer in storage_peers(host):
            with findings.part():
                way = pinged(host, peer)
                who = f"{host}: {peer} by {way.device}"
                if params.storage_mtu is not None and way.mtu < params.storage_mtu:
                    findings.fail(f"{who} has MTU {way.mtu}, expected {params.storage_mtu}.")
                if way.full is None or way.control is None or way.full.whole:
                    continue
                if way.full.too_long:
                    findings.fail(f"{who}: a frame of {way.mtu} bytes is too long for a device on the way.")
                elif way.control.whole:
                    findings.fail(
                        f"{who}: {way.full.received} of {way.full.sent} frames of {way.mtu} bytes came back, small ones all."
                    )
                else:
                    raise EvidenceMissing(Cause.EMPTY, f"{peer} does not answer ordinary pings either", "storage_ping")


@condition
def has_fibre_channel(host: Host) -> str | None:
    """Hold on hosts with Fibre Channel ports."""
    return None if fibre(host).ports else "no Fibre Channel port"


@check(
    "KVM-STO-012",
    title="Fibre Channel ports are online at the agreed speed without growing errors",
    severity=Severity.HIGH,
    reads=("fc_hosts", "fc_hosts_later"),
    params={"min_ports": Whole(2, 1, 32), "expected_gbit": Number(None, 1, 256), "spare_ports": Items((), Text(""))},
    applies=has_fibre_channel,
)
def test_fibre_channel_ports(host: Host, params: Params) -> None:
    """The ways into the SAN are up, fast and clean.

    What it checks
        At least min_ports physical ports are Online, at expected_gbit or more when that is given, and their error counters did not
        grow while the host was looked at. A port without link that is not among spare_ports (by host or port name), ports of
        different speeds, and one that could be faster are warnings. NPIV ports do not count.

    Why it matters
        A port with a bad optic slows every LUN behind it, long before it fails.

    How to fix
        now: look at optic, cable and switch port; clean or replace
        after a reboot: nothing more
        roll back: nothing to undo: hardware that was replaced stays
        verify: grep . /sys/class/fc_host/host*/port_state /sys/class/fc_host/host*/statistics/invalid_crc_count

    When not to
        A 32G port on a 16G switch is sound: set expected_gbit to 16, which silences the warning.

    References
        https://docs.kernel.org/scsi/scsi_fc_transport.html
    """
    physical = [port for port in fibre(host).ports.values() if not port.virtual]
    online = [port for port in physical if port.online]
    with Findings() as findings:
        if len(online) < params.min_ports:
            findings.fail(
                f"{host}: {len(online)} of {len(physical)} Fibre Channel ports online, expected {params.min_ports} or more."
            )
        for port in physical:
            if not port.online and not {port.name, port.wwpn} & set(params.spare_ports):
                findings.warn(f"{host}: port {port.name} is {port.state}, expected Online (or name it in spare_ports).")
        for port in online:
            if params.expected_gbit is not None:
                if port.speed_gbit is None:
                    raise EvidenceMissing(Cause.MISSING, f"the speed of {port.name} is not told", "fc_hosts")
                if port.speed_gbit < params.expected_gbit:
                    findings.fail(f"{host}: {port.name} runs at {port.speed_gbit} Gbit/s, expected {params.expected_gbit}.")
            elif port.speed_gbit and port.fastest_gbit and port.speed_gbit < port.fastest_gbit:
                findings.warn(f"{host}: {port.name} runs at {port.speed_gbit} of {port.fastest_gbit} Gbit/s.")
        speeds = {port.speed_gbit for port in online if port.speed_gbit}
        findings.warn_if(len(speeds) > 1, f"{host}: its ports run at different speeds: {sorted(speeds)} Gbit/s.")
        later = fibre_later(host).ports
        for port in online:
            again = later.get(port.name)
            if again is None:
                raise EvidenceMissing(Cause.MISSING, f"the counters of {port.name} were not read again", "fc_hosts_later")
            if lost := sorted(set(port.counters) - set(again.counters)):
                raise EvidenceMissing(Cause.MISSING, f"{lost[0]} of {port.name} was not read again", "fc_hosts_later")
            for counter, count in sorted(port.counters.items()):
                grown = again.counters[counter] - count
                findings.fail_if(grown > 0, f"{host}: {counter} of {port.name} grew by {grown} while it was looked at.")


def nfs_with_images(host: Host) -> dict[str, list[str]]:
    """Return what lies on each NFS mount: disks of domains and pools, by /proc/mounts alone, as asking the mount may hang.

    Links that lead there are followed where stat did so.
    """
    found: dict[str, list[str]] = {}
    nfs = {item.target for item in nfs_mounts(host)}
    for domain in domains(host):
        for definition in (domain.saved, *([domain.live] if domain.running else [])):
            for disk in definition.disks:
                if disk.type != "file" or not disk.source:
                    continue
                known = image_stats(host).get(disk.source)
                mount = mount_of(disk.source, mounts(host))
                target = known.mount if known and known.mount else mount.target if mount else ""
                what = f"disk {disk.target} of {domain}"
                if target in nfs and what not in found.setdefault(target, []):
                    found[target].append(what)
    for name, (pool, _) in sorted(storage_pools(host).items()):
        mount = mount_of(pool.target, mounts(host)) if pool.target.startswith("/") else None
        if mount and mount.target in nfs and pool.type in ("dir", "fs", "netfs"):
            found.setdefault(mount.target, []).append(f"pool {name}")
    return {target: what for target, what in sorted(found.items()) if what}


@condition
def nfs_holds_images(host: Host) -> str | None:
    """Hold where an NFS mount holds a disk or a pool."""
    if not nfs_mounts(host):
        return "no NFS is mounted"
    return None if nfs_with_images(host) else "no NFS mount holds a disk or pool"


@check(
    "KVM-STO-013",
    title="NFS stores for images are mounted hard, over TCP, with locking",
    severity=Severity.MEDIUM,
    reads=("mounts", "images", "virsh", "domain", "objects"),
    params={"min_vers": Text("4.1", r"3|4(\.[0-2])?", 'a version of NFS in quotes: "3", "4", "4.0", "4.1" or "4.2"')},
    applies=nfs_holds_images,
)
def test_nfs_mounts(host: Host, params: Params) -> None:
    """A pause of the file server is a pause of the guests, and nothing worse.

    What it checks
        NFS mounts with disks or pools are hard (neither soft nor softerr), use TCP or RDMA, and lock at the server (no nolock, no
        local_lock). A version below min_vers is a warning. The mount itself is not touched: a dead server would hang whoever asks.

    Why it matters
        With soft, a server that is slow for a minute destroys file systems of guests: their writes fail. Without locks, two hosts
        can write one image.

    How to fix
        now: nothing while guests use it
        after a reboot: mount with hard,vers=4.2,proto=tcp,nconnect=4 (fstab, or mount_opts of the pool)
        roll back: the former options in fstab or in the pool, and mount anew
        verify: grep nfs /proc/mounts

    When not to
        oVirt mounts soft with short timeouts on purpose.

    References
        https://man7.org/linux/man-pages/man5/nfs.5.html
    """
    held = nfs_with_images(host)
    with Findings() as findings:
        for mount in nfs_mounts(host):
            if mount.target not in held or mount is not mount_at(host, mount.target):
                continue
            who = f"{host}: {mount.target} ({', '.join(held[mount.target][:3])})"
            soft = [option for option in ("soft", "softerr") if mount.has(option)]
            findings.fail_if(bool(soft), f"{who} is mounted {' and '.join(soft)}, expected hard.")
            proto = mount.option("proto") or ""
            findings.fail_if(
                proto not in ("tcp", "tcp6", "rdma", "rdma6"), f"{who} uses {proto or 'no told protocol'}, expected tcp or rdma."
            )
            local = mount.option("local_lock") or "none"
            if mount.has("nolock") or local != "none":
                findings.fail(
                    f"{who} locks locally ({'nolock' if mount.has('nolock') else f'local_lock={local}'}), expected at the server."
                )
            version = mount.option("vers") or ""
            if not re.fullmatch(r"\d(\.\d)?", version):
                raise EvidenceMissing(Cause.MISSING, f"the version of {mount.target} is not told", "mounts")
            findings.warn_if(
                _version(version) < _version(str(params.min_vers)), f"{who} uses NFS {version}, expected {params.min_vers}."
            )
        note(f"{len(held)} NFS mounts with images")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@condition
def native_nvme_fabrics(host: Host) -> str | None:
    """Hold where NVMe subsystems are reached by a network, and the kernel joins their paths itself."""
    if not nvme(host).fabrics:
        return "no NVMe subsystem over a network"
    return "nvme_core.multipath is off: dm-multipath joins the paths" if nvme(host).native is False else None


USABLE = ("optimized", "non-optimized")


@check(
    "KVM-STO-014",
    title="NVMe subsystems have all paths live",
    severity=Severity.HIGH,
    reads=("nvme",),
    params={"min_paths": Whole(2, 1, 16)},
    applies=native_nvme_fabrics,
)
def test_nvme_paths(host: Host, params: Params) -> None:
    """Every NVMe subsystem can lose a path and live on.

    What it checks
        Each subsystem over TCP, RDMA or Fibre Channel has at least min_paths live controllers at different addresses, and none in
        another state; each namespace has an optimized or non-optimized path. ctrl_loss_tmo 0 fails (a path is given up at once);
        off, which tries for ever, is a warning. A path that was given up is gone without a trace: min_paths is what tells.

    Why it matters
        multipathd knows nothing of native NVMe multipath, and so do the checks of it.

    How to fix
        now: nvme connect-all; look at the firewall (TCP 4420 and 8009) and the network
        after a reboot: systemctl enable nvmf-autoconnect (nvme-cli), with /etc/nvme/discovery.conf
        roll back: nvme disconnect -d CONTROLLER, with nothing using it; systemctl disable nvmf-autoconnect
        verify: nvme list-subsys

    When not to
        Test targets with one portal: set min_paths.

    References
        https://docs.kernel.org/admin-guide/nvme-multipath.html
    """
    with Findings() as findings:
        for subsystem, controllers in nvme(host).fabrics.items():
            who = f"{host}: {subsystem}"
            live = {item.target_address for item in controllers if item.state == "live" and item.target_address}
            findings.fail_if(
                len(live) < params.min_paths, f"{who} has live paths to {len(live)} addresses, expected {params.min_paths} or more."
            )
            usable: dict[str, bool] = {}
            for item in controllers:
                findings.fail_if(
                    item.state != "live", f"{who}: {item.name} ({item.target_address}) is {item.state}, expected live."
                )
                findings.fail_if(item.loss_timeout == "0", f"{who}: {item.name} has ctrl_loss_tmo 0: a path is given up at once.")
                findings.warn_if(
                    item.loss_timeout in ("off", "-1"), f"{who}: {item.name} has ctrl_loss_tmo off: it is tried for ever."
                )
                for namespace, state in item.paths.items():
                    usable[namespace] = usable.get(namespace, False) or (item.state == "live" and state in USABLE)
            for namespace, good in sorted(usable.items()):
                findings.fail_if(not good, f"{who}: {namespace} has no optimized or non-optimized path.")
            if not usable:
                raise EvidenceMissing(Cause.MISSING, f"the kernel tells of no path to a namespace of {subsystem}", "nvme")
        note(f"{len(nvme(host).fabrics)} subsystems")
