"""Checks of multipath storage."""

from __future__ import annotations

from collections import Counter

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.multipath import MultipathMap
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.services import unit
from pytest_kvmcheck.views.storage import (
    daemon_answers,
    dm_maps,
    kernel_paths,
    multipath_maps,
    multipath_maps_later,
    wwids,
)


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
        if not service.enabled:
            findings.fail(f"{host}: multipathd is {service.unit_file_state or 'not installed'}, expected enabled.")
        for wwid, disks in sorted(wwids(host).items()):
            bare = [disk for disk in disks if disk not in below]
            if len(disks) > 1 and bare:
                findings.fail(f"{host}: {', '.join(bare)} (WWID {wwid}, {len(disks)} paths) not in a multipath map.")


@check(
    "KVM-STO-002",
    title="Each multipath map has the expected number of active paths",
    severity=Severity.HIGH,
    reads=("multipath_maps", "dm_maps", "dm_slaves", "multipath_dmsetup"),
    params={"min_paths": 2, "min_paths_fc": 2, "expected_paths": None},
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
        else:
            good, total = multipath_map.usable, len(paths)
            fibre = any(path.protocol == "scsi:fcp" for path in paths)
            minimum = params.min_paths_fc if fibre else params.min_paths
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


PENDING = ("i/o pending", "delayed", "undef")


@check(
    "KVM-STO-003",
    title="No path is failed, faulty, marginal or flapping",
    severity=Severity.HIGH,
    reads=("multipath_maps", "multipath_maps_later", "dm_maps", "dm_slaves", "multipath_dmsetup"),
    params={"max_faults": 0},
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
        findings.fail_if(not multipath_map.paths, f"{host}: {name} has no path at all.")
        if later is None:
            findings.fail(f"{host}: {name} was gone at the second look.")
        elif later.faults is not None and multipath_map.faults is not None:
            grown = later.faults - multipath_map.faults
            findings.fail_if(grown > params.max_faults, f"{host}: {name} had {grown} path faults while it was looked at.")
        else:
            raise EvidenceMissing(Cause.MISSING, f"multipathd does not count faults of {name}", "multipath_maps")
