"""Facts about confinement, access and keys."""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import KEY_SEPARATOR, parsing
from pytest_kvmcheck.facts.access import Access, Found, Group, parse_found, parse_groups, parse_keys, parse_modes, parse_primary
from pytest_kvmcheck.facts.certificates import Certificate, parse_certificates
from pytest_kvmcheck.facts.denials import Denial, denied, parse_denials
from pytest_kvmcheck.facts.libvirtconf import Value, parse_conf
from pytest_kvmcheck.facts.listing import parse_paths
from pytest_kvmcheck.facts.novaconf import parse_options
from pytest_kvmcheck.facts.procfs import parse_mountinfo
from pytest_kvmcheck.views.domains import Domain, running_domains
from pytest_kvmcheck.views.host import Host, fact
from pytest_kvmcheck.views.memory import demand_sysfs
from pytest_kvmcheck.views.processes import proc_file
from pytest_kvmcheck.views.services import unit
from pytest_kvmcheck.views.system import demand_whole_kernel_log, kernel_log

_ENFORCE, _APPARMOR, _CONFIG = "/sys/fs/selinux/enforce", "/sys/module/apparmor/parameters/enabled", "/etc/selinux/config"


@fact
def selinux_enforces(host: Host) -> bool | None:
    """Whether SELinux enforces its policy; None when it is not enabled at all."""
    text = host.evidence.files("security_modules").get(_ENFORCE)
    if text is None:
        demand_sysfs(host)
        return None
    if text.strip() not in ("0", "1"):
        raise EvidenceMissing(Cause.UNPARSABLE, f"{_ENFORCE} is {text.strip()[:40]!r}", "security_modules")
    return text.strip() == "1"


@fact
def apparmor_enabled(host: Host) -> bool:
    """Whether AppArmor is enabled."""
    text = host.evidence.files("security_modules").get(_APPARMOR)
    if text is None:
        demand_sysfs(host)
        return False
    if text.strip() not in ("Y", "N"):
        raise EvidenceMissing(Cause.UNPARSABLE, f"{_APPARMOR} is {text.strip()[:40]!r}", "security_modules")
    return text.strip() == "Y"


def selinux_at_boot(host: Host) -> str:
    """Return what SELinux will be after a reboot (enforcing, permissive, disabled); empty when there is no such file.

    As libselinux does, it takes the first line, small letters or capitals, whatever comes after the word.
    """
    text = host.evidence.files("security_modules").get(_CONFIG)
    if text is None:
        return ""
    found = re.search(r"^[ \t]*SELINUX=[ \t]*(\w+)", text, re.MULTILINE)
    if not found:
        raise EvidenceMissing(Cause.UNPARSABLE, f"{_CONFIG} does not say what SELinux will be", "security_modules")
    return found[1].lower()


@fact
def qemu_settings(host: Host) -> dict[str, Value]:
    """Settings of libvirt's QEMU driver; none when there is no such file, as all of them have defaults."""
    text = host.evidence.files("qemu_conf").get("/etc/libvirt/qemu.conf")
    return {} if text is None else parsing("qemu_conf", parse_conf, text)


def label_of(domain: Domain) -> str:
    """Return the label of the running QEMU: an SELinux context, or a profile of AppArmor with its mode."""
    for name in ("attr/apparmor/current", "attr/current"):
        try:
            text = proc_file(domain, name)
        except EvidenceMissing as missing:
            # Without a security module the file is there, and reading it an invalid argument.
            if missing.cause is not Cause.FAILED or not missing.detail.endswith(": Invalid argument"):
                raise
            continue
        if text is not None and text.strip("\0 \n\r"):
            return text.strip("\0 \n\r")
    raise EvidenceMissing(Cause.MISSING, f"the kernel does not tell the label of {domain}", "qemu_proc")


@fact
def labels(host: Host) -> dict[str, str]:
    """Labels of the running guests by UUID."""
    return {domain.uuid: label_of(domain) for domain in running_domains(host)}


def mounts_of(domain: Domain) -> tuple[tuple[str, str, str], ...]:
    """Return target, type and source of the mounts that the running QEMU sees."""
    text = proc_file(domain, "mountinfo")
    if text is None:
        raise EvidenceMissing(Cause.MISSING, f"the mounts of {domain} cannot be seen", "qemu_proc")
    return parsing("qemu_proc", parse_mountinfo, text)


@fact
def denials(host: Host) -> tuple[Denial, ...]:
    """What SELinux and AppArmor denied, by auditd's log, or by the kernel's log while auditd is off."""
    if unit(host, "auditd.service").active:
        return host.evidence.parsed("audit_denials", parse_denials)
    demand_whole_kernel_log(host)
    found = (denied(message.text, message.time_s) for message in kernel_log(host))
    return tuple(item for item in found if item)


@fact
def sockets(host: Host) -> dict[str, Access]:
    """Sockets of libvirt by path."""
    host.evidence.head("libvirt_access")
    found = host.evidence.parsed(f"libvirt_access{KEY_SEPARATOR}sockets", parse_modes)
    found = {path: access for path, access in found.items() if access.kind == "socket"}
    if not found:
        raise EvidenceMissing(Cause.EMPTY, "no socket of libvirt is there", "libvirt_access")
    return found


@fact
def controlling_groups(host: Host) -> dict[str, Group]:
    """The groups that may control libvirt by name, with those whose primary group it is."""
    host.evidence.head("libvirt_access")
    place = "libvirt_access" if _accounts_not_asked(host) else "libvirt_accounts"
    found = host.evidence.parsed(f"{place}{KEY_SEPARATOR}groups", parse_groups)
    primary = host.evidence.parsed(f"{place}{KEY_SEPARATOR}primary", parse_primary)
    return {name: Group(group.gid, tuple(sorted({*group.members, *primary.get(group.gid, ())}))) for name, group in found.items()}


def _accounts_not_asked(host: Host) -> bool:
    """Whether the host was not asked for accounts beyond its files: that may go out to the network, so it is done on request."""
    record = host.evidence.records.get("libvirt_accounts")
    return record is None or record.cause in (Cause.SKIPPED, Cause.NOT_COLLECTED)


def accounts_not_asked(host: Host) -> EvidenceMissing | None:
    """Return what is missing where members of libvirt's groups may come from elsewhere than files, and that was not asked."""
    if not _accounts_not_asked(host):
        host.evidence.text("libvirt_accounts")
        return None
    place = f"libvirt_access{KEY_SEPARATOR}elsewhere"
    if place not in host.evidence.records:
        return None  # an older recording: its groups are those of all sources
    sources = host.evidence.text(place).split()
    if not sources:
        return None
    seen = f"members that {', '.join(sources)} knows were not asked for: that takes --kvmcheck-active"
    return EvidenceMissing(Cause.SKIPPED, seen, "libvirt_accounts")


def polkit_guards(host: Host) -> bool:
    """Whether libvirt's actions are known to polkit: then polkit is the default of read-write sockets."""
    host.evidence.head("libvirt_access")
    return bool(host.evidence.parsed(f"libvirt_access{KEY_SEPARATOR}polkit", parse_paths))


@fact
def image_modes(host: Host) -> dict[str, Access]:
    """Modes of the images and NVRAM of domains, and of the directories above them."""
    return host.evidence.parsed("image_modes", parse_modes)


@fact
def pool_files(host: Host) -> tuple[Found, ...]:
    """Files of libvirt's directories and of active pools."""
    return host.evidence.parsed("pool_files", parse_found)


@fact
def key_modes(host: Host) -> dict[str, Access]:
    """Private keys, secrets and their directories by path."""
    return host.evidence.parsed("key_modes", parse_keys)


@fact
def certificates(host: Host) -> dict[str, tuple[Certificate, ...]]:
    """Certificates of libvirt and QEMU by path of their files; none is an answer."""
    files = host.evidence.files("certificates")
    files.demand_all_readable()
    return {path: parsing("certificates", parse_certificates, files[path]) for path in files}


@fact
def nova_migration(host: Host) -> dict[str, str]:
    """What nova.conf says of live migration; nothing where there is no such file."""
    if host.evidence.record("nova_migration").cause is Cause.MISSING:
        return {}
    return host.evidence.parsed("nova_migration", parse_options)
