"""The QEMU processes of a host, by the domain they run."""

from __future__ import annotations

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError
from pytest_kvmcheck.evidence import KEY_SEPARATOR
from pytest_kvmcheck.facts.qemucmdline import QemuProcess, parse_process
from pytest_kvmcheck.facts.vhost import Vhost, parse_vhost
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host, fact


@fact
def qemu_processes(host: Host) -> dict[str, QemuProcess]:
    """The running QEMU processes by UUID of their domain. One whose command line cannot be read is left out."""
    host.evidence.text("qemu_process")
    found = {}
    for pid in host.evidence.keyed("qemu_process"):
        text = host.evidence.text(f"qemu_process{KEY_SEPARATOR}{pid}")
        try:
            process = parse_process(pid, text)
        except ParseError:
            continue
        found[process.uuid] = process
    return found


def process_of(domain: Domain) -> QemuProcess:
    """Return the process of a running domain; raises :class:`EvidenceMissing` when it cannot be seen."""
    try:
        return qemu_processes(domain.host)[domain.uuid]
    except KeyError:
        raise EvidenceMissing(Cause.MISSING, f"the QEMU process of {domain} cannot be seen", "qemu_process") from None


def vhost_of(domain: Domain) -> Vhost:
    """Return what a running domain has of vhost-net."""
    pid = process_of(domain).pid
    return domain.host.evidence.parsed(f"qemu_vhost{KEY_SEPARATOR}{pid}", parse_vhost)
