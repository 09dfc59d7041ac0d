r"""The kernel's audit: ``auditctl -s`` and ``ausearch --raw``.

Source: auditctl(8), ausearch(8), https://libvirt.org/auditlog.html. Names that hold blanks or
quotes are written in hexadecimal digits.

>>> parse_audit_status("enabled 1\nfailure 1\npid 290\nlost 0\n")
AuditStatus(enabled=1, pid=290, lost=0)
>>> text = "type=VIRT_CONTROL msg=audit(1795579711.575:77): pid=497 uid=0 auid=4294967295 ses=4294967295 subj=unconfined " \
...        "msg='virt=kvm op=start reason=booted vm=\"db01\" uuid=22222222-2222-4222-8222-222222222222 vm-pid=-1 " \
...        "exe=\"/usr/sbin/libvirtd\" hostname=? addr=? terminal=? res=failed'UID=\"root\"\n"
>>> parse_control_records(text)
(ControlRecord(time_s=1795579711.575, op='start', reason='booted', vm='db01', succeeded=False),)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_RECORD = re.compile(
    r"""(?:node=\S+ )?type=VIRT_CONTROL msg=audit\((?P<time>\d{1,12}\.\d{1,6}):\d+\): .*?msg='virt=\S+ op=(?P<op>\S+) """
    r"""reason=(?P<reason>\S+) vm=(?P<vm>"[^"]*"|\S+) .*?res=(?P<res>success|failed|0|1)'.*""",
    re.ASCII,
)


@dataclass(frozen=True)
class AuditStatus:
    """State of the kernel's audit: 0 off, 1 on, 2 on and locked; ``pid`` of the daemon, 0 for none."""

    enabled: int
    pid: int
    lost: int


@dataclass(frozen=True)
class ControlRecord:
    """What libvirt did to a guest; ``time_s`` is seconds since 1970."""

    time_s: float
    op: str
    reason: str
    vm: str
    succeeded: bool


def parse_audit_status(text: str) -> AuditStatus:
    """Return the state. Older releases write it in one line (``AUDIT_STATUS: enabled=1 ...``). Raises :class:`ParseError`."""
    pairs = dict(re.findall(r"\b(enabled|pid|lost)[ =](\d{1,10})\b", text, re.ASCII))
    words = [line.split() for line in text.splitlines() if line.strip()]
    odd = [line for line in words if line[0] != "AUDIT_STATUS:" and (not re.fullmatch(r"\w+", line[0]) or not 2 <= len(line) <= 3)]
    if odd or not {"enabled", "pid"} <= set(pairs):
        raise ParseError(f"not the answer of auditctl: {text.strip()[:80]!r}")
    return AuditStatus(int(pairs["enabled"]), int(pairs["pid"]), int(pairs.get("lost", 0)))


@empty_is_an_answer("nothing was recorded")
def parse_control_records(text: str) -> tuple[ControlRecord, ...]:
    """Return the VIRT_CONTROL records. Raises :class:`ParseError`."""
    found = []
    for line in text.split("\n"):
        if not line.strip() or line.strip() == "<no matches>":
            continue
        match = _RECORD.fullmatch(line.partition("\x1d")[0].rstrip("\r"))  # log_format=ENRICHED adds names behind a separator
        if not match:
            raise ParseError(f"not a record of libvirt: {line[:80]!r}")
        found.append(
            ControlRecord(float(match["time"]), match["op"], match["reason"], _name(match["vm"]), match["res"] in ("success", "1"))
        )
    return tuple(found)


def _name(word: str) -> str:
    if word.startswith('"'):
        return word.strip('"')
    try:
        return bytes.fromhex(word).decode("utf-8", "replace")
    except ValueError:
        return word
