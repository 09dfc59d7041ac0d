"""Facts about storage: SCSI paths, multipath maps."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.dmsetup import parse_dmsetup
from pytest_kvmcheck.facts.listing import parse_paths, parse_scsi_names
from pytest_kvmcheck.facts.multipath import MultipathMap, parse_maps
from pytest_kvmcheck.facts.scsi import DmMap, parse_dm_maps, parse_wwids
from pytest_kvmcheck.views.host import Host, fact


@fact
def scsi_disks(host: Host) -> tuple[str, ...]:
    """Names of the SCSI disks."""
    return host.evidence.parsed("scsi_disks", parse_scsi_names)


@fact
def wwids(host: Host) -> dict[str, tuple[str, ...]]:
    """SCSI disks by WWID; a WWID of several disks is one LUN."""
    disks = scsi_disks(host)
    files = host.evidence.files("scsi_wwids")
    if files.partial:
        for disk in disks:
            files.need(f"/sys/block/{disk}/device/wwid")
    found = parsing("scsi_wwids", parse_wwids, files)
    if disks and not found:
        files.demand_all_readable()
        raise EvidenceMissing(Cause.MISSING, f"none of the {len(disks)} SCSI disks tells its WWID", "scsi_wwids")
    return found


@fact
def dm_maps(host: Host) -> tuple[DmMap, ...]:
    """Device-mapper maps, sorted by name."""
    slaves = "\n".join(host.evidence.parsed("dm_slaves", parse_paths))
    files = host.evidence.files("dm_maps")
    files.demand_all_readable()
    return parsing("dm_slaves", lambda text: parse_dm_maps(files, text), slaves)


@fact
def multipath_maps(host: Host) -> tuple[MultipathMap, ...]:
    """Multipath maps, sorted by name: by multipathd, or by name only while it is not running.

    A host without any map, by sysfs, has none whatever multipathd says; a map that multipathd does not tell of has no paths.
    """
    known = [item for item in dm_maps(host) if item.multipath]
    if not known:
        return ()
    record = host.evidence.record("multipath_maps")
    if record.cause in (Cause.SKIPPED, Cause.MISSING):
        return tuple(MultipathMap(item.name, item.uuid, "", "", None, ()) for item in known)
    told = {item.name: item for item in host.evidence.parsed("multipath_maps", parse_maps)}
    # An alias with a blank has another spelling in the kernel.
    ids = {item.uuid for item in told.values()}
    silent = [
        MultipathMap(item.name, item.uuid, "", "", None, ())
        for item in known
        if item.name not in told and item.uuid.removeprefix("mpath-") not in ids
    ]
    return tuple(sorted((*told.values(), *silent), key=lambda item: item.name))


@fact
def daemon_answers(host: Host) -> bool:
    """Whether multipathd itself told of the maps; otherwise the kernel is all there is to ask."""
    return host.evidence.record("multipath_maps").cause not in (Cause.SKIPPED, Cause.MISSING)


@fact
def multipath_maps_later(host: Host) -> dict[str, MultipathMap]:
    """The second sample of the multipath maps, by name."""
    return {item.name: item for item in host.evidence.parsed("multipath_maps_later", parse_maps)}


@fact
def kernel_paths(host: Host) -> dict[str, tuple[str, ...]]:
    """States of the paths by the kernel, by map: ``A`` or ``F`` each."""
    return host.evidence.parsed("multipath_dmsetup", parse_dmsetup)
