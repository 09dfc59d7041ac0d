"""Network devices: ``ip -j -d link``.

Source: ip-link(8), and ``ip/iplink_*.c`` of iproute2 for the names below linkinfo. ``LOWER_UP`` among the flags is the carrier; a
device that is administratively down has none whatever its cable says. A VLAN names the device below it as ``link``.

>>> links = parse_links('''[{"ifindex":2,"ifname":"eno1","flags":["BROADCAST","UP","LOWER_UP"],"mtu":9000,"master":"bond0",
... "operstate":"UP","link_type":"ether","address":"52:54:00:00:00:01","linkinfo":{"info_slave_kind":"bond",
... "info_slave_data":{"state":"ACTIVE","mii_status":"UP","ad_aggregator_id":1}}},{"ifindex":3,"ifname":"bond0",
... "flags":["BROADCAST","UP","LOWER_UP"],"mtu":9000,"operstate":"UP","link_type":"ether","address":"52:54:00:00:00:01",
... "linkinfo":{"info_kind":"bond","info_data":{"mode":"802.3ad","miimon":100}}},{"ifindex":4,"ifname":"bond0.7","link":"bond0",
... "flags":["BROADCAST"],"mtu":1500,"operstate":"DOWN","link_type":"ether","linkinfo":{"info_kind":"vlan",
... "info_data":{"id":7}}}]''')
>>> links["eno1"].master, links["eno1"].slave_data["mii_status"], links["bond0"].kind, links["bond0"].data["mode"]
('bond0', 'UP', 'bond', '802.3ad')
>>> links["bond0.7"].lower, links["bond0.7"].data["id"], links["bond0.7"].up, links["bond0"].carrier
('bond0', 7, False, True)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_kvmcheck.errors import ParseError


@dataclass(frozen=True)
class VirtualFunction:
    """A virtual function as its physical one knows it. None is what the driver does not tell."""

    number: int
    mac: str
    spoofchk: bool | None
    trust: bool | None


@dataclass(frozen=True)
class Link:
    """A network device.

    ``kind`` and ``data`` are linkinfo.info_kind and info_data (bridge, bond, vlan, tun ...; empty for hardware), ``slave_kind``
    and ``slave_data`` what its master keeps of it. ``vfs`` is None when it tells of no virtual functions.
    """

    index: int
    name: str
    type: str
    mtu: int
    state: str
    flags: frozenset[str]
    address: str
    master: str
    lower: str
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    slave_kind: str = ""
    slave_data: Mapping[str, Any] = field(default_factory=dict)
    vfs: tuple[VirtualFunction, ...] | None = None

    @property
    def up(self) -> bool:
        """Whether it is administratively up."""
        return "UP" in self.flags

    @property
    def carrier(self) -> bool:
        """Whether it is up and has a carrier."""
        return self.up and "LOWER_UP" in self.flags

    def number(self, key: str) -> int | None:
        """Return the whole number *key* of ``data``, None when it is not told. Raises :class:`ParseError`."""
        value = self.data.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise ParseError(f"{key} of {self.name} is not a number: {str(value)[:40]!r}")


def parse_links(text: str) -> dict[str, Link]:
    """Return the devices by name, in their order. Raises :class:`ParseError`."""
    try:
        # Where a filter left a link out, old releases of iproute2 print {} for it.
        found = {item["ifname"]: _link(item) for item in json.loads(text) if item}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ParseError(f"not the JSON of ip link: {text.strip()[:60]!r}") from exc
    if not found:
        raise ParseError("ip link lists no device, not even the loopback")
    return found


def _link(item: Mapping[str, Any]) -> Link:
    info = item.get("linkinfo") or {}
    return Link(
        index=_whole(item["ifindex"]),
        name=_word(item["ifname"]),
        type=_word(item.get("link_type", "")),
        mtu=_whole(item["mtu"]),
        state=_word(item.get("operstate", "")),
        flags=frozenset(map(_word, item["flags"])),
        address=_word(item.get("address", "")).lower(),
        master=_word(item.get("master", "")),
        lower=_word(item.get("link") or ""),
        kind=_word(info.get("info_kind", "")),
        data=dict(info.get("info_data") or {}),
        slave_kind=_word(info.get("info_slave_kind", "")),
        slave_data=dict(info.get("info_slave_data") or {}),
        vfs=tuple(map(_function, item["vfinfo_list"])) if "vfinfo_list" in item else None,
    )


def _function(item: Mapping[str, Any]) -> VirtualFunction:
    # The name of the address changed with iproute2 4.20.
    mac = _word(item.get("address", item.get("mac", ""))).lower()
    return VirtualFunction(_whole(item["vf"]), mac, _switch(item.get("spoofchk")), _switch(item.get("trust")))


def _switch(value: object) -> bool | None:
    return value if value is None or isinstance(value, bool) else {"on": True, "off": False}.get(str(value))


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not a number")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
