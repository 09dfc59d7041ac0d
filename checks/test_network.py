"""Checks of the network."""

from __future__ import annotations

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domain_nic import Nic
from pytest_kvmcheck.facts.names import Lookup, loopback
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.network import addresses, lookup, static_names
from pytest_kvmcheck.views.processes import vhost_of

#: Interfaces whose packets the kernel's vhost-net can carry.
VHOST_TYPES = ("network", "bridge", "direct", "ethernet")

#: The exit code of getent for a name that does not exist, and of timeout.
NO_SUCH_NAME, TIMED_OUT = 2, 124


def _carried(nic: Nic) -> bool:
    return nic.model.startswith("virtio") and nic.type in VHOST_TYPES


@condition
def vhost_possible(domain: Domain, nic: Nic) -> str | None:
    """Hold for virtio cards of running, accelerated domains."""
    if not _carried(nic):
        return f"a {nic.type} interface of model {nic.model or 'none'}"
    if domain.saved.type != "kvm":
        return f"{domain} is emulated (type {domain.saved.type})"
    return None if domain.running else f"{domain} is off"


@check(
    "KVM-NET-003",
    title="vhost-net serves virtio network cards",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "vhost_net", "qemu_process", "qemu_vhost"),
    applies=vhost_possible,
)
def test_vhost_net(host: Host, domain: Domain, nic: Nic) -> None:
    """Packets of the guest pass through the kernel, not through QEMU's main loop.

    What it checks
        /dev/vhost-net exists, the card does not ask for driver qemu, and the running QEMU holds as many vhost-net descriptors as
        its virtio cards have queues. Without root, its vhost threads are counted instead.

    Why it matters
        Otherwise every packet costs trips through user space.

    How to fix
        now: modprobe vhost_net
        after a reboot: echo vhost_net > /etc/modules-load.d/vhost.conf; remove <driver name='qemu'/>; restart the guest
        verify: ls -l /dev/vhost-net; ls -l /proc/$$(pgrep -f guest=NAME)/fd | grep vhost

    When not to
        Interfaces of type user, vhost-user, vdpa and hostdev go other ways and are not judged.

    References
        https://libvirt.org/formatdomain.html#setting-nic-driver-specific-options
    """
    with Findings() as findings:
        nodes = host.evidence.text("vhost_net").split()
        findings.fail_if("/dev/vhost-net" not in nodes, f"{host}: /dev/vhost-net is not there.")
        findings.fail_if(nic.driver == "qemu", f"{domain}: network card {nic.name} has driver qemu, expected vhost.")
        wanted = _queues(domain.live)
        found = vhost_of(domain)
        count = found.threads if found.descriptors is None else found.descriptors
        if count < wanted:
            findings.fail(f"{domain}: its QEMU has {count} vhost-net queues, expected {wanted}.")


def _queues(xml: DomainXml) -> int:
    return sum(max(1, nic.queues) for nic in xml.nics if _carried(nic) and nic.driver != "qemu")


def _answered(answer: Lookup, what: str) -> Lookup:
    """Return *answer*, unless it never came: a resolver that is silent proves nothing about the name."""
    if answer.rc == TIMED_OUT:
        raise EvidenceMissing(Cause.TIMEOUT, f"the lookup of {what} timed out", "name_lookup")
    return answer


@check(
    "KVM-NET-014",
    title="The host name resolves to an address of this host",
    severity=Severity.HIGH,
    reads=("hostname_fqdn", "name_lookup", "ip_addr", "etc_hosts"),
    params={"require_fqdn": False},
)
def test_host_name_resolves(host: Host, params: Params) -> None:
    """The name that libvirt hands to a migrating guest leads back to this host.

    What it checks
        ``hostname -f`` works and is not localhost; it resolves only to addresses of this host that are not loopback; their
        reverse lookup gives the name back; /etc/hosts does not contradict DNS. A name without a domain is a warning, or fails
        with require_fqdn. What peers resolve is judged by their own evidence only.

    Why it matters
        libvirt gives its own host name to the source of a migration: with localhost, or a stale address, migration fails.

    How to fix
        now: hostnamectl set-hostname NAME.DOMAIN; take the line 127.0.1.1 out of /etc/hosts
        after a reboot: create A, AAAA and PTR records; or set migration_host in /etc/libvirt/qemu.conf
        verify: getent ahosts $$(hostname -f)

    When not to
        A single host without migration can live with less.

    References
        https://libvirt.org/migration.html
    """
    record = host.evidence.whole("hostname_fqdn")
    with Findings() as findings:
        if record.rc:
            findings.fail(f"{host}: hostname -f fails: {record.complaint}.")
            return
        name = record.stdout.strip()
        if not name or len(name.split()) != 1:
            raise EvidenceMissing(Cause.UNPARSABLE, f"not a host name: {name[:60]!r}", "hostname_fqdn")
        if name == "localhost" or name.startswith("localhost."):
            findings.fail(f"{host}: its name is {name}.")
            return
        if "." not in name:
            report = findings.fail if params.require_fqdn else findings.warn
            report(f"{host}: its name {name} has no domain.")
        forward = _answered(lookup(host, "addresses"), name)
        if forward.rc == NO_SUCH_NAME or not forward.addresses:
            findings.fail(f"{host}: its name {name} does not resolve.")
            return
        inside = [address for address in forward.addresses if loopback(address)]
        findings.fail_if(bool(inside), f"{host}: {name} resolves to the loopback address {', '.join(inside)}.")
        foreign = [address for address in forward.addresses if address not in addresses(host) and address not in inside]
        findings.fail_if(bool(foreign), f"{host}: {name} resolves to {', '.join(foreign)}, which is not an address of this host.")
        for address in forward.addresses:
            if address in inside or address in foreign:
                continue
            back = _answered(lookup(host, f"reverse/{address}"), address)
            if name.lower() not in (found.lower() for found in back.names):
                findings.fail(f"{host}: {address} is called {', '.join(back.names) or 'nothing'} in reverse, expected {name}.")
        dns, static = _answered(lookup(host, "dns"), f"{name} by DNS"), static_names(host).get(name.lower(), ())
        if dns.addresses and static and not set(static) <= set(dns.addresses):
            findings.fail(f"{host}: /etc/hosts gives {', '.join(static)} for {name}, DNS {', '.join(dns.addresses)}.")
