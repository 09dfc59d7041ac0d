r"""Configuration of ptp4l: ``/etc/ptp4l.conf`` (RHEL, SUSE), ``/etc/linuxptp/ptp4l.conf`` (Debian).

Source: ptp4l(8). ``[global]`` holds what holds for all; every other section is an interface, but for tables of unicast masters.

>>> parse_ptp_conf("[global]\ntime_stamping\t\thardware\ndomainNumber 24\n[ens1f0]\n")
PtpConf(interfaces=('ens1f0',), hardware=True)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line

_TABLES = ("global", "unicast_master_table", "security_association")


@dataclass(frozen=True)
class PtpConf:
    """Interfaces that are named, and whether time stamps are taken by the card (the default)."""

    interfaces: tuple[str, ...]
    hardware: bool


@empty_is_an_answer("all is left at its default")
@takes_any_line("ptp4l has many settings")
def parse_ptp_conf(text: str) -> PtpConf:
    """Return what the file says. Raises :class:`ParseError` for what is no text."""
    if "\0" in text:
        raise ParseError("not a text file")
    interfaces: list[str] = []
    hardware = True
    for line in map(str.strip, text.splitlines()):
        if section := re.fullmatch(r"\[([^\]\s]{1,64})\]", line):
            if section[1] not in _TABLES:
                interfaces.append(section[1])
        elif setting := re.fullmatch(r"time_stamping\s+(\S+)", line):
            hardware = setting[1] != "software"
    return PtpConf(tuple(dict.fromkeys(interfaces)), hardware)
