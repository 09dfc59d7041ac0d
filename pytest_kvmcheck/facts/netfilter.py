r"""Packet filters: ``nft -j list ruleset``, ``iptables-save``, ``firewall-cmd --list-all-zones``.

Source: libnftables-json(5), iptables-save(8), firewall-cmd(1). Of chains that hang on a hook only what becomes of packets that no
rule knows is read: the policy, or a last rule that drops or rejects whatever comes. ``xt`` are rules of iptables-nft.

>>> nft = '''{"nftables":[{"metainfo":{"version":"1.0.6","json_schema_version":1}},{"table":{"family":"inet","name":"filter"}},
... {"chain":{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,
... "policy":"accept"}},{"rule":{"family":"inet","table":"filter","chain":"input","handle":4,"expr":[{"counter":{"packets":1,
... "bytes":60}},{"reject":{"type":"icmpx","expr":"admin-prohibited"}}]}}]}'''
>>> [chain] = parse_nft(nft)
>>> chain.family, chain.hook, chain.policy, chain.refuses
('inet', 'input', 'accept', True)
>>> saved = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [12:880]\n:f2b-sshd - [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n"
>>> [(chain.hook, chain.refuses) for chain in parse_iptables(saved, "ip")]
[('input', True), ('forward', False)]
>>> zones = parse_zones("public (default, active)\n  target: default\n  interfaces: eno1\n  sources: \n  services: ssh\n"
...                     "  ports: 49152-49215/tcp\n  rich rules: \n\tport port=\"16514\" protocol=\"tcp\" accept\n")
>>> zones[0].name, zones[0].active, zones[0].services, zones[0].ports
('public', True, ('ssh',), ((49152, 49215), (16514, 16514)))
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer

#: Statements that neither choose packets nor decide about them.
_NEUTRAL = frozenset({"counter", "log", "limit_log"})


@dataclass(frozen=True)
class Chain:
    """A chain on a hook (``input``, ``forward``, ``output``). ``refuses`` is whether packets unknown to all rules are kept out."""

    family: str
    table: str
    name: str
    hook: str
    policy: str
    refuses: bool

    def covers(self, version: int) -> bool:
        """Whether packets of IP *version* pass through it."""
        return self.family in ("inet", {4: "ip", 6: "ip6"}[version])


@dataclass(frozen=True)
class Zone:
    """A zone of firewalld; ``ports`` are ranges of TCP ports that it admits, by itself or by rich rules."""

    name: str
    active: bool
    target: str
    interfaces: tuple[str, ...]
    sources: tuple[str, ...]
    services: tuple[str, ...]
    ports: tuple[tuple[int, int], ...]
    rich_rules: tuple[str, ...]


@empty_is_an_answer("no chain hangs on a hook")
def parse_nft(text: str) -> tuple[Chain, ...]:
    """Return the filter chains that hang on a hook. Raises :class:`ParseError`."""
    try:
        items: list[Mapping[str, Any]] = json.loads(text)["nftables"]
        chains = [item["chain"] for item in items if "chain" in item]
        last = {_place(item["rule"]): item["rule"]["expr"] for item in items if "rule" in item}
        return tuple(
            Chain(
                str(chain["family"]),
                str(chain["table"]),
                str(chain["name"]),
                str(chain["hook"]),
                str(chain.get("policy", "accept")),
                chain.get("policy") == "drop" or _refusal(last.get((chain["family"], chain["table"], chain["name"]), [])),
            )
            for chain in chains
            if "hook" in chain and chain.get("type") == "filter"
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ParseError(f"not the JSON of nft: {text.strip()[:60]!r}") from exc


def _place(rule: Mapping[str, Any]) -> tuple[str, str, str]:
    return rule["family"], rule["table"], rule["chain"]


def _refusal(expressions: list[Any]) -> bool:
    """Whether a rule drops or rejects whatever comes."""
    verdict = False
    for expression in expressions:
        if not isinstance(expression, dict):
            return False
        for key, value in expression.items():
            if key in ("drop", "reject") or (key == "xt" and isinstance(value, dict) and value.get("name") in ("DROP", "REJECT")):
                verdict = True
            elif key not in _NEUTRAL:
                return False
    return verdict


_CHAIN = re.compile(r":(\S+) (ACCEPT|DROP|QUEUE|RETURN|-) \[\d+:\d+\]")
_REFUSING = re.compile(r'-A (\S+)(?: -m comment --comment (?:"[^"]*"|\S+))? -j (?:DROP|REJECT)(?: --reject-with \S+)?')


@empty_is_an_answer("no table is loaded")
def parse_iptables(text: str, family: str = "ip") -> tuple[Chain, ...]:
    """Return the built-in chains of the table filter in the output of iptables-save. Raises :class:`ParseError`."""
    table, policies, last = "", dict[str, str](), dict[str, str]()
    for counted in text.splitlines():
        line = re.sub(r"^\[\d+:\d+\] ", "", counted.rstrip())
        if not line or line.startswith("#"):
            continue
        if line.startswith("*") and re.fullmatch(r"\*\w+", line):
            table = line[1:]
        elif line == "COMMIT" and table:
            table = ""
        elif table and (chain := _CHAIN.fullmatch(line)):
            if table == "filter" and chain[2] != "-":
                policies[chain[1]] = chain[2]
        elif table and re.match(r"-A \S", line):
            if table == "filter":
                last[line.split()[1]] = line
        else:
            raise ParseError(f"not a line of iptables-save: {line[:60]!r}")
    if table:
        raise ParseError(f"iptables-save ended within the table {table[:40]}")
    return tuple(
        Chain(
            family,
            "filter",
            name,
            name.lower(),
            policy.lower(),
            policy == "DROP" or bool(_REFUSING.fullmatch(last.get(name, ""))),
        )
        for name, policy in policies.items()
    )


def parse_zones(text: str) -> tuple[Zone, ...]:
    """Return the zones of firewalld. Raises :class:`ParseError`."""
    blocks: list[tuple[str, dict[str, str], list[str]]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        if re.fullmatch(r"[\w./-]+(?: \((?:default|active)(?:, ?(?:default|active))*\))?", line):
            blocks.append((line, {}, []))
        elif blocks and line.startswith("\t"):
            blocks[-1][2].append(line.strip())
        elif blocks and (field := re.fullmatch(r"  ([a-z -]+):(?: (.*))?", line)):
            blocks[-1][1][field[1]] = (field[2] or "").strip()
        else:
            raise ParseError(f"not a line of firewall-cmd: {line[:60]!r}")
    if not blocks or not all({"services", "ports"} <= set(fields) for _, fields, _ in blocks):
        raise ParseError(f"not the zones of firewalld: {text.strip()[:60]!r}")
    return tuple(_zone(head, fields, rich) for head, fields, rich in blocks)


def _zone(head: str, fields: Mapping[str, str], rich: list[str]) -> Zone:
    def words(name: str) -> tuple[str, ...]:
        return tuple(fields.get(name, "").split())

    ports = [_range(port) for port in words("ports") if port.endswith("/tcp")]
    services = list(words("services"))
    for rule in rich:
        if not rule.endswith("accept"):
            continue
        if match := re.search(r'\bport port="([\d-]+)" protocol="tcp"', rule):
            ports.append(_range(match[1]))
        if match := re.search(r'\bservice name="([^"]+)"', rule):
            services.append(match[1])
    return Zone(
        head.split()[0],
        "active" in head.partition("(")[2],
        fields.get("target", "default"),
        words("interfaces"),
        words("sources"),
        tuple(services),
        tuple(ports),
        tuple(rich),
    )


def _range(port: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?(?:/tcp)?", port, re.ASCII)
    if not match:
        raise ParseError(f"not a port: {port[:40]!r}")
    return int(match[1]), int(match[2] or match[1])
