"""What iproute2 prints for people, as the JSON that our own probes ask it for.

Source: ip/ipaddress.c, ip/iplink_*.c, ip/iproute.c and ip/iprule.c of iproute2. What parsers and checks read is converted, with
its types; what a text does not tell is left out. Where a check would take that for a value, there is no answer at all (None).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

Item = dict[str, Any]

_HEAD = re.compile(
    r"(?P<index>\d{1,10}): (?P<name>\S+): <(?P<flags>[^<>\s]*)> mtu (?P<mtu>\d{1,10}) (?:xdp\S* )?(?:qdisc \S+ )?"
    r"(?:master (?P<master>\S+) )?(?:state (?P<state>\S+) )?.*",
    re.ASCII,
)
_TYPE = re.compile(r"    link/(?P<type>\S+) (?:(?P<address>[0-9a-fA-F:.]+) )?(?P<rest>.*)", re.ASCII)
_ADDRESS = re.compile(
    r"    (?P<family>inet6?) (?P<local>[^\s/]+)(?: peer (?P<peer>[^\s/]+))?/(?P<length>\d{1,3}) .*?scope (?P<scope>\S+)(?: .*)?",
    re.ASCII,
)
_VF = re.compile(r"    vf (?P<number>\d{1,5}) (?:MAC|    link/\S+) (?P<address>[0-9a-fA-F:]+)\b(?P<rest>.*)", re.ASCII)
#: What stands after kind and master's part of a device, and proves that they were told.
_DETAILS_END = re.compile(r" (?:addrgenmode|numtxqueues) \S+ ")

#: What is taken from the line of each kind: word in the text, name in the JSON, form.
_DATA: dict[str, tuple[tuple[str, str, str], ...]] = {
    "bridge": tuple(
        (name, name, "number")
        for name in (
            *("forward_delay", "hello_time", "max_age", "ageing_time", "stp_state", "priority", "vlan_filtering"),
            *("mcast_snooping", "nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables"),
        )
    ),
    "bond": (
        *(("mode", "mode", "word"), ("active_slave", "active_slave", "word")),
        *((name, name, "number") for name in ("miimon", "updelay", "downdelay", "arp_interval", "min_links")),
    ),
    "vlan": (("protocol", "protocol", "word"), ("id", "id", "number")),
    "vxlan": (("id", "id", "number"), ("dstport", "port", "number")),
    "tun": (("type", "type", "word"), ("numqueues", "numqueues", "number"), ("numdisabled", "numdisabled", "number")),
    "macvtap": (("mode", "mode", "word"),),
    "macvlan": (("mode", "mode", "word"),),
}
_SLAVE_DATA = {
    "bridge": (("state", "state", "word"),),
    "bond": (
        *(("state", "state", "word"), ("mii_status", "mii_status", "word")),
        *(("link_failure_count", "link_failure_count", "number"), ("ad_aggregator_id", "ad_aggregator_id", "number")),
    ),
}
_AD_INFO = (
    *(("ad_aggregator", "aggregator", "number"), ("ad_num_ports", "num_ports", "number")),
    ("ad_partner_mac", "partner_mac", "word"),
)
#: Without these a check would judge by what it takes for granted. Old releases of iproute2 name a kind and nothing of it.
_NEEDED = {"bridge": {"stp_state", "vlan_filtering"}, "bond": {"mode", "miimon", "arp_interval"}, "vlan": {"id"}, "tun": {"type"}}


def ip_link(text: str) -> str | None:
    """Return ``ip -j -d link`` from ``ip -s -d link`` or ``ip -d address``.

    >>> text = '''1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT group default qlen 1000
    ...     link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0 numtxqueues 1 numrxqueues 1 gso_max_size 65536
    ... 2: bond0.7@bond0: <BROADCAST,UP,LOWER_UP> mtu 9000 qdisc noqueue master br7 state UP group default qlen 1000
    ...     link/ether 52:54:00:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 1 minmtu 0 maxmtu 65535
    ...     vlan protocol 802.1Q id 7 <REORDER_HDR>
    ...     bridge_slave state forwarding priority 32 cost 2 hairpin off numtxqueues 1 numrxqueues 1 gso_max_size 65536
    ... 3: bond0: <BROADCAST,UP,LOWER_UP> mtu 9000 qdisc noqueue state UP group default qlen 1000
    ...     link/ether 52:54:00:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 0
    ...     bond mode active-backup miimon 100 updelay 0 downdelay 0 use_carrier 1 arp_interval 0 numtxqueues 16 numrxqueues 16
    ... '''
    >>> loopback, vlan, bond = json.loads(ip_link(text))
    >>> vlan["ifname"], vlan["link"], vlan["master"], vlan["linkinfo"]["info_data"], vlan["linkinfo"]["info_slave_data"]
    ('bond0.7', 'bond0', 'br7', {'protocol': '802.1Q', 'id': 7}, {'state': 'forwarding'})
    >>> bond["linkinfo"]["info_data"]["mode"], bond["linkinfo"]["info_data"]["miimon"], loopback["flags"]
    ('active-backup', 100, ['LOOPBACK', 'UP', 'LOWER_UP'])
    """
    found = []
    for head, lines in _devices(text):
        details = _details(lines)
        if not head or details is None:
            return None
        found.append(head | details)
    if not _whole(found):
        return None
    names = {item["ifname"] for item in found}
    for item in found:
        lower = item.pop("lower")
        if item.pop("elsewhere") and re.fullmatch(r"if\d{1,10}", lower):
            item["link_index"] = int(lower[2:])
        elif lower == "NONE":
            item["link"] = None
        elif lower in names:
            item["link"] = lower
        elif lower:
            return None  # a device with an @ in its name, or below one of another network namespace
    return json.dumps(found)


def ip_addr(text: str) -> str | None:
    """Return ``ip -j addr`` from ``ip -d address``.

    >>> ip_addr("1: lo: <UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000\\n    link/loopback 00:00 brd 00:00\\n"
    ...         "    inet 127.0.0.1/8 scope host lo\\n       valid_lft forever preferred_lft forever\\n"
    ... ).partition("addr_info")[2]
    '": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]}]'
    """
    found = []
    for head, lines in _devices(text):
        told = [line for line in lines if re.match(r"    inet6? ", line)]
        addresses = [_address(line) for line in told]
        if not head or not any(line.startswith("    link/") for line in lines) or None in addresses:
            return None
        found.append({key: head[key] for key in ("ifindex", "ifname", "flags")} | {"addr_info": addresses})
    return json.dumps(found) if _whole(found) else None


def ip_addr_lines(text: str) -> str | None:
    """Return ``ip -j addr`` from ``ip -o addr``, which names devices with addresses only.

    >>> ip_addr_lines("1: lo    inet 127.0.0.1/8 scope host lo\\\\       valid_lft forever preferred_lft forever\\n")
    '[{"ifindex": 1, "ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host"}]}]'
    """
    found: dict[int, Item] = {}
    for line in whole_lines(text):
        match = re.fullmatch(r"(\d{1,10}): (\S+)(    inet6? [^\\]+)(?:\\.*)?", line, re.ASCII)
        address = _address(match[3]) if match else None
        if not match or address is None:
            return None
        item = found.setdefault(int(match[1]), {"ifindex": int(match[1]), "ifname": match[2], "addr_info": []})
        item["addr_info"].append(address)
    return json.dumps(list(found.values())) if _whole(list(found.values())) else None


def whole_lines(text: str) -> list[str]:
    """Return the lines without carriage returns; none of a text that is binary, empty, or cut within its last line."""
    text = text.replace("\r\n", "\n")
    return text[:-1].split("\n") if text.endswith("\n") and "\0" not in text else []


def _whole(found: list[Item]) -> bool:
    """Whether the list begins with the loopback, as it does everywhere; sos keeps the end of what is too long."""
    numbers = [item["ifindex"] for item in found]
    return bool(found) and found[0]["ifindex"] == 1 and len(set(numbers)) == len(numbers)


def _devices(text: str) -> Iterator[tuple[Item | None, list[str]]]:
    """Yield what the first line of each device tells, and its other lines; None for a line that belongs to none."""
    head: Item | None = None
    rest: list[str] = []
    for line in whole_lines(text):
        if line.startswith((" ", "\t")) and head:
            rest.append(line)
            continue
        if head:
            yield head, rest
        match = _HEAD.fullmatch(line)
        if not match:
            yield None, []
            return
        name, _, lower = match["name"].partition("@")
        head, rest = {"ifindex": int(match["index"]), "ifname": name, "lower": lower}, []
        head |= {"flags": [flag for flag in match["flags"].split(",") if flag], "mtu": int(match["mtu"])}
        head |= {name: match[group] for name, group in (("master", "master"), ("operstate", "state")) if match[group]}
    if head:
        yield head, rest


def _details(lines: list[str]) -> Item | None:
    """Return type, address, kind and virtual functions of a device; None when the lines do not tell all of it."""
    match = _TYPE.fullmatch(lines[0]) if lines else None
    end = next((number for number, line in enumerate(lines) if _DETAILS_END.search(line + " ")), None)
    if not match or end is None or "promiscuity " not in match["rest"]:
        return None
    found: Item = {"link_type": match["type"], "elsewhere": "link-netns" in match["rest"]}
    if match["address"]:
        found["address"] = match["address"]
    info = _info(lines[1 : end + 1])
    if info is None:
        return None
    if info:
        found["linkinfo"] = info
    functions = []
    for line in lines[end + 1 :]:
        if line.startswith("    vf "):
            vf = _VF.fullmatch(line)
            if not vf:
                return None
            switches = {"spoofchk": r", spoof checking (on|off)\b", "trust": r", trust (on|off)\b"}
            told = {name: re.search(pattern, vf["rest"]) for name, pattern in switches.items()}
            function = {"vf": int(vf["number"]), "address": vf["address"]}
            functions.append(function | {name: switch[1] == "on" for name, switch in told.items() if switch})
    return found | ({"vfinfo_list": functions} if functions else {})


def _info(lines: list[str]) -> Item | None:
    """Return linkinfo from the lines of kind and master; other lines continue those."""
    parts: list[list[str]] = []
    for line in lines:
        if re.match(r"    \S", line):
            parts.append(line.split())
        elif parts:
            parts[-1] += line.split()
    kinds = [part for part in parts if not part[0].endswith("_slave")]
    slaves = [part for part in parts if part[0].endswith("_slave")]
    if len(kinds) > 1 or len(slaves) > 1 or parts != kinds + slaves:
        return None
    info: Item = {}
    for kind, *words in kinds:
        data = _pick(words, _DATA.get(kind, ()))
        if kind == "bond" and "ad_aggregator" in words:
            data["ad_info"] = _pick(words, _AD_INFO)
        if not _NEEDED.get(kind, set()) <= set(data):
            return None
        info |= {"info_kind": kind} | ({"info_data": data} if data else {})
    for name, *words in slaves:
        kind = name.removesuffix("_slave")
        data = _pick(words, _SLAVE_DATA.get(kind, ()))
        info |= {"info_slave_kind": kind} | ({"info_slave_data": data} if data else {})
    return info


def _pick(words: list[str], wanted: tuple[tuple[str, str, str], ...]) -> Item:
    """Return what follows the wanted words. A device may be called like one of them: its name is no number."""
    found: Item = {}
    for word, name, form in wanted:
        for key, value in pairwise(words):
            if key == word and (form == "word" or re.fullmatch(r"\d{1,10}", value, re.ASCII)):
                found[name] = value if form == "word" else int(value)
                break
    return found


def _address(line: str) -> Item | None:
    match = _ADDRESS.fullmatch(line)
    version = {"inet": 4, "inet6": 6}
    try:
        if match and ipaddress.ip_interface(f"{match['local']}/{match['length']}").version == version[match["family"]]:
            peer = {"address": match["peer"]} if match["peer"] else {}
            told = {"family": match["family"], "local": match["local"], "prefixlen": int(match["length"]), "scope": match["scope"]}
            return told | peer
    except ValueError:
        pass
    return None


_ROUTE_TYPES = ("unicast", "local", "broadcast", "multicast", "anycast", "throw", "unreachable", "prohibit", "blackhole", "nat")


def ip_route(text: str) -> str | None:
    """Return ``ip -j route`` from ``ip route show table all``, which lists IPv4 and then IPv6.

    >>> ip_route("default via 192.0.2.1 dev br0 proto static metric 100 \\nlocal 192.0.2.7 dev br0 table local scope host \\n"
    ...          "fe80::/64 dev br0 proto kernel metric 256 pref medium\\n")
    '[{"dst": "default", "gateway": "192.0.2.1", "dev": "br0", "metric": 100, "flags": []}]'
    """
    return _routes(text, 4, told=0)


def ip_route6(text: str) -> str | None:
    """Return ``ip -j -6 route`` from ``ip -6 route show table all``.

    >>> ip_route6("default metric 1024 pref medium\\n\\tnexthop via fe80::1 dev br0 weight 1 \\n")
    '[{"dst": "default", "metric": 1024, "flags": [], "nexthops": [{"gateway": "fe80::1", "dev": "br0"}]}]'
    """
    return _routes(text, 6, told=6)


def _routes(text: str, version: int, told: int) -> str | None:
    blocks: list[list[list[str]]] = []
    for line in whole_lines(text):
        if line.startswith((" ", "\t")) and blocks and line.split()[:1] == ["nexthop"]:
            blocks[-1].append(line.split())
        elif line[:1].strip():
            blocks.append([line.split()])
        else:
            return None
    found = []
    for words, *hops in blocks:
        kind = words.pop(0) if words[0] in _ROUTE_TYPES else ""
        family = _family(words, hops, told)
        if not family:
            return None
        if family != version or _after(words, "table") not in ("", "main"):
            continue
        metric = _after(words, "metric")
        if not re.fullmatch(r"\d{0,10}", metric, re.ASCII):
            return None
        item: Item = ({"type": kind} if kind else {}) | {"dst": words[0]} | _hop(words)
        item |= ({"metric": int(metric)} if metric else {}) | {"flags": []}
        found.append(item | ({"nexthops": [_hop(hop) for hop in hops]} if hops else {}))
    return json.dumps(found) if blocks else None


def _after(words: list[str], key: str) -> str:
    """Return the word after *key*, empty when there is none. A device may have any name: it is no key."""
    for number, word in enumerate(words[1:-1], 1):
        if word == key and words[number - 1] != "dev":
            return words[number + 1]
    return ""


def _hop(words: list[str]) -> Item:
    gateway, device = _after(words, "via"), _after(words, "dev")
    if gateway in ("inet", "inet6"):
        gateway = _after(words, gateway)
    return ({"gateway": gateway} if gateway else {}) | ({"dev": device} if device else {})


def _family(words: list[str], hops: list[list[str]], told: int) -> int:
    """Return the family of a route, 0 when that cannot be said or the line is none."""
    try:
        if words[:1] != ["default"]:
            version = ipaddress.ip_network(words[0] if words else "", strict=False).version
            return version if told in (0, version) else 0
        for line in (words, *hops):
            gateway = _after(line, "via")
            if gateway in ("inet", "inet6"):
                return 6 if gateway == "inet" else 4
            if gateway:
                return ipaddress.ip_address(gateway).version
    except ValueError:
        return 0
    return told or (6 if "pref" in words else 4 if "scope" in words else 0)


def ip_rule(text: str) -> str | None:
    """Return ``ip -j rule`` from ``ip -4 rule``.

    >>> ip_rule("0:\\tfrom all lookup local\\n100:\\tfrom 192.0.2.0/24 iif br0 lookup 7\\n")
    '[{"priority": 0, "src": "all", "table": "local"}, {"priority": 100, "src": "192.0.2.0", "srclen": 24, "table": "7"}]'
    """
    found = []
    for line in whole_lines(text):
        match = re.fullmatch(r"(\d{1,10}):\s+(not )?from ([\da-zA-Z.:]+)(?:/(\d{1,3}))?((?: .*)?)", line, re.ASCII)
        if not match:
            return None
        item: Item = {"priority": int(match[1])} | ({"not": None} if match[2] else {}) | {"src": match[3]}
        item |= {"srclen": int(match[4])} if match[4] else {}
        if table := re.search(r" lookup (\S+)", match[5]):
            item |= {"l3mdev": None} if table[1] == "[l3mdev-table]" else {"table": table[1]}
        found.append(item)
    return json.dumps(found) if found else None
