"""Where the live definition of a domain differs from its saved one, beyond what libvirt itself changes at each start.

Source: https://libvirt.org/formatdomain.html. At a start libvirt gives names to taps and consoles, expands CPU models, picks nodes
for ``placement='auto'``, rounds memory up, and shows what a network was resolved to. None of that is a difference.

>>> from dataclasses import replace
>>> from pytest_kvmcheck.facts.domain import parse_domain
>>> saved = parse_domain("<domain type='kvm'><name>web</name><memory unit='MiB'>64</memory><vcpu>2</vcpu></domain>")
>>> differences(saved, replace(saved, vcpus=4, vcpupins={0: frozenset({3})}), ("vcpu", "cputune", "memory"))
['vcpu: 4 live, 2 saved', 'cputune: vcpupin 0 is 3 live, none saved']
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_kvmcheck.facts.cpulist import format_cpulist
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.domain_nic import Nic

#: What QEMU is given is a multiple of this; of what libvirt was asked for, a bit less may stand in the saved definition.
_ROUNDING = 2 * 2**20
_ROUNDING_PPC = 256 * 2**20


def _shown(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, frozenset):
        return format_cpulist(value) or "none"
    return str(value)


def _differ(what: str, live: object, saved: object) -> Iterator[str]:
    if live != saved:
        yield f"{what} {_shown(live)} live, {_shown(saved)} saved"


def _each(what: str, live: Mapping[Any, Any], saved: Mapping[Any, Any]) -> Iterator[str]:
    for key in sorted({*live, *saved}, key=lambda item: (len(str(item)), str(item))):
        yield from _differ(f"{what}{key} is", live.get(key), saved.get(key))


def _auto(domain: DomainXml) -> bool:
    """Whether libvirt picks nodes and CPUs at each start."""
    return "auto" in (domain.vcpu_placement, domain.numatune_placement)


def _vcpu(saved: DomainXml, live: DomainXml) -> Iterator[str]:
    yield from _differ("vcpu:", live.vcpus, saved.vcpus)
    if live.vcpus == saved.vcpus:
        now, then = live.tuning.vcpus_current or live.vcpus, saved.tuning.vcpus_current or saved.vcpus
        yield from _differ("vcpu: current is", now, then)
    if not _auto(saved):
        yield from _differ("vcpu: cpuset is", live.vcpu_cpuset, saved.vcpu_cpuset)


def _cputune(saved: DomainXml, live: DomainXml) -> Iterator[str]:
    if not _auto(saved):
        pinned = {*live.vcpupins, *saved.vcpupins}
        now, then = ({index: item.pin_of(index) for index in pinned} for item in (live, saved))
        yield from _each("cputune: vcpupin ", now, then)
        if live.emulatorpin or saved.emulatorpin:
            now_on, then_on = (item.emulatorpin or item.vcpu_cpuset for item in (live, saved))
            yield from _differ("cputune: emulatorpin is", now_on, then_on)
        yield from _each("cputune: iothreadpin ", live.iothreadpins, saved.iothreadpins)
    yield from _each("cputune: ", live.tuning.limits, saved.tuning.limits)

    def policies(domain: DomainXml) -> dict[tuple[str, int | None], str]:
        return {
            (f"{item.kind}sched", thread): f"{item.scheduler} {item.priority}"
            for item in domain.tuning.schedulers
            for thread in item.threads or (None,)
        }

    running, stored = policies(live), policies(saved)
    for kind, thread in sorted({*running, *stored}, key=str):
        where = f"cputune: {kind}" + ("" if thread is None else f" {thread}")
        yield from _differ(f"{where} is", running.get((kind, thread)), stored.get((kind, thread)))


def _numatune(saved: DomainXml, live: DomainXml) -> Iterator[str]:
    if _auto(saved):
        return
    yield from _differ("numatune: mode is", live.numatune_mode, saved.numatune_mode)
    yield from _differ("numatune: nodeset is", live.numatune_nodeset, saved.numatune_nodeset)
    then = {cell.id: cell for cell in saved.cells}
    for cell in live.cells:
        if cell.id in then:
            yield from _differ(f"numatune: memnode of cell {cell.id} is", cell.memnode, then[cell.id].memnode)


def _memory(saved: DomainXml, live: DomainXml) -> Iterator[str]:
    step = _ROUNDING_PPC if saved.os.arch.startswith("ppc") else _ROUNDING
    if abs(live.memory_bytes - saved.memory_bytes) >= step * max(1, len(saved.cells)):
        yield f"memory: {live.memory_bytes // 2**10} KiB live, {saved.memory_bytes // 2**10} KiB saved"


def _backing(saved: DomainXml, live: DomainXml) -> Iterator[str]:
    now, then = live.hugepages, saved.hugepages
    # <hugepages/> alone means the default size, which libvirt may write out.
    if (now is None) != (then is None) or (now and then and now != then):
        texts = [
            "none" if pages is None else ", ".join(f"{page.size_bytes // 2**10} KiB" for page in pages) or "default"
            for pages in (now, then)
        ]
        yield f"memoryBacking: hugepages are {texts[0]} live, {texts[1]} saved"
    yield from _differ("memoryBacking: locked is", live.locked, saved.locked)
    yield from _differ("memoryBacking: nosharepages is", live.nosharepages, saved.nosharepages)
    yield from _differ("memoryBacking: source is", live.memory_source, saved.memory_source)


def _cpu(saved: DomainXml, live: DomainXml) -> Iterator[str]:
    then, now = saved.cpu, live.cpu
    yield from _differ("cpu: topology is", now.topology, then.topology)
    cells = {cell.id: cell.cpus for cell in saved.cells}
    yield from _each("cpu: numa cell ", {cell.id: cell.cpus for cell in live.cells}, cells)
    # The live model of host-model, and of no model at all, is what libvirt made of it; a minimum is what the host has more.
    if then.mode in ("", "host-model"):
        return
    yield from _differ("cpu: mode is", now.mode, then.mode)
    if then.match != "minimum":
        yield from _differ("cpu: model is", now.model, then.model)
    # Features that only the live one names are those that QEMU added to the model.
    for name, policy in sorted(then.features.items()):
        found = now.features.get(name)
        wanted = {"require": ("require", "force"), "force": ("require", "force"), "disable": ("disable", "forbid")}
        if policy in wanted and found not in wanted[policy]:
            yield from _differ(f"cpu: feature {name} is", found, policy)


def _disk(saved: DomainXml, live: DomainXml) -> Iterator[str]:
    then = {disk.target: disk for disk in saved.disks}
    now = {disk.target: disk for disk in live.disks}
    for target in sorted({*then, *now}):
        if target not in then or target not in now:
            yield f"disk {target}: only {'live' if target in now else 'saved'}"
            continue
        yield from _differ(f"disk {target}: bus is", now[target].bus, then[target].bus)
        # A medium in a drive is changed at will, and an empty drive has no format.
        if then[target].is_disk:
            yield from _differ(f"disk {target}: source is", now[target].source, then[target].source)
            yield from _each(f"disk {target}: driver ", now[target].attributes, then[target].attributes)
            yield from _each(f"disk {target}: iotune ", _limits(now[target]), _limits(then[target]))


def _limits(disk: Disk) -> dict[str, object]:
    """The limits that limit something: 0 is none, and a burst lasts a second unless it is said."""
    return {name: number for name, number in disk.iotune.items() if number and not (name.endswith("_max_length") and number == 1)}


def _interface(saved: DomainXml, live: DomainXml) -> Iterator[str]:
    then = {nic.name: nic for nic in saved.nics}
    now = {nic.name: nic for nic in live.nics}
    for name in sorted({*then, *now}):
        if name not in then or name not in now:
            yield f"interface {name}: only {'live' if name in now else 'saved'}"
            continue
        a, b = now[name], then[name]
        # What a network was resolved to is shown as the type of the live card.
        if b.type != "network" or a.type == "network":
            yield from _differ(f"interface {name}: type is", a.type, b.type)
            yield from _differ(f"interface {name}: source is", a.source, b.source)
        yield from _differ(f"interface {name}: model is", a.model, b.model)
        if a.driver and b.driver:
            yield from _differ(f"interface {name}: driver is", a.driver, b.driver)
        yield from _each(f"interface {name}: driver ", _settings(a), _settings(b))


def _settings(nic: Nic) -> dict[str, object]:
    return {key: value for key, value in nic.attributes.items() if key != "name"}


_COMPARE = {
    "vcpu": _vcpu,
    "cputune": _cputune,
    "numatune": _numatune,
    "memory": _memory,
    "memoryBacking": _backing,
    "cpu": _cpu,
    "disk": _disk,
    "interface": _interface,
}

#: The elements that can be compared.
ELEMENTS = tuple(_COMPARE)


def differences(saved: DomainXml, live: DomainXml, elements: Iterable[str]) -> list[str]:
    """Return what differs in *elements*, each begun with its element."""
    return [text for name in elements if name in _COMPARE for text in _COMPARE[name](saved, live)]
