"""Facts about names and addresses."""

from __future__ import annotations

from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.names import Lookup, parse_addresses, parse_getent, parse_hosts
from pytest_kvmcheck.views.host import Host, fact


@fact
def addresses(host: Host) -> frozenset[str]:
    """All addresses that are configured on the host."""
    return host.evidence.parsed("ip_addr", parse_addresses)


@fact
def static_names(host: Host) -> dict[str, tuple[str, ...]]:
    """Addresses by name in /etc/hosts."""
    files = host.evidence.files("etc_hosts")
    return parsing("etc_hosts", parse_hosts, files.need("/etc/hosts"))


def lookup(host: Host, what: str) -> Lookup:
    """Return an answer of getent about the host's own name: ``addresses``, ``dns`` or ``reverse/ADDRESS``."""
    host.evidence.text("name_lookup")
    return host.evidence.parsed(f"name_lookup{KEY_SEPARATOR}{what}", parse_getent)
