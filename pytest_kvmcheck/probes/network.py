"""Probes of names, addresses, listeners and identities."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import MAX_BYTES, Probe, Root, command, file, files, shell

NETWORK: tuple[Probe, ...] = (
    command("hostname", "hostname", "the host's name"),
    command("hostname_fqdn", "timeout 5 hostname -f", "the host's full name"),
    command("ip_addr", "ip -j addr", "addresses of the host"),
    command("ip_link", "ip -j -d link", "network devices: MTU, state, bridges, bonds, VLANs, taps", max_bytes=4 * MAX_BYTES),
    command("ip_route", "ip -j route", "routes"),
    command("ip_route6", "ip -j -6 route", "IPv6 routes"),
    command("ip_rule", "ip -j rule", "routing policy"),
    # One grep and one ls for all devices: a host with virtual functions has hundreds.
    shell(
        "pci",
        "[ -d /sys/devices ] || exit 66\n"
        "set --\nfor f in class numa_node uevent current_link_speed max_link_speed current_link_width max_link_width"
        ' sriov_numvfs sriov_totalvfs; do set -- "$@" /sys/bus/pci/devices/*/$f; done\n'
        "grep -sHE '^(DRIVER|PCI_ID)=|^[^A-Z]|^Unknown' \"$@\"; exit 0",
        "PCI devices: class, NUMA node, driver, link and virtual functions",
        max_bytes=4 * MAX_BYTES,
    ),
    shell(
        "device_places",
        "[ -d /sys/class/net ] || exit 66\n"
        "ls -l /sys/class/net /sys/class/block /sys/bus/pci/devices 2>/dev/null\n"
        "ls -ld /sys/bus/pci/devices/*/virtfn* 2>/dev/null; exit 0",
        "on which PCI device network and block devices are, and which virtual functions belong to which card",
        max_bytes=4 * MAX_BYTES,
    ),
    files("etc_hosts", "/etc/hosts", "static names"),
    shell(
        "name_lookup",
        "n=$(timeout 5 hostname -f 2>/dev/null || hostname)\n"
        "echo @@$N name; echo $n\n"
        "echo @@$N addresses; timeout 5 getent ahosts $n; echo rc=$?\n"
        "echo @@$N dns; timeout 5 getent -s dns ahosts $n; echo rc=$?\n"
        "for a in $(timeout 5 getent ahosts $n | while read -r a _; do echo $a; done | sort -u); do\n"
        "  echo @@$N reverse/$a; timeout 5 getent hosts $a; echo rc=$?\n"
        "done; exit 0",
        "what the host's name resolves to, and back",
        keyed=True,
        timeout_s=30,
    ),
    command("listeners", "ss -Hltn", "listening TCP sockets", sos=("sos_commands/networking/ss_-peaonmi",)),
    file("machine_id", "/etc/machine-id", "identity of the installation"),
    files(
        "ssh_host_keys",
        "/etc/ssh/ssh_host_rsa_key.pub /etc/ssh/ssh_host_ecdsa_key.pub /etc/ssh/ssh_host_ed25519_key.pub",
        "public SSH host keys",
    ),
    files("nvme_identity", "/etc/nvme/hostnqn /etc/nvme/hostid", "NVMe host name and id"),
    files("iscsi_initiator", "/etc/iscsi/initiatorname.iscsi", "iSCSI initiator name", root=Root.MAY),
    files("fc_ports", "/sys/class/fc_host/host*/port_name", "Fibre Channel port names"),
    files("product_uuid", "/sys/class/dmi/id/product_uuid", "UUID by the firmware", root=Root.MAY),
    shell(
        "packages",
        "if command -v rpm >/dev/null && rpm -q glibc >/dev/null 2>&1; then\n"
        "  rpm -qa --qf '%{NAME} %{VERSION}-%{RELEASE}\\n' 'qemu-kvm*' 'libvirt-daemon*' 'edk2*' 'seabios*'\n"
        "elif command -v dpkg-query >/dev/null; then\n"
        "  dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n' 'qemu-system*' 'libvirt-daemon*' ovmf seabios"
        ' 2>/dev/null | while read -r s p v; do [ "$s" = ii ] && echo $p $v; done\n'
        "else echo 'neither rpm nor dpkg-query' >&2; exit 127; fi; exit 0",
        "installed versions of QEMU, libvirt and guest firmware",
        timeout_s=30,
    ),
)
