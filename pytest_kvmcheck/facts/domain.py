"""The definition of a domain: ``virsh dumpxml``.

Source: https://libvirt.org/formatdomain.html. Sizes are bytes whatever unit the XML uses. The text comes from a machine
that we do not control: defusedxml refuses entities and DTDs.

>>> xml = '''<domain type='kvm'><name>web</name><uuid>6d1a6e8a-0000-4000-8000-000000000001</uuid>
... <memory unit='MiB'>64</memory><vcpu placement='static' cpuset='0-1'>2</vcpu>
... <cputune><vcpupin vcpu='0' cpuset='0'/></cputune>
... <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os></domain>'''
>>> web = parse_domain(xml)
>>> web.name, web.memory_bytes, web.vcpus, sorted(web.pin_of(1))
('web', 67108864, 2, [0, 1])
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpulist import parse_cpulist
from pytest_kvmcheck.facts.domain_clock import Clock, read_clock
from pytest_kvmcheck.facts.domain_cpu import DomainCpu, read_cpu
from pytest_kvmcheck.facts.domain_devices import Devices, read_devices
from pytest_kvmcheck.facts.domain_disk import Disk, read_disk
from pytest_kvmcheck.facts.domain_graphics import Graphics, read_graphics
from pytest_kvmcheck.facts.domain_nic import Nic, read_nic
from pytest_kvmcheck.facts.domain_os import DomainOs, read_os
from pytest_kvmcheck.facts.domain_security import Security, read_security
from pytest_kvmcheck.facts.domain_tuning import Tuning, read_tuning
from pytest_kvmcheck.facts.xmltext import attribute, cpuset, integer, parse_xml, scaled, size_bytes

#: The namespace of tags in ``<metadata>``: <kvmcheck:tags xmlns:kvmcheck="...">critical database</kvmcheck:tags>
TAGS_NAMESPACE = "https://pytest-kvmcheck.readthedocs.io/tags/1"

#: The size of an ordinary page, of kernels that run guests on x86, and of most others.
ORDINARY_PAGE = 4096

#: libvirt's unlimited hard_limit, in KiB (VIR_DOMAIN_MEMORY_PARAM_UNLIMITED).
UNLIMITED_KIB = 9007199254740991


@dataclass(frozen=True)
class Cell:
    """A NUMA node of the guest. ``memnode`` is the host nodeset its memory is bound to, None when not set."""

    id: int
    cpus: frozenset[int]
    memory_bytes: int
    memnode: frozenset[int] | None = None
    memnode_mode: str = ""


@dataclass(frozen=True)
class Controller:
    """A controller of the guest."""

    type: str
    index: int
    model: str
    iothread: str = ""
    queues: str = ""
    iothreads: tuple[str, ...] = ()


@dataclass(frozen=True)
class HugePage:
    """A ``<page>`` of memoryBacking/hugepages; ``nodeset`` holds guest cells, None means all."""

    size_bytes: int
    nodeset: frozenset[int] | None


@dataclass(frozen=True)
class DomainXml:
    """One definition of a domain, live or saved. ``None`` and empty sets mean that the XML does not say."""

    name: str
    uuid: str
    type: str
    tags: frozenset[str]
    vcpus: int
    vcpu_cpuset: frozenset[int] | None
    vcpu_placement: str
    vcpupins: Mapping[int, frozenset[int]]
    emulatorpin: frozenset[int] | None
    iothreadpins: Mapping[int, frozenset[int]]
    iothreads: int
    iothread_ids: frozenset[str]
    memory_bytes: int
    current_memory_bytes: int
    hugepages: tuple[HugePage, ...] | None
    locked: bool
    nosharepages: bool
    memory_source: str
    hard_limit_bytes: int | None
    video_ram_bytes: int
    cells: tuple[Cell, ...]
    numatune_mode: str
    numatune_nodeset: frozenset[int] | None
    numatune_placement: str
    memnode_nodesets: frozenset[int]
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    graphics: tuple[Graphics, ...]
    controllers: tuple[Controller, ...]
    os: DomainOs
    cpu: DomainCpu
    clock: Clock
    devices: Devices
    tuning: Tuning
    security: Security

    def pin_of(self, vcpu: int) -> frozenset[int] | None:
        """Return the host CPUs that *vcpu* may run on, None when it is not restricted."""
        return self.vcpupins.get(vcpu, self.vcpu_cpuset)

    @cached_property
    def has_pins(self) -> bool:
        """Whether any thread of the guest is restricted to some CPUs."""
        return bool(self.vcpupins or self.vcpu_cpuset or self.emulatorpin or self.iothreadpins)

    def huge_page_of(self, cell: int | None, default_bytes: int) -> int | None:
        """Return the size of the huge pages behind guest cell *cell* (None: a guest without cells), None when it has none.

        A ``<page>`` that names the cell goes before one that names none; cells that neither covers have ordinary pages, as
        have those whose ``<page>`` is of their size: libvirt takes that for no huge page.
        """
        if self.hugepages is None:
            return None
        if not self.hugepages:
            return default_bytes
        own = next((page for page in self.hugepages if page.nodeset and (cell or 0) in page.nodeset), None)
        found = own or next((page for page in self.hugepages if page.nodeset is None), None)
        if found is None or found.size_bytes == ORDINARY_PAGE:
            return None
        return found.size_bytes or default_bytes

    @cached_property
    def ordinary_memory_bytes(self) -> int:
        """Memory of the guest that is not on huge pages."""
        if self.hugepages is None:
            return self.memory_bytes
        if not self.cells:
            return 0 if self.huge_page_of(None, 1) else self.memory_bytes
        return sum(cell.memory_bytes for cell in self.cells if not self.huge_page_of(cell.id, 1))

    def controller(self, kind: str, index: int) -> Controller | None:
        """Return the controller *index* of type *kind*."""
        return next((item for item in self.controllers if (item.type, item.index) == (kind, index)), None)


def parse_domain(text: str) -> DomainXml:
    """Return the domain that ``virsh dumpxml`` describes in *text*.

    Raises :class:`ParseError` for anything that is not a whole domain definition, virsh's own error messages included.
    """
    root = parse_xml(text, "domain")
    name = root.findtext("name") or ""
    if not name:
        raise ParseError("a <domain> without a name")
    backing = root.find("memoryBacking")
    numatune = root.find("numatune/memory")
    memnodes = {
        integer(node.get("cellid"), "memnode/@cellid"): (
            cpuset(node, "nodeset") or frozenset(),
            node.get("mode", "strict"),
        )
        for node in root.findall("numatune/memnode")
    }
    vcpu = root.find("vcpu")
    hard_limit = root.find("memtune/hard_limit")
    return DomainXml(
        name=name,
        uuid=(root.findtext("uuid") or "").strip(),
        type=root.get("type", ""),
        tags=frozenset((root.findtext(f"metadata/{{{TAGS_NAMESPACE}}}tags") or "").split()),
        vcpus=integer(vcpu.text if vcpu is not None else None, "vcpu", 1),
        vcpu_cpuset=cpuset(vcpu),
        vcpu_placement=vcpu.get("placement", "") if vcpu is not None else "",
        vcpupins={
            integer(pin.get("vcpu"), "vcpupin/@vcpu"): parse_cpulist(pin.get("cpuset", ""))
            for pin in root.findall("cputune/vcpupin")
        },
        emulatorpin=cpuset(root.find("cputune/emulatorpin")),
        iothreadpins={
            integer(pin.get("iothread"), "iothreadpin/@iothread"): parse_cpulist(pin.get("cpuset", ""))
            for pin in root.findall("cputune/iothreadpin")
        },
        iothreads=integer(root.findtext("iothreads"), "iothreads", 0),
        iothread_ids=_iothread_ids(root),
        memory_bytes=size_bytes(root.find("memory")),
        current_memory_bytes=size_bytes(root.find("currentMemory")) or size_bytes(root.find("memory")),
        hugepages=_hugepages(backing),
        locked=backing is not None and backing.find("locked") is not None,
        nosharepages=backing is not None and backing.find("nosharepages") is not None,
        memory_source=attribute(backing, "source", "type"),
        hard_limit_bytes=_hard_limit(hard_limit),
        video_ram_bytes=sum(
            integer(model.get(kind), f"video/model/@{kind}", 0) * 1024
            for model in root.findall("devices/video/model")
            for kind in ("vram", "ram")
        ),
        cells=tuple(
            Cell(
                id=integer(cell.get("id"), "cell/@id", index),
                cpus=cpuset(cell, "cpus") or frozenset(),
                memory_bytes=scaled(cell.get("memory"), cell.get("unit"), "cell/@memory", 0),
                memnode=memnodes.get(integer(cell.get("id"), "cell/@id", index), (None, ""))[0],
                memnode_mode=memnodes.get(integer(cell.get("id"), "cell/@id", index), (None, ""))[1],
            )
            for index, cell in enumerate(root.findall("cpu/numa/cell"))
        ),
        numatune_mode=numatune.get("mode", "strict") if numatune is not None else "",
        numatune_nodeset=cpuset(numatune, "nodeset"),
        numatune_placement=numatune.get("placement", "") if numatune is not None else "",
        memnode_nodesets=frozenset(node for nodes, _ in memnodes.values() for node in nodes),
        disks=tuple(read_disk(disk) for disk in root.findall("devices/disk")),
        nics=tuple(read_nic(nic, index) for index, nic in enumerate(root.findall("devices/interface"))),
        graphics=tuple(read_graphics(item) for item in root.findall("devices/graphics")),
        controllers=tuple(
            Controller(
                item.get("type", ""),
                integer(item.get("index"), "controller/@index", 0),
                item.get("model", ""),
                attribute(item, "driver", "iothread"),
                attribute(item, "driver", "queues"),
                tuple(thread.get("id", "") for thread in item.findall("driver/iothreads/iothread")),
            )
            for item in root.findall("devices/controller")
        ),
        os=read_os(root),
        cpu=read_cpu(root),
        clock=read_clock(root),
        devices=read_devices(root),
        tuning=read_tuning(root),
        security=read_security(root),
    )


def _hugepages(backing: ET.Element | None) -> tuple[HugePage, ...] | None:
    pages = backing.find("hugepages") if backing is not None else None
    if pages is None:
        return None
    return tuple(
        HugePage(scaled(page.get("size"), page.get("unit"), "page/@size"), cpuset(page, "nodeset"))
        for page in pages.findall("page")
    )


def _iothread_ids(root: ET.Element) -> frozenset[str]:
    """Return the ids of the iothreads: those that are listed, filled up from 1 to their number."""
    ids = [item.get("id", "") for item in root.findall("iothreadids/iothread")]
    count = min(integer(root.findtext("iothreads"), "iothreads", 0), 4096)
    free = (str(number) for number in range(1, 2 * 4096) if str(number) not in ids)
    return frozenset([*ids, *(next(free) for _ in range(count - len(ids)))])


def _hard_limit(element: ET.Element | None) -> int | None:
    size = size_bytes(element)
    return size if element is not None and size < (UNLIMITED_KIB - 3) * 1024 else None
