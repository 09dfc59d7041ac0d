"""The virtual CPU in the definition of a domain: ``<cpu>`` and ``<features>``.

Source: https://libvirt.org/formatdomain.html#cpu-model-and-topology and #hypervisor-features

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> text = '''<domain><features><acpi/><hyperv mode='custom'><relaxed state='on'/><spinlocks state='on' retries='8191'/></hyperv>
... <pmu state='off'/></features><cpu mode='custom' match='exact'><model fallback='forbid'>EPYC</model>
... <topology sockets='1' dies='1' cores='2' threads='2'/><feature policy='disable' name='svm'/></cpu></domain>'''
>>> cpu = read_cpu(parse_xml(text, "domain"))
>>> cpu.mode, cpu.model, cpu.topology.threads, cpu.features, cpu.pmu
('custom', 'EPYC', 2, {'svm': 'disable'}, 'off')
>>> cpu.hyperv_mode, cpu.hyperv["spinlocks"]["retries"], cpu.hypervisor_features
('custom', '8191', frozenset({'acpi'}))
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.facts.xmltext import attribute, integer


@dataclass(frozen=True)
class Topology:
    """The topology that the guest sees."""

    sockets: int
    dies: int
    cores: int
    threads: int


@dataclass(frozen=True)
class DomainCpu:
    """The virtual CPU. ``mode`` is empty when there is no ``<cpu>`` at all, ``custom`` when there is one without a mode.

    ``features`` maps names to policies (force, require, optional, disable, forbid); ``hyperv`` maps the enlightenments to
    their attributes; ``hypervisor_features`` are the children of ``<features>`` without attributes (acpi, apic, pae ...).
    """

    mode: str
    match: str
    model: str
    features: Mapping[str, str]
    topology: Topology | None
    migratable: str
    pmu: str
    hyperv_mode: str
    hyperv: Mapping[str, Mapping[str, str]]
    hypervisor_features: frozenset[str]


def read_cpu(domain: ET.Element) -> DomainCpu:
    """Return the virtual CPU of *domain*. Raises :class:`~pytest_kvmcheck.errors.ParseError`."""
    cpu = domain.find("cpu")
    topology = cpu.find("topology") if cpu is not None else None
    hyperv = domain.find("features/hyperv")
    told = cpu is not None and (cpu.get("match") or cpu.find("model") is not None)
    return DomainCpu(
        mode=(cpu.get("mode") or ("custom" if told else "")) if cpu is not None else "",
        match=cpu.get("match", "") if cpu is not None else "",
        model=(domain.findtext("cpu/model") or "").strip(),
        features={item.get("name", ""): item.get("policy", "require") for item in domain.findall("cpu/feature")},
        topology=_topology(topology) if topology is not None else None,
        migratable=cpu.get("migratable", "") if cpu is not None else "",
        pmu=attribute(domain, "features/pmu", "state"),
        hyperv_mode=(hyperv.get("mode") or "custom") if hyperv is not None else "",
        hyperv={item.tag: dict(item.attrib) for item in domain.findall("features/hyperv/*")},
        hypervisor_features=frozenset(item.tag for item in domain.findall("features/*") if not item.attrib and not len(item)),
    )


def _topology(element: ET.Element) -> Topology:
    def number(name: str) -> int:
        return integer(element.get(name), f"topology/@{name}", 1)

    return Topology(number("sockets"), number("dies"), number("cores"), number("threads"))
