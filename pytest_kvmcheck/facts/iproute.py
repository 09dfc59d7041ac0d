"""Routes and addresses with their devices: ``ip -j route``, ``ip -j addr``, ``ip -j rule``.

Source: ip-route(8), ip-address(8), ip-rule(8).

>>> routes = parse_routes('''[{"dst":"default","gateway":"192.0.2.1","dev":"br0","protocol":"static","metric":100,"flags":[]},
... {"dst":"198.51.100.0/24","dev":"bond0","scope":"link","prefsrc":"198.51.100.7","flags":[]},
... {"dst":"203.0.113.0/24","flags":[],"nexthops":[{"gateway":"192.0.2.2","dev":"br0","weight":1,"flags":[]}]}]''')
>>> egress(routes, "198.51.100.99"), egress(routes, "203.0.113.9"), egress(routes, "8.8.8.8"), egress(routes, "::1")
('bond0', 'br0', 'br0', '')
>>> [found] = parse_interfaces('''[{"ifindex":4,"ifname":"br0","flags":["UP"],"addr_info":[{"family":"inet","local":"192.0.2.7",
... "prefixlen":24,"scope":"global"}]}]''')
>>> found.device, found.network, found.scope
('br0', IPv4Network('192.0.2.0/24'), 'global')
>>> parse_rules('[{"priority":0,"src":"all","table":"local"},{"priority":100,"src":"192.0.2.7","table":"7"}]')[1].source
'192.0.2.7'
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_DEFAULTS = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


@dataclass(frozen=True)
class Route:
    """A route of the main table. ``devices`` are several with a multipath route, none with one that refuses packets.

    ``default`` tells routes to everywhere; ``network`` is None for those, as the text does not say of which family they are.
    """

    network: Network | None
    devices: tuple[str, ...]
    gateway: str
    metric: int

    @property
    def default(self) -> bool:
        """Whether it leads everywhere."""
        return self.network is None or self.network.prefixlen == 0


@dataclass(frozen=True)
class Interface:
    """An address of a device. ``network`` is what it is in; ``scope`` is global, link or host."""

    device: str
    address: str
    network: Network
    scope: str


@dataclass(frozen=True)
class Rule:
    """A rule of the routing policy. ``source`` is an address, a network or ``all``."""

    priority: int
    source: str
    table: str


def _json(text: str, what: str) -> list[dict[str, Any]]:
    try:
        items = json.loads(text)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise TypeError("not a list")
    except (ValueError, TypeError, RecursionError) as exc:
        raise ParseError(f"not the JSON of {what}: {text.strip()[:60]!r}") from exc
    return [item for item in items if item]


@empty_is_an_answer("the host has no route")
def parse_routes(text: str) -> tuple[Route, ...]:
    """Return the routes in their order; an empty text is refused, an empty list is an answer. Raises :class:`ParseError`."""
    found = []
    for item in _json(text, "ip route"):
        try:
            network = None if item["dst"] == "default" else ipaddress.ip_network(item["dst"], strict=False)
            hops = [item] if "dev" in item else item.get("nexthops", [])
            devices = tuple(dict.fromkeys(str(hop["dev"]) for hop in hops if "dev" in hop))
            gateway = next((str(hop["gateway"]) for hop in hops if "gateway" in hop), "")
            found.append(Route(network, devices, gateway, int(item.get("metric", 0))))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as exc:
            raise ParseError(f"not a route: {str(item)[:60]!r}") from exc
    return tuple(found)


def egress(routes: Iterable[Route], address: str) -> str:
    """Return the device by which packets to *address* leave, empty when no route leads there.

    The routes must be those of the address's own family: a default route does not say which it is of.
    """
    try:
        target = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    known = [(route.network or _DEFAULTS[target.version], route) for route in routes]
    if any(network.version != target.version for network, _ in known):
        return ""
    fitting = [(-network.prefixlen, route.metric, route.devices) for network, route in known if target in network]
    return next(iter(min(fitting)[2]), "") if fitting else ""


def parse_interfaces(text: str) -> tuple[Interface, ...]:
    """Return the addresses that ``ip -j addr`` lists, with their devices. Raises :class:`ParseError`."""
    found = []
    for item in _json(text, "ip addr"):
        try:
            for info in item["addr_info"]:
                if "local" in info:
                    prefix = int(info.get("prefixlen", 32 if info.get("family") == "inet" else 128))
                    network = ipaddress.ip_network(f"{info['local']}/{prefix}", strict=False)
                    found.append(Interface(str(item["ifname"]), str(info["local"]), network, str(info.get("scope", "global"))))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as exc:
            raise ParseError(f"not the addresses of a device: {str(item)[:60]!r}") from exc
    if not found:
        raise ParseError("ip addr lists no address, not even that of the loopback")
    return tuple(found)


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Return the rules of the routing policy. Raises :class:`ParseError`."""
    found = []
    for item in _json(text, "ip rule"):
        try:
            source = str(item["src"])
            length = int(item.get("srclen", 0))
            found.append(Rule(int(item["priority"]), f"{source}/{length}" if length else source, str(item.get("table", ""))))
        except (ValueError, TypeError, KeyError, OverflowError) as exc:
            raise ParseError(f"not a rule: {str(item)[:60]!r}") from exc
    if not found:
        raise ParseError("ip rule lists no rule, not even that of the local table")
    return tuple(found)
