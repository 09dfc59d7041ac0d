r"""What SELinux and AppArmor denied: records of the audit log, and the kernel's messages of the same form.

Source: ausearch(8) with ``--raw``; https://gitlab.com/apparmor/apparmor/-/wikis/AppArmor_Failures. Records are parted from one
another by what was denied to whom: the same denial a thousand times is one.

>>> text = '''type=AVC msg=audit(1700000000.123:456): apparmor="DENIED" operation="open" class="file" profile="libvirt-6d1a6e8a"
... name="/srv/a.img" pid=7 comm="qemu-system-x86" requested_mask="r" denied_mask="r" fsuid=64055 ouid=0'''.replace("\n", " ")
>>> denial = parse_denials(text)[0]
>>> denial.time_s, denial.what, denial.concerns_guests
(1700000000.123, 'libvirt-6d1a6e8a qemu-system-x86 open /srv/a.img r', True)
>>> denied("audit: type=1400 audit(1700000001.5:9): avc:  denied  { read } for  pid=7 comm=\"qemu-kvm\" name=\"a.img\" "
...        "scontext=system_u:system_r:svirt_t:s0:c1,c2 tcontext=system_u:object_r:user_home_t:s0 tclass=file", 1.0).what
'svirt_t qemu-kvm read a.img file user_home_t'
>>> denied('audit: type=1400 audit(1.0:9): apparmor="ALLOWED" operation="open" profile="libvirtd"', 1.0) is None
True
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_SERVICES = r"libvirt|virt-aa-helper|qemu|swtpm|\bsvirt|\bvirt[a-z_]*_t\b"


@dataclass(frozen=True)
class Denial:
    """Something that was denied; ``time_s`` is seconds since 1970, ``what`` the same for repetitions, ``who`` the culprits."""

    time_s: float
    what: str
    who: str
    line: str

    @property
    def concerns_guests(self) -> bool:
        """Whether profile, label or command are of virtualization."""
        return bool(re.search(_SERVICES, self.who))


def denied(message: str, time_s: float) -> Denial | None:
    """Return the denial in a *message* of the kernel or of auditd, None when it is none, or only noted (ALLOWED, permissive)."""
    if 'apparmor="DENIED"' in message:
        profile, comm = _field(message, "profile"), _field(message, "comm")
        parts = (profile, comm, _field(message, "operation"), _field(message, "name"), _field(message, "denied_mask"))
        return Denial(time_s, " ".join(filter(None, parts)), f"{profile} {comm}", message)
    match = re.search(r"\bavc: +denied +\{ ?([^}]*?) ?\}", message)
    if match and "permissive=1" not in message:
        source, comm = _type(_field(message, "scontext")), _field(message, "comm") or _field(message, "exe")
        name = _field(message, "name") or _field(message, "path")
        target = _type(_field(message, "tcontext"))
        told = (source, comm, match[1], name, _field(message, "tclass"), target)
        return Denial(time_s, " ".join(filter(None, told)), f"{source} {comm} {target}", message)
    return None


def _field(message: str, name: str) -> str:
    match = re.search(rf"(?<!\w){name}=(?:\"([^\"]*)\"|(\S+))", message)
    return (match[1] or match[2] or "") if match else ""


def _type(context: str) -> str:
    parts = context.split(":")
    return parts[2] if len(parts) > 2 else context


@empty_is_an_answer("nothing was denied")
def parse_denials(text: str) -> tuple[Denial, ...]:
    """Return the denials among raw records of the audit log. Raises :class:`ParseError`."""
    found = []
    for line in text.split("\n"):
        if not line.strip():
            continue
        match = re.match(r"(?:node=\S+ )?type=[A-Z_]+ msg=audit\((\d{1,12}\.\d{1,9}):\d+\): ?", line, re.ASCII)
        if not match:
            raise ParseError(f"not a record of the audit log: {line[:60]!r}")
        if denial := denied(line, float(match[1])):
            found.append(denial)
    return tuple(found)
