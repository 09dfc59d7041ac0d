"""Checks of the CPU and of KVM itself."""

from __future__ import annotations

import re

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.facts.cpulist import format_cpulist
from pytest_kvmcheck.facts.devicenode import Account, Node
from pytest_kvmcheck.facts.domain import DomainXml
from pytest_kvmcheck.views.cpu import (
    capabilities,
    cmdline,
    cpuinfo,
    kvm_modules,
    kvm_node,
    kvm_parameter,
    qemu_account,
    smt,
    thread_siblings,
    uname,
)
from pytest_kvmcheck.views.domains import Domain, domains, networks
from pytest_kvmcheck.views.hardware import dmi, iommu_groups
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.identity import versions
from pytest_kvmcheck.views.placement import pinned_cpus
from pytest_kvmcheck.views.services import qemu_conf
from pytest_kvmcheck.views.system import kernel_log, modprobe
from pytest_kvmcheck.views.time import container, virtualization_by_any_means

#: The numbers of /dev/kvm.
KVM_MAJOR, KVM_MINOR = 10, 232


def _is_kvm(node: Node) -> bool:
    return node.character and (node.major, node.minor) == (KVM_MAJOR, KVM_MINOR)


@check(
    "KVM-CPU-001",
    title="The CPU offers hardware virtualization to this kernel",
    severity=Severity.CRITICAL,
    reads=("uname", "cpuinfo", "kvm_modules", "dev_kvm"),
)
def test_cpu_offers_virtualization(host: Host) -> None:
    """The processor can run guests by itself, and the firmware lets it.

    What it checks
        x86: a CPU flag vmx (Intel) or svm (AMD); s390x: the feature sie. ppc64 always can; aarch64 and riscv64 show no
        flag, so the node /dev/kvm stands for it. A software backend of KVM (kvm_pvm) without such a flag is a warning.

    Why it matters
        Without it guests are emulated instruction by instruction, ten times slower or worse.

    How to fix
        now: nothing can be done on the running host
        after a reboot: enable VT-x or AMD-V (SVM) in the firmware and switch the machine off and on; inside a VM, let
            the outer hypervisor expose nested virtualization
        roll back: the former setting in the firmware; guests then cannot run here
        verify: grep -wom1 -E 'vmx|svm' /proc/cpuinfo

    When not to
        A host that only ever emulates other architectures.

    References
        https://libvirt.org/manpages/virt-host-validate.html
        https://docs.kernel.org/virt/kvm/api.html
    """
    machine = uname(host)
    if machine.machine.startswith("ppc64"):
        note("ppc64 CPUs always offer it")
        return
    if machine.machine in ("aarch64", "riscv64"):
        node = kvm_node(host)
        assert node and _is_kvm(node), f"{host}: no device /dev/kvm; on {machine.machine} it is the only sign of virtualization."
        return
    if not (machine.x86 or machine.machine == "s390x"):
        raise EvidenceMissing(Cause.UNPARSABLE, f"no rule for the architecture {machine.machine}", "uname")
    flags = cpuinfo(host).flags
    wanted = {"sie"} if machine.machine == "s390x" else {"vmx", "svm"}
    if not flags:
        raise EvidenceMissing(Cause.UNPARSABLE, "cpuinfo lists no flags", "cpuinfo")
    found = flags & wanted
    if found:
        note(f"flag {', '.join(sorted(found))}")
        return
    with Findings() as findings:
        node = kvm_node(host) if "kvm_pvm" in kvm_modules(host) else None
        name = " or ".join(sorted(wanted))
        if node and _is_kvm(node):
            findings.warn(f"{host}: no hardware assist (no flag {name}); KVM works by the software backend kvm_pvm.")
        else:
            findings.fail(f"{host}: no CPU flag {name}: virtualization is missing or switched off in the firmware.")


def _may_use(account: Account, node: Node) -> bool:
    """Return whether the mode of *node* lets *account* read and write."""
    bits = node.mode & 0o7
    if node.group in account.groups:
        bits |= node.mode >> 3 & 0o7
    if node.user == account.user:
        bits |= node.mode >> 6 & 0o7
    return bits & 0o6 == 0o6


@check(
    "KVM-CPU-002",
    title="/dev/kvm is a usable character device and libvirt offers KVM guests",
    severity=Severity.CRITICAL,
    reads=("dev_kvm", "uname", "virsh", "qemu_user"),
)
def test_kvm_is_usable(host: Host) -> None:
    """QEMU can open /dev/kvm, and libvirt found that accelerated guests of the host's architecture can start.

    What it checks
        /dev/kvm is the character device 10:232, and ``virsh capabilities`` offers domain type kvm for the architecture
        of the host. Where libvirt cannot be asked, that is unknown, and it is a failure when owner, group and mode keep the
        QEMU account from reading and writing the device.

    Why it matters
        It is the only proof that holds on every architecture, and it covers software backends and nested hosts.

    How to fix
        now: modprobe kvm_intel or kvm_amd; udevadm trigger --name-match=kvm; then systemctl restart the libvirt daemon
        after a reboot: enable virtualization in the firmware; remove blacklist lines for kvm in /etc/modprobe.d
        roll back: rmmod kvm_intel or kvm_amd with all guests off; the former files in /etc/modprobe.d and setting in the firmware
        verify: stat -c '%F %t:%T %a %U %G' /dev/kvm; virsh -r -c qemu:///system capabilities

    When not to
        Hosts that only emulate.

    References
        https://docs.kernel.org/virt/kvm/api.html
        https://libvirt.org/formatcaps.html
    """
    with Findings() as findings:
        node = None
        try:
            node = kvm_node(host)
            if node is None:
                findings.fail(f"{host}: there is no /dev/kvm, no accelerated guest can start.")
            elif not _is_kvm(node):
                expected = f"the character device {KVM_MAJOR}:{KVM_MINOR}"
                findings.fail(f"{host}: /dev/kvm is not {expected} (a plain file left by a careless test?).")
        except EvidenceMissing as missing:
            findings.unknown(missing)
        machine = uname(host)
        try:
            arch = "i686" if machine.x86 and machine.machine != "x86_64" else machine.machine
            offered = capabilities(host).types.get(arch, frozenset())
        except EvidenceMissing as missing:
            if not missing.blocked_by or node is None:
                raise
            account = qemu_account(host)
            if _may_use(account, node):
                raise
            groups = ", ".join(sorted(account.groups))
            access = f"/dev/kvm is {node.mode:o} {node.user}:{node.group}"
            findings.fail(f"{host}: {access}, so {account.user} (in {groups}) cannot read and write it.")
        else:
            if "kvm" not in offered and not findings.failures:
                found = ", ".join(sorted(offered)) or "nothing"
                findings.fail(f"{host}: libvirt offers {found} for {arch}, not kvm.")


#: The KVM module by CPU vendor, as /proc/cpuinfo writes it.
_BACKENDS = {
    "GenuineIntel": "kvm_intel",
    "CentaurHauls": "kvm_intel",
    "Shanghai": "kvm_intel",
    "AuthenticAMD": "kvm_amd",
    "HygonGenuine": "kvm_amd",
}


@check(
    "KVM-CPU-003",
    title="The KVM backend that is loaded matches the CPU",
    severity=Severity.HIGH,
    reads=("uname", "cpuinfo", "kvm_modules"),
)
def test_kvm_backend(host: Host) -> None:
    """The kernel runs the KVM module made for this processor.

    What it checks
        Below /sys/module: kvm_intel on Intel and Zhaoxin, kvm_amd on AMD and Hygon, kvm_hv on ppc64 (kvm_pr alone is a
        warning), kvm on s390x, aarch64 and riscv64. The software backend kvm_pvm is accepted on CPUs without vmx and
        svm.

    Why it matters
        A missing or wrong backend is the usual reason why KVM is not available, or why guests are silently slow.

    How to fix
        now: modprobe kvm_intel (or kvm_amd, kvm_hv); the kernel log says why it will not load
        after a reboot: remove blacklist lines for kvm in /etc/modprobe.d, enable virtualization in the firmware
        roll back: rmmod the module with all guests off; the former files in /etc/modprobe.d and setting in the firmware
        verify: ls -d /sys/module/kvm*

    When not to
        Hosts that only emulate.

    References
        https://docs.kernel.org/virt/kvm/index.html
        https://libvirt.org/manpages/virt-host-validate.html
    """
    machine, modules = uname(host), kvm_modules(host)
    shown = ", ".join(sorted(modules)) or "none"
    with Findings() as findings:
        if machine.machine.startswith("ppc64"):
            if "kvm_pr" in modules and "kvm_hv" not in modules:
                findings.warn(f"{host}: only kvm_pr is loaded, guests are slow; expected kvm_hv.")
            elif "kvm_hv" not in modules:
                findings.fail(f"{host}: no KVM backend is loaded (found {shown}), expected kvm_hv.{_why_not(host)}")
        elif not machine.x86:
            findings.fail_if("kvm" not in modules, f"{host}: kvm is neither loaded nor built in (found {shown}).{_why_not(host)}")
        elif not modules & {*_BACKENDS.values(), "kvm_pvm"}:
            wish = "kvm_intel or kvm_amd"
            findings.fail(f"{host}: no KVM backend is loaded (found {shown}), expected {wish}.{_why_not(host)}")
        else:
            _judge_x86(host, modules, findings)


#: What the kernel says when a backend will not load. It also says so of one that loaded later, so it decides nothing.
_REFUSED = re.compile(
    r"(?:kvm|vmx|svm).*(?:disabled by bios|disabled \(by bios\)|\(outside TXT\) disabled|not supported by CPU)", re.IGNORECASE
)


def _why_not(host: Host) -> str:
    """Return what the kernel's log says of a backend that will not load, as a further sentence; empty when it says nothing."""
    with host.evidence.quietly():
        try:
            said = [message.text for message in kernel_log(host) if _REFUSED.search(message.text)]
        except EvidenceMissing:
            return ""
    return f" The kernel says: {said[-1][:120]}." if said else ""


def _judge_x86(host: Host, modules: frozenset[str], findings: Findings) -> None:
    cpu = cpuinfo(host)
    vendor = cpu.vendor.strip()
    if cpu.flags and not cpu.flags & {"vmx", "svm"} and "kvm_pvm" in modules:
        note("software backend kvm_pvm")
        return
    wanted = _BACKENDS.get(vendor)
    if wanted is None:
        raise EvidenceMissing(Cause.UNPARSABLE, f"no rule for the CPU vendor {vendor!r}", "cpuinfo")
    shown = ", ".join(sorted(modules))
    if wanted not in modules:
        findings.fail(f"{host}: {wanted} is not loaded on a CPU of {vendor} (found {shown}).{_why_not(host)}")


@condition
def hardware_backend(host: Host) -> str | None:
    """Hold where the backend of Intel or AMD is in use."""
    if not uname(host).x86:
        return f"not x86 but {uname(host).machine}"
    modules = kvm_modules(host)
    if modules & {"kvm_intel", "kvm_amd"}:
        return None
    if "kvm_pvm" in modules:
        return "the backend kvm_pvm works with shadow paging by design"
    return "neither kvm_intel nor kvm_amd is loaded"


@check(
    "KVM-CPU-004",
    title="Second-level address translation (EPT or NPT) is enabled",
    severity=Severity.HIGH,
    reads=("uname", "kvm_modules", "kvm_params"),
    applies=hardware_backend,
)
def test_nested_paging(host: Host) -> None:
    """Guests manage their page tables in hardware.

    What it checks
        /sys/module/kvm_intel/parameters/ept, or npt of kvm_amd, is Y. vpid or unrestricted_guest off is a warning.

    Why it matters
        Shadow paging makes guests that change page tables often drastically slower, and hardly anyone tests it today.

    How to fix
        now: with all guests off: modprobe -r kvm_intel && modprobe kvm_intel ept=1 (kvm_amd npt=1)
        after a reboot: remove ept=0 and npt=0 from /etc/modprobe.d and the kernel command line; on a nested host, let
            the outer hypervisor expose EPT or NPT
        roll back: the former line in /etc/modprobe.d, and load the module anew with all guests off
        verify: grep . /sys/module/kvm_intel/parameters/ept /sys/module/kvm_amd/parameters/npt

    When not to
        Never on purpose.

    References
        https://docs.kernel.org/virt/kvm/x86/running-nested-guests.html
    """
    with Findings() as findings:
        for module, name in (("kvm_intel", "ept"), ("kvm_amd", "npt")):
            if module not in kvm_modules(host):
                continue
            value = kvm_parameter(host, module, name)
            if value in ("N", "0"):
                findings.fail(f"{host}: {module} runs with {name}={value}, expected Y.")
            elif value not in ("Y", "1"):
                seen = f"{module} shows no parameter {name}" if value is None else f"{name} of {module} is {value[:20]!r}"
                findings.unknown(EvidenceMissing(Cause.MISSING, seen, "kvm_params"))
            for extra in ("vpid", "unrestricted_guest") if module == "kvm_intel" else ():
                if kvm_parameter(host, module, extra) in ("N", "0"):
                    findings.warn(f"{host}: {module} runs with {extra}=N, expected Y.")


@check(
    "KVM-CPU-005",
    title="The host is bare metal, or running inside a VM is allowed by policy",
    severity=Severity.INFO,
    reads=("detect_virt", "dmi", "cpuinfo", "uname", "cpu_lists"),
    params={"allow_nested_host": True},
)
def test_host_is_bare_metal(host: Host, params: Params) -> None:
    """The hypervisor runs on hardware of its own, unless the profile lets it be a guest.

    What it checks
        systemd-detect-virt finds no virtual machine (where it is missing: the CPU flag ``hypervisor`` of x86), or
        allow_nested_host is set. An LPAR of s390x is no VM to it, z/VM is. A run from within a container is a warning.

    Why it matters
        A host in a VM has an unsteady clock, seldom an IOMMU, and pays for every exit twice; checks of firmware, idle states and
        frequency do not apply there.

    How to fix
        now: nothing can be done on the running host
        after a reboot: move the guests to a machine of their own, or set allow_nested_host in the profile of this host
        roll back: move the guests back; take allow_nested_host out of the profile
        verify: systemd-detect-virt --vm

    When not to
        Test labs and clouds that only offer nested virtualization.

    References
        https://docs.kernel.org/virt/kvm/x86/running-nested-guests.html
        https://www.freedesktop.org/software/systemd/man/latest/systemd-detect-virt.html
    """
    kind, inside = virtualization_by_any_means(host), container(host)
    with Findings() as findings:
        if kind != "none":
            machine = dmi(host)
            model = f", {machine.vendor} {machine.product}".rstrip() if machine else ""
            found = f"a virtual machine ({kind}{model})"
            findings.fail_if(not params.allow_nested_host, f"{host}: is {found}, expected bare metal.")
            note(f"{found}, allowed")
        if inside:
            whose = "what it says of services, journal and firewall is not the host's"
            findings.warn(f"{host}: the answers come from within a container ({inside}): {whose}.")


#: The backends that know nested virtualization, and the module that has the switch.
_NESTED = ("kvm_intel", "kvm_amd", "kvm_hv", "kvm")

_SWITCH = {"Y": True, "1": True, "N": False, "0": False}


@condition
def nesting_known(host: Host) -> str | None:
    """Hold where the KVM backend has a switch for nested virtualization."""
    modules = kvm_modules(host)
    if not modules:
        return "no KVM module is loaded"
    if any(kvm_parameter(host, module, "nested") is not None for module in _NESTED):
        return None
    if modules & {"kvm_intel", "kvm_amd"}:
        raise EvidenceMissing(Cause.MISSING, "the backend shows no parameter nested", "kvm_params")
    return f"no module among {', '.join(sorted(modules))} has a parameter nested"


def _at_next_load(host: Host, module: str, name: str) -> tuple[str, str]:
    """Return the value of a module's parameter at its next load, and where it is set; empty texts when nothing sets it.

    The command line is read last, so it wins.
    """
    given = values(cmdline(host), f"{module}.{name}")
    if given:
        return given[-1] or "1", "the kernel command line"
    value = modprobe(host).option(module, name)
    return ("", "") if value is None else (value or "1", "modprobe.d")


@check(
    "KVM-CPU-006",
    title="The nested-virtualization switch matches policy",
    severity=Severity.LOW,
    reads=("kvm_modules", "kvm_params", "modprobe_conf", "cmdline", "virsh", "domain"),
    params={"nested_policy": Choice("any", "on", "off")},
    applies=nesting_known,
)
def test_nested_policy(host: Host, params: Params) -> None:
    """Guests can be hypervisors themselves where the profile wants it, and nowhere else.

    What it checks
        The parameter ``nested`` of the KVM module in use (kvm_intel, kvm_amd, kvm_hv, or kvm on s390x) is on or off as
        nested_policy says; any records it. modprobe.d or a kernel command line that will change it at the next load is a warning.
        With policy off no domain asks for the CPU feature vmx or svm either.

    Why it matters
        The code for nested guests is where many holes of KVM were, and such guests cannot always be moved; some tenants need it.

    How to fix
        now: with all guests off: modprobe -r kvm_intel && modprobe kvm_intel nested=0 (kvm_amd likewise)
        after a reboot: echo 'options kvm_intel nested=0' > /etc/modprobe.d/kvm-nested.conf (1 to allow it)
        roll back: remove that file and load the module again
        verify: cat /sys/module/kvm_intel/parameters/nested /sys/module/kvm_amd/parameters/nested

    When not to
        Hosts whose tenants run hypervisors, containers in VMs or Windows with virtualization-based security.

    References
        https://docs.kernel.org/virt/kvm/x86/running-nested-guests.html
    """
    policy = params.nested_policy
    with Findings() as findings:
        for module in _NESTED:
            value = kvm_parameter(host, module, "nested")
            if value is None:
                continue
            if value not in _SWITCH:
                findings.unknown(EvidenceMissing(Cause.UNPARSABLE, f"nested of {module} is {value[:20]!r}", "kvm_params"))
                continue
            running = _SWITCH[value]
            if policy != "any" and running != (policy == "on"):
                findings.fail(f"{host}: {module} runs with nested={value}, expected {policy}.")
            later, where = _at_next_load(host, module, "nested")
            if later and (later[0] in "yY1") != running:
                findings.warn(f"{host}: {module} runs with nested={value}, but {where} says nested={later} for its next load.")
            note(f"{module}: nested={value}")
        if policy == "off":
            for domain in domains(host):
                asked = {name for name, how in domain.saved.cpu.features.items() if how in ("require", "force")} & {"vmx", "svm"}
                findings.fail_if(bool(asked), f"{host}: {domain} asks for the CPU feature {', '.join(sorted(asked))}.")


def _definitions(domain: Domain) -> list[DomainXml]:
    """Return what a domain is to be, and, while it runs, what it is."""
    return [domain.saved, domain.live] if domain.running else [domain.saved]


def _assigned(host: Host) -> dict[str, list[str]]:
    """Return the domains that own devices of the host, and these: PCI addresses, or the card's MAC with a pool of devices."""
    found: dict[str, list[str]] = {}
    for domain in domains(host):
        devices: set[str] = set()
        for xml in _definitions(domain):
            devices |= {item.pci or item.type for item in xml.devices.hostdevs if item.type == "pci"}
            devices |= {disk.pci for disk in xml.disks if disk.pci}  # QEMU drives it by VFIO
            for nic in xml.nics:
                shared = nic.type == "network" and nic.source in networks(host) and networks(host)[nic.source][0].forward_mode
                if nic.type == "hostdev" or shared == "hostdev":
                    devices.add(f"card {nic.name}")
        if devices:
            found[str(domain)] = sorted(devices)
    return found


@condition
def devices_assigned(host: Host, params: Params) -> str | None:
    """Hold where a guest owns a device of the host, or the profile wants that to be possible."""
    if params.device_assignment_required or _assigned(host):
        return None
    return "no domain owns a device of the host"


#: Module parameters that open a hole when they are on.
_UNSAFE = (
    ("vfio_iommu_type1", "allow_unsafe_interrupts", "guests may inject interrupts"),
    ("iommufd", "allow_unsafe_interrupts", "guests may inject interrupts"),
    ("vfio", "enable_unsafe_noiommu_mode", "devices may write anywhere in memory"),
)


@check(
    "KVM-CPU-007",
    title="The IOMMU is active and interrupt remapping is safe when devices are assigned",
    severity=Severity.HIGH,
    reads=("iommu_groups", "vfio_params", "modprobe_conf", "cmdline", "virsh", "domain", "objects"),
    params={"require_pt": False, "device_assignment_required": False},
    applies=devices_assigned,
)
def test_iommu(host: Host, params: Params) -> None:
    """Devices that guests own can reach the memory and the interrupts of these guests only.

    What it checks
        /sys/kernel/iommu_groups has groups; allow_unsafe_interrupts of vfio_iommu_type1 and iommufd is N or absent, and so is
        vfio's mode without IOMMU. modprobe.d or a command line that will switch one on is a warning. With require_pt, groups of
        devices that stay with the host should be of type identity (iommu=pt); others are a warning.

    Why it matters
        Without an IOMMU no device can be assigned; without interrupt remapping a guest can interrupt the host at will.

    How to fix
        now: echo N > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
        after a reboot: enable VT-d, AMD-Vi or SMMU in the firmware; on Intel add intel_iommu=on to the kernel command line (RHEL
            and SUSE: grubby or grub2-mkconfig, Debian and Ubuntu: update-grub); iommu=pt keeps the host's own devices fast
        roll back: echo 0 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts; the former kernel command line, and
            reboot
        verify: ls /sys/kernel/iommu_groups; virt-host-validate qemu

    When not to
        Hosts that assign no device need none.

    References
        https://docs.kernel.org/driver-api/vfio.html
        https://docs.kernel.org/admin-guide/kernel-parameters.html
    """
    groups, files = iommu_groups(host), host.evidence.files("vfio_params")
    assigned = _assigned(host)
    with Findings() as findings:
        if not groups:
            users = "; ".join(f"{name}: {', '.join(devices)}" for name, devices in sorted(assigned.items()))
            findings.fail(
                f"{host}: no IOMMU is active (no IOMMU group){f', though guests own devices ({users})' if users else ''}."
            )
        files.demand_all_readable()
        for module, name, harm in _UNSAFE:
            value = files.get(f"/sys/module/{module}/parameters/{name}", "").strip()
            if value in ("Y", "1"):
                findings.fail(f"{host}: {module} runs with {name}={value}: {harm}; expected N.")
            elif value not in ("N", "0", ""):
                findings.unknown(EvidenceMissing(Cause.UNPARSABLE, f"{name} of {module} is {value[:20]!r}", "vfio_params"))
            else:
                later, where = _at_next_load(host, module, name)
                findings.warn_if(
                    later[:1] in ("y", "Y", "1"), f"{host}: {where} says {name}={later} for the next load of {module}."
                )
        if params.require_pt and groups:
            owned = {device for devices in assigned.values() for device in devices}
            mine = {number: group for number, group in groups.items() if not group.devices & owned}
            if any(not group.type for group in mine.values()):
                findings.unknown(EvidenceMissing(Cause.MISSING, "the kernel does not tell the types of its groups", "iommu_groups"))
            other = [number for number, group in mine.items() if group.type not in ("identity", "")]
            if other:
                kinds = ", ".join(sorted({mine[number].type for number in other}))
                findings.warn(
                    f"{host}: {len(other)} IOMMU groups of the host's own devices are {kinds}, expected identity (iommu=pt)."
                )
        note(f"{len(groups)} IOMMU groups")


#: Lower case is said of l1tf alone, "L1D vulnerable" by kernels of 2018; ``Processor vulnerable``: built without KVM.
#: ARM says of spectre_v2 "Mitigation: CSV2, but not BHB" where the branch history can be injected.
_VULNERABLE = re.compile(r"(?:^|[:;,] )Vulnerable|VMX: vulnerable|L1D vulnerable|but not BHB")
_SMT = re.compile(r"SMT vulnerable|SMT Host state unknown")
_KNOWN = re.compile(r"Not affected|Mitigation|KVM: (?:Mitigation|Not affected)")


@check(
    "KVM-CPU-010",
    title="No CPU vulnerability is left unmitigated on a hypervisor",
    severity=Severity.HIGH,
    reads=("vulnerabilities", "cmdline"),
    params={"allow_mitigations_off": False, "smt_trusted": True},
)
def test_vulnerabilities_are_mitigated(host: Host, params: Params) -> None:
    """Every hardware weakness that the kernel knows of is mitigated or absent.

    What it checks
        No file below /sys/devices/system/cpu/vulnerabilities says Vulnerable (or ``VMX: vulnerable``, or ``but not BHB``
        on ARM), and the kernel command line does not say mitigations=off. Vulnerable SMT warns while all guests trust
        each other (smt_trusted), else fails.

    Why it matters
        l1tf, mds and itlb_multihit can be used by a guest against the host and its neighbours.

    How to fix
        now: update the microcode package and reboot; some mitigations can be set in /sys/devices/system/cpu
        after a reboot: update kernel and microcode, take mitigations=off and the like off the kernel command line; for
            guests of strangers, switch SMT off or schedule by core
        roll back: boot the former kernel; the former kernel command line, and reboot
        verify: grep . /sys/devices/system/cpu/vulnerabilities/*

    When not to
        Single-tenant real-time hosts whose guests are trusted (allow_mitigations_off makes these findings warnings).

    References
        https://docs.kernel.org/admin-guide/hw-vuln/index.html
        https://docs.kernel.org/admin-guide/kernel-parameters.html
    """
    files = host.evidence.files("vulnerabilities")
    with Findings() as findings:
        report = findings.warn if params.allow_mitigations_off else findings.fail
        for path, text in sorted(files.items()):
            name, state = path.rpartition("/")[2], text.strip()
            if name == "old_microcode":  # has a check of its own
                continue
            if _VULNERABLE.search(state):
                report(f"{host}: {name}: {state}.")
            elif _SMT.search(state):
                (findings.warn if params.smt_trusted else report)(f"{host}: {name}: {state}.")
            elif state.startswith(("Unknown", "Processor vulnerable")):
                findings.warn(f"{host}: {name}: {state}.")
            elif not _KNOWN.match(state):
                findings.unknown(EvidenceMissing(Cause.UNPARSABLE, f"{name} says {state[:60]!r}", "vulnerabilities"))
        if "off" in [part for value in values(cmdline(host), "mitigations") for part in value.split(",")]:
            report(f"{host}: mitigations=off on the kernel command line.")
        files.demand_all_readable()
        if not files:
            seen = "the kernel shows no vulnerability files (before Linux 4.15?)"
            raise EvidenceMissing(Cause.MISSING, seen, "vulnerabilities")


#: Linux schedules by core since then.
CORE_SCHEDULING_SINCE = (5, 14)

#: libvirt knows sched_core of qemu.conf since then.
SCHED_CORE_SINCE = (8, 9, 0)


def _smt_active(host: Host) -> bool:
    """Whether cores run several threads; where the kernel has no switch, the lists of threads tell."""
    state = smt(host)
    return state.active if state else any(len(threads) > 1 for threads in thread_siblings(host).values())


def _shared_cores(host: Host) -> list[str]:
    """Return what is wrong with the pins of the domains, if cores are to belong to one domain each."""
    siblings, owners = thread_siblings(host), dict[frozenset[int], str]()
    wrong = []
    for domain in domains(host):
        pins = [pinned_cpus(xml, range(xml.vcpus)) for xml in _definitions(domain)]
        if None in pins:
            wrong.append(f"{domain} is not pinned")
            continue
        cpus = frozenset[int]().union(*filter(None, pins))
        for core in {siblings[cpu] for cpu in cpus if cpu in siblings}:
            if core in owners:
                wrong.append(f"{owners[core]} and {domain} share the core of CPUs {format_cpulist(core)}")
            owners[core] = str(domain)
    return wrong


@check(
    "KVM-CPU-011",
    title="SMT state matches policy and tenancy",
    severity=Severity.LOW,
    reads=("smt", "cpu_siblings", "qemu_conf", "uname", "virsh", "domain"),
    params={"smt_policy": Choice("any", "on", "off"), "tenancy": Choice("trusted", "untrusted")},
)
def test_smt(host: Host, params: Params) -> None:
    """Threads of one core are used as the profile wants, and never by strangers at once.

    What it checks
        /sys/devices/system/cpu/smt/active is 1 or 0 as smt_policy says (any: recorded; without that file, the lists of threads
        tell). With tenancy untrusted: SMT is off, or sched_core of qemu.conf is vcpus, emulator or full on Linux 5.14 or later
        and libvirt 8.9 or later, or every domain is pinned to cores that no other one is pinned to.

    Why it matters
        Two threads of a core compete for it, so latency varies; and what one does can be measured by the other.

    How to fix
        now: echo off > /sys/devices/system/cpu/smt/control, with no pins on the threads that go away; or pin each guest to cores
            of its own
        after a reboot: nosmt on the kernel command line, or the firmware's switch; or sched_core = "vcpus" in
            /etc/libvirt/qemu.conf (libvirt 8.9), for guests that are started afterwards
        roll back: echo on > /sys/devices/system/cpu/smt/control
        verify: cat /sys/devices/system/cpu/smt/active

    When not to
        With guests that trust each other SMT gives a fifth to a third more throughput.

    References
        https://docs.kernel.org/admin-guide/hw-vuln/core-scheduling.html
        https://libvirt.org/kbase/kvm-realtime.html
    """
    policy = params.smt_policy
    tenancy = params.tenancy
    active = _smt_active(host)
    with Findings() as findings:
        if policy != "any" and active != (policy == "on"):
            findings.fail(f"{host}: SMT is {'on' if active else 'off'}, expected {policy}.")
        note(f"SMT is {'on' if active else 'off'}, policy {policy}, guests {tenancy}")
        if tenancy == "trusted" or not active:
            return
        # Either of the two suffices, so what is missing of one does not matter while the other holds.
        missing, sched_core, release, ignored = None, "", "", ""
        try:
            sched_core = str(qemu_conf(host).get("sched_core", "none"))
            release = uname(host).release
            if sched_core in ("vcpus", "emulator", "full") and kernel_version(release) >= CORE_SCHEDULING_SINCE:
                # An older libvirt passes over a setting that it does not know.
                libvirt = versions(host).libvirt
                if libvirt >= SCHED_CORE_SINCE:
                    note(f"sched_core is {sched_core}")
                    return
                ignored = f" (libvirt {'.'.join(map(str, libvirt))} does not know sched_core)"
        except EvidenceMissing as exc:
            missing = exc
        shared = _shared_cores(host)
        if not shared:
            note("each domain is pinned to cores of its own")
            return
        findings.unknown(missing)
        if not missing:
            why = f"sched_core is {sched_core} on Linux {release}{ignored}, and {'; '.join(shared[:3])}"
            findings.fail(f"{host}: SMT is on with untrusted guests: {why}.")


def kernel_version(release: str) -> tuple[int, int]:
    """Return the version of a kernel release. Raises :class:`EvidenceMissing`."""
    match = re.match(r"(\d{1,3})\.(\d{1,4})", release, re.ASCII)
    if not match:
        raise EvidenceMissing(Cause.UNPARSABLE, f"not a kernel release: {release[:40]!r}", "uname")
    return int(match[1]), int(match[2])
