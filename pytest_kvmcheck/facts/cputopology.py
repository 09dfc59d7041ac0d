r"""Where a CPU sits: ``/sys/devices/system/cpu/cpu*/topology`` and ``/sys/devices/system/cpu/smt``.

Source: https://docs.kernel.org/admin-guide/cputopology.html, Documentation/ABI/stable/sysfs-devices-system-cpu. A CPU that
is offline has no files there. Numbers are the kernel's own: the same core_id comes again in other packages and dies.

>>> cpu = "/sys/devices/system/cpu/cpu"
>>> places = parse_topology({f"{cpu}{n}/topology/{name}": text for n, core in ((0, "0"), (1, "1"), (8, "0"))
...                          for name, text in (("physical_package_id", f"{n // 8}\n"), ("core_id", core), ("die_id", "0"))})
>>> places[8]
CpuPlace(package=1, die=0, core=0)
>>> threads = parse_siblings({f"{cpu}{n}/topology/thread_siblings_list": "0,16\n" for n in (0, 16)})
>>> sorted(threads[16])
[0, 16]
>>> parse_smt({"/sys/devices/system/cpu/smt/control": "on\n", "/sys/devices/system/cpu/smt/active": "1\n"})
Smt(control='on', active=True)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpulist import MAX_CPUS, parse_cpulist

_PATH = re.compile(r"/sys/devices/system/cpu/cpu(\d{1,5})/topology/(\w+)", re.ASCII)
_SMT = "/sys/devices/system/cpu/smt"

#: What smt/control may say; a number is the count of threads a core (Linux 6.6, ppc64).
_CONTROLS = re.compile(r"on|off|forceoff|notsupported|notimplemented|\d{1,2}", re.ASCII)


@dataclass(frozen=True)
class CpuPlace:
    """The place of a CPU. ``die`` is 0 on kernels before 5.2; any number is -1 where the platform does not know it."""

    package: int
    die: int
    core: int


@dataclass(frozen=True)
class Smt:
    """Whether cores run several threads now (``active``), and what may be done about it (``control``)."""

    control: str
    active: bool


def _by_cpu(files: Mapping[str, str]) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for path, text in files.items():
        match = _PATH.fullmatch(path)
        if match and int(match[1]) < MAX_CPUS:
            found.setdefault(int(match[1]), {})[match[2]] = text
    return found


def parse_topology(files: Mapping[str, str]) -> dict[int, CpuPlace]:
    """Return the place of each CPU that is online. Raises :class:`ParseError`."""

    def number(cpu: int, name: str) -> int:
        text = found[cpu].get(name, "0" if name == "die_id" else "").strip()
        if not re.fullmatch(r"-?\d{1,10}", text, re.ASCII):
            raise ParseError(f"cpu{cpu}/topology/{name} is not a number: {text[:40]!r}")
        return int(text)

    found = _by_cpu(files)
    if not found:
        raise ParseError("no CPU has a topology")
    return {
        cpu: CpuPlace(number(cpu, "physical_package_id"), number(cpu, "die_id"), number(cpu, "core_id")) for cpu in sorted(found)
    }


def parse_siblings(files: Mapping[str, str]) -> dict[int, frozenset[int]]:
    """Return, by CPU that is online, the threads of its core, itself among them. Raises :class:`ParseError`."""
    found: dict[int, frozenset[int]] = {}
    for cpu, texts in sorted(_by_cpu(files).items()):
        if "thread_siblings_list" in texts:
            threads = parse_cpulist(texts["thread_siblings_list"])
            if cpu not in threads:
                raise ParseError(f"cpu{cpu} is not among its own threads: {texts['thread_siblings_list'].strip()[:40]!r}")
            found[cpu] = threads
    if not found:
        raise ParseError("no CPU tells the threads of its core")
    return found


def parse_smt(files: Mapping[str, str]) -> Smt:
    """Return the state of SMT. Raises :class:`ParseError`."""
    control, active = (files.get(f"{_SMT}/{name}", "").strip() for name in ("control", "active"))
    if active not in ("0", "1") or not _CONTROLS.fullmatch(control):
        raise ParseError(f"smt/control is {control[:20]!r} and smt/active {active[:20]!r}")
    return Smt(control, active == "1")
