"""Checks of the hosts of a cluster against each other."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.views import identity
from pytest_kvmcheck.views.cluster import Cluster
from pytest_kvmcheck.views.cpu import capabilities, uname
from pytest_kvmcheck.views.domains import domains
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.identity import packages, versions


def _by_value(answers: dict[str, str]) -> str:
    """Return who has what, for a message: ``6.1.0 on a, b; 6.8.0 on c``."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, value in answers.items():
        found[value].append(name)
    return "; ".join(f"{value} on {', '.join(sorted(names))}" for value, names in sorted(found.items()))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@check(
    "KVM-CLU-002",
    title="Kernel, QEMU, libvirt and firmware versions are aligned",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "uname", "packages"),
    params={"max_minor_skew": 0},
)
def test_versions_are_aligned(cluster: Cluster, params: Params) -> None:
    """A guest finds on every host of the cluster what it was started with.

    What it checks
        Running QEMU and libvirt have the same major version on all hosts, and minor versions at most max_minor_skew apart; every
        machine type that a domain uses is offered by all hosts. Other differences (kernel, package releases, firmware) warn.

    Why it matters
        Migration to an older QEMU is not guaranteed to work.

    How to fix
        now: finish the rolling upgrade; migrate from older to newer hosts only
        after a reboot: the same packages on all hosts
        verify: virsh -r -c qemu:///system version; uname -r

    When not to
        During a rolling upgrade.

    References
        https://www.qemu.org/docs/master/devel/migration/compatibility.html
    """
    with Findings() as findings:
        found, missing = cluster.each(versions)
        findings.unknown(missing)
        for what in ("qemu", "libvirt"):
            shown = {name: getattr(item, what) for name, item in found.items()}
            majors = {version[0] for version in shown.values()}
            minors = {version[1] for version in shown.values() if len(version) > 1}
            label = {"qemu": "QEMU", "libvirt": "libvirt"}[what]
            text = _by_value({name: _dotted(version) for name, version in shown.items()})
            if len(majors) > 1:
                findings.fail(f"{cluster}: {label} of different major versions: {text}.")
            elif minors and max(minors) - min(minors) > params.max_minor_skew:
                findings.fail(f"{cluster}: {label} of different minor versions: {text}.")
            elif len(set(shown.values())) > 1:
                findings.warn(f"{cluster}: {label} of different releases: {text}.")
        _machine_types(cluster, findings)
        kernels, missing = cluster.each(lambda host: uname(host).release)
        findings.unknown(missing)
        findings.warn_if(len(set(kernels.values())) > 1, f"{cluster}: different kernels: {_by_value(kernels)}.")
        installed, missing = cluster.each(packages)
        findings.unknown(missing)
        for package in sorted({name for item in installed.values() for name in item}):
            have = {name: item[package] for name, item in installed.items() if package in item}
            findings.warn_if(len(set(have.values())) > 1, f"{cluster}: {package} differs: {_by_value(have)}.")


def _machine_types(cluster: Cluster, findings: Findings) -> None:
    """Find machine types of domains that another host of the cluster does not offer."""
    offered, missing = cluster.each(capabilities)
    findings.unknown(missing)

    def used(host: Host) -> set[tuple[str, str]]:
        return {(domain.saved.os.arch, domain.saved.os.machine) for domain in domains(host) if domain.saved.os.machine}

    wanted, missing = cluster.each(used)
    findings.unknown(missing)
    for arch, machine in sorted(set().union(*wanted.values())):
        users = sorted(name for name, types in wanted.items() if (arch, machine) in types)
        lacking = sorted(name for name, caps in offered.items() if machine not in caps.machines.get(arch, frozenset()))
        if lacking:
            findings.fail(f"{cluster}: machine type {machine}, used on {', '.join(users)}, is not offered by {', '.join(lacking)}.")


def _duplicates(answers: dict[str, set[str]]) -> list[tuple[str, list[str]]]:
    """Return the values that several hosts have, with the hosts."""
    owners: dict[str, list[str]] = defaultdict(list)
    for name, found in answers.items():
        for value in found:
            owners[value].append(name)
    return sorted((value, sorted(names)) for value, names in owners.items() if len(names) > 1)


def _hashed(value: str) -> str:
    """Return a short digest: identifiers are nobody's business."""
    return hashlib.sha256(value.encode()).hexdigest()[:12]


@check(
    "KVM-CLU-009",
    title="Hosts have unique IDs and initiator names",
    severity=Severity.CRITICAL,
    reads=("virsh", "machine_id", "ssh_host_keys", "nvme_identity", "iscsi_initiator", "fc_ports", "product_uuid"),
)
def test_identities_are_unique(cluster: Cluster) -> None:
    """No host of the cluster takes itself for another.

    What it checks
        libvirt's host UUID, machine-id, SSH host keys, iSCSI initiator name, NVMe host name and Fibre Channel port names differ
        between all hosts. What a host does not have is left out. Equal firmware UUIDs alone are a warning.

    Why it matters
        Cloned hosts with one initiator name knock each other off the storage; libvirt refuses to migrate to "the same" host.

    How to fix
        now: rm /etc/machine-id and systemd-machine-id-setup; iscsi-iname > a new InitiatorName in /etc/iscsi/initiatorname.iscsi;
            nvme gen-hostnqn > /etc/nvme/hostnqn; ssh-keygen -A after the old host keys are removed
        after a reboot: host_uuid_source = "machine-id" in the libvirt daemon's configuration, where the firmware has no UUID
        verify: compare the files named above on both hosts

    When not to
        Never.

    References
        https://libvirt.org/formatcaps.html
        https://www.freedesktop.org/software/systemd/man/latest/machine-id.html
    """
    kinds: tuple[tuple[str, Callable[[Host], set[str]]], ...] = (
        ("libvirt host UUID", identity.libvirt_uuid),
        ("machine-id", identity.machine_id),
        ("SSH host key", identity.ssh_host_keys),
        ("iSCSI initiator name", identity.iscsi_iqn),
        ("NVMe host name", identity.nvme_nqn),
        ("Fibre Channel port name", identity.fc_wwpn),
    )
    with Findings() as findings:
        for what, ask in kinds:
            answers, missing = cluster.each(ask)
            findings.unknown(missing)
            for value, owners in _duplicates(answers):
                findings.fail(f"{cluster}: {', '.join(owners)} have the same {what} (sha256 {_hashed(value)}).")
            if what == "machine-id" and any(not found for found in answers.values()):
                nameless = sorted(name for name, found in answers.items() if not found)
                findings.unknown(EvidenceMissing(Cause.EMPTY, f"{', '.join(nameless)}: machine-id is empty", "machine_id"))
        answers, missing = cluster.each(identity.product_uuid)
        findings.unknown(missing)
        for value, owners in _duplicates(answers):
            findings.warn(f"{cluster}: {', '.join(owners)} have the same firmware UUID (sha256 {_hashed(value)}).")
