from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.hostvalidate import parse_validation
from tests.facts.hostile import HOSTILE

TEXT = """\
  QEMU: Checking for hardware virtualization                                 : PASS
  QEMU: Checking if device /dev/kvm exists                                   : FAIL (Check that the 'kvm-intel' or \
'kvm-amd' modules are loaded & the BIOS has enabled virtualization)
  QEMU: Checking for device assignment IOMMU support                         : WARN (No ACPI DMAR table found, IOMMU \
either disabled in BIOS or not supported by this hardware platform)
  QEMU: Checking for cgroup 'cpu' controller support                         : PASS
  QEMU: Checking for secure guest support                                    : WARN (Unknown if this platform has \
Secure Guest support)
"""


def test_verdicts() -> None:
    verdicts = parse_validation(TEXT)
    assert [verdict.state for verdict in verdicts] == ["PASS", "FAIL", "WARN", "PASS", "WARN"]
    assert verdicts[1].subject == "Checking if device /dev/kvm exists"
    assert verdicts[1].hint.startswith("Check that the 'kvm-intel'")
    assert verdicts[3].hint == ""


def test_colours_and_crlf() -> None:
    assert parse_validation(TEXT.replace("FAIL", "\x1b[31mFAIL\x1b[0m").replace("\n", "\r\n")) == parse_validation(TEXT)


def test_hint_with_brackets_and_colon() -> None:
    (verdict,) = parse_validation("QEMU: Checking for x : FAIL (see (here): PASS)\n")
    assert (verdict.state, verdict.hint) == ("FAIL", "see (here): PASS")


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        TEXT[:-30],
        "  QEMU: Prüfung auf Hardwarevirtualisierung : BESTANDEN\n",
        "   LXC: Checking for Linux >= 2.6.26 : PASS\n",
        "  QEMU: Checking for hardware virtualization : PASSED\n",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ParseError):
        parse_validation(text)
