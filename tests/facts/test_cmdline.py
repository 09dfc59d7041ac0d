from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cmdline import parse_cmdline, values
from tests.facts.hostile import HOSTILE


@pytest.mark.parametrize(
    "text",
    [
        "BOOT_IMAGE=/boot/vmlinuz-6.1.0-21-amd64 root=UUID=0b1d ro quiet\n",
        "BOOT_IMAGE=(hd0,gpt2)/vmlinuz-5.14.0-427.el9.x86_64 root=/dev/mapper/rhel-root ro quiet rd.lvm.lv=rhel/root\r\n",
        "root=/dev/disk/by-uuid/0b1d\tsplash=silent  mitigations=auto ro quiet",
    ],
)
def test_distributions(text: str) -> None:
    parameters = parse_cmdline(text)
    assert ("ro", None) in parameters
    assert ("quiet", None) in parameters
    assert any(name == "root" for name, _ in parameters)


def test_order_is_kept() -> None:
    text = "default_hugepagesz=1G hugepagesz=1G hugepages=4 hugepagesz=2M hugepages=512"
    assert [name for name, _ in parse_cmdline(text)] == text.replace("=", " ").split()[::2]
    assert values(parse_cmdline(text), "hugepages") == ["4", "512"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a="b c" d', (("a", "b c"), ("d", None))),
        ('"a=b c" d', (("a", "b c"), ("d", None))),
        ('a="b c', (("a", "b c"),)),
        ("a= b", (("a", ""), ("b", None))),
        ("root=UUID=1", (("root", "UUID=1"),)),
        ("isolcpus=1,2 -- mitigations=off", (("isolcpus", "1,2"),)),
    ],
)
def test_quotes_and_the_end(text: str, expected: object) -> None:
    assert parse_cmdline(text) == expected


def test_dash_and_underscore_are_one() -> None:
    assert values(parse_cmdline("kvm-intel.ept=0 kvm_intel.ept"), "kvm-intel.ept") == ["0", ""]


@pytest.mark.parametrize("text", [text for text in HOSTILE if ":" in text.split(" ")[0] or not text.strip().isprintable()])
def test_what_is_no_command_line(text: str) -> None:
    with pytest.raises(ParseError):
        parse_cmdline(text)


@pytest.mark.parametrize("text", ["", "\n", "quiet\nro\n", "a\x1b[31m"])
def test_empty_and_several_lines(text: str) -> None:
    with pytest.raises(ParseError):
        parse_cmdline(text)
