"""Confinement in the definition of a domain: ``<seclabel>`` and ``<launchSecurity>``.

Source: https://libvirt.org/formatdomain.html#security-label

>>> from pytest_kvmcheck.facts.xmltext import parse_xml
>>> text = "<domain><seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-1</label></seclabel></domain>"
>>> read_security(parse_xml(text, "domain")).labels
(Label(type='dynamic', model='apparmor', relabel='yes', label='libvirt-1'),)
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A security label; attributes that the XML leaves out are empty."""

    type: str
    model: str
    relabel: str
    label: str


@dataclass(frozen=True)
class Security:
    """Labels of all models (selinux, apparmor, dac), and the type of memory encryption."""

    labels: tuple[Label, ...]
    launch_security: str


def read_security(domain: ET.Element) -> Security:
    """Return the confinement of *domain*."""
    launch = domain.find("launchSecurity")
    return Security(
        tuple(
            Label(item.get("type", ""), item.get("model", ""), item.get("relabel", ""), (item.findtext("label") or "").strip())
            for item in domain.findall("seclabel")
        ),
        launch.get("type", "") if launch is not None else "",
    )
