from __future__ import annotations

import pytest

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.capabilities import parse_capabilities
from tests.facts.hostile import HOSTILE

TEXT = """<capabilities>
  <host>
    <uuid>6D1A6E8A-0000-4000-8000-000000000099</uuid>
    <cpu><arch>x86_64</arch></cpu>
  </host>
  <guest>
    <os_type>hvm</os_type>
    <arch name='i686'>
      <machine maxCpus='255'>pc-q35-8.2</machine>
      <domain type='qemu'/>
      <domain type='kvm'><emulator>/usr/libexec/qemu-kvm</emulator><machine>pc-i440fx-rhel7.6.0</machine></domain>
    </arch>
  </guest>
  <guest>
    <os_type>hvm</os_type>
    <arch name='x86_64'>
      <wordsize>64</wordsize>
      <machine canonical='pc-q35-8.2' maxCpus='288'>q35</machine>
      <domain type='qemu'/>
    </arch>
  </guest>
  <guest><os_type>exe</os_type><arch name='x86_64'><domain type='lxc'/></arch></guest>
</capabilities>
"""


def test_types_and_machines() -> None:
    caps = parse_capabilities(TEXT)
    assert caps.host_uuid == "6d1a6e8a-0000-4000-8000-000000000099"
    assert caps.types == {"i686": {"qemu", "kvm"}, "x86_64": {"qemu", "lxc"}}
    assert caps.machines["i686"] == {"pc-q35-8.2", "pc-i440fx-rhel7.6.0"}
    assert caps.machines["x86_64"] == {"q35", "pc-q35-8.2"}
    assert parse_capabilities(TEXT.replace("\n", "\r\n")) == caps


def test_no_guest_at_all() -> None:
    caps = parse_capabilities("<capabilities><host/></capabilities>")
    assert (caps.host_uuid, caps.types, caps.machines) == ("", {}, {})


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE,
        TEXT[: len(TEXT) // 2],
        "<domain/>",
        "<!DOCTYPE x [<!ENTITY a 'b'>]><capabilities>&a;</capabilities>",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ParseError):
        parse_capabilities(text)
