"""Checks of Linux guests, seen from inside."""

from __future__ import annotations

import re

from pytest_kvmcheck import Choice, EvidenceMissing, Findings, Items, Number, Params, Severity, Text, Whole, check, note
from pytest_kvmcheck.conditions import condition
from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.facts.cmdline import values
from pytest_kvmcheck.findings import compared
from pytest_kvmcheck.views.cpu import cmdline, cpuinfo, online_cpus, uname
from pytest_kvmcheck.views.guest import agent_conf, channels, first_boot, guest_disks, kvm_clocks, tuned_profiles, virtio_ports
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.identity import machine_id, ssh_host_keys
from pytest_kvmcheck.views.memory import choice, swaps, vm_setting
from pytest_kvmcheck.views.network import device_places, pci_of
from pytest_kvmcheck.views.services import failed_units, unit, units
from pytest_kvmcheck.views.storage import dm_maps
from pytest_kvmcheck.views.system import counters, mounts, uptime_s
from pytest_kvmcheck.views.time import (
    UNASKED_UNITS,
    chrony_sources,
    clocksource,
    now_s,
    ntp_variables,
    timesyncd_stamp_s,
    tracking,
    virtualization,
)

MIB = 2**20

GOOD = {"aarch64": "arch_sys_counter", "s390x": "tod", "ppc64": "timebase", "ppc64le": "timebase"}


@condition
def is_a_kvm_guest(guest: Host) -> str | None:
    """Hold inside guests of KVM."""
    kind = virtualization(guest)
    if kind in ("kvm", "amazon", "google"):
        return None
    return (
        "not a virtual machine"
        if kind == "none"
        else f"a guest of {kind}, not of KVM"
        if kind != "qemu"
        else "an emulated guest (TCG)"
    )


@check(
    "KVM-GST-002",
    title="The guest clock source is kvm-clock or a trusted TSC",
    severity=Severity.MEDIUM,
    reads=("clocksource", "cpuinfo", "uname", "detect_virt"),
    applies=is_a_kvm_guest,
)
def test_guest_clock_source(guest: Host) -> None:
    """The guest reads the time without leaving its vCPU, from a source that its host vouches for.

    What it checks
        kvm-clock; or tsc, if the CPU flags have both constant_tsc and nonstop_tsc; hyperv_clocksource_tsc_page; on aarch64
        arch_sys_counter, on s390x tod, on ppc64 timebase. ``tsc=reliable`` on the command line is no excuse for missing flags.

    Why it matters
        hpet and acpi_pm cost an exit of the vCPU for each look at the clock; an untrusted TSC jumps when the guest migrates.

    How to fix
        now: echo kvm-clock > /sys/devices/system/clocksource/clocksource0/current_clocksource
        after a reboot: take clocksource=, tsc= and no-kvmclock off the guest's kernel command line; expose invtsc only to guests
            that never migrate
        roll back: echo the former name into current_clocksource; the former kernel command line, and reboot
        verify: cat /sys/devices/system/clocksource/clocksource0/current_clocksource

    When not to
        Emulated guests and guests of other hypervisors.

    References
        https://docs.kernel.org/virt/kvm/x86/timekeeping.html
    """
    name, machine = clocksource(guest), uname(guest)
    if not machine.x86:
        wanted = GOOD.get(machine.machine)
        if wanted is None:
            raise EvidenceMissing(Cause.UNPARSABLE, f"no rule for the architecture {machine.machine}", "uname")
        assert name == wanted, f"{guest}: clock source is {name}, expected {wanted}."
        return
    if name in ("kvm-clock", "hyperv_clocksource_tsc_page"):
        return
    if name == "tsc":
        missing = {"constant_tsc", "nonstop_tsc"} - cpuinfo(guest).flags
        assert not missing, f"{guest}: clock source is tsc, but its CPU lacks {', '.join(sorted(missing))}; expected kvm-clock."
        return
    raise AssertionError(f"{guest}: clock source is {name}, expected kvm-clock.")


#: Drivers of the network cards that QEMU and other hypervisors emulate.
EMULATED = frozenset({"e1000", "e1000e", "igb", "8139cp", "8139too", "pcnet32", "ne2k-pci", "tulip", "e100", "vmxnet3"})


@condition
def is_a_virtual_guest(guest: Host) -> str | None:
    """Hold inside guests of KVM and QEMU, emulated ones too."""
    kind = virtualization(guest)
    if kind in ("kvm", "qemu", "amazon", "google"):
        return None
    return "not a virtual machine" if kind == "none" else f"a guest of {kind}, not of KVM"


@check(
    "KVM-GST-001",
    title="The guest runs virtio drivers for disk and network",
    severity=Severity.MEDIUM,
    reads=("detect_virt", "guest_disks", "device_places", "pci"),
    applies=is_a_virtual_guest,
)
def test_guest_uses_virtio(guest: Host) -> None:
    """Disks and cards of the guest are made for virtual machines, or are real hardware.

    What it checks
        Every disk that is not removable hangs on virtio or is NVMe (disks of iSCSI and Fibre Channel are left out); every network
        card is virtio or has a driver of real hardware, as virtual functions and assigned cards have.

    Why it matters
        Each register that an emulated controller is asked for stops the vCPU; virtio hands over whole queues at once.

    How to fix
        now: nothing can be done while the guest runs
        after a reboot: put virtio_blk, virtio_scsi and virtio_net into the initramfs (RHEL, SUSE: dracut --add-drivers
            "virtio_blk virtio_scsi" -f; Debian, Ubuntu: update-initramfs -u), then change the bus and model in the definition
        roll back: change bus and model back
        verify: ls -l /sys/class/block /sys/class/net

    When not to
        Operating systems without virtio drivers.

    References
        https://docs.kernel.org/driver-api/virtio/virtio.html
        https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
    """
    places = device_places(guest)
    with Findings() as findings:
        for name, disk in sorted(guest_disks(guest).items()):
            path = places.paths.get("block", {}).get(name, "")
            if disk.removable or "/virtual/" in path or name.startswith(("sr", "fd")):
                continue
            if not path:
                findings.unknown(EvidenceMissing(Cause.MISSING, f"where the disk {name} hangs is not told", "device_places"))
            elif not re.search(r"/virtio\d+/|/nvme/|/session\d|/rport-", path):
                controller = re.search(r"/((?:ata|usb|host)\d+)/", path)
                where = f" ({controller[1]})" if controller else ""
                findings.fail(f"{guest}: disk {name} is on an emulated controller{where}, expected virtio.")
        for name, path in sorted(places.paths.get("net", {}).items()):
            if not places.physical(name) or re.search(r"/virtio\d+/", path):
                continue
            device = pci_of(guest, "net", name)
            driver = device.driver if device else ""
            if device and driver and driver not in EMULATED:
                note(f"{name} is hardware ({driver})")
            else:
                findings.fail(f"{guest}: network card {name} is emulated ({driver or 'no PCI device'}), expected virtio.")


#: systemd-timesyncd asks at least this often (PollIntervalMaxSec is 2048 s), and may miss one answer.
TIMESYNCD_AGE_S = 4200


@check(
    "KVM-GST-003",
    title="The guest clock is synchronised, ideally to the KVM PTP clock",
    severity=Severity.MEDIUM,
    reads=("chrony_tracking", "chrony_sources", "ntpd_variables", "timesyncd_stamp", "systemd_units", "now", "ptp_clocks"),
    params={"max_offset_ms": Number(50, 0.001, 10_000)},
)
def test_guest_clock_is_synchronised(guest: Host, params: Params) -> None:
    """Something in the guest keeps its clock right.

    What it checks
        chrony: it is synchronised, follows a source that it can hear, and is at most max_offset_ms off. ntpd: it follows a source,
        with the same limit. systemd-timesyncd: it set the clock within 70 minutes; how far it is off is not told. No daemon at all
        fails. Whether the clock of the host (ptp_kvm) is followed is only noted.

    Why it matters
        A guest's clock stands still while the guest is paused, and nobody else mends it. Tracking of chrony stays Normal after all
        servers died: the sources tell.

    How to fix
        now: systemctl start chronyd (Debian, Ubuntu: chrony); modprobe ptp_kvm
        after a reboot: systemctl enable chronyd; echo ptp_kvm > /etc/modules-load.d/ptp_kvm.conf; refclock PHC /dev/ptp_kvm poll 2
            in /etc/chrony.conf (Debian, Ubuntu: /etc/chrony/conf.d), with servers to fall back on
        roll back: remove the refclock line, and restart chrony
        verify: chronyc -n tracking; chronyc -n sources

    When not to
        Guests that are never paused and follow a cloud's own clock.

    References
        https://docs.kernel.org/virt/kvm/x86/hypercalls.html
        https://chrony-project.org/doc/4.6/chronyc.html
        https://chrony-project.org/doc/4.6/chrony.conf.html
    """
    with Findings() as findings:
        chrony = tracking(guest)
        if chrony:
            _judge_chrony(findings, guest, chrony.synchronized, 1000 * abs(chrony.offset_s), params.max_offset_ms)
            return
        ntp = ntp_variables(guest)
        if ntp:
            findings.fail_if(not ntp.synchronized, f"{guest}: ntpd follows no source.")
            _judge_offset(findings, guest, 1000 * abs(ntp.offset_s), params.max_offset_ms)
            return
        running = [name for name in ("chronyd.service", "ptp4l.service", "phc2sys.service") if unit(guest, name).active]
        running += [name for name in UNASKED_UNITS if name in units(guest) and unit(guest, name).active]
        if running:
            raise EvidenceMissing(Cause.MISSING, f"{running[0]} runs, and nothing tells how well", "chrony_tracking")
        if not unit(guest, "systemd-timesyncd.service").active:
            findings.fail(f"{guest}: no time daemon answers: neither chrony nor ntpd nor systemd-timesyncd.")
            return
        stamp = timesyncd_stamp_s(guest)
        age = None if stamp is None else now_s(guest) - stamp
        findings.fail_if(age is None, f"{guest}: systemd-timesyncd runs, but has not set the clock yet.")
        findings.fail_if(
            age is not None and age > TIMESYNCD_AGE_S,
            f"{guest}: systemd-timesyncd last set the clock {age} s ago, at most {TIMESYNCD_AGE_S} s expected.",
        )
        note("systemd-timesyncd keeps the clock, how well is not told")


def _judge_chrony(findings: Findings, guest: Host, synchronized: bool, offset_ms: float, limit_ms: float) -> None:
    findings.fail_if(not synchronized, f"{guest}: chrony follows no source.")
    _judge_offset(findings, guest, offset_ms, limit_ms)
    sources = chrony_sources(guest)
    if sources is None:
        raise EvidenceMissing(Cause.MISSING, "chrony tells no sources", "chrony_sources")
    followed = [source for source in sources if source.state == "*" and source.reach]
    findings.fail_if(
        synchronized and not followed, f"{guest}: none of the {len(sources)} sources of chrony is followed and answers."
    )
    if not kvm_clocks(guest):
        note("no PTP clock of KVM (ptp_kvm is not loaded)")
    elif not any(source.refclock for source in followed):
        note(f"the clock of the host ({', '.join(kvm_clocks(guest))}) is there, and not followed")


def _judge_offset(findings: Findings, guest: Host, offset_ms: float, limit_ms: float) -> None:
    findings.fail_if(offset_ms > limit_ms, f"{guest}: the clock is {offset_ms:.3g} ms off, at most {limit_ms:g} ms allowed.")


@condition
def several_queues(guest: Host) -> str | None:
    """Hold for guests that have a virtio network card of several queues."""
    found = channels(guest)
    if not found:
        return "no virtio network card"
    return None if any(item.possible > 1 for item in found.values()) else "all virtio network cards have a single queue"


@check(
    "KVM-GST-004",
    title="The guest uses the network queues it was given",
    severity=Severity.LOW,
    reads=("guest_channels", "cpu_lists"),
    applies=several_queues,
)
def test_guest_uses_its_queues(guest: Host) -> None:
    """No queue of a network card lies idle while vCPUs wait for another.

    What it checks
        ethtool -l: the combined queues in use of each virtio card are at least the smaller of those possible and the CPUs online.

    Why it matters
        With one queue, one vCPU does all the work of the network; unused queues cost the host memory and interrupts all the same.

    How to fix
        now: ethtool -L DEVICE combined COUNT
        after a reboot: NetworkManager (RHEL, SUSE): nmcli connection modify NAME ethtool.channels-combined COUNT; Debian: a line
            post-up ethtool -L in /etc/network/interfaces; or a udev rule
        roll back: ethtool -L DEVICE combined 1
        verify: ethtool -l DEVICE

    When not to
        Kernels since 4.10 use all queues up to the number of CPUs by themselves.

    References
        https://man7.org/linux/man-pages/man8/ethtool.8.html
        https://libvirt.org/formatdomain.html#setting-nic-driver-specific-options
    """
    cpus = len(online_cpus(guest))
    with Findings() as findings:
        for name, item in channels(guest).items():
            wanted = min(item.possible, cpus)
            findings.fail_if(
                item.used < wanted,
                f"{guest}: {name} uses {item.used} of {item.possible} queues, expected {wanted} with {cpus} CPUs.",
            )


@check(
    "KVM-GST-005",
    title="The QEMU guest agent is running",
    severity=Severity.LOW,
    reads=("virtio_ports", "systemd_units", "agent_conf", "cpu_lists"),
    params={
        "required_rpcs": Items(
            ("guest-fsfreeze-freeze", "guest-set-time"),
            Text("", r"guest-[a-z0-9-]+", "a command of the agent, such as guest-set-time"),
            least=1,
        )
    },
)
def test_guest_agent_runs(guest: Host, params: Params) -> None:
    """The host can ask the guest to hold still for a backup and to set its clock.

    What it checks
        The channel org.qemu.guest_agent.0 is there, qemu-guest-agent.service is active, and its configuration refuses none of
        required_rpcs.

    Why it matters
        Without it, snapshots catch file systems in the middle of writing, and the clock is wrong after the guest was paused.

    How to fix
        now: install qemu-guest-agent and systemctl start qemu-guest-agent; a missing channel is added on the host (KVM-VIO-005)
        after a reboot: systemctl enable qemu-guest-agent (a udev rule starts it where the channel is); take the names out of
            BLOCK_RPCS or into --allow-rpcs in /etc/sysconfig/qemu-ga (RHEL, SUSE) or /etc/qemu/qemu-ga.conf (Debian)
        roll back: the same with the former lists
        verify: systemctl status qemu-guest-agent; virsh qemu-agent-command DOMAIN '{"execute":"guest-info"}' on the host

    When not to
        Guests whose owner must not be reachable from the host.

    References
        https://www.qemu.org/docs/master/interop/qemu-ga.html
    """
    with Findings() as findings:
        findings.fail_if(
            "org.qemu.guest_agent.0" not in virtio_ports(guest),
            f"{guest}: it has no channel org.qemu.guest_agent.0 to the host.",
        )
        service = unit(guest, "qemu-guest-agent.service")
        findings.fail_if(
            not service.active,
            f"{guest}: qemu-guest-agent.service is {service.active_state if service.exists else 'not installed'}, expected active.",
        )
        if service.exists:
            refused = [rpc for rpc in params.required_rpcs if agent_conf(guest).refuses(rpc)]
            findings.fail_if(bool(refused), f"{guest}: the guest agent is configured to refuse {', '.join(refused)}.")


@condition
def has_plain_disks(guest: Host) -> str | None:
    """Hold for guests with disks of virtio or SCSI."""
    return None if any(re.match(r"(vd|sd)[a-z]", name) for name in guest_disks(guest)) else "no vd or sd disk"


@check(
    "KVM-GST-006",
    title="Disk scheduling and trimming suit virtual disks",
    severity=Severity.LOW,
    reads=("guest_disks", "mounts", "dm_maps", "dm_slaves", "systemd_units"),
    params={
        "allowed_schedulers": Items(
            ("none", "mq-deadline", "noop", "deadline"),
            Choice("none", "mq-deadline", "noop", "deadline", "kyber", "bfq", "cfq"),
            least=1,
        )
    },
    applies=has_plain_disks,
)
def test_guest_disks_are_scheduled_and_trimmed(guest: Host, params: Params) -> None:
    """The guest leaves the order of I/O to the host, and gives back what it deletes.

    What it checks
        The scheduler of each vd and sd disk is one of allowed_schedulers. Where a disk that can be trimmed carries mounted file
        systems, fstrim.timer is enabled, or all of them are mounted with discard.

    Why it matters
        The host sorts requests again; and thin images grow until they are full when nobody tells what is free.

    How to fix
        now: echo none > /sys/block/DISK/queue/scheduler; fstrim -av
        after a reboot: a udev rule ACTION=="add|change", KERNEL=="vd[a-z]|sd[a-z]", ATTR{queue/scheduler}="none"; systemctl enable
            --now fstrim.timer
        roll back: remove the rule; systemctl disable --now fstrim.timer
        verify: grep . /sys/block/*/queue/scheduler; systemctl list-timers fstrim.timer

    When not to
        Disks passed through from SATA hard drives may want bfq.

    References
        https://docs.kernel.org/block/switching-sched.html
        https://man7.org/linux/man-pages/man8/fstrim.8.html
    """
    disks = {name: disk for name, disk in guest_disks(guest).items() if re.match(r"(vd|sd)[a-z]", name) and not disk.removable}
    with Findings() as findings:
        for name, disk in sorted(disks.items()):
            if not disk.scheduler:
                findings.unknown(EvidenceMissing(Cause.MISSING, f"the scheduler of {name} is not told", "guest_disks"))
            findings.fail_if(
                bool(disk.scheduler) and disk.scheduler not in params.allowed_schedulers,
                f"{guest}: scheduler of {name} is {disk.scheduler}, expected {' or '.join(params.allowed_schedulers)}.",
            )
        waiting = [
            f"{mount.target} on {name}"
            for mount in mounts(guest)
            if mount.source.startswith("/dev/") and not any(word.partition("=")[0] == "discard" for word in mount.options)
            for name in _disks_below(guest, mount.source)
            if name in disks and disks[name].discards
        ]
        if any(mount.source == "/dev/root" for mount in mounts(guest)):
            findings.unknown(EvidenceMissing(Cause.MISSING, "the kernel does not tell on which disk /dev/root is", "mounts"))
        if waiting:
            timer = unit(guest, "fstrim.timer")
            findings.fail_if(
                not timer.enabled,
                f"{guest}: {', '.join(waiting[:4])} is never trimmed: fstrim.timer is"
                f" {timer.unit_file_state or 'not there'}, and the option discard is not set.",
            )


def _disks_below(guest: Host, source: str) -> set[str]:
    """Return the names of the disks below a mounted block device, through maps and partitions."""
    maps = dm_maps(guest)
    name = source.removeprefix("/dev/")
    name = next((item.device for item in maps if f"mapper/{item.name}" == name), name)
    waiting, found = [name], set[str]()
    for _ in range(64):
        if not waiting:
            break
        name = waiting.pop()
        slaves = next((item.slaves for item in maps if item.device == name), ())
        waiting += slaves
        if not slaves:
            found.add(re.sub(r"^((?:vd|sd)[a-z]+)\d+$", r"\1", name))
    return found


#: Two samples closer together than this tell no rate.
MIN_SECONDS = 2.0

#: Pages swapped in and out a second that do not matter.
CALM_PAGES_S = 10


def _swap_rate(guest: Host) -> float:
    """Return the pages swapped in and out a second between two samples."""
    first, second = counters(guest)
    if first.swapped_pages is None or second.swapped_pages is None:
        raise EvidenceMissing(Cause.MISSING, "/proc/vmstat tells no pswpin and pswpout", "counters")
    if second.swapped_pages == 0:  # never since boot
        return 0.0
    seconds = second.uptime_s - first.uptime_s
    if seconds < MIN_SECONDS:
        raise EvidenceMissing(Cause.EMPTY, f"samples {seconds:.1f} s apart tell no rate of swapping", "counters_later")
    return (second.swapped_pages - first.swapped_pages) / seconds


@check(
    "KVM-GST-007",
    title="The database guest does not swap",
    severity=Severity.MEDIUM,
    reads=("swaps", "counters", "counters_later", "vm_settings", "thp"),
    params={
        "max_swap_mib": Whole(0, 0, 16_384),
        "max_swappiness": Whole(10, 0, 100),
        "guest_thp": Choice(None, "always", "madvise", "never"),
    },
)
def test_guest_does_not_swap(guest: Host, params: Params) -> None:
    """The guest has all that it works with in memory.

    What it checks
        Used swap is at most max_swap_mib (more is a warning while no pages move), at most 10 pages a second move between two
        samples, vm.swappiness is at most max_swappiness where there is swap, and transparent huge pages are in the mode guest_thp
        where the profile names one.

    Why it matters
        A guest that swaps loads the storage of all others; when the host is short as well, each page moves twice.

    How to fix
        now: sysctl -w vm.swappiness=1; swapoff -a && swapon -a when there is room
        after a reboot: echo 'vm.swappiness = 1' > /etc/sysctl.d/80-swap.conf; give the guest the memory that its database is
            configured for; huge pages for the database inside the guest
        roll back: the same with the former value
        verify: cat /proc/swaps; vmstat 1

    When not to
        Guests of batch jobs and desktops.

    References
        https://docs.kernel.org/admin-guide/sysctl/vm.html
        https://man7.org/linux/man-pages/man5/proc_swaps.5.html
    """
    with Findings() as findings:
        spaces = swaps(guest)
        used = sum(space.used_bytes for space in spaces)
        if spaces:
            swappiness = vm_setting(guest, "swappiness")
            findings.fail_if(
                swappiness > params.max_swappiness,
                f"{guest}: vm.swappiness is {swappiness}, at most {params.max_swappiness} allowed where there is swap.",
            )
        if params.guest_thp:
            mode = choice(guest, "thp", "/sys/kernel/mm/transparent_hugepage/enabled")
            findings.fail_if(mode != params.guest_thp, f"{guest}: transparent huge pages are {mode}, expected {params.guest_thp}.")
        rate = _swap_rate(guest)
        findings.fail_if(rate > CALM_PAGES_S, f"{guest}: it swaps {rate:.0f} pages a second, at most {CALM_PAGES_S} allowed.")
        if used > params.max_swap_mib * MIB:
            what = f"{guest}: {used // MIB} MiB are swapped out, at most {params.max_swap_mib} MiB allowed"
            if rate:
                findings.fail(f"{what}, and pages move.")
            else:
                findings.warn(f"{what}; no page moves now.")


@condition
def has_tuned(guest: Host) -> str | None:
    """Hold where TuneD is installed."""
    return None if unit(guest, "tuned.service").exists else "TuneD is not installed"


@check(
    "KVM-GST-008",
    title="The guest runs a TuneD profile meant for guests",
    severity=Severity.LOW,
    reads=("systemd_units", "tuned"),
    params={
        "allowed_profiles": Items(
            (
                *("virtual-guest", "throughput-performance", "latency-performance", "network-latency", "oracle", "mssql"),
                *("postgresql", "sap-hana-kvm-guest", "realtime-virtual-guest"),
            ),
            Text(""),
            least=1,
            most=30,
        )
    },
    applies=has_tuned,
)
def test_guest_tuned_profile(guest: Host, params: Params) -> None:
    """TuneD sets the guest up as one.

    What it checks
        tuned.service is active, and every profile in /etc/tuned/active_profile is one of allowed_profiles.

    Why it matters
        balanced saves power that a guest cannot save, and virtual-host is made for the other side.

    How to fix
        now: tuned-adm profile virtual-guest
        after a reboot: systemctl enable --now tuned; the profile is kept
        roll back: tuned-adm profile FORMER
        verify: tuned-adm active

    When not to
        Add profiles of your own to allowed_profiles.

    References
        https://tuned-project.org/
        https://man7.org/linux/man-pages/man8/tuned-adm.8.html
    """
    service, found = unit(guest, "tuned.service"), tuned_profiles(guest)
    with Findings() as findings:
        findings.fail_if(not service.active, f"{guest}: tuned.service is {service.active_state}, expected active.")
        strange = [name for name in found if name not in params.allowed_profiles]
        findings.fail_if(not found, f"{guest}: TuneD has no profile, expected virtual-guest or another of the allowed ones.")
        findings.fail_if(
            bool(strange), f"{guest}: TuneD runs {', '.join(strange)[:80]}, expected virtual-guest or another allowed."
        )


#: A first boot that is not over after this long will not be.
FIRST_BOOT_S = 1800


@check(
    "KVM-GST-009",
    title="First-boot configuration finished without error and no unit has failed",
    severity=Severity.MEDIUM,
    reads=("cloud_init", "systemd_units", "systemd_failed", "counters", "machine_id", "ssh_host_keys"),
    compares=True,
)
def test_first_boot_is_over(guest: Host) -> None:
    """The guest became what its template was meant to become.

    What it checks
        Where cloud-init runs: /run/cloud-init/result.json is there (half an hour after boot at the latest) and tells no errors;
        errors that it recovered from are a warning. No unit of systemd has failed. Its machine-id and SSH host keys are those of
        no other guest of the run.

    Why it matters
        Half-configured clones look alive, and miss their network, keys or disks.

    How to fix
        now: read /var/log/cloud-init.log and systemctl --failed, mend what they name, systemctl reset-failed
        after a reboot: mend the user data or the template, cloud-init clean --logs, and start it again
        roll back: the former user data or template; cloud-init clean makes the next boot a first one, keep a snapshot
        verify: cloud-init status --long; systemctl --failed

    When not to
        Guests that are one machine restored twice, and never run together.

    References
        https://docs.cloud-init.io/en/latest/explanation/return_codes.html
        https://www.freedesktop.org/software/systemd/man/latest/systemctl.html
    """
    with Findings() as findings:
        failed = failed_units(guest)
        findings.fail_if(bool(failed), f"{guest}: {len(failed)} units have failed: {', '.join(failed[:8])}.")
        for what, ask in (("machine-id", machine_id), ("SSH host keys", ssh_host_keys)):
            with findings.part():
                mine = ask(guest) if guest.peers else set()
                twins = [peer.name for peer, theirs in compared(guest.peers, ask).items() if mine & theirs]
                findings.fail_if(bool(twins), f"{guest}: it has the {what} of {', '.join(twins[:8])}.")
                if what == "machine-id" and guest.peers and not mine:
                    raise EvidenceMissing(Cause.EMPTY, f"{guest}: machine-id is empty", "machine_id")
        state = first_boot(guest)
        service = unit(guest, "cloud-init.service")
        if state is None:
            if service.active:
                raise EvidenceMissing(Cause.MISSING, "cloud-init is active, but has written no status", "cloud_init")
            note("cloud-init is not installed" if not service.exists else "cloud-init is off")
            return
        findings.fail_if(bool(state.errors), f"{guest}: cloud-init tells errors: {'; '.join(state.errors[:3])}.")
        findings.warn_if(bool(state.warnings), f"{guest}: cloud-init recovered from errors: {'; '.join(state.warnings[:3])}.")
        if not state.finished:
            uptime = uptime_s(guest)
            where = f"in stage {state.stage}" if state.stage else "between stages"
            if uptime < FIRST_BOOT_S:
                raise EvidenceMissing(Cause.EMPTY, f"cloud-init is not finished yet ({where}, {uptime:.0f} s up)", "cloud_init")
            findings.fail(f"{guest}: cloud-init is not finished after {uptime / 60:.0f} minutes ({where}).")


@check(
    "KVM-GST-010",
    title="The guest sees little stolen CPU time",
    severity=Severity.MEDIUM,
    reads=("counters", "counters_later", "detect_virt", "cmdline"),
    params={"max_steal_pct": Number(5, 0, 50), "sample_s": Number(10, 1, 60)},
    applies=is_a_kvm_guest,
)
def test_guest_is_not_robbed(guest: Host, params: Params) -> None:
    """The vCPUs of the guest run when they have something to do.

    What it checks
        Between two samples of /proc/stat, steal is at most max_steal_pct of all time. The samples are as far apart as gathering
        lasts, at least two seconds or sample_s. Steal that never grew since boot may not be shown by the host: unknown.

    Why it matters
        It is the host's overcommitment as the guest feels it, seen without access to the host.

    How to fix
        now: migrate the guest, or a noisy neighbour, to another host
        after a reboot: fewer vCPUs on the host, or pins (KVM-PIN-010 and KVM-PIN-011 show them from the host)
        roll back: migrate it back; the former number of vCPUs or pins
        verify: vmstat 1, column st

    When not to
        Clouds that sell shares of CPUs: raise max_steal_pct.

    References
        https://man7.org/linux/man-pages/man5/proc_stat.5.html
        https://docs.kernel.org/virt/kvm/x86/msr.html
    """
    if values(cmdline(guest), "no-steal-acc"):
        raise EvidenceMissing(Cause.SKIPPED, "no-steal-acc on the kernel command line hides stolen time", "cmdline")
    first, second = counters(guest)
    seconds = second.uptime_s - first.uptime_s
    if second.steal == 0:
        raise EvidenceMissing(Cause.EMPTY, "no time was stolen since boot: the host may not show it", "counters")
    if seconds < min(MIN_SECONDS, params.sample_s) or second.total <= first.total:
        raise EvidenceMissing(Cause.EMPTY, f"samples {seconds:.1f} s apart tell no share of stolen time", "counters_later")
    share = 100 * (second.steal - first.steal) / (second.total - first.total)
    assert share <= params.max_steal_pct, (
        f"{guest}: {share:.1f} % of its CPU time was stolen during {seconds:.0f} s, at most {params.max_steal_pct} % allowed."
    )
    note(f"{share:.1f} % stolen during {seconds:.0f} s")
