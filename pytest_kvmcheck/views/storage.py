"""Facts about storage: SCSI paths and multipath maps."""

from __future__ import annotations

from pytest_kvmcheck.facts.multipath import MultipathMap, parse_maps
from pytest_kvmcheck.views.host import Host, fact


@fact
def multipath_maps(host: Host) -> tuple[MultipathMap, ...]:
    """Multipath maps by multipathd, sorted by name."""
    return host.evidence.parsed("multipath_maps", parse_maps)
