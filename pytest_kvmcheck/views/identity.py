"""Facts about who a host is and what runs on it, to be compared within a cluster."""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.versions import Versions, parse_packages, parse_versions
from pytest_kvmcheck.views.cpu import capabilities
from pytest_kvmcheck.views.domains import virsh
from pytest_kvmcheck.views.host import Host, fact


@fact
def versions(host: Host) -> Versions:
    """Running libvirt and QEMU."""
    return parsing("virsh:version", parse_versions, virsh(host, "version"))


@fact
def packages(host: Host) -> dict[str, str]:
    """Installed versions of QEMU, libvirt and guest firmware by package."""
    return host.evidence.parsed("packages", parse_packages)


def libvirt_uuid(host: Host) -> set[str]:
    """The UUID by which libvirt knows the host."""
    return {capabilities(host).host_uuid} - {""}


def machine_id(host: Host) -> set[str]:
    """/etc/machine-id, the identity of the installation."""
    text = host.evidence.text("machine_id").strip()
    if not re.fullmatch(r"[0-9a-f]{32}|uninitialized|", text):
        raise EvidenceMissing(Cause.UNPARSABLE, f"/etc/machine-id is {text[:40]!r}", "machine_id")
    return {text} - {"", "uninitialized"}


def _from_files(host: Host, probe: str, pattern: str) -> set[str]:
    """Return what *pattern* finds in the files of *probe*; a file that does not exist tells nothing, an unreadable one raises."""
    files = host.evidence.files(probe)
    files.demand_all_readable()
    return {match.lower() for path in files for match in re.findall(pattern, files[path], re.MULTILINE)}


def ssh_host_keys(host: Host) -> set[str]:
    """Public SSH host keys."""
    files = host.evidence.files("ssh_host_keys")
    files.demand_all_readable()
    return {key for path in files for key in files[path].split()[1:2]}


def nvme_nqn(host: Host) -> set[str]:
    """NVMe host name; an unset firmware UUID gives one of zeros, which is no identity."""
    return {nqn for nqn in _from_files(host, "nvme_identity", r"^(nqn\.\S+)") if "00000000-0000-0000" not in nqn}


def iscsi_iqn(host: Host) -> set[str]:
    """ISCSI initiator names."""
    return _from_files(host, "iscsi_initiator", r"^\s*InitiatorName\s*=\s*(\S+)")


def fc_wwpn(host: Host) -> set[str]:
    """Fibre Channel port names."""
    return _from_files(host, "fc_ports", r"^(0x[0-9a-fA-F]+)")


def product_uuid(host: Host) -> set[str]:
    """The UUID that the firmware gives."""
    return _from_files(host, "product_uuid", r"^([0-9a-fA-F-]{36})")
