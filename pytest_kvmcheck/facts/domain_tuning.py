"""CPU and I/O tuning in the definition of a domain: ``<cputune>``, ``<iothreads>``, ``<blkiotune>``.

Source: https://libvirt.org/formatdomain.html#cpu-tuning

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> text = '''<domain><vcpu current='1'>4</vcpu><iothreads>2</iothreads><iothreadids><iothread id='5'/></iothreadids>
... <cputune><shares>1024</shares><period>100000</period><quota>-1</quota><vcpusched vcpus='0-1' scheduler='fifo' priority='1'/>
... </cputune><blkiotune><device><path>/dev/sdb</path><write_iops_sec>500</write_iops_sec></device></blkiotune></domain>'''
>>> tuning = read_tuning(parse_xml(text, "domain"))
>>> tuning.limits["quota"], tuning.shares, tuning.iothread_ids, tuning.vcpus_current
(-1, 1024, ('1', '5'), 1)
>>> tuning.device_limits
{'/dev/sdb': {'write_iops_sec': 500}}
>>> tuning.schedulers[0].scheduler, sorted(tuning.schedulers[0].threads)
('fifo', [0, 1])
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_kvmcheck.facts.xmltext import cpuset, integer


@dataclass(frozen=True)
class Scheduler:
    """A scheduling policy of vCPUs (``kind`` vcpu), iothreads or the emulator (``threads`` is then empty)."""

    kind: str
    threads: frozenset[int]
    scheduler: str
    priority: int


@dataclass(frozen=True)
class Tuning:
    """CPU and I/O tuning; None where the XML does not say. ``quota`` is microseconds per ``period``, -1 for no limit.

    ``limits`` are all numbers of ``<cputune>``: these, and those of the emulator, the iothreads and the whole guest.
    ``device_limits`` are those of ``<blkiotune>`` by path of the block device (``read_bytes_sec`` and the like; 0 for none).
    """

    vcpus_current: int | None
    shares: int | None
    period: int | None
    quota: int | None
    iothread_ids: tuple[str, ...]
    schedulers: tuple[Scheduler, ...]
    limits: Mapping[str, int] = field(default_factory=dict)
    device_limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def read_tuning(domain: ET.Element) -> Tuning:
    """Return the tuning of *domain*. Raises :class:`~pytest_kvmcheck.errors.ParseError`."""

    def number(path: str) -> int | None:
        text = domain.findtext(path)
        return integer(text, path) if text is not None else None

    vcpu = domain.find("vcpu")
    return Tuning(
        vcpus_current=integer(vcpu.get("current"), "vcpu/@current") if vcpu is not None and vcpu.get("current") else None,
        shares=number("cputune/shares"),
        period=number("cputune/period"),
        quota=number("cputune/quota"),
        iothread_ids=_iothread_ids(domain),
        schedulers=tuple(
            Scheduler(
                kind,
                cpuset(item, f"{kind}s") or frozenset(),
                item.get("scheduler", ""),
                integer(item.get("priority"), f"{kind}sched/@priority", 0),
            )
            for kind in ("vcpu", "iothread", "emulator")
            for item in domain.findall(f"cputune/{kind}sched")
        ),
        limits={
            item.tag: integer(item.text, f"cputune/{item.tag}")
            for item in domain.findall("cputune/*")
            if not item.attrib and not len(item)
        },
        device_limits={
            device.findtext("path", "").strip(): {
                item.tag: integer(item.text, f"blkiotune/device/{item.tag}") for item in device if item.tag.endswith("_sec")
            }
            for device in domain.findall("blkiotune/device")
        },
    )


def _iothread_ids(domain: ET.Element) -> tuple[str, ...]:
    """Return the ids of the iothreads: those given, filled up with the lowest free numbers to the count of ``<iothreads>``."""
    given = [item.get("id", "") for item in domain.findall("iothreadids/iothread")]
    count = min(integer(domain.findtext("iothreads"), "iothreads", 0), 4096)
    number = 1
    while len(given) < count:
        if str(number) not in given:
            given.append(str(number))
        number += 1
    return tuple(sorted(given, key=lambda text: (len(text), text)))
