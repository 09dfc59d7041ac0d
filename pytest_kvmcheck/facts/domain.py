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
from dataclasses import dataclass, field
from functools import cached_property

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpulist import parse_cpulist

#: The namespace of tags in ``<metadata>``: <kvmcheck:tags xmlns:kvmcheck="...">critical database</kvmcheck:tags>
TAGS_NAMESPACE = "https://pytest-kvmcheck.readthedocs.io/tags/1"

#: libvirt's unlimited hard_limit, in KiB (VIR_DOMAIN_MEMORY_PARAM_UNLIMITED).
UNLIMITED_KIB = 9007199254740991

_UNITS = {
    "b": 1, "bytes": 1,
    "kb": 10**3, "k": 2**10, "kib": 2**10,
    "mb": 10**6, "m": 2**20, "mib": 2**20,
    "gb": 10**9, "g": 2**30, "gib": 2**30,
    "tb": 10**12, "t": 2**40, "tib": 2**40,
    "pb": 10**15, "p": 2**50, "pib": 2**50,
    "eb": 10**18, "e": 2**60, "eib": 2**60,
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A NUMA node of the guest. ``memnode`` is the host nodeset its memory is bound to, None when not set."""

    id: int
    cpus: frozenset[int]
    memory_bytes: int
    memnode: frozenset[int] | None = None
    memnode_mode: str = ""


@dataclass(frozen=True)
class Disk:
    """A disk of the guest. Attributes that the XML leaves out are empty strings."""

    target: str
    device: str
    type: str
    bus: str
    source: str
    protocol: str
    format: str
    cache: str
    io: str
    iothread: str
    discard: str
    queues: str
    readonly: bool
    shareable: bool
    controller: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    has_backing_store: bool = False

    @property
    def is_disk(self) -> bool:
        """False for CD-ROM and floppy drives."""
        return self.device in ("disk", "lun")

    @property
    def effective_cache(self) -> str:
        """The cache mode in force: QEMU's default is writeback."""
        return self.cache if self.cache not in ("", "default") else "writeback"


@dataclass(frozen=True)
class Nic:
    """A network card of the guest. ``name`` is its MAC address, the one identity every card has."""

    name: str
    type: str
    model: str
    driver: str
    queues: int
    source: str
    tap: str
    trust_guest_rx_filters: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graphics:
    """A graphics device. ``listens`` are pairs of listen type and address; ports are None when there is none."""

    type: str
    port: int | None
    tls_port: int | None
    autoport: bool
    listens: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Controller:
    """A controller of the guest."""

    type: str
    index: int
    model: str
    iothread: str = ""
    queues: str = ""


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
    arch: str
    machine: str
    tags: frozenset[str]
    vcpus: int
    vcpu_cpuset: frozenset[int] | None
    vcpu_placement: str
    vcpupins: Mapping[int, frozenset[int]]
    emulatorpin: frozenset[int] | None
    iothreadpins: Mapping[int, frozenset[int]]
    iothreads: int
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
    hostdevs: tuple[str, ...]
    uefi: bool
    cpu_mode: str
    cpu_model: str

    def pin_of(self, vcpu: int) -> frozenset[int] | None:
        """Return the host CPUs that *vcpu* may run on, None when it is not restricted."""
        return self.vcpupins.get(vcpu, self.vcpu_cpuset)

    @cached_property
    def has_pins(self) -> bool:
        """Whether any thread of the guest is restricted to some CPUs."""
        return bool(self.vcpupins or self.vcpu_cpuset or self.emulatorpin or self.iothreadpins)

    def controller(self, kind: str, index: int) -> Controller | None:
        """Return the controller *index* of type *kind*."""
        return next((item for item in self.controllers if (item.type, item.index) == (kind, index)), None)


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
        return int((element.text or "").strip()) * _UNITS[unit.lower()]
    except (ValueError, KeyError):
        raise ParseError(f"not a size: <{element.tag} unit={unit!r}>{(element.text or '')[:40]}") from None


def _int(text: str | None, what: str, default: int | None = None) -> int:
    if text is None and default is not None:
        return default
    try:
        return int((text or "").strip())
    except ValueError:
        raise ParseError(f"{what} is not a number: {(text or '')[:40]!r}") from None


def _cpuset(element: ET.Element | None, attribute: str = "cpuset") -> frozenset[int] | None:
    text = element.get(attribute) if element is not None else None
    return parse_cpulist(text) if text else None


def parse_domain(text: str) -> DomainXml:
    """Return the domain that ``virsh dumpxml`` describes in *text*.

    Raises :class:`ParseError` for anything that is not a whole domain definition, virsh's own error messages included.
    """
    root = parse_xml(text, "domain")
    name = root.findtext("name") or ""
    if not name:
        raise ParseError("a <domain> without a name")
    os_type = root.find("os/type")
    backing = root.find("memoryBacking")
    numatune = root.find("numatune/memory")
    memnodes = {
        _int(node.get("cellid"), "memnode/@cellid"): (
            _cpuset(node, "nodeset") or frozenset(),
            node.get("mode", "strict"),
        )
        for node in root.findall("numatune/memnode")
    }
    vcpu = root.find("vcpu")
    hard_limit = root.find("memtune/hard_limit")
    loader = root.find("os/loader")
    cpu = root.find("cpu")
    return DomainXml(
        name=name,
        uuid=(root.findtext("uuid") or "").strip(),
        type=root.get("type", ""),
        arch=os_type.get("arch", "") if os_type is not None else "",
        machine=os_type.get("machine", "") if os_type is not None else "",
        tags=frozenset((root.findtext(f"metadata/{{{TAGS_NAMESPACE}}}tags") or "").split()),
        vcpus=_int(vcpu.text if vcpu is not None else None, "vcpu", 1),
        vcpu_cpuset=_cpuset(vcpu),
        vcpu_placement=vcpu.get("placement", "") if vcpu is not None else "",
        vcpupins={
            _int(pin.get("vcpu"), "vcpupin/@vcpu"): parse_cpulist(pin.get("cpuset", "")) for pin in root.findall("cputune/vcpupin")
        },
        emulatorpin=_cpuset(root.find("cputune/emulatorpin")),
        iothreadpins={
            _int(pin.get("iothread"), "iothreadpin/@iothread"): parse_cpulist(pin.get("cpuset", ""))
            for pin in root.findall("cputune/iothreadpin")
        },
        iothreads=_int(root.findtext("iothreads"), "iothreads", 0),
        memory_bytes=size_bytes(root.find("memory")),
        current_memory_bytes=size_bytes(root.find("currentMemory")) or size_bytes(root.find("memory")),
        hugepages=_hugepages(backing),
        locked=backing is not None and backing.find("locked") is not None,
        nosharepages=backing is not None and backing.find("nosharepages") is not None,
        memory_source=_attribute(backing, "source", "type"),
        hard_limit_bytes=_hard_limit(hard_limit),
        video_ram_bytes=sum(
            _int(model.get(kind), f"video/model/@{kind}", 0) * 1024
            for model in root.findall("devices/video/model")
            for kind in ("vram", "ram")
        ),
        cells=tuple(
            Cell(
                id=_int(cell.get("id"), "cell/@id", index),
                cpus=_cpuset(cell, "cpus") or frozenset(),
                memory_bytes=_cell_memory(cell),
                memnode=memnodes.get(_int(cell.get("id"), "cell/@id", index), (None, ""))[0],
                memnode_mode=memnodes.get(_int(cell.get("id"), "cell/@id", index), (None, ""))[1],
            )
            for index, cell in enumerate(root.findall("cpu/numa/cell"))
        ),
        numatune_mode=numatune.get("mode", "strict") if numatune is not None else "",
        numatune_nodeset=_cpuset(numatune, "nodeset"),
        numatune_placement=numatune.get("placement", "") if numatune is not None else "",
        memnode_nodesets=frozenset(node for nodes, _ in memnodes.values() for node in nodes),
        disks=tuple(_disk(disk) for disk in root.findall("devices/disk")),
        nics=tuple(_nic(nic, index) for index, nic in enumerate(root.findall("devices/interface"))),
        graphics=tuple(_graphics(item) for item in root.findall("devices/graphics")),
        controllers=tuple(
            Controller(
                item.get("type", ""),
                _int(item.get("index"), "controller/@index", 0),
                item.get("model", ""),
                _attribute(item, "driver", "iothread"),
                _attribute(item, "driver", "queues"),
            )
            for item in root.findall("devices/controller")
        ),
        hostdevs=tuple(item.get("type", "") for item in root.findall("devices/hostdev")),
        uefi=(loader is not None and loader.get("type") == "pflash") or _attribute(root, "os", "firmware") == "efi",
        cpu_mode=cpu.get("mode", "") if cpu is not None else "",
        cpu_model=(root.findtext("cpu/model") or "").strip(),
    )


def _attribute(element: ET.Element | None, path: str, name: str) -> str:
    found = element.find(path) if element is not None else None
    return found.get(name, "") if found is not None else ""


def _hugepages(backing: ET.Element | None) -> tuple[HugePage, ...] | None:
    pages = backing.find("hugepages") if backing is not None else None
    if pages is None:
        return None
    found = []
    for page in pages.findall("page"):
        unit = page.get("unit", "KiB")
        if unit.lower() not in _UNITS:
            raise ParseError(f"not a unit: {unit[:20]!r}")
        found.append(HugePage(_int(page.get("size"), "page/@size") * _UNITS[unit.lower()], _cpuset(page, "nodeset")))
    return tuple(found)


def _hard_limit(element: ET.Element | None) -> int | None:
    size = size_bytes(element)
    return size if element is not None and size < (UNLIMITED_KIB - 3) * 1024 else None


def _cell_memory(cell: ET.Element) -> int:
    unit = cell.get("unit", "KiB").lower()
    if unit not in _UNITS:
        raise ParseError(f"not a unit: {unit[:20]!r}")
    return _int(cell.get("memory"), "cell/@memory", 0) * _UNITS[unit]


def _disk(disk: ET.Element) -> Disk:
    driver = disk.find("driver")
    attributes = dict(driver.attrib) if driver is not None else {}
    kind = disk.get("type", "")
    source = disk.find("source")
    place = ""
    if source is not None:
        place = next((source.get(key, "") for key in ("file", "dev", "volume", "dir", "name") if source.get(key)), "")
    return Disk(
        target=_attribute(disk, "target", "dev"),
        device=disk.get("device", "disk"),
        type=kind,
        bus=_attribute(disk, "target", "bus"),
        source=place,
        protocol=source.get("protocol", "") if source is not None else "",
        format=attributes.get("type", ""),
        cache=attributes.get("cache", ""),
        io=attributes.get("io", ""),
        iothread=attributes.get("iothread", ""),
        discard=attributes.get("discard", ""),
        queues=attributes.get("queues", ""),
        readonly=disk.find("readonly") is not None,
        shareable=disk.find("shareable") is not None,
        controller=_int(_attribute(disk, "address", "controller") or None, "address/@controller", 0),
        attributes=attributes,
        has_backing_store=disk.find("backingStore/source") is not None,
    )


def _nic(nic: ET.Element, index: int) -> Nic:
    driver = nic.find("driver")
    source = nic.find("source")
    place = ""
    if source is not None:
        place = next((source.get(key, "") for key in ("network", "bridge", "dev") if source.get(key)), "")
    return Nic(
        name=_attribute(nic, "mac", "address") or f"nic{index}",
        type=nic.get("type", ""),
        model=_attribute(nic, "model", "type"),
        driver=driver.get("name", "") if driver is not None else "",
        queues=_int(driver.get("queues") if driver is not None else None, "driver/@queues", 1),
        source=place,
        tap=_attribute(nic, "target", "dev"),
        trust_guest_rx_filters=nic.get("trustGuestRxFilters") == "yes",
        attributes=dict(driver.attrib) if driver is not None else {},
    )


def _graphics(item: ET.Element) -> Graphics:
    def port(name: str) -> int | None:
        number = _int(item.get(name), f"graphics/@{name}", -1)
        return number if number > 0 else None

    listens = [(listen.get("type", ""), listen.get("address", "")) for listen in item.findall("listen")]
    if not listens and item.get("listen"):
        listens = [("address", item.get("listen", ""))]
    return Graphics(item.get("type", ""), port("port"), port("tlsPort"), item.get("autoport") == "yes", tuple(listens))
