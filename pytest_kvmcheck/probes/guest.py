"""Probes of a guest, asked from inside."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe, files, shell

_GUEST = frozenset({"guest"})

GUEST: tuple[Probe, ...] = (
    files(
        "guest_disks",
        "/sys/block/*/removable /sys/block/*/queue/scheduler /sys/block/*/queue/discard_max_bytes",
        "disks of the guest: removable or not, scheduler, and whether they can be trimmed",
        roles=_GUEST,
    ),
    # ethtool takes one device at a time; virtio devices are known by their file of features.
    shell(
        "guest_channels",
        "command -v ethtool >/dev/null || { echo 'ethtool: not found' >&2; exit 127; }\n"
        "n=0; for f in /sys/class/net/*/device/features; do\n"
        "  [ -f $f ] || continue; d=${f%/device/features}; d=${d##*/}; n=$((n+1)); [ $n -le 16 ] || break\n"
        "  echo @@$N $d; ethtool -l $d 2>&1\n"
        "done; exit 0",
        "queues of virtio network cards, in use and possible",
        keyed=True,
        roles=_GUEST,
    ),
    files("virtio_ports", "/sys/class/virtio-ports/*/name", "channels to the host by name", roles=_GUEST),
    files(
        "agent_conf",
        "/etc/sysconfig/qemu-ga /etc/default/qemu-guest-agent /etc/qemu/qemu-ga.conf",
        "what the guest agent is allowed to do",
        roles=_GUEST,
    ),
    files("cloud_init", "/run/cloud-init/status.json /run/cloud-init/result.json", "how the first boot went", roles=_GUEST),
)
