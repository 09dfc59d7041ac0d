"""Checks of paravirtual devices and acceleration."""

from __future__ import annotations

from pytest_kvmcheck import Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.domain_nic import Nic
from pytest_kvmcheck.views.cpu import uname
from pytest_kvmcheck.views.domains import Domain
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.processes import process_of

VIRTIO_SCSI = ("virtio-scsi", "virtio-transitional", "virtio-non-transitional")
VIRTIO_NET = ("virtio", "virtio-transitional", "virtio-non-transitional")


@condition
def not_legacy(domain: Domain) -> str | None:
    """Hold for guests that can have virtio drivers."""
    return f"{domain} is tagged legacy" if "legacy" in domain.tags else None


@condition
def is_a_disk(disk: Disk) -> str | None:
    """Hold for disks, not for CD-ROM and floppy drives."""
    return None if disk.is_disk else f"a {disk.device} drive"


@check(
    "KVM-VIO-001",
    title="Disks use a paravirtual bus (virtio or virtio-scsi)",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain"),
    applies=all_of(is_a_disk, not_legacy),
)
def test_disk_bus(domain: Domain, disk: Disk) -> None:
    """The guest talks to its disk through a queue in shared memory, not through an imitated controller.

    What it checks
        The bus is virtio, or scsi on a controller of model virtio-scsi (ibmvscsi on pseries), or nvme. A scsi controller without
        a model is an emulated LSI chip.

    Why it matters
        Each register access of an emulated controller costs an exit of the vCPU, and it has one queue only.

    How to fix
        now: install the virtio drivers in the guest (Windows: virtio-win) and rebuild its initramfs
        after a reboot: virsh edit $DOM: bus='virtio' (without the old <address/>), then restart the guest
        verify: virsh dumpxml --inactive $DOM | grep -A3 '<disk'

    When not to
        Guests without virtio drivers: tag them legacy.

    References
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
    """
    if disk.bus in ("virtio", "nvme") or disk.type == "nvme":
        return
    if disk.bus == "scsi":
        controller = domain.saved.controller("scsi", disk.controller)
        model = controller.model if controller else ""
        assert model in VIRTIO_SCSI or (model == "ibmvscsi" and domain.saved.os.machine.startswith("pseries")), (
            f"{domain}: disk {disk.target} is on a SCSI controller, model {model or 'lsilogic (none given)'}, expected virtio-scsi."
        )
        return
    raise AssertionError(f"{domain}: disk {disk.target} is on bus {disk.bus or '(none)'}, expected virtio or scsi on virtio-scsi.")


@check(
    "KVM-VIO-002",
    title="Network cards are virtio-net or assigned functions",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain"),
    applies=not_legacy,
)
def test_nic_model(domain: Domain, nic: Nic) -> None:
    """The guest's packets go through virtio queues, or straight to hardware.

    What it checks
        The model is virtio (also -transitional and -non-transitional), or the interface is of type hostdev or vdpa.

    Why it matters
        Emulated cards end at a few Gbit/s and burn a CPU doing it.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <model type='virtio'/>, then restart the guest
        verify: virsh domiflist $DOM

    When not to
        Guests without virtio drivers: tag them legacy.

    References
        https://libvirt.org/formatdomain.html#network-interfaces
    """
    if nic.type in ("hostdev", "vdpa"):
        return
    assert nic.model in VIRTIO_NET, f"{domain}: network card {nic.name} is of model {nic.model or '(none given)'}, expected virtio."


def _same_family(guest: str, host: str) -> bool:
    """Whether the host's CPU can run the guest's code: 32-bit x86 counts as x86_64."""
    names = {
        "i686": "x86_64",
        "i386": "x86_64",
        "i586": "x86_64",
        "ppc64le": "ppc64",
        "armv7l": "aarch64",
        "armv8l": "aarch64",
    }
    return names.get(guest, guest) == names.get(host, host)


@check(
    "KVM-VIO-008",
    title="Domains use KVM acceleration",
    severity=Severity.HIGH,
    reads=("virsh", "domain", "uname", "qemu_process"),
    params={"allow_tcg": False},
)
def test_domain_is_accelerated(host: Host, domain: Domain, params: Params) -> None:
    """The guest's code runs on the processor, not in an interpreter.

    What it checks
        The domain's type is kvm, and the QEMU that runs it uses the accelerator kvm. A domain of another architecture may be
        emulated where allow_tcg says so.

    Why it matters
        A guest defined while KVM was not available stays in emulation for ever, ten times slower.

    How to fix
        now: make sure that /dev/kvm works (KVM-CPU-002)
        after a reboot: virsh edit $DOM: <domain type='kvm'>, then restart the guest
        verify: virsh dumpxml --inactive $DOM | head -1

    When not to
        Guests of other architectures (allow_tcg).

    References
        https://libvirt.org/formatdomain.html#element-and-attribute-overview
        https://www.qemu.org/docs/master/system/introduction.html
    """
    xml = domain.saved
    with Findings() as findings:
        if xml.type != "kvm":
            if not params.allow_tcg or _same_family(xml.os.arch, machine := uname(host).machine):
                findings.fail(f"{domain}: domain type is {xml.type or '(none)'}, expected kvm.")
            else:
                note(f"{xml.os.arch} on {machine} is emulated, which the profile allows")
            return
        if domain.running:
            accelerator = parsing("qemu_process", lambda process: process.accelerator, process_of(domain))
            if accelerator != "kvm":
                findings.fail(f"{domain}: its QEMU runs with accelerator {accelerator or 'tcg (none given)'}, expected kvm.")
