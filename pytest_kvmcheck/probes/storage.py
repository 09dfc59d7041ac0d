"""Probes of SCSI paths and device-mapper multipath. sysfs first: asking multipathd may start it."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, Probe, Root, files, shell

#: With multipathd stopped, ``multipathd show`` starts it through its socket and hides the fault.
_MULTIPATHD_RUNS = '[ "$(systemctl is-active multipathd.service 2>/dev/null)" = active ]'

_FC_COUNTERS = (
    "for f in error_frames invalid_crc_count link_failure_count loss_of_sync_count loss_of_signal_count; do\n"
    '  set -- "$@" /sys/class/fc_host/host*/statistics/$f; done\n'
)

#: multipathd before 0.6 knows no JSON, and answers the question with its help.
_MAPS = (
    "o=$($SUDO multipathd show maps json) r=$?\n"
    "case $o in *'\"maps\"'*) printf '%s\\n' \"$o\"; exit 0 ;; esac\n"
    "case $r in 126|127) exit $r ;; esac\n"
    "$SUDO multipathd show topology"
)
_MAPS_SUDO = ("multipathd show maps json", "multipathd show topology")

STORAGE: tuple[Probe, ...] = (
    shell(
        "scsi_disks",
        "[ -d /sys/block ] || exit 66\nfor d in /sys/block/sd*; do [ -e $d ] && echo ${d##*/}; done; exit 0",
        "SCSI disks",
    ),
    files("scsi_wwids", "/sys/block/sd*/device/wwid /sys/block/sd*/device/state", "identity and state of SCSI disks"),
    files("dm_maps", "/sys/block/dm-*/dm/name /sys/block/dm-*/dm/uuid", "device-mapper maps", roles=EVERYWHERE),
    shell(
        "dm_slaves",
        "[ -d /sys/block ] || exit 66\nfor d in /sys/block/*/slaves/*; do [ -e $d ] && echo $d; done; exit 0",
        "the devices below each device-mapper map and RAID array",
        roles=EVERYWHERE,
    ),
    shell(
        "multipath_maps",
        _MAPS,
        "multipath maps, path groups and paths",
        sos=("sos_commands/multipath/multipath_-ll",),
        root=Root.MAY,
        when=_MULTIPATHD_RUNS,
        sudo=_MAPS_SUDO,
    ),
    shell(
        "multipath_maps_later",
        _MAPS,
        "the same at the end, to see faults grow",
        root=Root.MAY,
        when=_MULTIPATHD_RUNS,
        last=True,
        sudo=_MAPS_SUDO,
    ),
    shell(
        "multipath_config",
        "o=$($SUDO multipathd show config local 2>/dev/null)\n"
        'case $o in *"{"*) ;; *) o=$($SUDO multipathd show config) || exit ;; esac\n'
        "printf '%s\\n' \"$o\" | grep -E '^[[:space:]]*(no_path_retry|polling_interval)[[:space:]]'; exit 0",
        "multipath: what happens when all paths of a map are lost",
        root=Root.MAY,
        when=_MULTIPATHD_RUNS,
        sudo=("multipathd show config local", "multipathd show config"),
    ),
    # dmsetup would make its device node and load its module where they are missing, and would find nothing there.
    shell(
        "multipath_dmsetup",
        "[ -d /sys/block ] || exit 66\n"
        "grep -qs '^mpath-' /sys/block/dm-*/dm/uuid && [ -c /dev/mapper/control ] || { echo 'No devices found'; exit 0; }\n"
        "$SUDO dmsetup status --target multipath",
        "multipath states by the kernel, for a host whose daemon is down",
        root=Root.MUST,
        sudo=("dmsetup status --target multipath",),
    ),
    # Names of sessions, connections and remote ports hold colons, which part path and line in the answer of a file probe.
    shell(
        "iscsi",
        "[ -d /sys/class/iscsi_session ] || exit 66\n"
        'set --; for f in targetname state recovery_tmo ifacename; do set -- "$@" /sys/class/iscsi_session/session*/$f; done\n'
        'for f in state persistent_address persistent_port; do set -- "$@" /sys/class/iscsi_connection/connection*/$f; done\n'
        'grep -Hs ^ "$@"; exit 0',
        "iSCSI sessions and their connections",
    ),
    # This key only: the records hold CHAP secrets. iscsiadm would start iscsid.
    shell(
        "iscsi_nodes",
        "set --; for d in /etc/iscsi/nodes /var/lib/iscsi/nodes; do\n"
        '  if [ -d $d ] || denied ${d%/*}; then set -- "$@" $d; fi; done\n'
        "[ $# -gt 0 ] || exit 66\n"
        "$SUDO grep -rHE '^node.startup = ' \"$@\"; r=$?; [ $r -le 1 ] && exit 0; exit $r",
        "iSCSI targets on record, and whether they are logged in at boot",
        root=Root.MAY,
        sudo=tuple(
            f"grep -rHE '^node.startup = ' {places}"
            for places in ("/etc/iscsi/nodes", "/var/lib/iscsi/nodes", "/etc/iscsi/nodes /var/lib/iscsi/nodes")
        ),
    ),
    files(
        "nvme",
        "/sys/class/nvme-subsystem/nvme-subsys*/subsysnqn /sys/class/nvme-subsystem/nvme-subsys*/iopolicy"
        " /sys/class/nvme/nvme*/transport /sys/class/nvme/nvme*/state /sys/class/nvme/nvme*/address"
        " /sys/class/nvme/nvme*/subsysnqn /sys/class/nvme/nvme*/ctrl_loss_tmo /sys/class/nvme/nvme*/cntrltype"
        " /sys/class/nvme/nvme*/nvme*c*n*/ana_state /sys/module/nvme_core/parameters/multipath",
        "NVMe subsystems, controllers and paths",
    ),
    shell(
        "fc_hosts",
        "[ -d /sys/class/fc_host ] || exit 66\n"
        'set --; for f in port_state port_type port_name speed supported_speeds; do set -- "$@" /sys/class/fc_host/host*/$f; done\n'
        f"{_FC_COUNTERS}"
        'grep -Hs ^ "$@" /sys/class/fc_remote_ports/rport*/port_name; exit 0',
        "Fibre Channel ports, their counters (first sample), and the ports that they see",
    ),
    shell(
        "fc_hosts_later",
        f'[ -d /sys/class/fc_host ] || exit 66\nset --\n{_FC_COUNTERS}grep -Hs ^ "$@"; exit 0',
        "counters of Fibre Channel ports, second sample",
        last=True,
    ),
    # Peers come from what the kernel shows: addresses that hold anything but their own characters are left out.
    shell(
        "storage_ping",
        "command -v ping >/dev/null && command -v ip >/dev/null || { echo 'ping: not found' >&2; exit 127; }\n"
        "P=; for f in /sys/class/iscsi_connection/connection*/persistent_address; do\n"
        '  [ -r "$f" ] && read -r a <"$f" && P="$P $a"; done\n'
        "for f in /sys/class/nvme/nvme*/address; do\n"
        '  [ -r "$f" ] && read -r a <"$f" || continue; case $a in traddr=*) a=${a#traddr=}; P="$P ${a%%,*}" ;; esac; done\n'
        'while read -r _ _ y o _; do case $y,$o in nfs*,*,addr=*) a=${o##*,addr=}; P="$P ${a%%,*}" ;; esac; done </proc/mounts\n'
        "set -f; n=0; D=' '\n"
        "for a in $P; do\n"
        '  case $a in *[!0-9a-fA-F.:]*) continue ;; esac; case $D in *" $a "*) continue ;; esac\n'
        '  D="$D$a " n=$((n+1)); [ $n -le 32 ] || break\n'
        "  r=$(ip -o route get $a) || continue; d=${r#* dev }; d=${d%% *}; m=; read -r m </sys/class/net/$d/mtu\n"
        "  case $a in *:*) v=-6 h=48 ;; *) v=-4 h=28 ;; esac\n"
        '  echo "@@$N $a/way"; echo "$d $m"; [ "${m:-0}" -gt 1500 ] || continue\n'
        "  { f=$(ping $v -n -q -c 3 -i 0.2 -W 2 -M do -s $((m-h)) -I $d $a 2>&1)\n"
        "    c=$(ping $v -n -q -c 3 -i 0.2 -W 2 -M do -s $((1500-h)) -I $d $a 2>&1)\n"
        '    printf \'%s\\n\' "@@$N $a/full" "$f" "@@$N $a/control" "$c"; } &\n'
        "done; wait; exit 0",
        "whether frames as large as the MTU reach the portals and servers of storage",
        keyed=True,
        timeout_s=25,
        alone=True,
        active=True,
    ),
)
