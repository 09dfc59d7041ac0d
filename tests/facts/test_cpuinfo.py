from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpuinfo import parse_cpuinfo
from tests.facts.hostile import HOSTILE

X86 = """processor\t: {0}
vendor_id\t: GenuineIntel
cpu family\t: 6
model name\t: Intel(R) Xeon(R) CPU E5-2690 0 @ 2.90GHz
flags\t\t: fpu vme {1} constant_tsc
vmx flags\t: vnmi ept vpid
bugs\t\t: spectre_v1
"""
S390X = """vendor_id       : IBM/S390
# processors    : 2
bogomips per cpu: 20325.00
features\t: esan3 zarch stfle msa sie
processor 0: version = 00,  identification = 2733E8,  machine = 2964
"""
POWER = "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nplatform\t: PowerNV\nmachine\t\t: PowerNV 8335-GTC\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
RISCV = "processor\t: 0\nhart\t\t: 2\nisa\t\t: rv64imafdch\nmmu\t\t: sv39\n"


@pytest.mark.parametrize(
    ("text", "vendor", "flag", "platform"),
    [
        (X86.format(0, "vmx"), "GenuineIntel", "vmx", ""),
        (S390X, "IBM/S390", "sie", ""),
        (POWER, "", "", "PowerNV"),
        (ARM, "0x41", "asimd", ""),
        (RISCV, "", "", ""),
    ],
)
def test_architectures(text: str, vendor: str, flag: str, platform: str) -> None:
    cpu = parse_cpuinfo(text)
    assert (cpu.vendor, cpu.platform) == (vendor, platform)
    assert flag in cpu.flags if flag else not cpu.flags
    assert parse_cpuinfo(text.replace("\n", "\r\n")) == cpu
    assert parse_cpuinfo("".join(sorted(set(text.splitlines(keepends=True))))) == cpu


def test_flags_of_every_cpu() -> None:
    cpu = parse_cpuinfo(X86.format(0, "vmx") + "\n" + X86.format(1, ""))
    assert cpu.flags == {"fpu", "vme", "constant_tsc"}


def test_flags_of_vmx_are_no_cpu_flags() -> None:
    assert "ept" not in parse_cpuinfo(X86.format(0, "")).flags


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_cpuinfo(text: str) -> None:
    with pytest.raises(ParseError):
        parse_cpuinfo(text)
