from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.uname import parse_uname
from tests.facts.hostile import HOSTILE


@pytest.mark.parametrize(
    ("text", "release", "machine", "x86"),
    [
        ("Linux 6.1.0-21-amd64 x86_64\n", "6.1.0-21-amd64", "x86_64", True),
        ("Linux 5.14.0-427.13.1.el9_4.x86_64 x86_64\r\n", "5.14.0-427.13.1.el9_4.x86_64", "x86_64", True),
        ("Linux 4.19.0 i586\n", "4.19.0", "i586", True),
        ("Linux 6.8.0-31-generic aarch64\n", "6.8.0-31-generic", "aarch64", False),
        ("Linux 5.14.21-150500.53-default s390x\n", "5.14.21-150500.53-default", "s390x", False),
    ],
)
def test_kernels(text: str, release: str, machine: str, x86: bool) -> None:
    uname = parse_uname(text)
    assert (uname.release, uname.machine, uname.x86) == (release, machine, x86)


@pytest.mark.parametrize("text", [*HOSTILE, "Linux", "Linux 6.1.0", "FreeBSD 14.0-RELEASE amd64", "Linux host 6.1.0 #1 SMP x86_64"])
def test_what_is_no_linux(text: str) -> None:
    with pytest.raises(ParseError):
        parse_uname(text)


def test_the_long_form_of_sosreports() -> None:
    found = parse_uname("Linux kvm01 6.1.0-56-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.1 x86_64 x86_64 x86_64 GNU/Linux\n")
    assert (found.release, found.machine) == ("6.1.0-56-amd64", "x86_64")
