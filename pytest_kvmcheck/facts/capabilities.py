"""What libvirt offers: ``virsh capabilities``.

Source: https://libvirt.org/formatcaps.html

>>> caps = parse_capabilities('''<capabilities><host><uuid>6d1a6e8a-0000-4000-8000-000000000001</uuid>
... <secmodel><model>apparmor</model><doi>0</doi></secmodel><secmodel><model>dac</model><doi>0</doi></secmodel></host>
... <guest><os_type>hvm</os_type><arch name='x86_64'><machine canonical='pc-i440fx-7.2'>pc</machine>
... <machine>pc-q35-7.2</machine><domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>''')
>>> sorted(caps.types["x86_64"]), sorted(caps.machines["x86_64"])
(['kvm', 'qemu'], ['pc', 'pc-i440fx-7.2', 'pc-q35-7.2'])
>>> caps.security_models
('apparmor', 'dac')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.facts.xmltext import parse_xml


@dataclass(frozen=True)
class Capabilities:
    """Host UUID, by guest architecture the domain types and machine types that can be had, and how guests are confined."""

    host_uuid: str
    types: Mapping[str, frozenset[str]]
    machines: Mapping[str, frozenset[str]]
    security_models: tuple[str, ...] = ()


def parse_capabilities(text: str) -> Capabilities:
    """Return what ``virsh capabilities`` says. Raises :class:`~pytest_kvmcheck.errors.ParseError`."""
    root = parse_xml(text, "capabilities")
    types: dict[str, frozenset[str]] = {}
    machines: dict[str, frozenset[str]] = {}
    for arch in root.findall("guest/arch"):
        name = arch.get("name", "")
        types[name] = types.get(name, frozenset()) | {item.get("type", "") for item in arch.findall("domain")}
        found = {item.text or "" for item in arch.iter("machine")}
        found |= {item.get("canonical", "") for item in arch.iter("machine")}
        machines[name] = machines.get(name, frozenset()) | (found - {""})
    models = tuple((item.text or "").strip() for item in root.findall("host/secmodel/model"))
    return Capabilities((root.findtext("host/uuid") or "").strip().lower(), types, machines, models)
