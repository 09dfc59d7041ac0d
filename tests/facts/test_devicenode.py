from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.devicenode import Account, Node, parse_id, parse_node
from tests.facts.hostile import HOSTILE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("character special file a:e8 660 root kvm\n", Node(True, 10, 232, 0o660, "root", "kvm")),
        ("character special file a:e8 666 root kvm\r\n", Node(True, 10, 232, 0o666, "root", "kvm")),
        ("character special file a:e8 1660 root UNKNOWN\n", Node(True, 10, 232, 0o1660, "root", "UNKNOWN")),
        ("regular empty file 0:0 644 root root\n", Node(False, 0, 0, 0o644, "root", "root")),
        ("block special file 8:0 660 root disk\n", Node(False, 8, 0, 0o660, "root", "disk")),
    ],
)
def test_nodes(text: str, expected: Node) -> None:
    assert parse_node(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        "character special file a:e8 660 root",
        "character special file a:e8 rw- root kvm",
        "stat: cannot statx '/dev/kvm': No such file or directory",
        "character special file a:e8 660 root kvm\ncharacter special file a:e8 660 root kvm\n",
    ],
)
def test_what_is_no_node(text: str) -> None:
    with pytest.raises(ParseError):
        parse_node(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "uid=64055(libvirt-qemu) gid=106(kvm) groups=106(kvm),64055(libvirt-qemu)\n",
            Account("libvirt-qemu", frozenset({"kvm", "libvirt-qemu"})),
        ),
        ("uid=107(qemu) gid=107(qemu) groups=107(qemu),36(kvm)\r\n", Account("qemu", frozenset({"qemu", "kvm"}))),
        ("uid=107(qemu) gid=36 groups=36\n", Account("qemu", frozenset())),
        (
            "uid=107(qemu) gid=107(qemu) groups=107(qemu) context=system_u:system_r:svirt_t:s0\n",
            Account("qemu", frozenset({"qemu"})),
        ),
    ],
)
def test_accounts(text: str, expected: Account) -> None:
    assert parse_id(text) == expected


@pytest.mark.parametrize("text", [*HOSTILE, "id: 'qemu': no such user", "107", "uid=107 gid=107"])
def test_what_is_no_account(text: str) -> None:
    with pytest.raises(ParseError):
        parse_id(text)
