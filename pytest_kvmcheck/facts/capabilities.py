"""What libvirt offers: ``virsh capabilities``.

Source: https://libvirt.org/formatcaps.html

>>> caps = parse_capabilities('''<capabilities><host><uuid>6d1a6e8a-0000-4000-8000-000000000001</uuid>
... <secmodel><model>apparmor</model><doi>0</doi></secmodel><secmodel><model>dac</model><doi>0</doi></secmodel></host>
... <guest><os_type>hvm</os_type><arch name='x86_64'><machine canonical='pc-i440fx-7.2'>pc</machine>
... <machine maxCpus='288'>pc-q35-7.2</machine><machine deprecated='yes'>pc-i440fx-1.7</machine><domain type='qemu'/>
... <domain type='kvm'/></arch></guest></capabilities>''')
>>> sorted(caps.types["x86_64"]), sorted(caps.machines["x86_64"])
(['kvm', 'qemu'], ['pc', 'pc-i440fx-1.7', 'pc-i440fx-7.2', 'pc-q35-7.2'])
>>> caps.security_models
('apparmor', 'dac')
>>> caps.aliases["x86_64"], caps.deprecated["x86_64"]
({'pc': 'pc-i440fx-7.2'}, frozenset({'pc-i440fx-1.7'}))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_kvmcheck.facts.xmltext import parse_xml


@dataclass(frozen=True)
class Capabilities:
    """Host UUID, and by guest architecture the domain types and machine types that can be had, and how guests are confined.

    ``aliases`` are the names (pc, q35) that stand for another machine, ``deprecated`` those that QEMU will drop.
    """

    host_uuid: str
    types: Mapping[str, frozenset[str]]
    machines: Mapping[str, frozenset[str]]
    security_models: tuple[str, ...] = ()
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    deprecated: Mapping[str, frozenset[str]] = field(default_factory=dict)


def parse_capabilities(text: str) -> Capabilities:
    """Return what ``virsh capabilities`` says. Raises :class:`~pytest_kvmcheck.errors.ParseError`."""
    root = parse_xml(text, "capabilities")
    types: dict[str, frozenset[str]] = {}
    machines: dict[str, frozenset[str]] = {}
    aliases: dict[str, dict[str, str]] = {}
    deprecated: dict[str, frozenset[str]] = {}
    for arch in root.findall("guest/arch"):
        name = arch.get("name", "")
        types[name] = types.get(name, frozenset()) | {item.get("type", "") for item in arch.findall("domain")}
        found = {item.text or "" for item in arch.iter("machine")}
        found |= {item.get("canonical", "") for item in arch.iter("machine")}
        machines[name] = machines.get(name, frozenset()) | (found - {""})
        for item in arch.iter("machine"):
            if canonical := item.get("canonical", ""):
                aliases.setdefault(name, {})[item.text or ""] = canonical
            if item.get("deprecated") == "yes":
                deprecated[name] = deprecated.get(name, frozenset()) | {canonical or item.text or ""}
    models = tuple((item.text or "").strip() for item in root.findall("host/secmodel/model"))
    return Capabilities((root.findtext("host/uuid") or "").strip().lower(), types, machines, models, aliases, deprecated)
