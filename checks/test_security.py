"""Checks of what strangers can reach."""

from __future__ import annotations

import re

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause, ParseError
from pytest_kvmcheck.facts.domain_graphics import Graphics
from pytest_kvmcheck.facts.libvirtconf import Value
from pytest_kvmcheck.facts.listeners import Listener, parse_listeners
from pytest_kvmcheck.facts.names import loopback
from pytest_kvmcheck.facts.qemucmdline import QemuProcess, parse_options
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.processes import process_of
from pytest_kvmcheck.views.services import libvirt_conf, qemu_conf, unit

TCP_PORT, TLS_PORT = 16509, 16514
TCP_SOCKETS = ("libvirtd-tcp.socket", "virtproxyd-tcp.socket")
TLS_SOCKETS = ("libvirtd-tls.socket", "virtproxyd-tls.socket")


def _listen_conf(host: Host) -> dict[str, Value]:
    """Return the settings of the daemon that listens: libvirtd, or virtproxyd with the modular daemons."""
    files = host.evidence.files("libvirt_conf")
    files.demand_all_readable()
    conf = libvirt_conf(host)
    for name in ("virtproxyd", "libvirtd"):
        path = f"/etc/libvirt/{name}.conf"
        if path in conf and (unit(host, f"{name}.socket").active or unit(host, f"{name}.service").active):
            return conf[path]
    found = {
        key: value
        for path in ("/etc/libvirt/libvirtd.conf", "/etc/libvirt/virtproxyd.conf")
        for key, value in conf.get(path, {}).items()
    }
    if not any(path in conf for path in ("/etc/libvirt/libvirtd.conf", "/etc/libvirt/virtproxyd.conf")):
        raise EvidenceMissing(Cause.MISSING, "neither libvirtd.conf nor virtproxyd.conf is there", "libvirt_conf")
    return found


def _gssapi_only(host: Host) -> bool:
    text = host.evidence.files("sasl_conf").get("/etc/sasl2/libvirt.conf") or ""
    found = re.findall(r"^\s*mech_list\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    return bool(found) and set(found[-1].lower().split()) <= {"gssapi", "gss-spnego"}


def _ports(host: Host, sockets: tuple[str, ...], default: int) -> set[int]:
    """Return the default port and those that the sockets listen on."""
    ports = {default}
    for name in sockets:
        listen = unit(host, name).properties.get("Listen", "")
        ports |= {int(port) for port in re.findall(r":(\d+)\b", listen) if unit(host, name).active}
    return ports


@check(
    "KVM-SEC-004",
    title="libvirt does not listen on plain TCP, and TLS is authenticated",
    severity=Severity.CRITICAL,
    reads=("listeners", "systemd_units", "libvirt_conf", "sasl_conf"),
    params={"require_client_list": False},
)
def test_libvirt_does_not_listen(host: Host, params: Params) -> None:
    """Nobody gets at libvirt over the network without proving who they are.

    What it checks
        Nothing listens on TCP 16509 (or the port of a tcp socket unit) but on loopback, unless auth_tcp is sasl with GSSAPI only;
        no tcp socket unit is enabled for the next boot. A TLS listener verifies certificates and, with require_client_list, has
        a list of clients or SASL. auth_tcp="none" is a warning even without a listener.

    Why it matters
        A read-write connection to libvirt is as good as a root shell.

    How to fix
        now: systemctl disable --now libvirtd-tcp.socket virtproxyd-tcp.socket; use qemu+ssh:// instead
        after a reboot: the same; for TLS: tls_no_verify_certificate = 0 and tls_allowed_dn_list in the daemon's configuration
        verify: ss -Hltn '( sport = :16509 or sport = :16514 )'

    When not to
        Never.

    References
        https://libvirt.org/daemons.html
        https://libvirt.org/kbase/tlscerts.html
    """
    with Findings() as findings:
        listeners: tuple[Listener, ...] = host.evidence.parsed("listeners", parse_listeners)
        conf = None
        try:
            conf = _listen_conf(host)
        except EvidenceMissing as missing:
            findings.unknown(missing)
        auth = str(conf.get("auth_tcp", "sasl")) if conf is not None else ""
        tcp = [item for item in listeners if item.port in _ports(host, TCP_SOCKETS, TCP_PORT)]
        for item in tcp:
            where = f"{host}: libvirt listens on plain TCP, {item.address}:{item.port}"
            if auth == "none":
                findings.fail(f"{where}, without any authentication.")
            elif not item.loopback and not (auth == "sasl" and _gssapi_only(host)):
                findings.fail(f"{where}, without Kerberos (auth_tcp is {auth or 'not known'}).")
        for name in TCP_SOCKETS:
            if unit(host, name).enabled and not unit(host, name).active:
                findings.fail(f"{host}: {name} is enabled and will listen after the next boot.")
        if conf is None:
            return
        tls = [item for item in listeners if item.port in _ports(host, TLS_SOCKETS, TLS_PORT) and not item.loopback]
        if tls and str(conf.get("tls_no_verify_certificate", 0)) not in ("0", ""):
            findings.fail(f"{host}: libvirt listens on TLS and does not verify certificates.")
        if tls and params.require_client_list and not conf.get("tls_allowed_dn_list") and conf.get("auth_tls") != "sasl":
            findings.fail(f"{host}: libvirt listens on TLS for every client with a certificate.")
        if auth == "none" and not tcp:
            findings.warn(f'{host}: auth_tcp is "none"; nothing listens yet.')


LOCAL = ("egl-headless", "sdl", "dbus")


@condition
def has_graphics(domain: Domain) -> str | None:
    """Hold for domains with a console that could be reached."""
    xml = domain.live if domain.running else domain.saved
    return None if any(item.type not in LOCAL for item in xml.graphics) else "no graphics that can be reached"


def _inside(address: str) -> bool:
    try:
        return address == "localhost" or loopback(address)
    except ValueError:
        return False


@check(
    "KVM-SEC-005",
    title="Graphics consoles are local or protected",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "qemu_process", "qemu_conf"),
    applies=has_graphics,
)
def test_consoles_are_protected(host: Host, domain: Domain) -> None:
    """Nobody on the network sits down at the guest's keyboard.

    What it checks
        Each console listens on loopback, on a socket, or not at all. Otherwise VNC needs TLS with verified clients, or TLS with
        SASL, by the arguments of the running QEMU; SPICE a TLS port only, with tickets. A VNC password alone does not count: it
        has eight bytes. A stopped domain without an address takes the default of qemu.conf.

    Why it matters
        An open console is keyboard access to the guest, often with its boot menu.

    How to fix
        now: virsh destroy and start again, once it is mended: the console of a running guest cannot be moved
        after a reboot: virsh edit $DOM: <listen type='address' address='127.0.0.1'/>; reach it by an ssh tunnel, or set vnc_tls
            and vnc_tls_x509_verify in /etc/libvirt/qemu.conf
        verify: virsh domdisplay $DOM

    When not to
        Platforms that give out short-lived tickets (oVirt) or put a proxy with TLS before it (OpenStack).

    References
        https://libvirt.org/formatdomain.html#graphical-framebuffers
        https://www.qemu.org/docs/master/system/vnc-security.html
    """
    running = domain.running
    xml = domain.live if running else domain.saved
    with Findings() as findings:
        for item in xml.graphics:
            if item.type in LOCAL or (all(kind in ("socket", "none") for kind, _ in item.listens) and item.listens):
                continue
            if running and item.port is None and item.tls_port is None:
                continue
            given = [address for kind, address in item.listens if kind in ("address", "network") and address]
            open_to = [address for address in given or [_default_address(host, item)] if not _inside(address)]
            if not open_to:
                continue
            where = f"{domain}: {item.type} console on {', '.join(open_to)}"
            if not running:
                findings.fail(f"{where} when it is started; expected loopback.")
                continue
            process = process_of(domain)
            try:
                problem = _vnc_problem(process) if item.type == "vnc" else _spice_problem(process)
            except ParseError as exc:
                raise EvidenceMissing(Cause.UNPARSABLE, str(exc), "qemu_process") from exc
            if problem:
                findings.fail(f"{where} {problem}.")


def _default_address(host: Host, item: Graphics) -> str:
    return str(qemu_conf(host).get(f"{item.type}_listen", "127.0.0.1"))


def _vnc_problem(process: QemuProcess) -> str:
    """Return what is wrong with the protection of VNC, or the empty text."""
    arguments = process.values("-vnc")
    if not arguments:
        raise ParseError("its QEMU has no -vnc argument")
    for text in arguments:
        options = parse_options(text)
        credentials = process.objects("tls-creds-x509").get(options.get("tls-creds", ""))
        if not credentials:
            return "without TLS"
        verified = credentials.get("verify-peer", "on") in ("on", "yes", "true")
        if not verified and options.get("sasl", "off") not in ("on", "yes", "true"):
            return "with TLS, but without verified clients or SASL"
    return ""


def _spice_problem(process: QemuProcess) -> str:
    """Return what is wrong with the protection of SPICE, or the empty text."""
    arguments = process.values("-spice")
    if not arguments:
        raise ParseError("its QEMU has no -spice argument")
    for text in arguments:
        options = parse_options(text)
        if options.get("port", "0") not in ("0", ""):
            return "with a port without TLS"
        if options.get("disable-ticketing", "off") in ("on", "yes", "true"):
            return "without tickets"
    return ""
