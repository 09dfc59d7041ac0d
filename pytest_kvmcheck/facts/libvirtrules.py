r"""Packet filter rules of libvirt's networks: ``nft list table``, ``iptables-save``.

Source: https://libvirt.org/firewall.html. Empty chains and the jumps to them stay after a network is gone; they do nothing.

>>> parse_iptables(":LIBVIRT_FWI - [0:0]\n-A LIBVIRT_FWI -d 192.168.122.0/24 -o virbr0 -j ACCEPT\nrc=0\n")
('-A LIBVIRT_FWI -d 192.168.122.0/24 -o virbr0 -j ACCEPT',)
>>> text = 'table ip libvirt_network {\n\tchain guest_output {\n\t\tiif "virbr0" counter packets 0 bytes 0 reject\n\t}\n}\n'
>>> parse_nft_table(text)
('iif "virbr0" counter packets 0 bytes 0 reject',)
>>> parse_nft_tables("table ip filter\ntable ip libvirt_network\nrc=0\n")
('ip filter', 'ip libvirt_network')
"""

from __future__ import annotations

import re

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.exitcode import ended_well
from pytest_kvmcheck.facts.honest import empty_is_an_answer


@empty_is_an_answer("libvirt has no rule")
def parse_iptables(text: str) -> tuple[str, ...]:
    """Return the rules within chains of libvirt. Raises :class:`ParseError`."""
    rules = []
    for line in ended_well(text, "iptables-save"):
        if line.startswith("-A LIBVIRT_"):
            rules.append(line)
        elif not re.match(r":LIBVIRT_\w+ ", line):
            raise ParseError(f"not a rule of libvirt: {line[:60]!r}")
    return tuple(rules)


@empty_is_an_answer("there is no table")
def parse_nft_tables(text: str) -> tuple[str, ...]:
    """Return families and names of all tables. Raises :class:`ParseError`."""
    found = []
    for line in ended_well(text, "nft"):
        match = re.fullmatch(r"table (\w+ [\w.-]+)", line)
        if not match:
            raise ParseError(f"not a table of nft: {line[:60]!r}")
        found.append(match[1])
    return tuple(found)


@empty_is_an_answer("the chains are empty")
def parse_nft_table(text: str) -> tuple[str, ...]:
    """Return the rules that name an interface in the table of libvirt. Raises :class:`ParseError`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or not re.fullmatch(r"table \w+ libvirt_network \{.*", lines[0]) or lines[-1] != "}":
        raise ParseError(f"not the table of libvirt: {text.strip()[:60]!r}")
    return tuple(line for line in lines if re.search(r"\b[io]if(?:name)?\b", line))
