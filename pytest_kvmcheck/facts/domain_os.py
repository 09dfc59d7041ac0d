"""Firmware, boot and operating system in the definition of a domain: ``<os>`` and the metadata of libosinfo.

Source: https://libvirt.org/formatdomain.html#operating-system-booting, https://libosinfo.org/

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> text = '''<domain><metadata><libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
... <libosinfo:os id='http://microsoft.com/win/10'/></libosinfo:libosinfo></metadata><os><type arch='x86_64'
... machine='pc-q35-7.2'>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
... <nvram>/var/lib/libvirt/qemu/nvram/a_VARS.fd</nvram></os></domain>'''
>>> found = read_os(parse_xml(text, "domain"))
>>> found.arch, found.machine, found.uefi, found.nvram, found.id, found.windows
('x86_64', 'pc-q35-7.2', True, '/var/lib/libvirt/qemu/nvram/a_VARS.fd', 'http://microsoft.com/win/10', True)
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from pytest_kvmcheck.facts.xmltext import attribute

_LIBOSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"


@dataclass(frozen=True)
class DomainOs:
    """What the guest boots. ``id`` is libosinfo's name of the operating system, empty when nobody wrote it down."""

    arch: str
    machine: str
    uefi: bool
    loader: str
    nvram: str
    kernel: str
    initrd: str
    id: str

    @property
    def windows(self) -> bool:
        """Whether the guest is known to run Windows."""
        return self.id.startswith("http://microsoft.com/win/")


def read_os(domain: ET.Element) -> DomainOs:
    """Return what *domain* boots."""

    def text(path: str) -> str:
        return (domain.findtext(path) or "").strip()

    return DomainOs(
        arch=attribute(domain, "os/type", "arch"),
        machine=attribute(domain, "os/type", "machine"),
        uefi=attribute(domain, "os/loader", "type") == "pflash" or attribute(domain, "os", "firmware") == "efi",
        loader=text("os/loader"),
        nvram=text("os/nvram"),
        kernel=text("os/kernel"),
        initrd=text("os/initrd"),
        id=attribute(domain, f"metadata/{{{_LIBOSINFO}}}libosinfo/{{{_LIBOSINFO}}}os", "id"),
    )
