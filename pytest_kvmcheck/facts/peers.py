r"""With whom the host talks to reach its storage: iSCSI and NVMe over TCP by sysfs, NFS and Ceph by /proc/mounts.

Source: Documentation/ABI/testing/sysfs-class-iscsi_connection, nvme-cli(1), nfs(5), mount.ceph(8). The names of iSCSI connections
have colons, unlike those of other files. An NVMe controller writes ``traddr=192.0.2.1,trsvcid=4420``; one on PCI its PCI address.

>>> parse_peers("/sys/class/iscsi_connection/connection1:0/persistent_address:192.0.2.50\n"
...             "/sys/class/nvme/nvme0/address:0000:5e:00.0\n"
...             "/sys/class/nvme/nvme1/address:traddr=198.51.100.9,trsvcid=4420\n"
...             "/sys/class/iscsi_connection/connection2:0/persistent_address:<NULL>\n")
('192.0.2.50', '198.51.100.9')
>>> from pytest_kvmcheck.facts.mounts import parse_mounts
>>> of_mounts(parse_mounts("nas:/vm /vm nfs4 rw,addr=192.0.2.60 0 0\n192.0.2.1:6789,192.0.2.2:6789:/ /c ceph rw 0 0\n"))
('192.0.2.1', '192.0.2.2', '192.0.2.60')
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer
from pytest_kvmcheck.facts.mounts import Mount

_LINE = re.compile(r"/sys/class/(?:iscsi_connection/[\w:]+/persistent_address|nvme/\w+/address):(.*)")


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return ""


@empty_is_an_answer("no storage is reached by IP")
def parse_peers(text: str) -> tuple[str, ...]:
    """Return the addresses of iSCSI portals and NVMe controllers, sorted. Raises :class:`ParseError`."""
    found = set()
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match and line.strip():
            raise ParseError(f"not the address of an iSCSI connection or NVMe controller: {line[:60]!r}")
        if match:
            told = re.search(r"\btraddr=([^,\s]+)", match[1])
            found.add(_address(told[1] if told else match[1].strip()))
    return tuple(sorted(found - {""}))


def of_mounts(mounts: Iterable[Mount]) -> tuple[str, ...]:
    """Return the addresses of the servers of network file systems, sorted; names that were not resolved are left out."""
    found = set()
    for mount in mounts:
        if mount.type in ("nfs", "nfs4", "cifs", "smb3"):
            found |= {_address(option.partition("=")[2]) for option in mount.options if option.startswith("addr=")}
        elif mount.type == "ceph":
            found |= {_address(re.sub(r":\d+$", "", part)) for part in re.sub(r":/.*$", "", mount.source).split(",")}
    return tuple(sorted(found - {""}))
