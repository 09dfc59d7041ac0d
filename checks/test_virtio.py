"""Checks of paravirtual devices and acceleration."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from pytest_kvmcheck import EvidenceMissing, Findings, Number, Params, Severity, check, note
from pytest_kvmcheck.conditions import all_of, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.facts.domain_devices import AGENT_CHANNEL
from pytest_kvmcheck.facts.domain_disk import Disk
from pytest_kvmcheck.facts.domain_nic import Nic
from pytest_kvmcheck.facts.machinetype import parse_release
from pytest_kvmcheck.views.cpu import capabilities, uname
from pytest_kvmcheck.views.domains import Domain, networks
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.placement import next_definition
from pytest_kvmcheck.views.processes import process_of, running_seconds
from pytest_kvmcheck.views.time import now_s

VIRTIO_SCSI = ("virtio-scsi", "virtio-transitional", "virtio-non-transitional")
#: The models of network cards, balloons and entropy devices that are virtio.
VIRTIO = ("virtio", "virtio-transitional", "virtio-non-transitional")


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
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change; the old driver
            is still in the guest
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
    reads=("virsh", "domain", "objects"),
    applies=not_legacy,
)
def test_nic_model(host: Host, domain: Domain, nic: Nic) -> None:
    """The guest's packets go through virtio queues, or straight to hardware.

    What it checks
        The model is virtio (also -transitional and -non-transitional), or the interface is of type hostdev or vdpa, or of a
        network that hands out functions of a card (forward mode hostdev), whatever model libvirt wrote there.

    Why it matters
        Emulated cards end at a few Gbit/s and burn a CPU doing it.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <model type='virtio'/>, then restart the guest
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh domiflist $DOM

    When not to
        Guests without virtio drivers: tag them legacy.

    References
        https://libvirt.org/formatdomain.html#network-interfaces
    """
    if nic.type in ("hostdev", "vdpa") or nic.model in VIRTIO:
        return
    network = networks(host).get(nic.source) if nic.type == "network" else None
    assert network and network[0].forward_mode == "hostdev", (
        f"{domain}: network card {nic.name} is of model {nic.model or '(none given)'}, expected virtio."
    )


@check(
    "KVM-VIO-003",
    title="The memory balloon suits the guest class",
    severity=Severity.LOW,
    reads=("virsh", "domain", "domstats"),
)
def test_balloon_suits(domain: Domain) -> None:
    """The host sees the guest's need for memory, unless the guest must not be disturbed.

    What it checks
        A virtio balloon whose statistics are asked for (period) and come while the guest runs; anything less is a warning. A
        realtime guest has no balloon (model none). A guest with assigned devices has its whole memory: the balloon is not inflated.

    Why it matters
        Without statistics nobody outside knows what a guest needs. A balloon in a realtime guest only adds jitter, and assigned
        devices write to the memory that an inflated balloon gave away.

    How to fix
        now: virsh dommemstat $DOM --period 10 --live; with assigned devices virsh setmem $DOM SIZE --live, with the maximum
        after a reboot: virsh dommemstat $DOM --period 10 --config; realtime: virsh edit $DOM: <memballoon model='none'/>
        roll back: virsh dommemstat $DOM --period 0 --live --config; virsh define FILE, with what virsh dumpxml --inactive $DOM had
            written to FILE before the change
        verify: virsh domstats --balloon $DOM

    When not to
        Guests whose owner forbids a look at their memory.

    References
        https://libvirt.org/formatdomain.html#memory-balloon-device
        https://libvirt.org/kbase/kvm-realtime.html
    """
    xml = next_definition(domain)
    balloon = xml.devices.balloon
    model = balloon.model if balloon else "virtio"
    assigned = [item for item in xml.devices.hostdevs if item.type in ("pci", "mdev")]
    assigned_nics = [nic for nic in xml.nics if nic.type in ("hostdev", "vdpa")]
    with Findings() as findings:
        if "realtime" in domain.tags:
            findings.fail_if(model != "none", f"{domain}: memballoon is {model}, a realtime guest has none.")
            return
        if (assigned or assigned_nics) and model == "none":
            return
        if assigned or assigned_nics:
            if xml.current_memory_bytes != xml.memory_bytes:
                findings.fail(
                    f"{domain}: it has assigned devices, and starts with an inflated balloon (currentMemory below memory)."
                )
            if domain.running:
                current, maximum = (domain.stats.kib(f"balloon.{name}") for name in ("current", "maximum"))
                if current is None or maximum is None:
                    raise EvidenceMissing(Cause.MISSING, f"domstats tells no balloon of {domain}", "domstats")
                if current != maximum:
                    shown = f"{current >> 20} of {maximum >> 20} MiB"
                    findings.fail(f"{domain}: it has assigned devices, and its balloon leaves it {shown}.")
        if model not in VIRTIO:
            findings.warn(f"{domain}: memballoon is {model}, expected virtio.")
            return
        if not balloon or balloon.period_s <= 0:
            findings.warn(f"{domain}: its balloon reports no statistics (no period).")
        elif domain.running:
            updated = domain.stats.number("balloon.last-update")
            if updated is None:
                raise EvidenceMissing(Cause.MISSING, f"domstats tells no balloon.last-update of {domain}", "domstats")
            findings.warn_if(updated == 0, f"{domain}: its balloon has not reported any statistics yet: no driver in the guest?")


@condition
def not_realtime(domain: Domain) -> str | None:
    """Hold for guests that are not tagged realtime."""
    return f"{domain} is tagged realtime" if "realtime" in domain.tags else None


#: The first kernel whose /dev/random does not block once it is seeded.
_RANDOM_NEVER_BLOCKS = (5, 6)


@check(
    "KVM-VIO-004",
    title="A virtio entropy device is present",
    severity=Severity.INFO,
    reads=("virsh", "domain", "uname"),
    applies=not_realtime,
)
def test_entropy_device(host: Host, domain: Domain) -> None:
    """The guest gets good random numbers from its first second on.

    What it checks
        A virtio rng device fed by /dev/urandom or by QEMU itself (builtin), or by /dev/random of a kernel from 5.6 on. Anything
        else, also no device at all, is a warning: guests with a kernel from 5.6 on do without.

    Why it matters
        Old guests wait for entropy at boot, and clones of one image start from one seed.

    How to fix
        now: virsh attach-device $DOM rng.xml --live --config, with rng.xml: <rng model='virtio'><backend
            model='random'>/dev/urandom</backend></rng>
        after a reboot: the same, --config keeps it
        roll back: virsh detach-device $DOM rng.xml --live --config
        verify: virsh dumpxml --inactive $DOM | grep -A2 '<rng'

    When not to
        Realtime guests. A rate limit is no defect.

    References
        https://libvirt.org/formatdomain.html#random-number-generator-device
    """
    rngs = domain.saved.devices.rngs
    found = []
    for rng in rngs:
        source = rng.backend or rng.backend_model
        if rng.model not in VIRTIO:
            found.append(f"model {rng.model or '(none given)'}")
        elif rng.backend_model == "builtin" or (rng.backend_model == "random" and rng.backend in ("/dev/urandom", "")):
            return
        elif rng.backend_model == "random" and rng.backend == "/dev/random":
            release = uname(host).release
            numbers = tuple(map(int, re.findall(r"\d{1,9}", release)[:2]))
            if numbers >= _RANDOM_NEVER_BLOCKS:
                return
            found.append(f"/dev/random of kernel {release}, which blocks")
        else:
            found.append(source)
    with Findings() as findings:
        findings.warn_if(not rngs, f"{domain}: no entropy device; guests with a kernel before 5.6 need one.")
        findings.warn_if(bool(found), f"{domain}: its entropy device is fed by {', '.join(found)}, expected /dev/urandom.")


#: Character devices that a person can talk through; file and null are logs.
INTERACTIVE = ("pty", "unix", "tcp")

#: A guest needs this long (seconds) to boot and start its agent.
BOOT_S = 300


@check(
    "KVM-VIO-005",
    title="The guest has an interactive serial console and a connected guest-agent channel",
    severity=Severity.LOW,
    reads=("virsh", "domain", "domstats", "qemu_process", "qemu_proc"),
)
def test_console_and_agent(domain: Domain) -> None:
    """There is a way into the guest without a network, and one to ask it things.

    What it checks
        A console or serial line of type pty, unix or tcp (only a log: a warning), and the channel org.qemu.guest_agent.0, now and
        in the saved definition. An agent that is not connected five minutes after the start is a warning.

    Why it matters
        virsh console is the last resort without a network. The agent freezes file systems for backups, and tells addresses.

    How to fix
        now: install and start qemu-guest-agent in the guest; enable serial-getty@ttyS0.service there (hvc0 on ppc64 and s390x)
        after a reboot: virsh edit $DOM: <console type='pty'/> and <channel type='unix'><target type='virtio'
            name='org.qemu.guest_agent.0'/></channel>
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml $DOM | grep guest_agent

    When not to
        Appliances that know no agent.

    References
        https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices
        https://www.qemu.org/docs/master/interop/qemu-ga.html
    """
    definitions = {"the saved definition": next_definition(domain)}
    if domain.running:
        definitions["the running guest"] = domain.live
    with Findings() as findings:
        _everywhere(findings, domain, definitions, "has no console or serial line", lambda xml: not _lines(xml))
        if domain.running:
            agent = domain.live.devices.agent
            if agent and agent.state != "connected" and (age := running_seconds(domain)) >= BOOT_S:
                findings.warn(f"{domain}: no guest agent answers ({agent.state or 'no state'}) after {age / 60:.0f} minutes.")
        _everywhere(findings, domain, definitions, f"has no channel {AGENT_CHANNEL}", lambda xml: xml.devices.agent is None)
        for place, xml in definitions.items():
            types = _lines(xml)
            if types and not types & set(INTERACTIVE):
                findings.warn(f"{domain}: in {place} the only console is a log ({', '.join(sorted(types))}).")


def _lines(xml: DomainXml) -> set[str]:
    """Return the types of the consoles and serial lines."""
    return {item.type for item in xml.devices.characters if item.kind in ("console", "serial")}


def _everywhere(
    findings: Findings, domain: Domain, definitions: dict[str, DomainXml], what: str, lacks: Callable[[DomainXml], bool]
) -> None:
    """Report which of the *definitions* lack something; in one line when all do."""
    places = [place for place, xml in definitions.items() if lacks(xml)]
    if places:
        findings.fail(f"{domain}: {' and '.join(places)} {what if len(places) == 1 else what.replace('has', 'have', 1)}.")


@check(
    "KVM-VIO-006",
    title="The machine type is supported and not about to disappear",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain", "now"),
    params={"max_age_years": Number(5, 1, 30)},
)
def test_machine_type(host: Host, domain: Domain, params: Params) -> None:
    """QEMU still has the machine that the guest was installed on, and will for a while.

    What it checks
        libvirt lists the machine type for the guest's architecture and does not call it deprecated. One whose QEMU (or RHEL minor
        release, or Ubuntu series) came out more than max_age_years ago is a warning.

    Why it matters
        QEMU deprecates versioned machine types after three years and removes them after six; then the guest neither starts nor
        migrates. RHEL does so with each major release, and has deprecated i440fx since RHEL 9.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: shut the guest down, keep its XML, virsh edit $DOM: machine='q35' (or the newest pc-i440fx-*, virt-*), test
        roll back: virsh define with the old XML
        verify: virsh -r capabilities | grep "<machine"

    When not to
        Guests that go before the next upgrade of the host. From pc to q35 the devices of a guest move: a newer pc-i440fx-* is
        easier.

    References
        https://www.qemu.org/docs/master/about/deprecated.html
        https://libvirt.org/formatcaps.html
    """
    arch, machine = domain.saved.os.arch, domain.saved.os.machine
    caps = capabilities(host)
    if not machine:
        raise EvidenceMissing(Cause.MISSING, f"the definition of {domain} names no machine type", "domain")
    assert machine in caps.machines.get(arch, frozenset()), f"{domain}: this QEMU has no machine type {machine} for {arch}."
    name = caps.aliases.get(arch, {}).get(machine, machine)
    assert name not in caps.deprecated.get(arch, frozenset()), f"{domain}: machine type {name} is deprecated."
    released = parsing("domain", parse_release, name)
    with Findings() as findings:
        if released is None:
            note(f"{name}: its age is not known")
        else:
            today = time.gmtime(now_s(host))
            years = (today.tm_year - released[0]) + (today.tm_mon - released[1]) / 12
            if years > params.max_age_years:
                findings.warn(f"{domain}: machine type {name} is {years:.1f} years old, at most {params.max_age_years} expected.")
    if "i440fx" in name:
        note(f"{name}: i440fx is deprecated in RHEL 9 and newer")


#: What Windows needs of Hyper-V to be idle cheaply; those of the second row are worth a warning only.
_ENLIGHTENMENTS = ("relaxed", "vapic", "spinlocks", "vpindex", "synic", "stimer")
_MINOR_ENLIGHTENMENTS = ("runtime", "frequencies")
_MIN_RETRIES = 4095


@condition
def is_windows(domain: Domain) -> str | None:
    """Hold for guests that run Windows: by tag, by libosinfo, or because someone gave them enlightenments."""
    xml = domain.saved
    if xml.os.arch not in ("x86_64", "i686"):
        return f"no Hyper-V on {xml.os.arch}"
    if "windows" in domain.tags or xml.os.windows:
        return None
    if xml.os.id or "linux" in domain.tags:
        return "not Windows"
    if xml.cpu.hyperv_mode:
        return None
    return "nothing tells that it runs Windows: tag it windows or linux"


@check(
    "KVM-VIO-007",
    title="Windows guests have the Hyper-V enlightenments",
    severity=Severity.MEDIUM,
    reads=("virsh", "domain"),
    applies=is_windows,
)
def test_enlightenments(domain: Domain) -> None:
    """Windows knows that it is a guest, and spares the host its timers and spinning locks.

    What it checks
        hyperv mode is passthrough; or relaxed, vapic, spinlocks (retries 4095 or more), vpindex, synic and stimer are on and the
        timer hypervclock is present. runtime and frequencies alone missing is a warning.

    Why it matters
        Without them an idle Windows keeps a CPU busy, and a busy one waits for locks whose holder does not run.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: virsh edit $DOM: <hyperv mode='custom'><relaxed state='on'/><vapic state='on'/><spinlocks state='on'
            retries='8191'/><vpindex state='on'/><runtime state='on'/><synic state='on'/><stimer state='on'/>
            <frequencies state='on'/></hyperv> in <features>, <timer name='hypervclock' present='yes'/> in
            <clock>; then shut down and start the guest
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
        verify: virsh dumpxml --inactive $DOM | grep -A9 '<hyperv'

    When not to
        Guests that are not Windows: tag them linux.

    References
        https://libvirt.org/formatdomain.html#hypervisor-features
        https://www.qemu.org/docs/master/system/i386/hyperv.html
    """
    xml = domain.saved
    cpu = xml.cpu
    if cpu.hyperv_mode in ("passthrough", "host-model"):
        return
    lacking = {name for name in (*_ENLIGHTENMENTS, *_MINOR_ENLIGHTENMENTS) if cpu.hyperv.get(name, {}).get("state") != "on"}
    found = [name for name in _ENLIGHTENMENTS if name in lacking]
    retries = cpu.hyperv.get("spinlocks", {}).get("retries", "")
    if "spinlocks" not in lacking and retries and not (retries.isdigit() and int(retries) >= _MIN_RETRIES):
        found.append(f"spinlocks with {_MIN_RETRIES} retries or more (has {retries[:12]})")
    timer = xml.clock.timers.get("hypervclock")
    if not timer or not timer.present:
        found.append("the timer hypervclock")
    minor = [name for name in _MINOR_ENLIGHTENMENTS if name in lacking]
    with Findings() as findings:
        findings.fail_if(bool(found), f"{domain}: it lacks {', '.join([*found, *minor])}.")
        findings.warn_if(bool(minor), f"{domain}: it lacks {', '.join(minor)}.")


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
        roll back: virsh define FILE, with what virsh dumpxml --inactive $DOM had written to FILE before the change
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
