"""Facts about a guest, seen from inside."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.agentconf import AgentConf, parse_agent_conf
from pytest_kvmcheck.facts.channels import Channels, parse_channels
from pytest_kvmcheck.facts.choice import chosen
from pytest_kvmcheck.facts.cloudinit import FirstBoot, parse_first_boot
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import demand_sysfs


@dataclass(frozen=True)
class GuestDisk:
    """A disk of the guest by the kernel's name. ``scheduler`` is empty for one that has none."""

    name: str
    removable: bool
    scheduler: str
    discards: bool


@fact
def guest_disks(guest: Host) -> dict[str, GuestDisk]:
    """Disks of the guest by name, removable and virtual ones too."""
    files = guest.evidence.files("guest_disks")
    files.demand_all_readable()
    if not files:
        raise EvidenceMissing(Cause.MISSING, "the kernel shows no disk", "guest_disks")
    found = {}
    for path in files:
        match = re.fullmatch(r"/sys/block/([^/]+)/removable", path)
        if match:
            queue = f"/sys/block/{match[1]}/queue"
            scheduler = files.get(f"{queue}/scheduler", "").strip()
            found[match[1]] = GuestDisk(
                match[1],
                files[path].strip() == "1",
                parsing("guest_disks", chosen, scheduler) if "[" in scheduler else scheduler,
                files.get(f"{queue}/discard_max_bytes", "0").strip() not in ("", "0"),
            )
    return found


@fact
def channels(guest: Host) -> dict[str, Channels]:
    """Queues of the virtio network cards by name."""
    guest.evidence.head("guest_channels")
    return {
        name: guest.evidence.parsed(f"guest_channels:{name}", parse_channels) for name in guest.evidence.keyed("guest_channels")
    }


@fact
def virtio_ports(guest: Host) -> frozenset[str]:
    """Names of the channels to the host."""
    files = guest.evidence.files("virtio_ports")
    if not files:
        files.demand_all_readable()
        demand_sysfs(guest)
    return frozenset(text.strip() for text in files.values())


@fact
def agent_conf(guest: Host) -> AgentConf:
    """What the guest agent is allowed to do; everything, when nothing is configured."""
    files = guest.evidence.files("agent_conf")
    files.demand_all_readable()
    return parsing("agent_conf", parse_agent_conf, files)


@fact
def first_boot(guest: Host) -> FirstBoot | None:
    """How the first boot went; None when cloud-init has written nothing."""
    files = guest.evidence.files("cloud_init")
    files.demand_all_readable()
    return parsing("cloud_init", parse_first_boot, files) if files else None


@fact
def tuned_profiles(guest: Host) -> tuple[str, ...]:
    """The profiles that TuneD applies; none when nobody chose any."""
    return tuple((guest.evidence.files("tuned").get("/etc/tuned/active_profile") or "").split())


@fact
def kvm_clocks(guest: Host) -> tuple[str, ...]:
    """PTP devices (ptp0 ...) by which KVM shows the clock of the host; ptp0 may as well be the clock of a network card."""
    files = guest.evidence.files("ptp_clocks")
    files.demand_all_readable()
    return tuple(path.split("/")[-2] for path in sorted(files) if files[path].strip() == "KVM virtual PTP")
