from __future__ import annotations

import contextlib
import time

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.libvirtconf import parse_conf
from tests.facts.hostile import BINARY, EMPTY, ERRORS

SHIPPED = """# Master libvirt daemon configuration file
#

#################################################################
#listen_tls = 0
unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"   # for the group
max_clients = 5000
log_outputs="3:syslog:libvirtd 1:file:/var/log/libvirt/libvirtd.log"
cgroup_device_acl = [
    "/dev/null", "/dev/full", # always
    '/dev/kvm',
]
sasl_allowed_username_list = ["joe@EXAMPLE.COM", "fred[a-z]@EXAMPLE.COM" ]
"""


def test_a_shipped_file() -> None:
    assert parse_conf(SHIPPED) == {
        "unix_sock_group": "libvirt",
        "unix_sock_rw_perms": "0770",
        "max_clients": 5000,
        "log_outputs": "3:syslog:libvirtd 1:file:/var/log/libvirt/libvirtd.log",
        "cgroup_device_acl": ("/dev/null", "/dev/full", "/dev/kvm"),
        "sasl_allowed_username_list": ("joe@EXAMPLE.COM", "fred[a-z]@EXAMPLE.COM"),
    }


def test_crlf() -> None:
    assert parse_conf(SHIPPED.replace("\n", "\r\n")) == parse_conf(SHIPPED)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=-1", {"a": -1}),
        ("a = +5;b = 'x'", {"a": 5, "b": "x"}),
        ("a = '\"quoted\"'", {"a": '"quoted"'}),
        ('a = "it\'s"', {"a": "it's"}),
        ('a = """two\nlines"""', {"a": "two\nlines"}),
        ("a = ''", {"a": ""}),
        ("a = []", {"a": ()}),
        ("a = [1, '2']", {"a": ("1", "2")}),
        ('a = "# no comment"', {"a": "# no comment"}),
        ("  a = 1", {"a": 1}),
        ("a = 1 # one", {"a": 1}),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert parse_conf(text) == expected


def test_the_first_of_two_equal_keys_counts() -> None:
    assert parse_conf("log_level = 1\nlog_level = 4\n") == {"log_level": 1}


@pytest.mark.parametrize("text", [*EMPTY, "# only\n#comments = 1", "#"])
def test_nothing_set(text: str) -> None:
    assert parse_conf(text) == {}


@pytest.mark.parametrize(
    "text",
    [
        *ERRORS,
        *BINARY,
        "a = 1\nb = = 2",
        'a = "cut',
        "a = [ 'x',",
        "a",
        "a =",
        "a = yes",
        "a = 1 2",
        "[section]\na = 1",
        "<html>",
    ],
)
def test_broken(text: str) -> None:
    with pytest.raises(ParseError):
        parse_conf(text)


def test_the_line_is_named() -> None:
    with pytest.raises(ParseError, match="line 3 "):
        parse_conf("a = 1\n# x\nb = yes\n")


def test_long_hostile_texts_take_no_long_time() -> None:
    for text in ("a = [" + "'x'," * 50_000, "#" * 200_000, "a = " + '"' * 50_001, ";\n" * 100_000 + "="):
        began = time.process_time()
        with contextlib.suppress(ParseError):
            parse_conf(text)
        assert time.process_time() - began < 2
