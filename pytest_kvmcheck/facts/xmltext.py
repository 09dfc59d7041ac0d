"""XML as libvirt writes it: elements, sizes, numbers and CPU lists, with one meaning each.

Source: https://libvirt.org/formatdomain.html. The text comes from a machine that we do not control: defusedxml refuses
entities and DTDs.

>>> root = parse_xml("<pool type='dir'><capacity unit='GiB'>2</capacity><target path='/x'/></pool>", "pool")
>>> size_bytes(root.find("capacity")), attribute(root, "target", "path"), attribute(root, "source", "dev")
(2147483648, '/x', '')
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpulist import parse_cpulist

#: Bytes by unit, in lower case, as libvirt understands them.
UNITS = {
    "b": 1, "bytes": 1,
    "kb": 10**3, "k": 2**10, "kib": 2**10,
    "mb": 10**6, "m": 2**20, "mib": 2**20,
    "gb": 10**9, "g": 2**30, "gib": 2**30,
    "tb": 10**12, "t": 2**40, "tib": 2**40,
    "pb": 10**15, "p": 2**50, "pib": 2**50,
    "eb": 10**18, "e": 2**60, "eib": 2**60,
}  # fmt: skip


def parse_xml(text: str, root: str) -> ET.Element:
    """Return the root element of *text*, which must be called *root*. Raises :class:`ParseError`."""
    if not text.strip():
        raise ParseError("no XML: the answer is empty")
    if text.lstrip().startswith("error:"):
        raise ParseError(text.strip().splitlines()[0][:200])
    try:
        element: ET.Element = defusedxml.ElementTree.fromstring(text, forbid_dtd=True)
    except DefusedXmlException as exc:
        raise ParseError(f"refused: XML with a DTD or entities ({type(exc).__name__})") from None
    except (ET.ParseError, ValueError, RecursionError) as exc:
        raise ParseError(f"not XML: {exc}") from None
    if element.tag != root:
        raise ParseError(f"not a <{root}> but a <{element.tag[:40]}>")
    return element


def size_bytes(element: ET.Element | None, default_unit: str = "KiB") -> int:
    """Return the size in *element* in bytes; 0 when there is none."""
    if element is None or not (element.text or "").strip():
        return 0
    unit = element.get("unit", default_unit)
    try:
        return int((element.text or "").strip()) * UNITS[unit.lower()]
    except (ValueError, KeyError):
        raise ParseError(f"not a size: <{element.tag} unit={unit!r}>{(element.text or '')[:40]}") from None


def integer(number: str | None, what: str, default: int | None = None) -> int:
    """Return *number* as one; without it, *default*. Raises :class:`ParseError` that names *what*."""
    if number is None and default is not None:
        return default
    try:
        return int((number or "").strip())
    except ValueError:
        raise ParseError(f"{what} is not a number: {(number or '')[:40]!r}") from None


def cpuset(element: ET.Element | None, name: str = "cpuset") -> frozenset[int] | None:
    """Return the CPU list (or node set) in the attribute *name*, None when there is none."""
    text = element.get(name) if element is not None else None
    return parse_cpulist(text) if text else None


def attribute(element: ET.Element | None, path: str, name: str) -> str:
    """Return the attribute *name* of the element at *path*, empty when either is missing."""
    found = element.find(path) if element is not None else None
    return found.get(name, "") if found is not None else ""


def scaled(number: str | None, unit: str | None, what: str, default: int | None = None) -> int:
    """Return *number* of *unit* (KiB when None) in bytes; without a number, *default*. Raises :class:`ParseError`."""
    factor = UNITS.get((unit or "KiB").lower())
    if factor is None:
        raise ParseError(f"not a unit: {(unit or '')[:20]!r}")
    return integer(number, what, default) * factor
