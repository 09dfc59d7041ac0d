"""Checks of confinement, and of what strangers can reach."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Iterable, Mapping

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Glob, Items, Number, Params, Severity, Text, Whole, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause, ParseError
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.access import Access
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domain_graphics import Graphics
from pytest_kvmcheck.facts.libvirtconf import Value, parse_conf
from pytest_kvmcheck.facts.listeners import Listener, parse_listeners
from pytest_kvmcheck.facts.listing import parse_paths
from pytest_kvmcheck.facts.names import loopback
from pytest_kvmcheck.facts.qemucmdline import QemuProcess, parse_options
from pytest_kvmcheck.parameters import Network, fewest
from pytest_kvmcheck.views.cluster import Cluster
from pytest_kvmcheck.views.confinement import (
    accounts_not_asked,
    apparmor_enabled,
    certificates,
    controlling_groups,
    denials,
    image_modes,
    key_modes,
    label_of,
    labels,
    mounts_of,
    nova_migration,
    polkit_guards,
    pool_files,
    qemu_settings,
    selinux_at_boot,
    selinux_enforces,
    sockets,
)
from pytest_kvmcheck.views.cpu import capabilities, kvm_parameter
from pytest_kvmcheck.views.domains import Domain, domains, storage_pools
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.network import full_name
from pytest_kvmcheck.views.processes import process_of, status_of
from pytest_kvmcheck.views.services import libvirt_conf, qemu_conf, unit
from pytest_kvmcheck.views.time import now_s

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
    return bool(found) and set(" ".join(found).lower().split()) <= {"gssapi", "gss-spnego"}


def _ports(host: Host, sockets: tuple[str, ...], default: int, given: object = None) -> set[int]:
    """Return the default port, the one *given* by the configuration, and those that the sockets listen on."""
    ports = {default} | ({int(str(given))} if str(given).isdigit() else set())
    for name in sockets:
        listen = unit(host, name).properties.get("Listen", "")
        ports |= {int(port) for port in re.findall(r":(\d+)(?![^ \n])", listen) if unit(host, name).active}
    return ports


@check(
    "KVM-SEC-001",
    title="The host enforces SELinux or AppArmor, and libvirt uses it",
    severity=Severity.HIGH,
    reads=("security_modules", "virsh", "qemu_conf", "cpu_lists"),
)
def test_confinement_is_on(host: Host) -> None:
    """A compromised QEMU meets a wall before it meets the other guests.

    What it checks
        The running libvirt lists selinux or apparmor among its security models; dac and none alone do not count. SELinux
        enforces now, and will after a reboot by /etc/selinux/config; AppArmor is enabled in the kernel. security_default_confined
        in qemu.conf is not 0.

    Why it matters
        sVirt is the main barrier between a guest that broke out of its QEMU, the host, and all other guests.

    How to fix
        now: setenforce 1; Debian and Ubuntu: apt install apparmor apparmor-utils; systemctl restart libvirtd (or virtqemud)
        after a reboot: SELINUX=enforcing in /etc/selinux/config (coming from disabled: SELINUX=permissive and touch /.autorelabel
            first, enforcing after that reboot); apparmor=1 security=apparmor on the kernel command line; no
            security_driver = "none" in /etc/libvirt/qemu.conf
        roll back: mend labels instead of switching off: restorecon -RFv /var/lib/libvirt, setsebool -P virt_use_nfs 1
        verify: virsh capabilities | grep -A1 secmodel; getenforce or aa-status

    When not to
        Never on hosts with more than one tenant.

    References
        https://libvirt.org/drvqemu.html#selinux-svirt-confinement
        https://gitlab.com/libvirt/libvirt/-/blob/master/src/qemu/qemu.conf.in
    """
    with Findings() as findings:
        models = [model for model in capabilities(host).security_models if model not in ("none", "dac")]
        if not models:
            enabled = "SELinux" if selinux_enforces(host) is not None else "AppArmor" if apparmor_enabled(host) else ""
            because = f"though the kernel has {enabled} on" if enabled else "and the kernel has neither SELinux nor AppArmor on"
            findings.fail(f"{host}: libvirt confines guests by file owners only, {because}; expected selinux or apparmor.")
        if "selinux" in models:
            findings.fail_if(not selinux_enforces(host), f"{host}: SELinux is permissive, expected enforcing.")
            later = selinux_at_boot(host)
            findings.fail_if(
                later not in ("enforcing", ""), f"{host}: SELinux will be {later} after a reboot (/etc/selinux/config)."
            )
        if "apparmor" in models:
            findings.fail_if(not apparmor_enabled(host), f"{host}: libvirt uses AppArmor, which is off in the kernel.")
        confined = qemu_settings(host).get("security_default_confined", 1)
        findings.fail_if(str(confined) == "0", f"{host}: security_default_confined is 0 in qemu.conf, expected 1.")


@condition
def is_running(domain: Domain) -> str | None:
    """Hold for running domains."""
    return None if domain.running else f"{domain} is off"


_CONTEXT = re.compile(r"[^:\s]+:[^:\s]+:([^:\s]+):(\S+)")
SVIRT = ("svirt_t", "svirt_tcg_t")


@check(
    "KVM-SEC-002",
    title="Every running guest is confined with its own label",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "qemu_process", "qemu_proc", "security_modules"),
    applies=is_running,
)
def test_guest_is_confined(host: Host, domain: Domain) -> None:
    """The QEMU of this guest can touch the files of this guest, and of no other one.

    What it checks
        SELinux: the process is of type svirt_t or svirt_tcg_t (another type only with the tag static-label), its pair of
        categories belongs to no other guest of the host, and SELinux enforces. AppArmor: its profile is libvirt-UUID with the
        guest's own UUID, in mode enforce. No seclabel of type none, and relabel='no' only with the tag static-label; the model
        dac does not count.

    Why it matters
        An enforcing host means nothing for a guest that was started unconfined.

    How to fix
        now: nothing, the label is given at start; AppArmor in complain mode: aa-enforce /etc/apparmor.d/libvirt/libvirt-UUID
        after a reboot: virsh edit $DOM: take <seclabel type='none'/> out; restart the guest
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change; aa-complain on
            the same profile
        verify: ps -eZ | grep qemu; virsh dominfo $DOM | grep Security

    When not to
        Guests with labels that somebody manages by hand: give them the tag static-label.

    References
        https://libvirt.org/formatdomain.html#security-label
        https://libvirt.org/drvqemu.html
    """
    with Findings() as findings:
        by_hand = "static-label" in domain.tags
        for label in domain.live.security.labels:
            if label.model == "dac":
                continue
            findings.fail_if(label.type == "none", f"{domain}: its definition says seclabel type none.")
            findings.fail_if(label.relabel == "no" and not by_hand, f"{domain}: its definition says relabel='no' ({label.model}).")
        found = label_of(domain)
        if match := _CONTEXT.fullmatch(found):
            _judge_context(host, domain, match[1], match[2], findings)
            return
        profile, _, mode = found.partition(" ")
        if profile == "unconfined":
            findings.fail(f"{domain}: its QEMU is unconfined.")
        elif profile.lower() != f"libvirt-{domain.uuid}".lower():
            findings.fail(f"{domain}: its QEMU has the profile {profile}, expected libvirt-{domain.uuid}.")
        else:
            findings.fail_if(mode != "(enforce)", f"{domain}: its profile is in mode {mode.strip('()') or '?'}, expected enforce.")


def _judge_context(host: Host, domain: Domain, kind: str, level: str, findings: Findings) -> None:
    by_hand = "static-label" in domain.tags
    findings.fail_if(kind not in SVIRT and not by_hand, f"{domain}: its QEMU is of type {kind}, expected {' or '.join(SVIRT)}.")
    findings.fail_if(not selinux_enforces(host), f"{host}: SELinux does not enforce, the label of {domain} protects nothing.")
    categories = _categories(level)
    if not categories:
        findings.fail_if(not by_hand, f"{domain}: its QEMU has no categories ({level}).")
        return
    twins = []
    for other, label in labels(host).items():
        match = _CONTEXT.fullmatch(label)
        if other != domain.uuid and match and _categories(match[2]) == categories:
            twins.append(next((item.name for item in domains(host) if item.uuid == other), other))
    findings.fail_if(bool(twins), f"{domain}: its categories {level} are those of {', '.join(sorted(twins))} too.")


def _categories(level: str) -> frozenset[str]:
    return frozenset(level.partition(":")[2].split(",")) - {""}


@condition
def mac_enabled(host: Host) -> str | None:
    """Hold where SELinux or AppArmor is on in the kernel."""
    if selinux_enforces(host) is None and not apparmor_enabled(host):
        return "neither SELinux nor AppArmor is on in the kernel (KVM-SEC-001 reports it)"
    return None


#: auditd's log is asked for this long.
AUDIT_HOURS = 168


@check(
    "KVM-SEC-003",
    title="No recent mandatory-access denial concerns virtualization",
    severity=Severity.MEDIUM,
    reads=("security_modules", "cpu_lists", "now", "systemd_units", "audit_denials", "kernel_log"),
    params={
        "window_h": Whole(24, 1, 744),
        "max_denials": Whole(0, 0, 1000),
        "ignore": Items((), Text("", r".*\w.*\w.*\w.*\w.*", "a text with four letters or digits")),
    },
    applies=mac_enabled,
)
def test_no_denials(host: Host, params: Params) -> None:
    """SELinux and AppArmor had nothing to refuse to QEMU and libvirt.

    What it checks
        Within window_h there were at most max_denials different denials whose profile, label or command is of libvirt,
        virt-aa-helper, QEMU, swtpm or an sVirt type. They are read from auditd's log (as root, of the last week), or from the
        kernel's log of this boot while auditd is off. Lines that hold a text of ignore are left out, as is what was only noted
        (complain mode, permissive types).

    Why it matters
        Denials are behind many a "permission denied" on an image; others are attacks.

    How to fix
        now: ausearch -m AVC -ts recent | audit2why; restorecon -RFv on the image; setsebool virt_use_nfs 1 for images on NFS
        after a reboot: semanage fcontext -a -t virt_image_t 'DIR(/.*)?'; setsebool -P; AppArmor: a local rule in
            /etc/apparmor.d/local/abstractions/libvirt-qemu
        roll back: setsebool -P virt_use_nfs 0; semanage fcontext -d 'DIR(/.*)?' and restorecon; the former local rule of AppArmor
        verify: ausearch --input-logs -m AVC -ts today; journalctl -k -g 'apparmor="DENIED"'

    When not to
        Denials that are known to be harmless: name a part of them in ignore.

    References
        https://libvirt.org/drvqemu.html
        https://man7.org/linux/man-pages/man8/ausearch.8.html
    """
    now = now_s(host)
    found: dict[str, int] = {}
    for denial in denials(host):
        if not denial.concerns_guests or denial.time_s < now - params.window_h * 3600:
            continue
        if not any(str(text) in denial.line for text in params.ignore):
            found[denial.what] = found.get(denial.what, 0) + 1
    with Findings() as findings:
        if len(found) > params.max_denials:
            shown = "; ".join(f"{what} ({count}x)" for what, count in list(found.items())[:3])
            findings.fail(f"{host}: {len(found)} denials in {params.window_h} h, expected at most {params.max_denials}: {shown}.")
        if params.window_h > AUDIT_HOURS and unit(host, "auditd.service").active:
            why = f"auditd's log is read for {AUDIT_HOURS} h only"
            findings.unknown(EvidenceMissing(Cause.NOT_COLLECTED, why, "audit_denials"))


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
        roll back: systemctl enable --now the sockets again; the former lines in the daemon's configuration
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
        given = conf.get("tcp_port") if conf is not None else None
        tcp = [item for item in listeners if item.port in _ports(host, TCP_SOCKETS, TCP_PORT, given)]
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
        ports = _ports(host, TLS_SOCKETS, TLS_PORT, conf.get("tls_port"))
        tls = [item for item in listeners if item.port in ports and not item.loopback]
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
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change; the former
            lines in /etc/libvirt/qemu.conf
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


#: CAP_SYS_RAWIO, which libvirt leaves to guests with raw I/O on a disk.
SYS_RAWIO = 1 << 17


@check(
    "KVM-SEC-006",
    title="QEMU runs unprivileged, sandboxed and with a /dev of its own",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "qemu_process", "qemu_proc"),
    applies=is_running,
)
def test_qemu_is_unprivileged(domain: Domain) -> None:
    """Whoever breaks out of the guest finds a process that may do next to nothing.

    What it checks
        None of the four user ids of the QEMU process is 0, and it has no effective capability (a guest with rawio='yes' on a
        disk may have SYS_RAWIO); seccomp filters its system calls (mode 2); its /dev is a tmpfs that libvirt made for it.

    Why it matters
        These are the layers behind SELinux and AppArmor. libvirt's makers advise strongly against running QEMU as root.

    How to fix
        now: nothing, it is decided at start
        after a reboot: take user = "root", seccomp_sandbox = 0, clear_emulator_capabilities = 0 and namespaces = [] out of
            /etc/libvirt/qemu.conf; restart the daemon, then the guest
        roll back: the former /etc/libvirt/qemu.conf, restart of the daemon, then of the guest
        verify: grep -E 'Uid|CapEff|Seccomp' /proc/PID/status; grep ' /dev ' /proc/PID/mountinfo

    When not to
        Never. Devices that a guest needs are named in cgroup_device_acl, or assigned in its definition.

    References
        https://libvirt.org/drvqemu.html#posix-users-groups
        https://gitlab.com/libvirt/libvirt/-/blob/master/src/qemu/qemu.conf.in
    """
    status = status_of(domain)
    with Findings() as findings:
        for name in ("Uid", "CapEff", "Seccomp"):
            if name not in status:
                findings.unknown(EvidenceMissing(Cause.MISSING, f"the kernel does not tell {name} of {domain}", "qemu_proc"))
        if "Uid" in status:
            findings.fail_if("0" in status["Uid"].split(), f"{domain}: its QEMU runs as root.")
        if "CapEff" in status:
            allowed = SYS_RAWIO if any(disk.rawio for disk in domain.live.disks) else 0
            more = parsing("qemu_proc", _hexadecimal, status["CapEff"]) & ~allowed
            findings.fail_if(bool(more), f"{domain}: its QEMU has the capabilities {more:#x}, expected none.")
        if "Seccomp" in status:
            findings.fail_if(status["Seccomp"] != "2", f"{domain}: seccomp is in mode {status['Seccomp']}, expected 2 (filter).")
        dev = [(kind, source) for target, kind, source in mounts_of(domain) if target == "/dev"]
        own = bool(dev) and dev[-1] == ("tmpfs", "devfs")
        findings.fail_if(not own, f"{domain}: its QEMU sees the host's /dev, expected one of its own.")


def _hexadecimal(text: str) -> int:
    return int(text, 16)


#: Groups that are made for libvirt, and root's own.
DEDICATED = ("libvirt", "libvirtd", "root")
#: Daemons whose sockets are for other daemons only.
INNER_SOCKETS = ("virtlockd-sock", "virtlogd-sock")


@check(
    "KVM-SEC-007",
    title="Only the intended accounts can control libvirt",
    severity=Severity.HIGH,
    reads=("libvirt_access", "libvirt_accounts", "libvirt_conf", "polkit_rules"),
    params={"allowed_members": Items(None, Text(""))},
)
def test_who_controls_libvirt(host: Host, params: Params) -> None:
    """Nobody becomes root by way of libvirt who was not meant to.

    What it checks
        Read-write sockets that are open to everybody are guarded by polkit (the default where its action file is installed) or
        SASL; with auth_unix_rw none they have mode 0770 at most and a group of their own. Sockets for administration, and those
        of virtlogd and virtlockd, are for their owner only. Members of the groups libvirt and libvirtd, by primary group too,
        are all in allowed_members, when that is given; where accounts come from elsewhere than files (LDAP, SSSD while it runs),
        this needs --kvmcheck-active. Rules of this site for polkit that name org.libvirt are a warning: read them.

    Why it matters
        Whoever may define a domain can read and write every disk of the host.

    How to fix
        now: chmod 0660 /run/libvirt/libvirt-sock; gpasswd -d USER libvirt
        after a reboot: systemctl edit libvirtd.socket (virtqemud.socket): SocketMode=0660, SocketGroup=libvirt; take
            auth_unix_rw = "none" out of /etc/libvirt/libvirtd.conf (virtqemud.conf)
        roll back: gpasswd -a USER libvirt; systemctl revert libvirtd.socket (virtqemud.socket); the former lines in the daemon's
            configuration
        verify: stat -c '%a %U %G %n' /run/libvirt/*-sock; getent group libvirt

    When not to
        Never. An account that gathers evidence as a member of the group libvirt is as good as root: name it.

    References
        https://libvirt.org/auth.html
        https://gitlab.com/libvirt/libvirt/-/blob/master/src/remote/libvirtd.conf.in
    """
    with Findings() as findings:
        for path, access in sorted(sockets(host).items()):
            name = path.rpartition("/")[2]
            if name.endswith("-sock-ro"):
                continue
            if name.endswith("-admin-sock") or name in INNER_SOCKETS:
                open_to = access.mode & 0o077
                findings.fail_if(bool(open_to), f"{host}: {path} has mode {access.mode:04o}, expected its owner only.")
                continue
            _judge_socket(host, path, access, findings)
        if params.allowed_members is not None:
            for name, group in sorted(controlling_groups(host).items()):
                strangers = [member for member in group.members if member not in params.allowed_members]
                findings.fail_if(bool(strangers), f"{host}: {', '.join(strangers)} may control libvirt, as members of {name}.")
            findings.unknown(accounts_not_asked(host))
        told = ", ".join(sorted(host.evidence.parsed("polkit_rules", parse_paths)))
        findings.warn_if(bool(told), f"{host}: rules of polkit name libvirt, read them: {told}.")


def _judge_socket(host: Host, path: str, access: Access, findings: Findings) -> None:
    daemon = path.rpartition("/")[2].removesuffix("-sock")
    conf = [f"/etc/libvirt/{name}.conf" for name in (("libvirtd", "virtproxyd") if daemon == "libvirt" else (daemon,))]
    try:
        files = host.evidence.files("libvirt_conf")
        given = [parsing("libvirt_conf", parse_conf, files[name]).get("auth_unix_rw") for name in conf if name in files]
    except EvidenceMissing as missing:
        findings.unknown(missing)
        return
    default = "polkit" if polkit_guards(host) else "none"
    auths = {str(value) if value is not None else default for value in given} or {default}
    if auths <= {"polkit", "sasl"}:
        return
    findings.fail_if(access.others_any, f"{host}: {path} has mode {access.mode:04o} and nothing guards it (auth_unix_rw is none).")
    by_group = bool(access.mode & 0o070) and access.group not in DEDICATED
    findings.fail_if(by_group, f"{host}: {path} is open to the group {access.group}, and nothing guards it.")


def _matches(path: str, patterns: Iterable[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _definitions(domain: Domain) -> list[DomainXml]:
    return [domain.saved, *((domain.live,) if domain.running else ())]


def _guest_files(host: Host) -> dict[str, str]:
    """Return the files with data of guests by path: who names them. Install media are none."""
    found: dict[str, str] = {}
    for domain in domains(host):
        for xml in _definitions(domain):
            paths = [
                path for disk in xml.disks if disk.type == "file" and disk.device == "disk" for path in (disk.source, *disk.backing)
            ]
            for path in (*paths, xml.os.nvram):
                if path.startswith("/"):
                    found.setdefault(path, domain.name)
    return found


@condition
def has_guest_files(host: Host) -> str | None:
    """Hold where guests keep data in files."""
    return None if _guest_files(host) or _has_volumes(host) else "no domain keeps data in files"


def _has_volumes(host: Host) -> bool:
    """Whether disks are volumes of pools, whose files the definitions do not tell."""
    return any(disk.type == "volume" and disk.device == "disk" for domain in domains(host) for disk in domain.saved.disks)


@check(
    "KVM-SEC-008",
    title="Disk images, saved states and NVRAM are not accessible by others",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "image_modes", "pool_files"),
    params={"ignore": Items(["*.iso", "*vmlinuz*", "*initrd*"], Glob())},
    applies=has_guest_files,
)
def test_images_are_private(host: Host, params: Params) -> None:
    """Accounts of the host cannot read what guests wrote to their disks.

    What it checks
        No image, backing image and NVRAM file that a domain names, and as root none of the files in libvirt's directories
        (images, saved states, NVRAM, TPM states) and in active pools, can be read by others where all directories above let
        others pass. Others' right to write fails even where they cannot get there. Install media, and what matches ignore, may
        be read. Without root only the files that domains name are judged.

    Why it matters
        A readable image gives away every password and key of the guest.

    How to fix
        now: chmod o-rwx IMAGE; libvirt gives it to the right owner at start
        after a reboot: <permissions><mode>0711</mode> in the pool (virsh pool-edit); umask 0077 in scripts that copy images
        roll back: chmod IMAGE with the mode that stat told before; the former mode in the pool
        verify: stat -c '%a %U %n' /var/lib/libvirt/images/*

    When not to
        Pure templates that everybody may read: name them in ignore.

    References
        https://libvirt.org/drvqemu.html
        https://libvirt.org/formatstorage.html#target-elements
    """
    with Findings() as findings:
        known = image_modes(host)
        for path, user in sorted(_guest_files(host).items()):
            access = known.get(path)
            if access is None:
                why = f"{path} of {user} cannot be seen"
                findings.unknown(EvidenceMissing(Cause.MISSING, why, "image_modes"))
                continue
            _judge_file(host, path, access, known, params.ignore, findings)
        if host.evidence.record("pool_files").cause is Cause.NOT_PERMITTED and not _has_volumes(host):
            note("without root only the files that domains name were judged")
            return
        found = {item.path: item.access for item in pool_files(host) if item.access.kind != "symbolic link"}
        directories = {**known, **found}
        for path, access in sorted(found.items()):
            if access.kind == "regular file" and path not in known:
                _judge_file(host, path, access, directories, params.ignore, findings)


def _judge_file(
    host: Host, path: str, access: Access, directories: Mapping[str, Access], ignore: Iterable[str], findings: Findings
) -> None:
    if access.kind not in ("regular file", "regular empty file"):
        return
    if access.others_write:
        findings.fail(f"{host}: others may write {path} (mode {access.mode:04o}).")
        return
    if not access.others_read or _matches(path, ignore):
        return
    above = [path[:place] for place, char in enumerate(path) if char == "/" and place]
    missing = [name for name in above if name not in directories]
    if any(name in directories and not directories[name].others_enter for name in above):
        return
    if missing:
        findings.unknown(EvidenceMissing(Cause.MISSING, f"the mode of {missing[0]} is not known", "image_modes"))
        return
    findings.fail(f"{host}: others may read {path} (mode {access.mode:04o}).")


_DIRECTORY_POOLS = ("dir", "fs", "netfs")


def _directory_pools(host: Host) -> dict[str, str]:
    """Return the active pools that are directories: name by path."""
    return {
        pool.target.rstrip("/"): name
        for name, (pool, info) in storage_pools(host).items()
        if info.active and pool.type in _DIRECTORY_POOLS and pool.target
    }


@condition
def has_directory_pools(host: Host) -> str | None:
    """Hold for hosts with active pools that are directories."""
    return None if _directory_pools(host) else "no active pool of files"


@check(
    "KVM-SEC-009",
    title="No orphaned images remain in the pools",
    severity=Severity.INFO,
    reads=("virsh", "domain", "objects", "pool_files", "now"),
    params={
        "max_orphan_age_days": Number(90, 0, 1096),
        "max_orphans": Whole(0, 0, 1000),
        "ignore": Items(["*.iso", "*vmlinuz*", "*initrd*"], Glob()),
    },
    applies=has_directory_pools,
)
def test_no_orphans(host: Host, params: Params) -> None:
    """What lies in the pools belongs to somebody.

    What it checks
        Of the files in active pools that are directories (dir, fs, netfs), at most max_orphans are named by no definition of a
        domain (disks, backing images as far as the definitions tell, kernel, initrd, NVRAM), older than max_orphan_age_days and
        not in ignore. Links stand for what they point to. While a stopped guest with a qcow2 image does not tell its backing
        images, an unnamed file may be one of them: then the answer is unknown.

    Why it matters
        Forgotten images hold data that nobody patches or deletes in time, and fill the pool.

    How to fix
        now: virsh vol-list POOL; move what nobody misses away, and after a while virsh vol-delete it
        after a reboot: it holds
        roll back: move the file back
        verify: virsh vol-list --details POOL

    When not to
        Pools that several hosts share: the other hosts' guests are not seen here. Templates belong in ignore.

    References
        https://libvirt.org/storage.html
    """
    pools = _directory_pools(host)
    named, unclear = _named_files(host)
    files = pool_files(host)
    links_to = {item.path: _resolved(item.path, item.target) for item in files if item.access.kind == "symbolic link"}
    named |= {target for path, target in links_to.items() if path in named}
    oldest = now_s(host) - params.max_orphan_age_days * 86400
    seen = {item.path for item in files if item.access.kind == "directory"}
    orphans = []
    for item in files:
        place = item.path.rpartition("/")[0]
        if place not in pools or item.access.kind != "regular file":
            continue
        if item.path not in named and item.modified_s < oldest and not _matches(item.path, params.ignore):
            orphans.append(item.path)
    with Findings() as findings:
        for path in sorted(set(pools) - seen):
            findings.unknown(EvidenceMissing(Cause.MISSING, f"the pool {pools[path]} ({path}) was not looked into", "pool_files"))
        if len(orphans) > params.max_orphans:
            shown = ", ".join(sorted(orphans)[:3]) + (f" and {len(orphans) - 3} more" if len(orphans) > 3 else "")
            if unclear:
                why = f"whether {shown} belong to {', '.join(unclear)} is not known: backing images of stopped guests"
                findings.unknown(EvidenceMissing(Cause.NOT_COLLECTED, why, "domain"))
            else:
                findings.fail(f"{host}: {len(orphans)} files that no domain names, expected {params.max_orphans}: {shown}.")


def _resolved(path: str, target: str) -> str:
    return target if target.startswith("/") else f"{path.rpartition('/')[0]}/{target}"


def _named_files(host: Host) -> tuple[set[str], list[str]]:
    """Return the files that domains name, and the stopped domains that may have backing images they do not tell."""
    targets = {name: pool.target.rstrip("/") for name, (pool, _) in storage_pools(host).items()}
    named: set[str] = set()
    unclear = []
    for domain in domains(host):
        for xml in _definitions(domain):
            for disk in xml.disks:
                source = f"{targets.get(disk.pool, '')}/{disk.source}" if disk.type == "volume" else disk.source
                named |= {source, *disk.backing}
            named |= {xml.os.kernel, xml.os.initrd, xml.os.nvram, xml.os.loader}
        chained = [disk for disk in domain.saved.disks if disk.format not in ("raw", "") and disk.is_disk and not disk.backing]
        if chained and not domain.running:
            unclear.append(domain.name)
    return named - {""}, unclear


#: Groups of the accounts that QEMU runs as.
QEMU_GROUPS = ("qemu", "kvm", "libvirt-qemu")
_SECRETS = "/etc/libvirt/secrets"


def _secret_files(host: Host) -> dict[str, Access]:
    """Return private keys and secrets, without directories and public certificates."""
    return {
        path: access
        for path, access in key_modes(host).items()
        if access.kind == "regular file" and (path.startswith(f"{_SECRETS}/") or "/private/" in path or path.endswith("-key.pem"))
    }


@condition
def has_keys(host: Host) -> str | None:
    """Hold where there are certificates, keys or secrets."""
    return None if certificates(host) or _secret_files(host) else "no key, certificate or secret is there"


@check(
    "KVM-SEC-010",
    title="Keys and secrets have strict permissions, and certificates are valid",
    severity=Severity.HIGH,
    reads=("certificates", "key_modes", "now", "hostname", "hostname_fqdn", "name_service", "etc_hosts", "ip_addr"),
    params={"min_days": Number(30, 1, 366)},
    applies=has_keys,
)
def test_keys_and_certificates(host: Host, params: Params) -> None:
    """Keys stay secret, and TLS does not end on a certain night.

    What it checks
        Private keys of libvirt and QEMU, and libvirt's secrets, give nothing to others, and at most reading to the group of
        QEMU; /etc/libvirt/secrets is for its owner only. Every certificate is valid now and for min_days to come, and those of
        the servers are for the name of this host (its full name, where the host's files or --kvmcheck-active tell it).

    Why it matters
        Expired certificates end migration and remote management without warning; a readable key ends their secrecy.

    How to fix
        now: chmod 0600 KEY; renew the certificate with certtool or your CA, on both ends; restart virtproxyd (libvirtd)
        after a reboot: it holds; let something renew certificates before they expire
        roll back: the former key and certificate, from copies, on both ends; restart virtproxyd (libvirtd)
        verify: certtool -i --infile /etc/pki/libvirt/servercert.pem; virt-pki-validate

    When not to
        Never.

    References
        https://libvirt.org/kbase/tlscerts.html
        https://gitlab.com/libvirt/libvirt/-/blob/master/src/qemu/qemu.conf.in
    """
    now = now_s(host)
    with Findings() as findings:
        for path, chain in sorted(certificates(host).items()):
            for item in chain:
                left = (item.not_after_s - now) / 86400
                if left < 0:
                    findings.fail(f"{host}: {path} ({item.subject}) expired {-left:.0f} days ago.")
                elif left < params.min_days:
                    findings.fail(
                        f"{host}: {path} ({item.subject}) expires in {left:.0f} days, expected {params.min_days} or more."
                    )
                findings.fail_if(item.not_before_s > now, f"{host}: {path} ({item.subject}) is not valid yet.")
            if re.search(r"server-?cert\.pem$", path):
                name = full_name(host)
                told = ", ".join(chain[0].names) or "nobody"
                findings.fail_if(not chain[0].is_for(name), f"{host}: {path} is for {told}, expected {name}.")
        for path, access in sorted(_secret_files(host).items()):
            where = f"{host}: {path} has mode {access.mode:04o}"
            findings.fail_if(access.others_any, f"{where}, others must have no access.")
            by_group = access.group_more or (access.group_read and access.group not in (*QEMU_GROUPS, "root"))
            findings.fail_if(by_group, f"{where} and group {access.group}, expected reading by QEMU's group at most.")
        folder = key_modes(host).get(_SECRETS)
        if folder is not None:
            findings.fail_if(bool(folder.mode & 0o077), f"{host}: {_SECRETS} has mode {folder.mode:04o}, expected 0700.")


X86 = ("x86_64", "i686")
GRANTED, REFUSED = ("require", "force"), ("disable", "forbid")


@condition
def nestable(domain: Domain) -> str | None:
    """Hold for accelerated x86 domains."""
    if domain.saved.type != "kvm":
        return f"{domain} is emulated (type {domain.saved.type})"
    return None if domain.saved.os.arch in X86 else f"{domain} is of architecture {domain.saved.os.arch or 'unknown'}"


@check(
    "KVM-SEC-011",
    title="Guests get vmx or svm only where nesting is allowed",
    severity=Severity.LOW,
    reads=("virsh", "domain", "kvm_modules", "kvm_params"),
    params={"nested_guests": Choice("any", "deny")},
    applies=nestable,
)
def test_nesting_is_wanted(host: Host, domain: Domain, params: Params) -> None:
    """Guests run guests of their own only where somebody wants that.

    What it checks
        With nested_guests deny: nesting is off in kvm_intel or kvm_amd, or the guest's CPU has neither vmx nor svm: no such
        feature is required in its definition (of a running guest the live one; optional counts for one that is off), and
        host-passthrough and maximum disable it. What host-model gives to a guest that is off is decided at its start. With any,
        everything goes, and what was found is noted.

    Why it matters
        The code that enters nested guests is a frequent source of KVM's vulnerabilities.

    How to fix
        now: nothing, the CPU is built at start
        after a reboot: virsh edit $DOM: <feature policy='disable' name='vmx'/> (svm on AMD); or for the whole host: options
            kvm_intel nested=0 in /etc/modprobe.d/kvm.conf
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change; remove the line
            from /etc/modprobe.d/kvm.conf
        verify: virsh dumpxml $DOM | grep -E 'vmx|svm|cpu mode'

    When not to
        Hosts for development, CI and OpenStack on OpenStack: nested_guests any.

    References
        https://docs.kernel.org/virt/kvm/x86/running-nested-guests.html
        https://libvirt.org/formatdomain.html#cpu-model-and-topology
    """
    cpu = domain.live.cpu if domain.running else domain.saved.cpu
    policies = {name: cpu.features[name] for name in ("vmx", "svm") if name in cpu.features}
    wide = cpu.mode in ("host-passthrough", "maximum")
    asked = [name for name, policy in policies.items() if policy in GRANTED or (policy == "optional" and not domain.running)]
    refused = any(policy in REFUSED for policy in policies.values())
    gives = bool(asked) or (wide and not refused)
    if params.nested_guests == "any":
        note("the guest may run guests" if gives else "the guest gets neither vmx nor svm by its definition")
        return
    with Findings() as findings:
        if not gives and not (cpu.mode == "host-model" and not domain.running and not refused):
            return
        nested = [kvm_parameter(host, module, "nested") for module in ("kvm_intel", "kvm_amd")]
        told = [value for value in nested if value is not None]
        if not told:
            raise EvidenceMissing(Cause.MISSING, "whether nesting is on is not told", "kvm_params")
        if all(value in ("N", "0") for value in told):
            return
        if gives:
            what = " and ".join(asked) or f"{cpu.mode} without a disabled vmx or svm"
            findings.fail(f"{domain}: its CPU has {what}, and nesting is on; expected no nesting.")
        else:
            why = f"whether host-model gives vmx or svm to {domain} is decided at its start"
            findings.unknown(EvidenceMissing(Cause.NOT_COLLECTED, why, "domain"))


def _true(value: object) -> bool:
    return str(value).strip().lower() in ("1", "true", "yes")


_MIGRATION_DIR = "/etc/pki/libvirt-migrate"


def _encrypts(host: Host) -> tuple[bool, str]:
    """Return whether migration is encrypted, and what is said of it. Raises :class:`EvidenceMissing`."""
    conf, nova = qemu_settings(host), nova_migration(host)
    forced = "migrate_tls_force" if _true(conf.get("migrate_tls_force", 0)) else ""
    if not forced and _true(nova.get("live_migration_with_native_tls", "")):
        forced = "live_migration_with_native_tls"
    if not forced:
        return False, "migrate_tls_force is not set"
    # A directory for migration alone is taken without being named, when it is there.
    own = next((path for path in (*certificates(host), *key_modes(host)) if path.startswith(f"{_MIGRATION_DIR}/")), "")
    usual = _MIGRATION_DIR if own else str(conf.get("default_tls_x509_cert_dir") or "/etc/pki/qemu")
    place = str(conf.get("migrate_tls_x509_cert_dir") or usual).rstrip("/")
    if f"{place}/server-cert.pem" not in certificates(host):
        if not place.startswith(("/etc/pki/qemu", "/etc/pki/libvirt-")):
            raise EvidenceMissing(Cause.NOT_COLLECTED, f"{host}: {place} was not looked into", "certificates")
        return False, f"{forced} is set, and {place}/server-cert.pem is not there"
    if f"{place}/server-key.pem" not in key_modes(host):
        return False, f"{forced} is set, and {place}/server-key.pem is not there"
    return True, forced


def _isolated(host: Host, dedicated: Iterable[str]) -> bool:
    """Whether migration goes by an address in one of the networks *dedicated* to it."""
    place = str(qemu_settings(host).get("migration_address") or "") or nova_migration(host).get("live_migration_inbound_addr", "")
    try:
        address = ipaddress.ip_address(place)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network, strict=False) for network in dedicated)


@check(
    "KVM-SEC-012",
    title="Migration traffic is encrypted or isolated",
    severity=Severity.MEDIUM,
    reads=("qemu_conf", "nova_migration", "certificates", "key_modes"),
    params={"dedicated_networks": Items((), Network(), strictest=fewest)},
)
def test_migration_is_private(cluster: Cluster, params: Params) -> None:
    """The memory of a guest does not cross the wire in clear text.

    What it checks
        On every host of the cluster migrate_tls_force is 1 in qemu.conf (or live_migration_with_native_tls in nova.conf), with
        server-cert.pem and server-key.pem in migrate_tls_x509_cert_dir, else in /etc/pki/libvirt-migrate where that is there,
        else in default_tls_x509_cert_dir or /etc/pki/qemu; or
        migration_address (live_migration_inbound_addr) is in one of dedicated_networks: networks that nothing else uses and
        nothing routes.

    Why it matters
        A migration sends all of a guest's memory, its keys included, and by default anyone on the way can read it.

    How to fix
        now: virsh migrate --tls
        after a reboot: put certificates for QEMU into /etc/pki/qemu on all hosts; migrate_tls_force = 1 in
            /etc/libvirt/qemu.conf; or migration_address in a network of its own, named in dedicated_networks
        roll back: the former qemu.conf on all hosts and restart of the daemons; migrations are then open to whoever listens on the
            network
        verify: grep -E '^(migrate_tls|migration_)' /etc/libvirt/qemu.conf; ls -l /etc/pki/qemu

    When not to
        Hosts whose guests are never migrated; tunnelled migration (qemu+ssh with --tunnelled) is safe, and not seen here.

    References
        https://libvirt.org/migration.html#transport-options
        https://gitlab.com/libvirt/libvirt/-/blob/master/src/qemu/qemu.conf.in
    """
    with Findings() as findings:

        def judged(host: Host) -> str:
            if _isolated(host, params.dedicated_networks):
                return ""
            good, told = _encrypts(host)
            return "" if good else told

        answers, missing = cluster.each(judged)
        findings.unknown(missing)
        for host, problem in answers.items():
            findings.fail_if(bool(problem), f"{host}: migration is neither encrypted nor isolated: {problem}.")
