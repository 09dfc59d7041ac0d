"""sosreports and saved replies: what is not in them is unknown, and they come from strangers."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.facts.microcode import parse_microcode
from pytest_kvmcheck.gather.recorded import from_reply, from_sosreport
from pytest_kvmcheck.subjects import list_subjects
from pytest_kvmcheck.targets import Target
from pytest_kvmcheck.views.cpu import uname
from pytest_kvmcheck.views.domains import domains, known_domains, virsh
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.services import unit

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
    assert [domain.name for domain in known_domains(found)[0]] == ["web"]


def test_what_it_does_not_hold_is_not_collected(tree: Path) -> None:
    found = host(tree)
    with pytest.raises(EvidenceMissing) as caught:
        found.evidence.text("systemd_units")
    assert caught.value.cause is Cause.NOT_COLLECTED
    with pytest.raises(EvidenceMissing) as caught:
        found.evidence.files("sysctl_files").get("/etc/sysctl.d/x.conf")
    assert caught.value.cause is Cause.NOT_COLLECTED
    with pytest.raises(EvidenceMissing):
        _ = known_domains(found)[0][0].running


def test_some_definitions_are_not_all_domains(tree: Path) -> None:
    """What is there is judged; that there is nothing else is not concluded."""
    found = host(tree)
    with pytest.raises(EvidenceMissing) as caught:
        domains(found)
    assert caught.value.cause is Cause.NOT_COLLECTED
    subjects = {subject.id.partition("/")[2]: subject.problem for subject in list_subjects("domain", [found])}
    assert set(subjects) == {"web", "?"}
    assert subjects["web"] is None
    assert isinstance(subjects["?"], EvidenceMissing)


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


UUIDS = ("6d1a6e8a-0000-4000-8000-000000000001", "6d1a6e8a-0000-4000-8000-000000000002")
UNITS = (
    "Type=notify\nId=virtqemud.service\nNames=virtqemud.service\nLoadState=loaded\nActiveState=active\nSubState=running\n"
    "UnitFileState=enabled\nTimeoutStopUSec=1min 30s\n\n"
    "Type=simple\nId=ksmtuned.service\nNames=ksmtuned.service\nLoadState=loaded\n"
)


def write(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def virsh_answers(root: Path) -> None:
    texts = {
        "list_--all": " Id   Name   State\n-------------------\n 1    web        running\n -    db 2       shut off\n\n",
        "version": "Using library: libvirt 9.0.0\nRunning hypervisor: QEMU 7.2.22\n",
    }
    for uuid, name, state in ((UUIDS[0], "web", "running"), (UUIDS[1], "db 2", "shut off")):
        stem = name.replace(" ", "_")
        texts[f"dominfo_{stem}"] = (
            f"Id:             -\nName:           {name}\nUUID:           {uuid}\nState:          {state}\n"
            "Persistent:     yes\nAutostart:      disable\nManaged save:   no\n"
        )
        texts[f"dumpxml_{stem}"] = DOMAIN.replace("web", name).replace(UUIDS[0], uuid)
    write(root, {f"sos_commands/virsh/virsh_-r_{name}": text for name, text in texts.items()})


def test_units_that_are_not_told_in_full_are_unknown(tree: Path) -> None:
    write(tree, {"sos_commands/systemd/systemctl_show_service_--all": UNITS})
    found = host(tree)
    assert unit(found, "virtqemud.service").enabled
    for name in ("ksmtuned.service", "virtqemud.socket", "tuned.service"):
        with pytest.raises(EvidenceMissing) as caught:
            unit(found, name)
        assert caught.value.cause is Cause.NOT_COLLECTED


def test_what_runs_is_told_by_list_and_dominfo(tree: Path) -> None:
    virsh_answers(tree)
    found = host(tree)
    assert {domain.name: domain.running for domain in domains(found)} == {"web": True, "db 2": False}
    by_name = {domain.name: domain for domain in domains(found)}
    assert by_name["web"].live.name == "web"
    assert by_name["db 2"].saved.name == "db 2"
    with pytest.raises(EvidenceMissing):
        _ = by_name["db 2"].live
    assert not by_name["web"].autostart
    with pytest.raises(EvidenceMissing) as caught:
        virsh(found, "uri")
    assert caught.value.cause is Cause.NOT_COLLECTED


def test_a_list_with_a_domain_that_nothing_tells_of_proves_nothing(tree: Path) -> None:
    virsh_answers(tree)
    (tree / "sos_commands/virsh/virsh_-r_dominfo_db_2").unlink()
    found = host(tree)
    known, others = known_domains(found)
    assert [domain.name for domain in known] == ["web"]
    assert others
    with pytest.raises(EvidenceMissing) as caught:
        _ = known[0].running
    assert caught.value.cause is Cause.NOT_COLLECTED


def test_microcode_is_read_from_cpuinfo(tree: Path) -> None:
    cpu = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: X\nstepping\t: 7\nmicrocode\t: 0x10\n"
    write(tree, {"proc/cpuinfo": cpu})
    assert host(tree).evidence.parsed("microcode", parse_microcode) == {(6, 85, 7): {16: frozenset({0})}}


def test_a_daemon_that_did_not_answer_is_no_host_without_domains(tree: Path) -> None:
    write(tree, {"sos_commands/virsh/virsh_-r_version": "error: failed to connect to the hypervisor\n"})
    with pytest.raises(EvidenceMissing) as caught:
        virsh(host(tree), "all")
    assert caught.value.cause is Cause.BLOCKED
