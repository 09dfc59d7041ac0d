"""Clock and timers in the definition of a domain: ``<clock>``.

Source: https://libvirt.org/formatdomain.html#time-keeping

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> text = '''<domain><clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='hpet' present='no'/>
... <timer name='tsc' mode='native' frequency='2000000000'/></clock></domain>'''
>>> clock = read_clock(parse_xml(text, "domain"))
>>> clock.offset, clock.timers["hpet"].present, clock.timers["rtc"].tickpolicy
('utc', False, 'catchup')
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timer:
    """A timer. ``present`` is None when the XML does not say; attributes that it leaves out are empty."""

    present: bool | None
    tickpolicy: str
    track: str
    mode: str
    frequency: str


@dataclass(frozen=True)
class Clock:
    """The clock. ``offset`` is empty when there is no ``<clock>``; QEMU then starts it in UTC."""

    offset: str
    basis: str
    adjustment: str
    timezone: str
    timers: Mapping[str, Timer]


def read_clock(domain: ET.Element) -> Clock:
    """Return the clock of *domain*."""
    clock = domain.find("clock")
    attributes = clock.attrib if clock is not None else {}
    return Clock(
        offset=attributes.get("offset", ""),
        basis=attributes.get("basis", ""),
        adjustment=attributes.get("adjustment", ""),
        timezone=attributes.get("timezone", ""),
        timers={
            item.get("name", ""): Timer(
                {"yes": True, "no": False}.get(item.get("present", "")),
                item.get("tickpolicy", ""),
                item.get("track", ""),
                item.get("mode", ""),
                item.get("frequency", ""),
            )
            for item in domain.findall("clock/timer")
        },
    )
