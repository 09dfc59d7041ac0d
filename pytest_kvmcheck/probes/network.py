"""Probes of names, addresses, listeners and identities."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, MAX_BYTES, Probe, Root, command, file, files, shell
from pytest_kvmcheck.probes.quiet import RPM_SYSTEM, UNPRIVILEGED

NETWORK: tuple[Probe, ...] = (
    command("hostname", "hostname", "the host's name", sos=("sos_commands/host/hostname",)),
    # What the files do not tell, only DNS can: it is asked on request.
    files("name_service", "/etc/nsswitch.conf", "where the host looks for names, and in which order"),
    command("hostname_fqdn", "timeout 5 hostname -f", "the host's full name, by DNS as well", active=True),
    command("ip_addr", "ip -j addr", "addresses of the host"),
    command("ip_link", "ip -j -d link", "network devices: MTU, state, bridges, bonds, VLANs, taps", max_bytes=4 * MAX_BYTES),
    command("ip_route", "ip -j route", "routes"),
    command("ip_route6", "ip -j -6 route", "IPv6 routes"),
    command("ip_rule", "ip -j rule", "routing policy"),
    files(
        "net_settings",
        "/proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/*/arp_filter"
        " /proc/sys/net/ipv4/conf/*/arp_ignore /proc/sys/net/ipv4/conf/*/arp_announce /proc/sys/net/bridge/bridge-nf-call-*",
        "kernel settings of the network now in force",
    ),
    files("vhost_zcopytx", "/sys/module/vhost_net/parameters/experimental_zcopytx", "zero-copy transmission of vhost-net"),
    # Reading carrier, speed and duplex of a device that is down fails: then they are left out.
    shell(
        "nic_state",
        "[ -d /sys/class/net ] || exit 66\n"
        "set --\nfor d in /sys/class/net/*/device; do [ -e $d ] || exit 66; d=${d%/device}\n"
        'for f in carrier carrier_changes duplex speed; do set -- "$@" $d/$f; done\n'
        "for f in rx_packets rx_errors rx_missed_errors rx_dropped tx_packets tx_errors tx_dropped; do"
        ' set -- "$@" $d/statistics/$f; done; done\n'
        'grep -sH ^ "$@"; exit 0',
        "link and counters of physical network devices",
    ),
    # ethtool takes one device at a time; those of a hypervisor have no modes to tell.
    shell(
        "ethtool",
        "command -v ethtool >/dev/null || { echo 'ethtool: not found' >&2; exit 127; }\n"
        "n=0; for d in /sys/class/net/*/speed; do d=${d%/speed}; [ -e $d/device ] || continue\n"
        '  s=; read -r s <$d/speed; [ "${s:-0}" -gt 0 ] || continue\n'
        "  n=$((n+1)); [ $n -le 16 ] || break\n"
        "  echo @@$N ${d##*/}; ethtool ${d##*/}\ndone 2>/dev/null; exit 0",
        "link modes that network cards support",
        keyed=True,
    ),
    shell(
        "sriov_conf",
        "grep -rlsE 'sriov|numvfs|num_vfs|max_vfs' /etc/udev/rules.d /etc/systemd /etc/modprobe.d /etc/network /etc/netplan"
        " /etc/tmpfiles.d /etc/rc.local\n"
        "d=/etc/NetworkManager/system-connections; [ -d $d ] || exit 0\n"
        "if [ -r $d ]; then grep -rlsE 'total-vfs' $d; elif [ \"$SUDO\" ]; then $SUDO grep -rlsE total-vfs $d\n"
        'else echo "$d: Permission denied" >&2; exit 77; fi; exit 0',
        "files that create virtual functions at boot",
        root=Root.MAY,
        sudo=("grep -rlsE total-vfs /etc/NetworkManager/system-connections",),
    ),
    # The daemons of teams are asked through sockets of their own; asking starts none.
    shell(
        "teams",
        "command -v teamdctl >/dev/null || { echo 'teamdctl: not found' >&2; exit 127; }\n"
        "n=0; for t in $(ip -o link show type team | while IFS=': ' read -r _ t _; do echo ${t%@*}; done); do\n"
        "  n=$((n+1)); [ $n -le 16 ] || break; echo @@$N $t; $SUDO teamdctl $t state dump\ndone; exit 0",
        "state of teams by their daemons",
        when="[ -d /sys/module/team ]",
        keyed=True,
        root=Root.MUST,
        sudo=("teamdctl {nic} state dump",),
    ),
    # Listing what is loaded loads nothing, but asking where nothing is loaded may: hence the conditions.
    shell(
        "nftables",
        "command -v nft >/dev/null || { echo 'nft: not found' >&2; exit 127; }\n$SUDO nft -j list ruleset",
        "packet filter by nftables; iptables-nft is part of it",
        when="[ -d /sys/module/nf_tables ] || grep -qs /nf_tables.ko /lib/modules/$(uname -r)/modules.builtin",
        root=Root.MUST,
        max_bytes=4 * MAX_BYTES,
        sudo=("nft -j list ruleset",),
    ),
    shell(
        "iptables",
        "echo @@$N ip; if $SUDO grep -sqx filter /proc/net/ip_tables_names; then\n"
        "  if command -v iptables-legacy-save >/dev/null; then $SUDO iptables-legacy-save -t filter\n"
        "  else $SUDO iptables-save -t filter; fi || echo failed\nfi\n"
        "echo @@$N ip6; if $SUDO grep -sqx filter /proc/net/ip6_tables_names; then\n"
        "  if command -v ip6tables-legacy-save >/dev/null; then $SUDO ip6tables-legacy-save -t filter\n"
        "  else $SUDO ip6tables-save -t filter; fi || echo failed\nfi; exit 0",
        "packet filter by the older iptables, where its table is loaded",
        keyed=True,
        root=Root.MUST,
        sudo=(
            "grep -sqx filter /proc/net/ip_tables_names",
            "grep -sqx filter /proc/net/ip6_tables_names",
            *(f"ip{v}tables{kind}-save -t filter" for v in ("", "6") for kind in ("", "-legacy")),
        ),
    ),
    shell(
        "firewalld",
        "command -v firewall-cmd >/dev/null || { echo 'firewall-cmd: not found' >&2; exit 127; }\n"
        "$SUDO firewall-cmd --list-all-zones",
        "zones of firewalld",
        sos=("sos_commands/firewalld/firewall-cmd_--list-all-zones",),
        when="systemctl is-active -q firewalld",
        root=Root.MUST,
        timeout_s=15,
        sudo=("firewall-cmd --list-all-zones",),
    ),
    shell(
        "ovs",
        "command -v ovs-vsctl >/dev/null || { echo 'ovs-vsctl: not found' >&2; exit 127; }\n"
        "$SUDO ovs-vsctl --timeout=5 --format=json -- --columns=name,ports list Bridge --"
        " --columns=_uuid,name,interfaces list Port -- --columns=_uuid,name,type,link_state,error list Interface",
        "Open vSwitch: switches with their ports",
        when="[ -d /sys/module/openvswitch ] || [ -d /var/run/openvswitch ]",
        root=Root.MUST,
        sudo=(
            "ovs-vsctl --timeout=5 --format=json -- --columns=name,ports list Bridge --"
            " --columns=_uuid,name,interfaces list Port --"
            " --columns=_uuid,name,type,link_state,error list Interface",
        ),
    ),
    shell(
        "storage_peers",
        "[ -d /sys/class ] || exit 66\n"
        "grep -sH ^ /sys/class/iscsi_connection/*/persistent_address /sys/class/nvme/*/address; exit 0",
        "with whom the host talks by iSCSI and NVMe",
    ),
    # One grep and one ls for all devices: a host with virtual functions has hundreds.
    shell(
        "pci",
        "[ -d /sys/devices ] || exit 66\n"
        "set --\nfor f in class numa_node uevent current_link_speed max_link_speed current_link_width max_link_width"
        ' sriov_numvfs sriov_totalvfs; do set -- "$@" /sys/bus/pci/devices/*/$f; done\n'
        "grep -sHE '^(DRIVER|PCI_ID)=|^[^A-Z]|^Unknown' \"$@\"; exit 0",
        "PCI devices: class, NUMA node, driver, link and virtual functions",
        roles=EVERYWHERE,
        max_bytes=4 * MAX_BYTES,
    ),
    shell(
        "device_places",
        "[ -d /sys/class/net ] || exit 66\n"
        "ls -ln /sys/class/net /sys/class/block /sys/bus/pci/devices 2>/dev/null\n"
        "ls -lnd /sys/bus/pci/devices/*/virtfn* 2>/dev/null; exit 0",
        "on which PCI device network and block devices are, and which virtual functions belong to which card",
        roles=EVERYWHERE,
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
        "what the host's name resolves to, and back, by DNS as well",
        keyed=True,
        timeout_s=30,
        active=True,
    ),
    # ss would open a socket for diagnosis, for which the kernel may load modules. The first line proves that the table was read.
    shell(
        "listeners",
        "[ -r /proc/net/tcp ] || exit 66\n"
        "grep -hsE '^ *sl |^ *[0-9]+: [0-9A-F]+:[0-9A-F]+ [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6; exit 0",
        "listening TCP sockets",
        sos=("sos_commands/networking/ss_-peaonmi",),
    ),
    file("machine_id", "/etc/machine-id", "identity of the installation", roles=EVERYWHERE),
    files(
        "ssh_host_keys",
        "/etc/ssh/ssh_host_rsa_key.pub /etc/ssh/ssh_host_ecdsa_key.pub /etc/ssh/ssh_host_ed25519_key.pub",
        "public SSH host keys",
        roles=EVERYWHERE,
    ),
    files("nvme_identity", "/etc/nvme/hostnqn /etc/nvme/hostid /sys/class/nvme/nvme*/hostnqn", "NVMe host name and id"),
    files("iscsi_initiator", "/etc/iscsi/initiatorname.iscsi", "iSCSI initiator name", root=Root.MAY),
    files("fc_ports", "/sys/class/fc_host/host*/port_name", "Fibre Channel port names"),
    files("product_uuid", "/sys/class/dmi/id/product_uuid", "UUID by the firmware", root=Root.MAY),
    shell(
        "packages",
        f"{UNPRIVILEGED}if {RPM_SYSTEM}; then\n"
        "  $D rpm -qa --qf '%{NAME} %{VERSION}-%{RELEASE}\\n' 'qemu-kvm*' 'libvirt-daemon*' 'edk2*' 'seabios*'\n"
        "elif command -v dpkg-query >/dev/null; then\n"
        "  dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n' 'qemu-system*' 'libvirt-daemon*' ovmf seabios"
        ' 2>/dev/null | while read -r s p v; do [ "$s" = ii ] && echo $p $v; done\n'
        "else echo 'neither rpm nor dpkg-query' >&2; exit 127; fi; exit 0",
        "installed versions of QEMU, libvirt and guest firmware",
        timeout_s=30,
    ),
)
