"""The command line of a running QEMU: ``/proc/PID/cmdline`` with one argument a line.

Source: https://www.qemu.org/docs/master/system/invocation.html. libvirt gives options as key=value lists or as JSON.

>>> qemu = parse_process("12", "/usr/bin/qemu-system-x86_64\\n-uuid\\n6d1a6e8a-0000-4000-8000-000000000001\\n-accel\\nkvm\\n"
...                      '-object\\n{"qom-type":"tls-creds-x509","id":"vnc-tls-creds0","verify-peer":true}\\n')
>>> qemu.uuid, qemu.values("-accel"), qemu.objects("tls-creds-x509")["vnc-tls-creds0"]["verify-peer"]
('6d1a6e8a-0000-4000-8000-000000000001', ['kvm'], 'on')
>>> qemu.locks_memory, QemuProcess(7, "", ("qemu-kvm", "-device", "vfio-pci,host=0000:3b:00.1")).locks_memory
(False, True)
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line


@takes_any_line("a word without = is an option too")
@empty_is_an_answer("an option may be empty")
def parse_options(text: str) -> dict[str, str]:
    """Return the keys and values of one option argument; a first word without ``=`` has the key ``""``.

    >>> parse_options("0.0.0.0:0,tls-creds=vnc0,sasl=on"), parse_options("kvm,thread=multi")
    ({'': '0.0.0.0:0', 'tls-creds': 'vnc0', 'sasl': 'on'}, {'': 'kvm', 'thread': 'multi'})
    """
    if "\0" in text:
        raise ParseError(f"not an option of QEMU: {text[:60]!r}")
    if text.startswith("{"):
        try:
            data = json.loads(text)
        except ValueError:
            raise ParseError(f"not a JSON option of QEMU: {text[:60]!r}") from None
        words = {True: "on", False: "off"}
        return {key: words[value] if isinstance(value, bool) else str(value) for key, value in data.items()}
    options: dict[str, str] = {}
    for number, part in enumerate(text.replace(",,", "\0").split(",")):
        key, equals, value = part.replace("\0", ",").partition("=")
        if equals:
            options[key] = value
        elif number == 0:
            options[""] = key
        else:
            options[key] = "on"
    return options


@dataclass(frozen=True)
class QemuProcess:
    """A running QEMU: process id, UUID of its domain, and its arguments."""

    pid: int
    uuid: str
    args: tuple[str, ...]

    def values(self, option: str) -> list[str]:
        """Return the arguments after each *option*."""
        return [value for name, value in itertools.pairwise(self.args) if name == option]

    def objects(self, kind: str) -> dict[str, dict[str, str]]:
        """Return the ``-object`` of type *kind* by id. Raises :class:`ParseError` for JSON that is none."""
        found = {}
        for text in self.values("-object"):
            options = parse_options(text)
            if options.get("qom-type", options.get("")) == kind:
                found[options.get("id", "")] = options
        return found

    @property
    def locks_memory(self) -> bool:
        """Whether all memory is locked, or has to be pinned for a device that is assigned (vfio-pci)."""
        locked = any(parse_options(text).get("mem-lock") == "on" for text in self.values("-overcommit"))
        older = any(parse_options(text).get("mlock") == "on" for text in self.values("-realtime"))
        devices = [parse_options(text) for text in self.values("-device")]
        return locked or older or any(item.get("driver", item.get("")) == "vfio-pci" for item in devices)

    @property
    def accelerator(self) -> str:
        """The accelerator: of -accel, or of accel= in -machine; empty when not given (QEMU then takes tcg)."""
        for option, key in (("-accel", ""), ("-machine", "accel")):
            for text in self.values(option):
                if value := parse_options(text).get(key):
                    return value
        return ""


@takes_any_line("an argument may be any text")
def parse_process(pid: str, text: str) -> QemuProcess:
    """Return the process. Raises :class:`ParseError` when it has no arguments or no -uuid: it is gone, or no guest."""
    args = tuple(text.splitlines())
    if not (pid.isascii() and pid.isdigit()) or not args or "\0" in text:
        raise ParseError(f"process {pid[:20]} has no command line")
    uuids = [value for name, value in itertools.pairwise(args) if name == "-uuid"]
    if not uuids:
        raise ParseError(f"process {pid} is no guest of libvirt: {args[0][:60]!r}")
    return QemuProcess(int(pid), uuids[0].lower(), args)
