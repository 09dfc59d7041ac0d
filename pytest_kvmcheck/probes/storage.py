"""Probes of SCSI paths and device-mapper multipath. sysfs first: asking multipathd may start it."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, Root, command, files, shell

#: With multipathd stopped, ``multipathd show`` starts it through its socket and hides the fault.
_MULTIPATHD_RUNS = '[ "$(systemctl is-active multipathd.service 2>/dev/null)" = active ]'

STORAGE: tuple[Probe, ...] = (
    shell(
        "scsi_disks",
        "[ -d /sys/block ] || exit 66\nfor d in /sys/block/sd*; do [ -e $d ] && echo ${d##*/}; done; exit 0",
        "SCSI disks",
    ),
    files("scsi_wwids", "/sys/block/sd*/device/wwid /sys/block/sd*/device/state", "identity and state of SCSI disks"),
    files("dm_maps", "/sys/block/dm-*/dm/name /sys/block/dm-*/dm/uuid", "device-mapper maps", roles=EVERYWHERE),
    shell(
        "dm_slaves",
        "[ -d /sys/block ] || exit 66\nfor d in /sys/block/dm-*/slaves/*; do [ -e $d ] && echo $d; done; exit 0",
        "the devices below each device-mapper map",
        roles=EVERYWHERE,
    ),
    command(
        "multipath_maps",
        "multipathd show maps json",
        "multipath maps, path groups and paths",
        root=Root.MAY,
        when=_MULTIPATHD_RUNS,
    ),
    command(
        "multipath_maps_later",
        "multipathd show maps json",
        "the same at the end, to see faults grow",
        root=Root.MAY,
        when=_MULTIPATHD_RUNS,
        last=True,
    ),
    command(
        "multipath_dmsetup",
        "dmsetup status --target multipath",
        "multipath states by the kernel, for a host whose daemon is down",
        root=Root.MUST,
    ),
)
