"""sosreports and saved replies: what is not in them is unknown, and they come from strangers."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.gather.recorded import from_reply, from_sosreport
from pytest_kvmcheck.targets import Target
from pytest_kvmcheck.views.cpu import uname
from pytest_kvmcheck.views.domains import domains
from pytest_kvmcheck.views.host import Host

DOMAIN = "<domain type='kvm'><name>web</name><uuid>6d1a6e8a-0000-4000-8000-000000000001</uuid><vcpu>1</vcpu></domain>"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "sosreport-kvm01"
    for name, text in {
        "sos_commands/kernel/uname_-a": "Linux kvm01 6.1.0-56-amd64 #1 SMP PREEMPT_DYNAMIC Debian x86_64 GNU/Linux\n",
        "proc/cmdline": "ro quiet\n",
        "etc/sysctl.conf": "vm.swappiness = 10\n",
        "etc/libvirt/qemu/web.xml": DOMAIN,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "etc" / "machine-id").symlink_to("/etc/machine-id")
    return root


def host(path: Path) -> Host:
    target = Target("kvm01", f"sosreport:{path}")
    return Host(target, from_sosreport(target))


@pytest.mark.parametrize("form", ["directory", "outer", "archive"])
def test_what_a_sosreport_holds(tree: Path, tmp_path: Path, form: str) -> None:
    path = {"directory": tree, "outer": tree.parent, "archive": tmp_path / "s.tar.gz"}[form]
    if form == "archive":
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tree, tree.name)
    found = host(path)
    assert uname(found).machine == "x86_64"
    assert found.evidence.text("cmdline") == "ro quiet\n"
    assert found.evidence.files("sysctl_files")["/etc/sysctl.conf"] == "vm.swappiness = 10\n"
    assert [domain.name for domain in domains(found)] == ["web"]


def test_what_it_does_not_hold_is_not_collected(tree: Path) -> None:
    found = host(tree)
    with pytest.raises(EvidenceMissing) as caught:
        found.evidence.text("systemd_units")
    assert caught.value.cause is Cause.NOT_COLLECTED
    with pytest.raises(EvidenceMissing) as caught:
        found.evidence.files("sysctl_files").get("/etc/sysctl.d/x.conf")
    assert caught.value.cause is Cause.NOT_COLLECTED
    with pytest.raises(EvidenceMissing):
        _ = domains(found)[0].running


def test_a_link_out_of_the_report_is_not_followed(tree: Path) -> None:
    assert "machine_id" not in host(tree).evidence.records


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b broken", b"plain text"])
def test_what_is_no_sosreport(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    failure = host(path).evidence.failure
    assert failure
    assert failure.cause is Cause.UNPARSABLE


def test_what_is_no_reply(tmp_path: Path) -> None:
    path = tmp_path / "x.reply"
    path.write_bytes(b"\x00\xff nothing of ours")
    failure = from_reply(Target("x", f"reply:{path}")).failure
    assert failure
    assert failure.cause is Cause.UNPARSABLE
