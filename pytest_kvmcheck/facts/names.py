"""Names and addresses: ``getent``, ``/etc/hosts``, ``/etc/nsswitch.conf``, ``ip -j addr``.

Source: getent(1), hosts(5), nsswitch.conf(5), ip-address(8).
The probe ``name_lookup`` ends each answer of getent with ``rc=N``; 2 means that
there is no such name.

>>> parse_getent("192.0.2.7       STREAM kvm01.example\\n192.0.2.7       DGRAM\\nrc=0\\n")
Lookup(rc=0, addresses=('192.0.2.7',), names=('kvm01.example',))
>>> parse_getent("192.0.2.7       kvm01.example kvm01\\nrc=0\\n").names
('kvm01.example', 'kvm01')
>>> parse_hosts("127.0.0.1 localhost # me\\n192.0.2.7 kvm01.example kvm01\\n")["kvm01"]
('192.0.2.7',)
>>> sorted(parse_addresses('[{"ifname": "br0", "addr_info": [{"local": "192.0.2.7"}, {"local": "2001:db8::7"}]}]'))
['192.0.2.7', '2001:db8::7']
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts import exitcode
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line


@dataclass(frozen=True)
class Lookup:
    """An answer of getent: exit code, and the distinct addresses and names in order."""

    rc: int
    addresses: tuple[str, ...]
    names: tuple[str, ...]


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        raise ParseError(f"not an address: {text[:60]!r}") from None


def parse_getent(text: str) -> Lookup:
    """Return the answer of ``getent ahosts`` or ``getent hosts``. Raises :class:`ParseError` when it is cut or garbled."""
    lines, code = exitcode.answer(text, "getent")
    addresses, names = [], []
    for line in lines:
        address, *words = line.split()
        addresses.append(_address(address))
        names += [word for word in words if word not in ("STREAM", "DGRAM", "RAW")]
    return Lookup(code, tuple(dict.fromkeys(addresses)), tuple(dict.fromkeys(names)))


@dataclass(frozen=True)
class Entry:
    """A line of /etc/hosts: the address, and its names as they are written, the full one first."""

    address: str
    names: tuple[str, ...]


@empty_is_an_answer("the file names nobody")
@takes_any_line("the resolver passes over lines that are no entries")
def parse_entries(text: str) -> tuple[Entry, ...]:
    """Return the entries; other lines are left out, as the resolver does. Raises :class:`ParseError` for binary texts.

    >>> parse_entries("127.0.0.1 localhost # me\\n192.0.2.7 kvm01.example kvm01\\n")[1]
    Entry(address='192.0.2.7', names=('kvm01.example', 'kvm01'))
    """
    if "\0" in text:
        raise ParseError("not a text file")
    found = []
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        try:
            found.append(Entry(_address(address), tuple(names)))
        except ParseError:
            continue
    return tuple(found)


@empty_is_an_answer("the file names nobody")
@takes_any_line("the resolver passes over lines that are no entries")
def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses by name, in small letters. Raises :class:`ParseError` for binary texts."""
    found: dict[str, list[str]] = {}
    for entry in parse_entries(text):
        for name in entry.names:
            found.setdefault(name.lower(), []).append(entry.address)
    return {name: tuple(dict.fromkeys(addresses)) for name, addresses in found.items()}


@empty_is_an_answer("the defaults of glibc hold")
@takes_any_line("the resolver passes over lines that it does not understand")
def parse_sources(text: str) -> tuple[str, ...]:
    """Return where host names are looked for, in order, without what is done about the answers: ``files`` and ``dns`` by default.

    Raises :class:`ParseError` for binary texts.

    >>> parse_sources("passwd: files\\nhosts: files mdns4_minimal [NOTFOUND=return] dns # as Debian has it\\n")
    ('files', 'mdns4_minimal', 'dns')
    """
    if "\0" in text:
        raise ParseError("not a text file")
    for line in text.splitlines():
        if match := re.match(r"\s*hosts:(.*)", line.partition("#")[0]):
            return tuple(re.sub(r"\[[^]]*\]", " ", match[1]).split())
    return ("files", "dns")


def parse_addresses(text: str) -> frozenset[str]:
    """Return the addresses that ``ip -j addr`` lists. Raises :class:`ParseError`."""
    try:
        links = json.loads(text)
        # Where a filter left a link out, old releases of iproute2 print {} for it.
        found = frozenset(_address(info["local"]) for link in links if link for info in link["addr_info"] if "local" in info)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise ParseError(f"not the JSON of ip addr: {text.strip()[:60]!r}") from exc
    if not found:
        raise ParseError("ip addr lists no address, not even that of the loopback")
    return found


def loopback(address: str) -> bool:
    """Whether *address* is one of the host itself only.

    >>> loopback("127.0.1.1"), loopback("::1"), loopback("192.0.2.1")
    (True, True, False)
    """
    return ipaddress.ip_address(address).is_loopback
