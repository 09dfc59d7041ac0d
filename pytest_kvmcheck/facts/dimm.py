r"""Memory modules: ``dmidecode -t 17``.

Source: dmidecode(8), DSP0134 (SMBIOS) 7.18. Slot names are the vendor's own. Flash (the firmware's own chip) and non-volatile
modules are devices too, but no RAM to compare.

>>> text = "# dmidecode 3.4\nGetting SMBIOS data from sysfs.\nSMBIOS 3.2.0 present.\n\n" \
...        "Handle 0x1100, DMI type 17, 84 bytes\nMemory Device\n\tSize: 32 GB\n\tLocator: CPU1_DIMM_A1\n" \
...        "\tBank Locator: NODE 1\n\tType: DDR4\n\tSpeed: 3200 MT/s\n\tConfigured Memory Speed: 2933 MT/s\n\n" \
...        "Handle 0x1101, DMI type 17, 84 bytes\nMemory Device\n\tSize: No Module Installed\n\tLocator: CPU1_DIMM_A2\n\n"
>>> parse_modules(text)
(Module(locator='CPU1_DIMM_A1', bank='NODE 1', size_bytes=34359738368, speed_mts=3200, configured_mts=2933, ram=True),)
>>> parse_modules(text)[0].socket
1
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError

_UNITS = {"kB": 2**10, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
_SOCKET = re.compile(r"(?:CPU|PROC(?:ESSOR)?|SOCKET|NODE|\bP)[ _-]?(\d{1,2})(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Module:
    """A populated slot. Speeds are MT/s, None when the firmware does not tell them."""

    locator: str
    bank: str
    size_bytes: int
    speed_mts: int | None
    configured_mts: int | None
    ram: bool

    @property
    def socket(self) -> int | None:
        """The number of the processor that the slot's name, or else its bank's, tells; None when neither does."""
        match = _SOCKET.search(self.locator) or _SOCKET.search(self.bank)
        return int(match[1]) if match else None


def _speed(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,6}) (?:MT/s|MHz)", text)
    return int(match[1]) if match else None


def parse_modules(text: str) -> tuple[Module, ...]:
    """Return the populated slots, in their order. Raises :class:`ParseError` when no slot is told of at all, or one is cut."""
    found = []
    slots = 0
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        lines = [line for line in block.split("\n") if line]
        if "Memory Device" not in lines[:2]:
            continue
        slots += 1
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        size = fields.get("Size", "")
        match = re.fullmatch(r"(\d{1,9}) (kB|KB|MB|GB|TB)", size)
        if not match:
            if size not in ("No Module Installed", "Unknown"):
                raise ParseError(f"the size of a memory module is not one: {size[:40]!r}")
            if size == "Unknown":
                raise ParseError("the firmware does not know the size of a memory module")
            continue
        if "Locator" not in fields or "Type" not in fields:
            raise ParseError("a memory module without Locator or Type: the answer is cut")
        technology = fields.get("Memory Technology", "")
        found.append(
            Module(
                locator=fields["Locator"],
                bank=fields.get("Bank Locator", ""),
                size_bytes=int(match[1]) * _UNITS[match[2]],
                speed_mts=_speed(fields.get("Speed", "")),
                configured_mts=_speed(fields.get("Configured Memory Speed", fields.get("Configured Clock Speed", ""))),
                ram=fields["Type"] not in ("Flash", "ROM", "EPROM", "EEPROM", "Logical non-volatile device")
                and "persistent" not in technology
                and not technology.startswith("NVDIMM"),
            )
        )
    if not slots:
        raise ParseError(f"dmidecode tells of no memory module: {text.strip()[:60]!r}")
    return tuple(found)
