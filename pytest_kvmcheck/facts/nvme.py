r"""NVMe subsystems, controllers and the states of their paths by sysfs.

Source: https://docs.kernel.org/admin-guide/nvme-multipath.html, drivers/nvme/host/sysfs.c. ``nvme0c1n1`` is the path of
namespace 1 of the subsystem 0 by the controller 1.

>>> files = {"/sys/class/nvme/nvme1/transport": "tcp\n", "/sys/class/nvme/nvme1/state": "live\n",
...          "/sys/class/nvme/nvme1/address": "traddr=192.0.2.7,trsvcid=4420,src_addr=192.0.2.1\n",
...          "/sys/class/nvme/nvme1/subsysnqn": "nqn.2014-08.org.example:vm\n", "/sys/class/nvme/nvme1/ctrl_loss_tmo": "600\n",
...          "/sys/class/nvme/nvme1/nvme0c1n1/ana_state": "optimized\n", "/sys/module/nvme_core/parameters/multipath": "Y\n"}
>>> nvme = parse_nvme(files)
>>> nvme.native, nvme.controllers["nvme1"].target_address, nvme.controllers["nvme1"].paths
(True, '192.0.2.7', {'nvme0n1': 'optimized'})
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

FABRICS = ("tcp", "rdma", "fc")
_ADDRESS = re.compile(r"([0-9a-f:.]+|[a-z_]+=[^,=\s]*(,[a-z_]+=[^,=\s]*)*)?")
#: A name that the kernel makes of serial number and model of a drive that tells none holds blanks.
_MADE_UP = r"[\w.:/+()#&-]+(?: +[\w.:/+()#&-]+)*"
DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"


@dataclass(frozen=True)
class Controller:
    """A controller: one way to a subsystem. ``paths`` are the states of its paths by namespace."""

    name: str
    transport: str
    state: str
    address: str
    subsystem: str
    loss_timeout: str
    discovery: bool
    paths: Mapping[str, str]

    @property
    def target_address(self) -> str:
        """Address of the target: IP address, or Fibre Channel name; empty when it has none."""
        match = re.search(r"(?:^|,)traddr=([^,]+)", self.address)
        return match[1] if match else ""


@dataclass(frozen=True)
class Nvme:
    """What the kernel has of NVMe. ``native`` is whether it joins paths itself, None when it does not tell."""

    native: bool | None
    controllers: Mapping[str, Controller]

    @property
    def fabrics(self) -> dict[str, tuple[Controller, ...]]:
        """Controllers by subsystem, of those that are reached by a network, without discovery controllers."""
        found: dict[str, list[Controller]] = {}
        for item in self.controllers.values():
            if item.transport in FABRICS and not item.discovery:
                found.setdefault(item.subsystem, []).append(item)
        return {name: tuple(items) for name, items in sorted(found.items())}


@empty_is_an_answer("there is no NVMe")
def parse_nvme(files: Mapping[str, str]) -> Nvme:
    """Return the controllers by name. Raises :class:`ParseError`."""
    told: dict[str, dict[str, str]] = {}
    paths: dict[str, dict[str, str]] = {}
    native: bool | None = None
    for path, text in files.items():
        value = text.strip()
        if not value.isprintable() or "\n" in value or len(value) > 512:
            raise ParseError(f"{path} is not one line: {value[:40]!r}")
        if match := re.fullmatch(r"/sys/class/nvme/(nvme\d+)/nvme(\d+)c\d+n(\d+)/ana_state", path):
            paths.setdefault(match[1], {})[f"nvme{match[2]}n{match[3]}"] = _word(path, value)
        elif match := re.fullmatch(r"/sys/class/nvme/(nvme\d+)/([a-z_]+)", path):
            told.setdefault(match[1], {})[match[2]] = value
        elif path == "/sys/module/nvme_core/parameters/multipath":
            if value not in ("Y", "N"):
                raise ParseError(f"{path} is neither Y nor N: {value[:40]!r}")
            native = value == "Y"
        elif not re.fullmatch(r"/sys/class/nvme-subsystem/[^/]+/[a-z]+", path) or not re.fullmatch(_MADE_UP, value):
            raise ParseError(f"not a file of NVMe: {path[:60]!r}: {value[:40]!r}")
    found = {}
    for name, own in sorted(told.items()):
        nqn = own.get("subsysnqn", "")
        named = r"nqn\.[\w.:-]+" if own.get("transport") in FABRICS else rf"(?:{_MADE_UP})?"
        if not {"transport", "state"} <= set(own) or not re.fullmatch(named, nqn):
            raise ParseError(f"{name} tells no transport, state or subsystem: {nqn[:40]!r}")
        timeout = own.get("ctrl_loss_tmo", "")
        if not re.fullmatch(r"(-?\d{1,9}|off)?", timeout, re.ASCII) or not _ADDRESS.fullmatch(own.get("address", "")):
            raise ParseError(f"{name} has no time to loss and address: {timeout[:20]!r}, {own.get('address', '')[:40]!r}")
        discovery = nqn == DISCOVERY or _word(name, own.get("cntrltype", "io")) == "discovery"
        found[name] = Controller(
            name,
            _word(name, own["transport"]),
            _word(name, own["state"]),
            own.get("address", ""),
            nqn,
            timeout,
            discovery,
            paths.get(name, {}),
        )
    return Nvme(native, found)


def _word(what: str, value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z -]{1,40}(?: \(no IO\))?", value):
        raise ParseError(f"{what[:60]}: not a state: {value[:40]!r}")
    return value
