"""Checks of the CPU and of KVM itself."""

from __future__ import annotations

import re

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.facts.devicenode import Account, Node
from pytest_kvmcheck.views.cpu import (
    capabilities,
    cmdline,
    cpuinfo,
    kvm_modules,
    kvm_node,
    kvm_parameter,
    qemu_account,
    uname,
)
from pytest_kvmcheck.views.host import Host

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
        of the host. Where libvirt cannot be asked, owner, group and mode have to give the QEMU account read and write
        access.

    Why it matters
        It is the only proof that holds on every architecture, and it covers software backends and nested hosts.

    How to fix
        now: modprobe kvm_intel or kvm_amd; udevadm trigger --name-match=kvm; then systemctl restart the libvirt daemon
        after a reboot: enable virtualization in the firmware; remove blacklist lines for kvm in /etc/modprobe.d
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
            access = f"/dev/kvm is {node.mode:o} {node.user}:{node.group}"
            if _may_use(account, node):
                note(f"libvirt does not answer; {access}: {account.user} may use /dev/kvm")
            else:
                groups = ", ".join(sorted(account.groups))
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
                findings.fail(f"{host}: no KVM backend is loaded (found {shown}), expected kvm_hv.")
        elif not machine.x86:
            findings.fail_if("kvm" not in modules, f"{host}: kvm is neither loaded nor built in (found {shown}).")
        elif not modules & {*_BACKENDS.values(), "kvm_pvm"}:
            findings.fail(f"{host}: no KVM backend is loaded (found {shown}), expected kvm_intel or kvm_amd.")
        else:
            _judge_x86(host, modules, findings)


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
    findings.fail_if(wanted not in modules, f"{host}: {wanted} is not loaded on a CPU of {vendor} (found {shown}).")


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


#: Lower case is said of l1tf alone, "L1D vulnerable" by kernels of 2018; ``Processor vulnerable``: built without KVM.
_VULNERABLE = re.compile(r"(?:^|[:;,] )Vulnerable|VMX: vulnerable|L1D vulnerable")
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
        No file below /sys/devices/system/cpu/vulnerabilities says Vulnerable (or ``VMX: vulnerable``), and the kernel
        command line does not say mitigations=off. Vulnerable SMT warns while all guests trust each other (smt_trusted),
        else fails.

    Why it matters
        l1tf, mds and itlb_multihit can be used by a guest against the host and its neighbours.

    How to fix
        now: update the microcode package and reboot; some mitigations can be set in /sys/devices/system/cpu
        after a reboot: update kernel and microcode, take mitigations=off and the like off the kernel command line; for
            guests of strangers, switch SMT off or schedule by core
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
