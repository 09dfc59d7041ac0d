"""Evidence through libvirt's own API, where nothing but libvirt can be reached: ``libvirt+URI``.

libvirt-python (extra ``[libvirt]``) fills the same records as the probes ``virsh`` and ``domain``; all else is "not
collected". A connection is read-only.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pytest_kvmcheck.errors import Cause, EvidenceMissing, KvmcheckError, printable
from pytest_kvmcheck.evidence import Evidence, Record
from pytest_kvmcheck.gather.transport import SSH_ARGUMENTS, Connection, bounded
from pytest_kvmcheck.targets import Target, hide_password


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


#: Drivers whose domains are QEMU's, and the one that libvirt's own tests use.
_DRIVERS = ("qemu", "test")
#: What carries the connection. tcp is neither encrypted nor does it prove who answers; ext runs a command that the URI names.
_TRANSPORTS = ("", "unix", "ssh", "tls", "libssh", "libssh2")
#: Parameters that neither run a command, there or here, nor let go of proof who answers. Source: libvirt.org, Connection URIs.
_HARMLESS = ("name", "socket", "mode", "proxy", "keyfile", "known_hosts", "pkipath", "tls_priority", "no_tty")
#: Parameters that are fine with some values.
_VALUES = {"known_hosts_verify": ("normal",), "sshauth": ("agent", "privkey"), "no_verify": ("0",), "no_sanity": ("0",)}


def check_uri(spec: str, where: str = "--hosts") -> None:
    """Raise :class:`KvmcheckError` when the target *spec*, ``libvirt+URI``, would run a command or trust whoever answers.

    >>> check_uri("libvirt+qemu+ssh://root@kvm01/system?keyfile=/root/.ssh/id")
    >>> check_uri("libvirt+qemu+ssh://k/system?no_verify=1")
    Traceback (most recent call last):
    pytest_kvmcheck.errors.KvmcheckError: --hosts: libvirt+qemu+ssh://k/system: no_verify=1 would take anybody's word; leave it out
    """
    uri = spec.removeprefix("libvirt+")
    shown = f"{where}: {printable(hide_password(re.sub('%3a', ':', spec, flags=re.IGNORECASE)).partition('?')[0])}"
    try:
        parts = urlsplit(uri)
        query = parse_qsl(parts.query.replace(";", "&"), keep_blank_values=True)
        given = [(name.lower(), value) for name, value in query]  # libvirt takes No_Verify for no_verify
        userinfo = unquote(parts.netloc.rpartition("@")[0])
    except ValueError as exc:
        raise KvmcheckError(f"{shown}: not a URI: {exc}") from None
    driver, _, transport = parts.scheme.partition("+")
    if driver not in _DRIVERS or not uri.lower().startswith(f"{parts.scheme}://"):
        raise KvmcheckError(
            f"{shown}: not a URI of libvirt's for QEMU; write libvirt+qemu:///system or libvirt+qemu+ssh://kvm01/system"
        )
    if transport not in _TRANSPORTS:
        known = ", ".join(f"{driver}+{name}" for name in _TRANSPORTS if name)
        raise KvmcheckError(f"{shown}: {transport} is no connection that proves who answers; known are {driver}, {known}")
    if ":" in userinfo:
        raise KvmcheckError(f"{shown}: a password in a host spec ends up in process lists; use a key or ~/.ssh/config")
    if parts.fragment or userinfo.startswith("-") or (parts.hostname or "").startswith("-"):
        raise KvmcheckError(f"{shown}: not a URI of libvirt's: a name cannot start with a dash, and nothing follows a #")
    for name, value in given:
        if name in ("no_verify", "known_hosts_verify", "no_sanity") and value not in _VALUES[name]:
            raise KvmcheckError(f"{shown}: {name}={value[:40]} would take anybody's word; leave it out")
        if name in ("command", "netcat"):
            raise KvmcheckError(f"{shown}: {name} names a command that is run; only ssh and what libvirt itself asks for are")
        if name not in _HARMLESS and value not in _VALUES.get(name, ()):
            harmless = ", ".join((*_HARMLESS, *_VALUES))
            raise KvmcheckError(f"{shown}: {name}={value[:40]!r} is not let through; known are {harmless}")


def gather(target: Target, connection: Connection | None = None) -> Evidence:
    """Return the evidence that the libvirt connection of *target* gives.

    A process of its own asks: libvirt's library has no time limit and no bound, and starts an ssh of its own.
    """
    connection = connection or Connection()
    uri = target.spec.removeprefix("libvirt+")
    package = str(Path(__file__).parents[2])
    ask = f"import sys; sys.path.insert(0, sys.argv[2]); import {__name__} as ours; ours.answer(sys.argv[1])"
    with tempfile.TemporaryDirectory(prefix="kvmcheck-libvirt-") as place:
        _write_ssh(Path(place) / "ssh", connection)
        argv = [sys.executable, "-P", "-c", ask, uri, package]
        environment = {"PATH": f"{place}:{os.environ.get('PATH', os.defpath)}"}
        answer = bounded(argv, connection.deadline_s, place=connection.place, env=environment)
    try:
        if answer.stopped:
            why = (
                "it answers without end" if answer.stopped is Cause.TRUNCATED else f"no answer within {connection.deadline_s:.0f} s"
            )
            raise EvidenceMissing(answer.stopped, f"{uri}: {why}")
        said = json.loads(answer.stdout)
        if isinstance(said, str):
            raise EvidenceMissing(Cause.UNREACHABLE, f"{uri}: {said}")
        return Evidence(target.name, {name: Record(name, *fields) for name, fields in said.items()})
    except EvidenceMissing as missing:
        return Evidence(target.name, failure=missing)
    except (ValueError, TypeError, AttributeError, RecursionError):
        said = (answer.stderr.decode("utf-8", "replace").strip().splitlines() or ["nothing"])[-1][:200]
        detail = f"{uri}: libvirt's library ended with {answer.rc}; it said: {said}"
        return Evidence(target.name, failure=EvidenceMissing(Cause.LOST, detail))


def _write_ssh(path: Path, connection: Connection) -> None:
    """Write an ssh for libvirt, which calls it by name: the real one, with our arguments and testinfra's options first."""
    real = shutil.which("ssh")
    if real is None:
        return
    named = (("-F", connection.ssh_config), ("-i", connection.ssh_identity_file))
    words = [shlex.quote(real), SSH_ARGUMENTS.format(connect=connection.connect_timeout_s), connection.ssh_extra_args or ""]
    words += [f"{option} {shlex.quote(value)}" for option, value in named if value]
    path.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    path.chmod(0o700)


def answer(uri: str) -> None:
    """Print what *uri* tells, as JSON: ``{record: [stdout, rc, stderr]}``, or a text that says why nothing was told."""
    libvirt = _module()
    libvirt.registerErrorHandler(lambda *_: None, None)  # else it prints errors on its own
    said: str | dict[str, tuple[str, int, str]]
    try:
        connection = libvirt.openReadOnly(uri)
        records = _records(libvirt, connection)
        said = {name: (record.stdout, record.rc, record.stderr) for name, record in records.items()}
    except libvirt.libvirtError as exc:
        said = str(exc)
    json.dump(said, sys.stdout)


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
