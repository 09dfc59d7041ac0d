"""Everything that can be asked of a target, in the order in which it is asked."""

from __future__ import annotations

from pytest_kvmcheck.probes.libvirt import LIBVIRT
from pytest_kvmcheck.probes.model import MAX_BYTES, Probe, Root
from pytest_kvmcheck.probes.network import NETWORK
from pytest_kvmcheck.probes.storage import STORAGE
from pytest_kvmcheck.probes.system import SYSTEM

__all__ = ["MAX_BYTES", "PROBES", "Probe", "Root", "probes_for"]

#: System first: systemctl must be asked before anything starts an idle daemon.
PROBES: dict[str, Probe] = {
    probe.id: probe for probe in sorted((*SYSTEM, *STORAGE, *LIBVIRT, *NETWORK), key=lambda probe: probe.last)
}


def probes_for(role: str) -> list[Probe]:
    """Return the probes of a target of this role ("host" or "guest"), in order."""
    return [probe for probe in PROBES.values() if role in probe.roles]
