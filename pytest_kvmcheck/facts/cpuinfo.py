r"""CPU vendor and flags: ``/proc/cpuinfo``.

Source: proc(5). The names of the fields differ between architectures: x86 and riscv say ``flags``/``isa``, s390x
``features``, ARM ``Features``.

>>> cpu = parse_cpuinfo("vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm constant_tsc\n")
>>> cpu.vendor, "svm" in cpu.flags
('AuthenticAMD', True)
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_KNOWN = {
    "vendor_id", "flags", "features", "Features", "CPU implementer", "cpu", "machine", "platform", "isa", "processor",
    "cpu model",
}  # fmt: skip


@dataclass(frozen=True)
class CpuInfo:
    """What all CPUs have in common. ``flags`` are those of every CPU that lists any; ``platform`` is told on ppc64."""

    vendor: str
    model: str
    flags: frozenset[str]
    platform: str


def parse_cpuinfo(text: str) -> CpuInfo:
    """Return the CPU in *text*: whole /proc/cpuinfo or its distinct lines. Raises :class:`ParseError`."""
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), []).append(value.strip())
    if not any(any(fields.get(name, [])) for name in _KNOWN):
        raise ParseError(f"not /proc/cpuinfo: {text.strip()[:60]!r}")
    lists = [set(value.split()) for name in ("flags", "features", "Features") for value in fields.get(name, [])]
    return CpuInfo(
        vendor=next(iter(fields.get("vendor_id") or fields.get("CPU implementer") or [""])),
        model=next(iter(fields.get("model name") or fields.get("cpu") or [""])),
        flags=frozenset(set.intersection(*lists)) if lists else frozenset(),
        platform=next(iter(fields.get("platform") or fields.get("machine") or [""])),
    )
