"""What is broken on kvm01, and which checks have to notice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.lab.machine import CPU, Machine


def redefine(domain: str, sed: str) -> str:
    """Return shell lines that edit the saved definition of *domain*."""
    return f"virsh dumpxml --inactive --security-info {domain} | sed \"{sed}\" > /tmp/new.xml; virsh -q define /tmp/new.xml"


@dataclass(frozen=True)
class Scenario:
    """One fault. ``turns``: ``check@subject`` -> ``outcome: text`` (the text stands in cause or message).

    ``should``: checks of the catalogue that would notice it and do not exist yet. ``shell`` is run as root on a healthy
    kvm01, ``fault`` called with the machine; ``meanwhile`` is called while the host is judged.
    """

    name: str
    what: str
    turns: Mapping[str, str]
    shell: str = ""
    fault: Callable[[Machine], None] | None = None
    meanwhile: Callable[[Machine], None] | None = None
    should: tuple[str, ...] = ()
    profile: str = "production"
    user: str = "root"
    cpu: str = CPU
    options: tuple[str, ...] = field(default=())


def freeze_half_way(machine: Machine) -> None:
    """Stop the machine when it has answered about half of what it is asked."""
    end = time.monotonic() + 60
    while "half-way" not in machine.console() and time.monotonic() < end:
        time.sleep(0.05)
    machine.qmp("stop")


SCENARIOS = (
    Scenario("chrony-stopped", "chronyd is stopped", {}, "systemctl stop chrony"),
    Scenario("guests-not-shut-down", "libvirt-guests is disabled, though still active", {},
             "systemctl -q disable libvirt-guests"),
    Scenario("libvirtd-stopped", "libvirtd and its sockets are stopped", {},
             "systemctl -q stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service"),
    Scenario("daemons-mixed", "virtqemud is enabled and started beside libvirtd", {}, """
cat > /etc/systemd/system/virtqemud.socket <<'END'
[Socket]
ListenStream=/run/libvirt/virtqemud-sock-lab
[Install]
WantedBy=sockets.target
END
cat > /etc/systemd/system/virtqemud.service <<'END'
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
END
systemctl -q enable --now virtqemud.socket virtqemud.service"""),
    Scenario("ksm-across-nodes", "KSM runs and merges pages of different NUMA nodes", {}, """
cd /sys/kernel/mm/ksm
echo 2 > run; echo 1 > merge_across_nodes; echo 1 > run"""),
    Scenario("hugepages-lost", "web01 is off, and the huge pages it needs were given back at run time; the command line"
             " still asks for them", {}, "virsh -q destroy web01; echo 0 > /proc/sys/vm/nr_hugepages"),
    Scenario("hugepages-not-kept", "more huge pages than the boot configuration asks for", {},
             "echo 128 > /proc/sys/vm/nr_hugepages"),
    Scenario("unpinned-live", "a vCPU of web01 runs on all CPUs; its saved definition still pins it", {},
             "virsh -q vcpupin web01 1 0-3 --live", profile="database", should=("KVM-PIN-006", "KVM-SVC-017")),
    Scenario("two-on-one-cpu", "both vCPUs of db01 are pinned to CPU 3", {},
             "virsh -q vcpupin db01 0 3 --live --config", profile="database"),
    Scenario("pinned-cpu-offline", "CPU 3, to which db01 is pinned, is offline", {},
             "echo 0 > /sys/devices/system/cpu/cpu3/online"),
    Scenario("path-offline", "the path in use of mpatha is offline", {}, """
disk=$(multipathd show paths format '%d %t' | awk '/active/ { print $1; exit }')
echo offline > /sys/block/$disk/device/state
dd if=/dev/mapper/mpatha of=/dev/null bs=64k count=1 iflag=direct 2>/dev/null
for tenth in $(seq 80); do multipathd show paths format '%d %t' | grep -q failed && exit; sleep 0.1; done; exit 1"""),
    Scenario("multipathd-stopped", "multipathd is stopped", {}, "systemctl -q stop multipathd.socket multipathd.service"),
    Scenario("path-removed", "one of the two paths of mpatha was unplugged", {},
             fault=lambda machine: unplug(machine)),
    Scenario("uplink-down", "the physical card in bridge br0 is down", {}, "ip link set enp0s5 down",
             should=("KVM-NET-007", "KVM-NET-010")),
    Scenario("clocksource-hpet", "the kernel keeps time by the HPET", {},
             "echo hpet > /sys/devices/system/clocksource/clocksource0/current_clocksource"),
    Scenario("debug-at-run-time", "libvirtd logs everything about QEMU; no file says so", {},
             "virt-admin -c libvirtd:///system daemon-log-filters '1:qemu'", should=("KVM-LOG-003",)),
    Scenario("cache-unsafe", "the disk of web01 is to ignore flushes from its next start on", {},
             redefine("web01", "s/cache='none' io='native'/cache='unsafe'/"), should=("KVM-SVC-017",)),
    Scenario("twelve-snapshots", "legacy01 has twelve snapshots", {},
             "for i in $(seq 11); do virsh -q snapshot-create-as legacy01 more$i; done"),
    Scenario("open-vnc", "the console of db01 is served on all addresses without a password", {},
             "virsh -q destroy db01\n"
             + redefine("db01", "s|</devices>|<graphics type='vnc' autoport='yes' listen='0.0.0.0'/></devices>|")
             + "\nvirsh -q start db01"),
    Scenario("plain-tcp", "libvirtd listens on TCP and asks nobody who he is", {}, """
echo 'auth_tcp = "none"' >> /etc/libvirt/libvirtd.conf
systemctl -q stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd.service
systemctl -q enable --now libvirtd-tcp.socket libvirtd.socket
systemctl -q start libvirtd.service"""),
    Scenario("nested-off", "kvm_amd was loaded with nested=0", {}, """
virsh -q destroy web01; virsh -q destroy db01
modprobe -r kvm_amd; modprobe kvm_amd nested=0
virsh -q start db01; virsh -q start web01""", should=("KVM-CPU-006",)),
    Scenario("kvm-unloaded", "the guests are off and the KVM modules unloaded", {}, """
virsh -q destroy web01; virsh -q destroy db01
modprobe -r kvm_amd kvm"""),
    Scenario("svm-off", "the firmware has virtualization switched off", {}, cpu="EPYC,-svm"),
    Scenario("disk-full", "no space is left below /var/lib/libvirt", {}, """
fallocate -l $(df --output=avail -B1 /var/lib/libvirt | tail -1) /var/lib/libvirt/images/big || true
dd if=/dev/zero of=/var/lib/libvirt/images/rest bs=64k 2>/dev/null || true""",
             should=("KVM-DSK-010", "KVM-SVC-007", "KVM-LOG-007")),
    Scenario("no-root", "the account may ask libvirt, but is not root and may not sudo", {}, user="checker"),
    Scenario("frozen", "the host hangs: it does nothing and its network card answers nobody", {},
             fault=lambda machine: machine.qmp("stop") and None),
    Scenario("frozen-half-way", "the host hangs when it has given half of its reply", {}, """
mount --bind /dev/null /dev/null
cat > /usr/local/bin/virt-host-validate <<'END'
#!/bin/sh
echo half-way > /dev/ttyS0
sleep 8
exec /usr/bin/virt-host-validate "$@"
END
chmod 755 /usr/local/bin/virt-host-validate""", meanwhile=freeze_half_way, options=("-o", "kvmcheck_host_timeout=25")),
    Scenario("link-cut", "the management link is cut", {},
             fault=lambda machine: machine.qmp("set_link", name="n0", up=False) and None),
)  # fmt: skip


def unplug(machine: Machine) -> None:
    """Take one path away and wait until the host has noticed."""
    machine.qmp("device_del", id="path1")
    machine.run("for i in $(seq 100); do [ $(ls -d /sys/block/sd* | wc -l) = 1 ] && exit; sleep 0.1; done; exit 1")
