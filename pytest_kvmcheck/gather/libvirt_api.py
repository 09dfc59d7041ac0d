"""Evidence through libvirt's own API, where nothing but libvirt can be reached: ``libvirt+URI``.

libvirt-python (extra ``[libvirt]``) fills the same records as the probes ``virsh`` and ``domain``; all else is "not
collected". A connection is read-only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pytest_kvmcheck.errors import Cause, EvidenceMissing, KvmcheckError
from pytest_kvmcheck.evidence import Evidence, Record
from pytest_kvmcheck.targets import Target


def _module() -> Any:
    try:
        import libvirt
    except ImportError:
        raise KvmcheckError(
            "libvirt+URI needs libvirt-python: pip install 'pytest-kvmcheck[libvirt]'"
            " (it is compiled; on Debian: apt-get install gcc pkg-config libvirt-dev python3-dev)"
        ) from None
    return libvirt


def demand_installed() -> None:
    """Raise :class:`KvmcheckError` when libvirt-python is not installed."""
    _module()


@contextlib.contextmanager
def _quiet(libvirt: Any) -> Iterator[None]:
    """Keep libvirt from printing errors to standard error on its own."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        yield
    finally:
        libvirt.registerErrorHandler(None, None)


def gather(target: Target) -> Evidence:
    """Return the evidence that the libvirt connection of *target* gives."""
    libvirt = _module()
    uri = target.spec.removeprefix("libvirt+")
    with _quiet(libvirt):
        try:
            connection = libvirt.openReadOnly(uri)
        except libvirt.libvirtError as exc:
            return Evidence(target.name, failure=EvidenceMissing(Cause.UNREACHABLE, f"{uri}: {exc}"))
        try:
            return Evidence(target.name, _records(libvirt, connection))
        finally:
            connection.close()


def _records(libvirt: Any, connection: Any) -> dict[str, Record]:
    records: dict[str, Record] = {}

    def put(probe: str, ask: Callable[[], str]) -> None:
        try:
            records[probe] = Record(probe, ask())
        except libvirt.libvirtError as exc:
            records[probe] = Record(probe, f"error: {exc}\n")

    def uuids(flags: int) -> str:
        return "".join(f"{domain.UUIDString()}\n" for domain in connection.listAllDomains(flags)) + "\n"

    records["virsh"] = Record("virsh")
    put("virsh:uri", lambda: f"{connection.getURI()}\n")
    put("virsh:hostname", lambda: f"{connection.getHostname()}\n")
    put("virsh:capabilities", connection.getCapabilities)
    put("virsh:version", lambda: _versions(connection))
    put("virsh:all", lambda: uuids(0))
    put("virsh:running", lambda: uuids(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))
    put("virsh:autostart", lambda: uuids(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART))
    put("virsh:persistent", lambda: uuids(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT))
    records["domain"] = Record("domain")
    try:
        domains = connection.listAllDomains(0)
    except libvirt.libvirtError as exc:
        records["domain"] = Record("domain", rc=1, stderr=f"error: {exc}\n")
        return records
    for domain in domains:
        key = f"domain:{domain.UUIDString()}"
        put(f"{key}/live", partial(domain.XMLDesc, 0))
        put(f"{key}/saved", partial(domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE))
    return records


def _versions(connection: Any) -> str:
    def dotted(number: int) -> str:
        return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

    library, hypervisor = dotted(connection.getLibVersion()), dotted(connection.getVersion())
    kind = connection.getType()
    return f"Using library: libvirt {library}\nUsing API: {kind} {library}\nRunning hypervisor: {kind} {hypervisor}\n"
