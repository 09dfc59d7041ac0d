"""The CPU models that a host can run: ``virsh domcapabilities``.

Source: https://libvirt.org/formatdomaincaps.html#cpu-configuration. The features of host-model are those that its named model
does not have by itself (require), or has and the host lacks (disable).

>>> caps = parse_domcapabilities('''<domainCapabilities><domain>kvm</domain><machine>pc-q35-7.2</machine><arch>x86_64</arch><cpu>
... <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
... <feature policy='require' name='x2apic'/><feature policy='disable' name='vme'/></mode>
... <mode name='custom' supported='yes'><model usable='yes'>qemu64</model><model usable='no'>phenom</model></mode>
... </cpu></domainCapabilities>''')
>>> caps.host_model, sorted(caps.usable), sorted(caps.features), caps.disabled
('EPYC', ['qemu64'], ['x2apic'], frozenset({'vme'}))
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.xmltext import parse_xml


@dataclass(frozen=True)
class DomainCapabilities:
    """What guests of one type can have. ``usable`` are the named models that the host can run as they are."""

    type: str
    arch: str
    machine: str
    host_model: str
    features: frozenset[str]
    disabled: frozenset[str]
    usable: frozenset[str]


def parse_domcapabilities(text: str) -> DomainCapabilities:
    """Return what ``virsh domcapabilities`` says. Raises :class:`ParseError`, also when it tells no CPU."""
    root = parse_xml(text, "domainCapabilities")
    modes = {mode.get("name", ""): mode for mode in root.findall("cpu/mode")}
    if not modes:
        raise ParseError("domcapabilities tells of no CPU")
    model, custom = modes.get("host-model"), modes.get("custom")
    policies: dict[str, set[str]] = {"require": set(), "disable": set()}
    for feature in model.findall("feature") if model is not None else ():
        policies.setdefault(feature.get("policy", "require"), set()).add(feature.get("name", ""))
    return DomainCapabilities(
        type=(root.findtext("domain") or "").strip(),
        arch=(root.findtext("arch") or "").strip(),
        machine=(root.findtext("machine") or "").strip(),
        host_model=(model.findtext("model") or "").strip() if model is not None else "",
        features=frozenset(policies["require"]),
        disabled=frozenset(policies["disable"]),
        usable=frozenset(
            (item.text or "").strip()
            for item in (custom.findall("model") if custom is not None else ())
            if item.get("usable") == "yes"
        ),
    )
