r"""Processes: ``/proc/PID/status``, ``limits``, ``cgroup``, and the threads below ``task``.

Source: proc_pid_status(5), proc_pid_limits(5), proc_pid_cgroup(5), proc_pid_stat(5). Sizes are kB in the text and bytes here.

>>> status = parse_status("Name:\tqemu-system-x86\nUid:\t64055\t64055\t64055\t64055\nVmSwap:\t     12 kB\nSeccomp:\t2\n"
...                       "Cpus_allowed_list:\t0,2-3\n")
>>> status["Name"], size(status, "VmSwap"), status["Uid"].split(), size(status, "HugetlbPages")
('qemu-system-x86', 12288, ['64055', '64055', '64055', '64055'], None)
>>> limits = "Limit                     Soft Limit           Hard Limit           Units     \n" \
...          "Max locked memory         67108864             unlimited            bytes     \n"
>>> parse_limits(limits)["Max locked memory"]
(67108864, None)
>>> parse_threads({"/proc/7/task/9/status": "Name:\tCPU 0/KVM\nCpus_allowed_list:\t0,2\n"})[7]
(Thread(tid=9, name='CPU 0/KVM', cpus=frozenset({0, 2})),)
>>> parse_mountinfo("420 390 0:48 / /dev rw,nosuid,relatime - tmpfs devfs rw,size=64k,mode=755,inode64\n")
(('/dev', 'tmpfs', 'devfs'),)
>>> start_seconds("4711 (qemu-system-x86) S 1 4711 4711 0 -1 138412416 5 0 0 0 7 2 0 0 20 0 6 0 123456 1 2\\n")
1234.56
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpulist import parse_cpulist
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@dataclass(frozen=True)
class Thread:
    """A thread, and the CPUs it may run on."""

    tid: int
    name: str
    cpus: frozenset[int]


def parse_status(text: str) -> dict[str, str]:
    """Return the fields of ``/proc/PID/status``. Raises :class:`ParseError`."""
    fields = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":\t")
        if not colon or not re.fullmatch(r"\w+", name, re.ASCII):
            if re.fullmatch(r"\w+:\s*", line, re.ASCII):  # a field without a value
                continue
            raise ParseError(f"not a line of /proc/PID/status: {line[:80]!r}")
        fields[name] = value.strip()
    if "Name" not in fields:
        raise ParseError("not /proc/PID/status: it has no Name")
    return fields


def size(status: Mapping[str, str], name: str) -> int | None:
    """Return the field *name*, told in kB, in bytes; None when there is no such field. Raises :class:`ParseError`."""
    text = status.get(name)
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,18}) kB", text)
    if not match:
        raise ParseError(f"{name} is not a size: {text[:40]!r}")
    return int(match[1]) * 1024


def parse_limits(text: str) -> dict[str, tuple[int | None, int | None]]:
    """Return soft and hard limits by name; None is no limit. Raises :class:`ParseError`."""
    lines = text.splitlines()
    if len(lines) < 2 or not lines[0].startswith("Limit "):
        raise ParseError(f"not /proc/PID/limits: {text[:60]!r}")
    found = {}
    for line in lines[1:]:
        match = re.fullmatch(r"(Max [a-z -]+?)\s{2,}(\d+|unlimited)\s+(\d+|unlimited)\b.*", line)
        if not match:
            raise ParseError(f"not a line of /proc/PID/limits: {line[:80]!r}")
        soft, hard = (None if text == "unlimited" else int(text) for text in match.group(2, 3))
        found[match[1]] = (soft, hard)
    return found


@empty_is_an_answer("no domain runs")
def parse_threads(files: Mapping[str, str]) -> dict[int, tuple[Thread, ...]]:
    """Return the threads by PID from their status files, sorted by TID. Raises :class:`ParseError`."""
    found: dict[int, list[Thread]] = {}
    for path, text in files.items():
        match = re.fullmatch(r"/proc/(\d+)/task/(\d+)/status", path)
        if not match:
            raise ParseError(f"not the status of a thread: {path[:80]!r}")
        status = parse_status(text)
        if "Cpus_allowed_list" not in status:
            raise ParseError(f"{path} tells no Cpus_allowed_list")
        thread = Thread(int(match[2]), status["Name"], parse_cpulist(status["Cpus_allowed_list"]))
        found.setdefault(int(match[1]), []).append(thread)
    return {pid: tuple(sorted(threads, key=lambda thread: thread.tid)) for pid, threads in found.items()}


def parse_cgroup(text: str) -> dict[str, str]:
    """Return the cgroups of a process by controller; ``""`` is cgroup v2. Raises :class:`ParseError`.

    >>> parse_cgroup("0::/machine.slice/machine-qemu\\\\x2d1\\\\x2dweb.scope/libvirt/emulator\\n")[""]
    '/machine.slice/machine-qemu\\\\x2d1\\\\x2dweb.scope/libvirt/emulator'
    """
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\d+:([\w,=-]*):(/.*)", line)
        if not match:
            raise ParseError(f"not a line of /proc/PID/cgroup: {line[:80]!r}")
        for controller in match[1].split(","):
            found[controller] = match[2]
    if not found:
        raise ParseError("not /proc/PID/cgroup: it is empty")
    return found


def parse_mountinfo(text: str) -> tuple[tuple[str, str, str], ...]:
    """Return target, type and source of the mounts of a process, from ``/proc/PID/mountinfo``. Raises :class:`ParseError`."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"\d+ \d+ \d+:\d+ \S+ (/\S*) \S+(?: \S+:\d+| \S+)* - (\S+) (\S*) \S+", line)
        if not match:
            raise ParseError(f"not a line of /proc/PID/mountinfo: {line[:60]!r}")
        found.append((match[1], match[2], match[3]))
    if not found:
        raise ParseError("not /proc/PID/mountinfo: it is empty")
    return tuple(found)


#: Clock ticks a second in what the kernel tells programs (USER_HZ): 100 on all architectures that run KVM.
_TICKS = 100


def start_seconds(text: str) -> float:
    """Return when a process started, in seconds after boot, from ``/proc/PID/stat``. Raises :class:`ParseError`."""
    fields = text.rpartition(")")[2].split()
    if not re.match(r"\d+ \(", text) or len(fields) < 20 or not re.fullmatch(r"\d{1,18}", fields[19], re.ASCII):
        raise ParseError(f"not /proc/PID/stat: {text.strip()[:60]!r}")
    return int(fields[19]) / _TICKS
