"""Facts about services: systemd's units."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.facts.systemd import Unit, parse_units
from pytest_kvmcheck.views.host import Host, fact


@fact
def units(host: Host) -> dict[str, Unit]:
    """The units that were asked about, by every name they have."""
    return host.evidence.parsed("systemd_units", parse_units)


def unit(host: Host, name: str) -> Unit:
    """Return the unit *name*, which may be one that does not exist (``exists`` tells).

    Raises :class:`EvidenceMissing` when systemd was not asked about it.
    """
    try:
        return units(host)[name]
    except KeyError:
        raise EvidenceMissing(Cause.NOT_COLLECTED, f"systemctl show did not mention {name}", "systemd_units") from None
