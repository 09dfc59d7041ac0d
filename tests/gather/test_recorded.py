"""sosreports and saved replies: what is not in them is unknown, and they come from strangers."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.facts.microcode import parse_microcode
from pytest_kvmcheck.gather.recorded import Held, from_reply, from_sosreport, held, places
from pytest_kvmcheck.gather.sostext import FORMS
from pytest_kvmcheck.probes import PROBES
from pytest_kvmcheck.subjects import list_subjects
from pytest_kvmcheck.targets import Target
from pytest_kvmcheck.views.cpu import kvm_modules, uname
from pytest_kvmcheck.views.domains import domains, filters, known_domains, networks, secrets, storage_pools, virsh
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.identity import packages
from pytest_kvmcheck.views.network import interfaces, links, setting
from pytest_kvmcheck.views.services import unit
from pytest_kvmcheck.views.storage import wwids
from pytest_kvmcheck.views.system import kernel_log, mounts
from pytest_kvmcheck.views.time import tracking

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


def test_settings_are_filled_in_from_sysctl(tree: Path) -> None:
    write(
        tree,
        {
            "proc/sys/vm/swappiness": "10\n",
            "sos_commands/kernel/sysctl_-a": "vm.swappiness = 60\nvm.min_free_kbytes = 67584\nnet.ipv4.ip_forward = 1\n"
            "net.ipv4.conf.eno1/7.arp_ignore = 1\nnet.ipv4.conf.br0.arp_ignore = 2\n"
            "sysctl: permission denied on key 'kernel.tainted'\n",
        },
    )
    found = host(tree)
    assert found.evidence.files("vm_settings")["/proc/sys/vm/swappiness"] == "10\n"
    assert found.evidence.files("vm_settings")["/proc/sys/vm/min_free_kbytes"] == "67584\n"
    assert setting(found, "ipv4/conf/eno1.7/arp_ignore") == 1
    assert setting(found, "ipv4/conf/br0/arp_ignore") == 2
    for absent in ("ipv4/conf/br0/arp_filter", "bridge/bridge-nf-call-iptables"):
        with pytest.raises(EvidenceMissing) as caught:
            setting(found, absent)
        assert caught.value.cause is Cause.NOT_COLLECTED
    assert "tainted" not in found.evidence.records


def test_a_text_that_does_not_tell_is_unparsable_and_the_next_one_is_asked(tree: Path) -> None:
    write(
        tree,
        {
            "sos_commands/networking/ip_-d_address": "Dump was interrupted and may be inconsistent.\n",
            "sos_commands/networking/ip_-o_addr": "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever\n",
            "sos_commands/kernel/lsmod": "Module                  Size  Used by\nveth                   32768  0\n",
        },
    )
    found = host(tree)
    assert [item.address for item in interfaces(found)] == ["127.0.0.1"]
    for fact in (links, kvm_modules):
        with pytest.raises(EvidenceMissing) as caught:
            fact(found)
        assert caught.value.cause is Cause.UNPARSABLE
        assert "does not tell it" in caught.value.detail


def test_a_clock_by_chrony_that_does_not_answer(tree: Path) -> None:
    write(tree, {"sos_commands/chrony/chronyc_tracking": "506 Cannot talk to daemon\n"})
    assert tracking(host(tree)) is None
    write(tree, {"sos_commands/chrony/chronyc_tracking": "bash: chronyc: command not found\n"})
    with pytest.raises(EvidenceMissing):
        tracking(host(tree))


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_links_at_the_top_lead_to_what_commands_gave(tree: Path, tmp_path: Path, form: str) -> None:
    name = "sos_commands/rpm/sh_-c_rpm_--nodigest_-qa_--qf_-59_NVRA_INSTALLTIME_date_n_sort_-V"
    write(tree, {name: "glibc-2.34-60.el9.x86_64   Mon\nqemu-kvm-7.2.0-14.el9.x86_64   Mon\n"})
    (tree / "installed-rpms").symlink_to(name)
    path = tree
    if form == "archive":
        path = tmp_path / "s.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tree, tree.name)
    assert packages(host(path)) == {"qemu-kvm": "7.2.0-14.el9"}


NETWORK = "<network><name>default</name><uuid>6d1a6e8a-0000-4000-8000-00000000000a</uuid><bridge name='virbr0'/></network>"
POOL = (
    "<pool type='dir'><name>{0}</name><uuid>6d1a6e8a-0000-4000-8000-00000000000{1}</uuid>"
    "<target><path>/var/lib/libvirt/{0}</path></target></pool>"
)


def objects(root: Path) -> None:
    texts = {
        "net-list_--all": " Name      State    Autostart   Persistent\n-----------------\n default   active   yes         yes\n\n",
        "net-dumpxml_default": NETWORK,
        "pool-list_--all": " Name     State      Autostart\n-------------\n images   active     no\n old      inactive   yes\n\n",
        "pool-dumpxml_images": POOL.format("images", "b"),
        "pool-dumpxml_old": POOL.format("old", "c"),
        "nwfilter-list": " UUID   Name\n------------\n 6d1a6e8a-0000-4000-8000-0000000000aa   clean-traffic\n\n",
    }
    write(root, {f"sos_commands/virsh/virsh_-r_{name}": text for name, text in texts.items()})
    write(root, {"etc/libvirt/storage/images.xml": POOL.format("images", "b")})


def test_networks_and_pools_are_told_by_the_table_of_all_and_their_definitions(tree: Path) -> None:
    objects(tree)
    found = host(tree)
    assert {name: (info.active, info.autostart, info.persistent) for name, (_, info) in networks(found).items()} == {
        "default": (True, True, True)
    }
    assert {name: (info.active, info.autostart, info.persistent) for name, (_, info) in storage_pools(found).items()} == {
        "images": (True, False, True),
        "old": (False, True, True),
    }
    assert filters(found) == {"clean-traffic"}
    with pytest.raises(EvidenceMissing) as caught:
        secrets(found)
    assert caught.value.cause is Cause.NOT_COLLECTED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net-list_--all", None),
        ("net-list_--all", "error: Failed to list networks\nerror: Cannot recv data: Connection reset by peer\n"),
        ("net-list_--all", " Name   Status   Automatischer Start   Bleibend\n-----\n default   Aktiv   ja   ja\n"),
        (
            "net-list_--all",
            " Name   State   Autostart   Persistent\n-----\n default   active   yes   yes\n other   active   yes   yes\n",
        ),
        ("net-dumpxml_default", None),
        ("net-dumpxml_default", "error: failed to get network 'default'\n"),
    ],
)
def test_a_missing_list_is_not_an_empty_one(tree: Path, name: str, text: str | None) -> None:
    objects(tree)
    path = tree / f"sos_commands/virsh/virsh_-r_{name}"
    path.unlink()
    if text is not None:
        path.write_text(text)
    # sos before 4.6.1 lists active ones only
    write(tree, {"sos_commands/virsh/virsh_-r_net-list": " Name   State   Autostart   Persistent\n-----\n"})
    found = host(tree)
    with pytest.raises(EvidenceMissing) as caught:
        networks(found)
    assert caught.value.cause is Cause.NOT_COLLECTED
    assert len(storage_pools(found)) == 2


def test_whether_an_active_pool_is_saved_is_told_by_its_file(tree: Path) -> None:
    objects(tree)
    (tree / "etc/libvirt/storage/images.xml").unlink()
    with pytest.raises(EvidenceMissing) as caught:
        storage_pools(host(tree))
    assert caught.value.cause is Cause.NOT_COLLECTED


@pytest.mark.parametrize(
    ("probe", "how", "place"),
    [
        ("ip_link", Held.COMMAND, "sos_commands/networking/ip_-s_-d_link"),
        ("microcode", Held.COMMAND, "proc/cpuinfo"),
        ("df", Held.PART, "sos_commands/filesys/df_-al_-x_autofs"),
        ("objects", Held.PART, "sos_commands/virsh/virsh_-r_net-list_--all"),
        ("vm_settings", Held.FILES, "sos_commands/kernel/sysctl_-a"),
        ("mounts", Held.FILES, "proc/mounts"),
        ("dm_slaves", Held.NO, ""),
    ],
)
def test_where_answers_are(probe: str, how: Held, place: str) -> None:
    assert held(PROBES[probe]) is how
    assert (place in places(PROBES[probe])) == bool(place)


def test_every_form_answers_a_probe() -> None:
    assert {key.partition(":")[0] for key in FORMS} <= set(PROBES)


def test_the_kernel_log_needs_the_time_of_the_boot(tree: Path) -> None:
    write(tree, {"sos_commands/kernel/dmesg": "[    0.000000] Linux version 6.1.0\n[   12.250000] EDAC MC0: 1 CE\n"})
    assert "kernel_log" not in host(tree).evidence.records
    write(tree, {"proc/stat": "cpu  1 0 1 1 0 0 0 0 0 0\nbtime 1700000000\n"})
    assert [item.time_s for item in kernel_log(host(tree))] == [1700000012.25]


def test_one_disk_whose_identity_was_not_collected(tree: Path) -> None:
    """Two disks may be two paths to one LUN: with one of them told of, nothing is concluded."""
    listing = "/sys/block:\ntotal 0\n"
    listing += "".join(f"lrwxrwxrwx 1 0 0 0 Feb 11 19:23 {name} -> ../devices/x/{name}\n" for name in ("sda", "sdb"))
    write(tree, {"sos_commands/block/ls_-lanR_.sys.block": listing, "sys/block/sda/device/wwid": "naa.6001\n"})
    with pytest.raises(EvidenceMissing) as caught:
        wwids(host(tree))
    assert caught.value.cause is Cause.NOT_COLLECTED


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_a_file_behind_a_link_to_a_directory(tree: Path, tmp_path: Path, form: str) -> None:
    """sos copies /proc/mounts as the link that it is: to self/mounts, and self is one to a number."""
    write(tree, {"proc/4711/mounts": "/dev/vda1 / ext4 rw,relatime 0 0\n"})
    (tree / "proc/self").symlink_to("4711")
    (tree / "proc/mounts").symlink_to("self/mounts")
    (tree / "proc/cpuinfo").symlink_to("cpuinfo")
    path = tree
    if form == "archive":
        path = tmp_path / "s.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tree, tree.name)
    found = host(path)
    assert [item.target for item in mounts(found)] == ["/"]
    assert "cpuinfo" not in found.evidence.records
