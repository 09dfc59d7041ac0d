"""Checks of the machine: firmware, microcode, hardware errors."""

from __future__ import annotations

import datetime
import re

from pytest_kvmcheck import EvidenceMissing, Findings, Params, Severity, Text, Whole, check, note
from pytest_kvmcheck.conditions import all_of, bare_metal, condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parsing
from pytest_kvmcheck.facts.cpulist import format_cpulist
from pytest_kvmcheck.facts.dmi import parse_bios_date
from pytest_kvmcheck.views.cpu import uname
from pytest_kvmcheck.views.hardware import dmi, memory_errors, microcode
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.memory import meminfo
from pytest_kvmcheck.views.system import demand_whole_kernel_log, kernel_log, kernel_log_from_boot
from pytest_kvmcheck.views.time import now_s, virtualization


@condition
def has_dmi(host: Host) -> str | None:
    """Hold on machines whose firmware tells of itself."""
    return None if dmi(host) else "the machine has no DMI"


@check(
    "KVM-CPU-008",
    title="System firmware is not stale",
    severity=Severity.LOW,
    reads=("detect_virt", "dmi", "now", "cpu_lists"),
    params={"max_bios_age_days": Whole(1095, 30, 3650), "expected_bios_version": Text(None)},
    applies=all_of(bare_metal, has_dmi),
)
def test_firmware_is_recent(host: Host, params: Params) -> None:
    """The firmware is the version that the profile expects, or at least not old.

    What it checks
        bios_version of /sys/class/dmi/id equals expected_bios_version where the profile gives one; otherwise bios_date is at
        most max_bios_age_days ago by the host's own clock.

    Why it matters
        Firmware carries microcode and mends memory training and power management, which guests feel.

    How to fix
        now: compare with the release notes of the maker
        after a reboot: update by the maker's tool or fwupdmgr, with the guests moved away
        roll back: most makers keep the former version in a second bank
        verify: grep . /sys/class/dmi/id/bios_version /sys/class/dmi/id/bios_date

    When not to
        An old date may be the last release there is: give expected_bios_version then.

    References
        https://www.dmtf.org/standards/smbios
        https://fwupd.org/
    """
    machine = dmi(host)
    if machine is None:
        raise EvidenceMissing(Cause.MISSING, "the machine has no DMI", "dmi")
    shown = f"firmware {machine.bios_version or 'of unknown version'} of {machine.bios_date or 'unknown date'}"
    expected = params.expected_bios_version
    if expected is not None:
        if not machine.bios_version:
            raise EvidenceMissing(Cause.MISSING, "the firmware does not tell its version", "dmi")
        assert machine.bios_version == str(expected), f"{host}: {shown}, expected version {expected}."
        note(shown)
        return
    date = parsing("dmi", parse_bios_date, machine.bios_date)
    today = datetime.datetime.fromtimestamp(now_s(host), datetime.UTC).date()
    age = (today - date).days
    if age < -1:
        raise EvidenceMissing(Cause.UNPARSABLE, f"the firmware is of {date}, but the clock says {today}", "dmi")
    assert age <= params.max_bios_age_days, f"{host}: {shown}, {age} days old, at most {params.max_bios_age_days} days allowed."
    note(f"{shown}, {age} days old")


@condition
def is_x86(host: Host) -> str | None:
    """Hold on x86."""
    machine = uname(host)
    return None if machine.x86 else f"not x86 but {machine.machine}"


@check(
    "KVM-CPU-009",
    title="All CPUs run one, sufficiently recent microcode revision",
    severity=Severity.HIGH,
    reads=("uname", "detect_virt", "microcode", "vulnerabilities"),
    params={"min_microcode": Text(None, "(0x)?[0-9a-fA-F]{1,8}", 'a hexadecimal number in quotes, such as "0x2b000590"')},
    applies=all_of(is_x86, bare_metal),
)
def test_microcode(host: Host, params: Params) -> None:
    """Every CPU runs the same microcode, and the kernel does not call it too old.

    What it checks
        /proc/cpuinfo tells one revision per family, model and stepping, at least min_microcode where the profile gives it
        (compared as hexadecimal numbers). No file of /sys/devices/system/cpu/vulnerabilities says "no microcode", and
        old_microcode (Linux 6.16) does not say Vulnerable.

    Why it matters
        Some mitigations only work with new microcode, and guests with host-passthrough do not move well between revisions.

    How to fix
        now: nothing; microcode is loaded early, late loading is for experts
        after a reboot: install microcode_ctl (RHEL), intel-microcode or amd64-microcode (Debian, Ubuntu), ucode-intel or
            ucode-amd (SUSE), rebuild the initramfs, switch the machine off and on; or update the firmware
        roll back: boot once with dis_ucode_ldr, which leaves the firmware's revision
        verify: grep microcode /proc/cpuinfo | sort | uniq -c

    When not to
        Virtual machines show whatever their hypervisor likes.

    References
        https://docs.kernel.org/arch/x86/microcode.html
        https://docs.kernel.org/admin-guide/hw-vuln/index.html
    """
    least = int(params.min_microcode, 16) if params.min_microcode else None
    with Findings() as findings:
        for (family, model, stepping), revisions in sorted(microcode(host).items()):
            name = f"CPUs of family {family}, model {model}, stepping {stepping}"
            shown = " and ".join(f"{rev:#x} (CPUs {format_cpulist(cpus)})" for rev, cpus in sorted(revisions.items()))
            findings.fail_if(len(revisions) > 1, f"{host}: {name} run microcode {shown}, expected one revision.")
            if least is not None and min(revisions) < least:
                findings.fail(f"{host}: {name} run microcode {min(revisions):#x}, expected {least:#x} or later.")
            note(f"microcode {shown}")
        files = host.evidence.files("vulnerabilities")
        for path, text in sorted(files.items()):
            flaw, state = path.rpartition("/")[2], text.strip()
            if flaw == "old_microcode":
                findings.fail_if(state.startswith("Vulnerable"), f"{host}: the kernel calls the microcode too old ({state}).")
            else:
                findings.fail_if("no microcode" in state.lower(), f"{host}: {flaw}: {state}.")
        files.demand_all_readable()
        if not files:
            raise EvidenceMissing(Cause.MISSING, "the kernel shows no vulnerability files (before Linux 4.15?)", "vulnerabilities")


@condition
def errors_are_seen(host: Host) -> str | None:
    """Hold on real machines, and on virtual ones with memory controllers of their own."""
    kind = virtualization(host)
    return None if kind == "none" or memory_errors(host) else f"a virtual machine ({kind}) without memory controllers to watch"


#: What the kernel says of errors that nothing corrected, and of machine checks of either kind. Bare words such as EDAC or MCE
#: stand in harmless lines too.
_FATAL = re.compile(
    r"EDAC MC\d+: \d+ UE |[Uu]ncorrected|UNCORRECTED|Memory failure: 0x|event severity: (?:fatal|recoverable)"
    r"|Processor context corrupt|Uncorrectable \((?:Non-)?Fatal\)"  # of PCIe since Linux 6.8
)
_LOGGED = re.compile(r"[Mm]achine check events logged")


@check(
    "KVM-CPU-015",
    title="No corrected-error storm or uncorrected hardware error is recorded",
    severity=Severity.HIGH,
    reads=("detect_virt", "edac", "meminfo", "kernel_log", "cpu_lists"),
    params={"max_ce": Whole(100, 0, 10_000)},
    applies=errors_are_seen,
)
def test_hardware_errors(host: Host, params: Params) -> None:
    """Memory and processors work without errors, or with few that were corrected.

    What it checks
        The memory controllers (EDAC) counted no uncorrected error and at most max_ce corrected ones; HardwareCorrupted of
        /proc/meminfo is 0; the kernel's log of this boot tells no uncorrected error. "Machine check events logged" alone, which
        is also said of corrected errors, is a warning.

    Why it matters
        An uncorrected memory error takes down every guest that touches the page, or the host.

    How to fix
        now: move the guests away; find the part: ras-mc-ctl --errors, ras-mc-ctl --layout, or the log of the BMC
        after a reboot: replace the module or the processor; the counters start again at boot
        roll back: nothing to undo: hardware that was replaced stays
        verify: grep . /sys/devices/system/edac/mc/mc*/*_count; grep HardwareCorrupted /proc/meminfo

    When not to
        Virtual machines, whose hardware is their hypervisor's matter.

    References
        https://docs.kernel.org/admin-guide/RAS/main.html
        https://docs.kernel.org/mm/hwpoison.html
    """
    with Findings() as findings:
        counts, fields = memory_errors(host), meminfo(host)
        for name, errors in counts.items():
            findings.fail_if(errors.uncorrected > 0, f"{host}: {name} counted {errors.uncorrected} uncorrected memory errors.")
        corrected = sum(errors.corrected for errors in counts.values())
        if corrected > params.max_ce:
            where = ", ".join(f"{name} {errors.corrected}" for name, errors in counts.items() if errors.corrected)
            findings.fail(f"{host}: {corrected} corrected memory errors since boot ({where}), at most {params.max_ce} allowed.")
        corrupted = fields.get("HardwareCorrupted")
        if corrupted:
            findings.fail(f"{host}: {corrupted // 1024} KiB of memory are out of use after hardware errors, expected 0.")
        log = kernel_log(host)
        fatal = [message.text for message in log if _FATAL.search(message.text)]
        if fatal:
            findings.fail(f"{host}: {len(fatal)} messages of uncorrected hardware errors, the last: {fatal[-1][:160]}")
        logged = sum(bool(_LOGGED.search(message.text)) for message in log)
        findings.warn_if(bool(logged) and not fatal, f"{host}: machine check events were logged {logged} times since boot.")
        demand_whole_kernel_log(host)
        if not kernel_log_from_boot(host):
            note("the log does not reach back to the boot")
        watched = (
            f"{len(counts)} memory controllers" if counts else "no EDAC driver watches the memory: the kernel's log alone tells"
        )
        note(f"{watched}, {corrected} corrected errors")
