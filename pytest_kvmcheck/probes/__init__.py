"""Everything that can be asked of a target, in the order in which it is asked."""

from __future__ import annotations

from pytest_kvmcheck.probes.clock import CLOCK
from pytest_kvmcheck.probes.cpu import CPU
from pytest_kvmcheck.probes.disks import DISKS
from pytest_kvmcheck.probes.guest import GUEST
from pytest_kvmcheck.probes.libvirt import LIBVIRT
from pytest_kvmcheck.probes.logs import LOGS
from pytest_kvmcheck.probes.memory import MEMORY
from pytest_kvmcheck.probes.model import MAX_BYTES, Probe, Root
from pytest_kvmcheck.probes.network import NETWORK
from pytest_kvmcheck.probes.placement import PLACEMENT
from pytest_kvmcheck.probes.security import SECURITY
from pytest_kvmcheck.probes.services import SERVICES
from pytest_kvmcheck.probes.storage import STORAGE
from pytest_kvmcheck.probes.system import SYSTEM
from pytest_kvmcheck.probes.updates import UPDATES

__all__ = ["MAX_BYTES", "PROBES", "Probe", "Root", "probes_for"]

#: Systemd first: it must be asked before anything starts an idle daemon.
_AREAS = (
    *(SERVICES, UPDATES, SYSTEM, CPU, MEMORY, CLOCK, STORAGE, LIBVIRT),
    *(PLACEMENT, DISKS, NETWORK, LOGS, SECURITY, GUEST),
)
PROBES: dict[str, Probe] = {
    probe.id: probe for probe in sorted((probe for area in _AREAS for probe in area), key=lambda probe: probe.last)
}


def probes_for(role: str) -> list[Probe]:
    """Return the probes of a target of this role ("host" or "guest"), in order."""
    return [probe for probe in PROBES.values() if role in probe.roles]
