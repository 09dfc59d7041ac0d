"""Probes of where guests run: threads, interrupts, isolated CPUs."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import Probe, Root, files, shell
from pytest_kvmcheck.probes.virsh import NEEDS_VIRSH

PLACEMENT: tuple[Probe, ...] = (
    files(
        "isolation",
        "/sys/devices/system/cpu/isolated /sys/devices/system/cpu/nohz_full /proc/irq/default_smp_affinity"
        " /sys/fs/cgroup/machine.slice/cpuset.cpus.effective /sys/fs/cgroup/cpuset/machine.slice/cpuset.cpus",
        "CPUs kept from the scheduler, from timer ticks and from interrupts, and the CPUs of machine.slice",
    ),
    files(
        "irqbalance_conf",
        "/etc/default/irqbalance /etc/sysconfig/irqbalance /etc/irqbalance.env /etc/systemd/system/irqbalance.service.d/*.conf",
        "which CPUs irqbalance leaves alone",
    ),
    # libvirt refuses this one on a read-only connection (docs/decisions/0010-domcapabilities.md).
    shell(
        "domcapabilities",
        f"{NEEDS_VIRSH}$SUDO virsh -c qemu:///system domcapabilities",
        "libvirt: the CPU models that this host can run",
        sos=("sos_commands/virsh/virsh_-r_domcapabilities",),
        root=Root.MAY,
        sudo=("virsh -c qemu:///system domcapabilities",),
        timeout_s=30,
        alone=True,
    ),
)
