"""Fibre Channel ports by sysfs: ``grep -H`` over /sys/class/fc_host and /sys/class/fc_remote_ports.

Source: drivers/scsi/scsi_transport_fc.c. Counters are hexadecimal; all ones stand for one that the driver does not keep.

>>> text = '''/sys/class/fc_host/host1/port_state:Online
... /sys/class/fc_host/host1/port_type:NPort (fabric via point-to-point)
... /sys/class/fc_host/host1/port_name:0x21000024ff000001
... /sys/class/fc_host/host1/speed:16 Gbit
... /sys/class/fc_host/host1/supported_speeds:8 Gbit, 16 Gbit, 32 Gbit
... /sys/class/fc_host/host1/statistics/invalid_crc_count:0x1f
... /sys/class/fc_host/host1/statistics/error_frames:0xffffffffffffffff
... /sys/class/fc_remote_ports/rport-1:0-2/port_name:0x5005076303000101
... '''
>>> found = parse_fc(text)
>>> port = found.ports["host1"]
>>> port.online, port.speed_gbit, port.fastest_gbit, dict(port.counters), found.remote
(True, 16, 32, {'invalid_crc_count': 31}, {'rport-1:0-2': '0x5005076303000101'})
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

_FIELD = re.compile(r"/sys/class/fc_host/(host\d{1,9})/(?:(statistics)/)?([a-z_]+):([ -~]*)")
_REMOTE = re.compile(r"/sys/class/fc_remote_ports/(rport-[\d:-]+)/port_name:(0x[0-9a-f]{1,16})")
_NOT_KEPT = 2**64 - 1


@dataclass(frozen=True)
class FcPort:
    """A port. ``speed_gbit`` is None while it has no link; ``counters`` lack those that the driver does not keep."""

    name: str
    wwpn: str
    state: str
    type: str
    speed_gbit: int | None
    fastest_gbit: int | None
    counters: Mapping[str, int]

    @property
    def online(self) -> bool:
        """Whether it has a link and is logged in."""
        return self.state == "Online"

    @property
    def virtual(self) -> bool:
        """Whether it is an NPIV port of another one."""
        return self.type.startswith("NPIV")


@dataclass(frozen=True)
class Fc:
    """Ports of the host by name (host1), and the names of the ports that they see (rport-1:0-2)."""

    ports: Mapping[str, FcPort]
    remote: Mapping[str, str]


def _gbit(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"(\d{1,4}) Gbit", text)]


@empty_is_an_answer("there is no Fibre Channel port")
def parse_fc(text: str) -> Fc:
    """Return the ports. Raises :class:`ParseError`."""
    told: dict[str, dict[str, str]] = {}
    counters: dict[str, dict[str, int]] = {}
    remote: dict[str, str] = {}
    for line in text.splitlines():
        if match := _REMOTE.fullmatch(line):
            remote[match[1]] = match[2]
            continue
        match = _FIELD.fullmatch(line)
        if not match:
            raise ParseError(f"not a file of a Fibre Channel port: {line[:60]!r}")
        host, statistics, name, value = match.groups()
        if statistics:
            if not re.fullmatch(r"0x[0-9a-f]{1,16}", value):
                raise ParseError(f"{name} of {host} is not a counter: {value[:40]!r}")
            counters.setdefault(host, {})
            if int(value, 16) != _NOT_KEPT:
                counters[host][name] = int(value, 16)
        else:
            told.setdefault(host, {})[name] = value.strip()
    found = {}
    for host in sorted({*told, *counters}):
        own = told.get(host, {})
        if not re.fullmatch(r"(0x[0-9a-f]{16})?", own.get("port_name", "")) or (host in told and not own.get("port_state")):
            raise ParseError(f"{host} tells no name and state: {own.get('port_name', '')[:40]!r}")
        speeds = _gbit(own.get("speed", ""))
        found[host] = FcPort(
            host,
            own.get("port_name", ""),
            own.get("port_state", ""),
            own.get("port_type", ""),
            speeds[0] if speeds else None,
            max(_gbit(own.get("supported_speeds", "")), default=None),
            counters.get(host, {}),
        )
    return Fc(found, remote)
