"""Storage pools of libvirt: ``virsh pool-dumpxml``, and the tables ``net-info`` and ``pool-info``.

Source: https://libvirt.org/formatstorage.html, https://libvirt.org/manpages/virsh.html#pool-info

>>> pool = parse_pool("<pool type='netfs'><name>nas</name><uuid>u</uuid><capacity unit='GiB'>2</capacity>"
...                   "<available unit='bytes'>5</available><source><host name='nas1'/><dir path='/vm'/></source>"
...                   "<target><path>/var/lib/libvirt/nas</path></target></pool>")
>>> pool.name, pool.type, pool.target, pool.capacity_bytes, pool.source
('nas', 'netfs', '/var/lib/libvirt/nas', 2147483648, ('nas1', '/vm'))
>>> info = parse_info("Name:           nas\\nState:          running\\nPersistent:     yes\\nAutostart:      no\\n")
>>> info.active, info.persistent, info.autostart
(True, True, False)
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.xmltext import attribute, parse_xml, size_bytes


@dataclass(frozen=True)
class Pool:
    """A storage pool. ``source`` are host, directory, device and name of what is behind it, as far as they are told."""

    name: str
    uuid: str
    type: str
    target: str
    capacity_bytes: int
    allocation_bytes: int
    available_bytes: int
    source: tuple[str, ...]


@dataclass(frozen=True)
class Info:
    """State of a network or pool. One without autostart is gone after a reboot."""

    name: str
    active: bool
    persistent: bool
    autostart: bool


def parse_pool(text: str) -> Pool:
    """Return the pool that ``pool-dumpxml`` describes. Raises :class:`ParseError`."""
    root = parse_xml(text, "pool")
    name = root.findtext("name") or ""
    if not name:
        raise ParseError("a <pool> without a name")
    source = (
        *(item.get("name", "") for item in root.findall("source/host")),
        attribute(root, "source/dir", "path"),
        *(item.get("path", "") for item in root.findall("source/device")),
        attribute(root, "source/adapter", "wwnn"),
        (root.findtext("source/name") or "").strip(),
    )
    return Pool(
        name,
        (root.findtext("uuid") or "").strip(),
        root.get("type", ""),
        (root.findtext("target/path") or "").strip(),
        size_bytes(root.find("capacity"), "bytes"),
        size_bytes(root.find("allocation"), "bytes"),
        size_bytes(root.find("available"), "bytes"),
        tuple(filter(None, source)),
    )


def parse_info(text: str) -> Info:
    """Return what ``net-info`` or ``pool-info`` tells. Raises :class:`ParseError`."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    state = fields.get("Active", fields.get("State", ""))
    if not {"Name", "Persistent", "Autostart"} <= set(fields) or not state:
        raise ParseError(f"not the answer of net-info or pool-info: {text.strip()[:80]!r}")
    return Info(fields["Name"], state in ("yes", "running"), fields["Persistent"] == "yes", fields["Autostart"] == "yes")
