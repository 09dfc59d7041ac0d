"""A real libvirtd with real domains: four defined, one of them broken on purpose, one more running under emulation."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import Kvmcheck, Run

VIRSH = ("virsh", "-c", "qemu:///system")

#: A /dev/kvm on which KVM hangs makes libvirt try each QEMU for seconds, time and again. Our daemons see a file there that nobody
#: can write: so they know that there is no KVM, and remember it. Mounts below /dev are in the way of namespaces for each guest.
WITHOUT_KVM = """
if [ -e /dev/kvm ]; then
  touch {0}/no-kvm && mount --bind {0}/no-kvm /dev/kvm && mount -o remount,bind,ro /dev/kvm || exit
  (cat /etc/libvirt/qemu.conf && echo && echo 'namespaces = []') >{0}/qemu.conf || exit
  mount --bind {0}/qemu.conf /etc/libvirt/qemu.conf || exit
fi
"""

#: Ours alone: what bears it and is there before is left over from a run that was killed.
PREFIX = "kvmcheck-test-"


def domain(name: str, devices: str, *, memory_mib: int = 64, more: str = "", vcpu: str = "<vcpu>1</vcpu>") -> str:
    return (
        f"<domain type='qemu'><name>{PREFIX}{name}</name><memory unit='MiB'>{memory_mib}</memory>{vcpu}{more}"
        f"<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{devices}</devices></domain>"
    )


def disk(image: Path, target: str, bus: str, driver: str = "") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2' {driver}/><source file='{image}'/>"
        f"<target dev='{target}' bus='{bus}'/></disk>"
    )


def nic(model: str) -> str:
    return f"<interface type='user'><model type='{model}'/></interface>"


def domains(image: Path) -> dict[str, str]:
    return {
        "pinned": domain(
            "pinned",
            disk(image, "vda", "virtio", "cache='none' io='native'") + nic("virtio"),
            vcpu="<vcpu placement='static'>2</vcpu>",
            more="<memoryBacking><hugepages/></memoryBacking><cputune><vcpupin vcpu='0' cpuset='0'/>"
            "<vcpupin vcpu='1' cpuset='1'/></cputune>",
        ),
        "legacy": domain("legacy", disk(image, "hda", "ide", "cache='writeback'") + nic("e1000")),
        "scsi": domain(
            "scsi",
            "<controller type='scsi' index='0' model='virtio-scsi'><driver iothread='1'/></controller>"
            + disk(image, "sda", "scsi", "cache='none'")
            + nic("virtio"),
            more="<iothreads>1</iothreads>",
        ),
        "broken": domain(
            "broken",
            disk(image, "vda", "virtio", "cache='unsafe'") + nic("rtl8139"),
            vcpu="<vcpu placement='static' cpuset='4090'>1</vcpu>",
            more="<numatune><memory mode='strict' nodeset='63'/></numatune>",
        ),
        "runs": domain("runs", "<graphics type='vnc' autoport='yes' listen='0.0.0.0'/>"),
    }


def virsh(*words: str | Path, timeout: float = 120) -> str:
    """What virsh answers; its own words when it fails."""
    done = subprocess.run([*VIRSH, *words], check=False, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"virsh {' '.join(map(str, words))} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def remove_our_domains() -> None:
    for name in virsh("list", "--all", "--name").split():
        if name.startswith(PREFIX):
            subprocess.run([*VIRSH, "destroy", name], check=False, capture_output=True, timeout=60)
            with contextlib.suppress(RuntimeError):  # a transient one is gone by now
                virsh("undefine", "--snapshots-metadata", "--managed-save", "--nvram", name)


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[None]:
    """The libvirt daemon that answers, or virtlogd and libvirtd as a boot would start them; our domains; all gone afterwards."""
    place = Path("/var/tmp/kvmcheck-test")
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    with (place.parent / "kvmcheck-test.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one run at a time: the daemon and its domains are the machine's
        before = {daemon: pids(daemon) for daemon in ("virtlogd", "libvirtd")}
        try:
            if not answers():
                for daemon in before:
                    if not before[daemon]:
                        path = shutil.which(daemon, path="/usr/sbin:/usr/bin") or daemon
                        subprocess.run(["unshare", "-m", "sh", "-c", f"{WITHOUT_KVM.format(place)}exec {path} -d"], check=True)
                wait_for_libvirtd()
            remove_our_domains()
            image = place / "disk.qcow2"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
            image.chmod(0o666)
            for name, xml in domains(image).items():
                path = place / f"{name}.xml"
                path.write_text(xml)
                virsh("define", path)
            virsh("start", f"{PREFIX}runs")
            virsh("snapshot-create-as", f"{PREFIX}legacy", "before")
            yield
        finally:
            if answers():
                remove_our_domains()
            shutil.rmtree(place, ignore_errors=True)
            for daemon in ("libvirtd", "virtlogd"):
                for pid in pids(daemon) - before[daemon]:
                    os.kill(pid, signal.SIGTERM)
                for _ in range(100):  # the next run must not find one that is about to end
                    if not pids(daemon) - before[daemon]:
                        break
                    time.sleep(0.1)


def pids(name: str) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name:
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def answers() -> bool:
    return subprocess.run([*VIRSH, "uri"], check=False, capture_output=True, timeout=60).returncode == 0


def wait_for_libvirtd() -> None:
    for _ in range(120):
        if answers():
            return
        time.sleep(0.5)
    raise RuntimeError(f"libvirtd does not answer: {virsh('uri')}")


@pytest.fixture(scope="module")
def local(libvirtd: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("libvirt")
    (place / "inventory.yaml").write_text(
        "hosts:\n  here: {target: 'local://', profile: production}\ndomains:\n  kvmcheck-test-pinned: [critical]\n"
    )
    return Kvmcheck(place)("--kvmcheck-inventory=inventory.yaml", f"--kvmcheck-record={place / 'e'}")


def test_all_domains_are_found(local: Run) -> None:
    found = {result["subject"] for result in local.results if result["check"] == "KVM-VIO-008"}
    assert found >= {f"here/{PREFIX}{name}" for name in ("pinned", "legacy", "scsi", "broken", "runs")}


@pytest.mark.parametrize(
    ("check", "subject", "outcome"),
    [
        ("KVM-VIO-001", "here/legacy/hda", "fail"),
        ("KVM-VIO-001", "here/scsi/sda", "pass"),
        ("KVM-VIO-001", "here/pinned/vda", "pass"),
        ("KVM-VIO-008", "here/legacy", "fail"),
        ("KVM-DSK-003", "here/broken/vda", "fail"),
        ("KVM-DSK-003", "here/pinned/vda", "pass"),
        ("KVM-DSK-003", "here/legacy/hda", "warn"),
        ("KVM-DSK-009", "here/legacy", "pass"),
        ("KVM-PIN-005", "here/broken", "fail"),
        ("KVM-PIN-005", "here/pinned", "pass"),
        ("KVM-PIN-005", "here/scsi", "na"),
        ("KVM-NUM-007", "here/broken", "fail"),
        ("KVM-SEC-005", "here/runs", "fail"),
        ("KVM-SEC-005", "here/scsi", "na"),
    ],
)
def test_verdict_on_a_real_domain(local: Run, check: str, subject: str, outcome: str) -> None:
    result = local.one(check, subject.replace("here/", f"here/{PREFIX}"))
    assert result["outcome"] == outcome, result


def test_cards_are_judged_by_their_model(local: Run) -> None:
    judged = {
        result["subject"].split("/")[1].removeprefix(PREFIX): result["outcome"]
        for result in local.results
        if result["check"] == "KVM-VIO-002" and result["host"] == "here"
    }
    assert {name: judged[name] for name in ("pinned", "legacy", "scsi", "broken")} == {
        "pinned": "pass",
        "legacy": "fail",
        "scsi": "pass",
        "broken": "fail",
    }


def test_hugepages_that_nobody_reserved(local: Run) -> None:
    """``pinned`` wants huge pages and is critical; this machine has none."""
    failed = [result for result in local.results if result["check"] == "KVM-MEM-001" and result["outcome"] == "fail"]
    assert failed
    assert f"{PREFIX}pinned" in failed[0]["message"]


def test_the_api_sees_the_same_domains(libvirtd: None, local: Run, kvmcheck: Kvmcheck) -> None:
    """libvirt-python in place of virsh: the same verdicts on the same definitions."""
    run = kvmcheck("--hosts=libvirt+qemu:///system", "--kvmcheck-profile=production")
    for check in ("KVM-VIO-001", "KVM-DSK-003"):
        here, there = (
            {
                result["subject"].partition(PREFIX)[2]: result["outcome"]
                for result in results
                if result["check"] == check and PREFIX in result["subject"]
            }
            for results in (local.results, run.results)
        )
        assert here
        assert there == here


def test_test_driver(kvmcheck: Kvmcheck) -> None:
    """``test:///default`` needs no daemon; what libvirt cannot tell is not collected, and unknown."""
    run = kvmcheck("--hosts=libvirt+test:///default")
    assert run.rc == 1
    assert run.one("KVM-VIO-008", "test%3A%2F%2F%2Fdefault/test")["outcome"] == "fail"
    assert {result["cause"] for result in run.results if result["outcome"] == "unknown"} >= {"not collected"}


def test_libvirt_that_cannot_be_reached(kvmcheck: Kvmcheck) -> None:
    run = kvmcheck("--hosts=libvirt+qemu+unix:///system?socket=/nonexistent")
    assert run.rc == 1
    judged = [result for result in run.results if not result["host"].startswith("cluster:")]
    assert {result["outcome"] for result in judged} == {"unknown"}
