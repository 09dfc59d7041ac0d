"""Probes of disk images, their file systems, pools and block devices.

Headers of images are read as bytes and decoded by us: no program that follows what a guest or a stranger wrote there
(backing files, data files) is run as root.
"""

from __future__ import annotations

from pytest_kvmcheck.probes.model import EVERYWHERE, MAX_BYTES, Probe, Root, file, files, shell
from pytest_kvmcheck.probes.virsh import each_domain, section

#: Directories that libvirt and the logs fill.
_PLACES = (
    "/var/lib/libvirt/images /var/lib/libvirt/qemu/save /var/lib/libvirt/qemu/dump /var/log /var/log/libvirt"
    " /var/log/journal /var/crash /tmp"
)

#: Types of file systems whose server may hang; df and stat of them run under a timeout of their own.
_REMOTE = "nfs|nfs4|cifs|smb3|ceph|9p|lustre|fuse.*"

#: At most so many images are opened, and so many layers of each looked at.
_MAX_IMAGES, _MAX_LAYERS = 512, 8

#: Puts the mount points of remote file systems into $m. Mount points with blanks are escaped in /proc/mounts, and left out.
_REMOTE_MOUNTS = f"""\
m=; while read -r _ t y _; do
  case $t in *\\\\*) continue ;; esac
  case $y in {_REMOTE}) m="$m $t" ;; esac
done </proc/mounts
"""

#: A function that reads the beginning of the images after its first argument, which is put before the names of the sections:
#: what they begin with, the headers of qcow2 images, their snapshot tables, and, level by level, the layers below them.
#: Nothing but plain files and block devices is opened. One file that fails makes all be read one by one.
_HEADS = rf"""
h() {{ timeout 5 head -qc "$@" 2>/dev/null | od -An -v -tx1 | tr -d ' \n'; }}
heads() {{
  k=$1 l=0; shift
  while [ $# -gt 0 ] && [ $l -lt {_MAX_LAYERS} ]; do
    l=$((l+1)) n=0 o=$#
    echo "@@$N $k/magic/$l"
    while [ $o -gt 0 ]; do
      f=$1; shift; o=$((o-1)) n=$((n+1))
      if [ $n -gt {_MAX_IMAGES} ]; then printf 'skipped|%s\n' "$f"
      elif [ -f "$f" ] || [ -b "$f" ]; then
        if [ -r "$f" ]; then set -- "$@" "$f"; else printf 'denied|%s\n' "$f"; fi
      elif [ -e "$f" ]; then printf 'other|%s\n' "$f"
      elif [ -x "${{f%/*}}/" ]; then printf 'absent|%s\n' "$f"
      else printf 'denied|%s\n' "$f"; fi
    done
    [ $# -gt 0 ] || return 0
    x=$(h 4 -- "$@")
    if [ ${{#x}} != $(($#*8)) ]; then
      x=; for f; do y=$(h 4 -- "$f"); case $y in ????????) ;; *) y=-------- ;; esac; x=$x$y; done
    fi
    o=$#
    while [ $o -gt 0 ]; do
      f=$1 r=${{x#????????}}; shift; o=$((o-1))
      printf '%s|%s\n' "${{x%"$r"}}" "$f"
      case $x in 514649fb*) set -- "$@" "$f" ;; esac
      x=$r
    done
    [ $# -gt 0 ] || return 0
    echo "@@$N $k/header/$l"
    x=$(h 1024 -- "$@" | fold -w 2048)
    printf '%s\n' "$x"
    b= j=0
    for r in $(printf '%s\n' "$x" | cut -c17-40,121-144); do
      [ $# -gt 0 ] || break
      f=$1 j=$((j+1)); shift
      p=${{r%????????????????????????????????}} q=${{r#????????????????}} s=${{r#????????????????????????????????}}
      q=${{q%????????????????????????}} c=${{r#????????????????????????}}; c=${{c%????????????????}}
      case $c$s in
      00000000*) ;;
      ????????0000????????????) echo "@@$N $k/snapshots/$l/$j"; timeout 5 od -An -v -tx1 -j $((0x$s)) -N 8192 -- "$f" 2>/dev/null ;;
      esac
      case $p$q in 0000000000000000*) continue ;; 000000000000????0000????) ;; *) continue ;; esac
      p=$((0x$p)) q=$((0x$q))
      d=$(timeout 5 head -c $((p+q)) -- "$f" 2>/dev/null | tail -c $q | tr -d '\n\000')
      case $d in /*) ;; *:*) continue ;; ?*) d=${{f%/*}}/$d ;; *) continue ;; esac
      b="$b$d
"
    done
    IFS='
'; set -f -- $b; set +f; unset IFS
  done
}}
"""

#: LVM keeps hints and locks on the disk unless it is told not to. Releases that know no such option would refuse all.
_LVS = "lvs{} --reportformat json -o vg_name,lv_name,lv_active,segtype,data_percent,metadata_percent"
_PVS = "pvs{} --reportformat json -o pv_name,vg_name"
_QUIETLY = " --nohints --nolocking"


def _lvm(command: str) -> str:
    """Return the script that asks LVM, where it can be told so without a trace."""
    return (
        f"o=$($SUDO {command.format(_QUIETLY)} 2>&1)\n"
        f"case $o in *'nrecognized option'*) o=$($SUDO {command.format('')} 2>&1) ;; esac; printf '%s\\n' \"$o\"\n"
    )


DISKS: tuple[Probe, ...] = (
    shell(
        "df",
        f"{_REMOTE_MOUNTS}"
        "command -v df >/dev/null || exit 127; set -f\n"
        "l=; case $(df --version 2>/dev/null) in *GNU*) l=l ;; esac\n"
        "echo @@$N blocks; timeout 8 df -Pk$l\n"
        "echo @@$N inodes; timeout 8 df -Pi$l\n"
        'for t in $m; do { o=$(timeout 5 df -Pk "$t" 2>&1); i=$(timeout 5 df -Pi "$t" 2>&1)\n'
        '  printf \'%s\\n\' "@@$N blocks$t" "$o" "@@$N inodes$t" "$i"; } & done; wait\n'
        f"echo @@$N places; stat -L -c '%m|%n' -- {_PLACES} 2>&1; exit 0",
        "space and inodes of the file systems; which of them hold libvirt's states and logs",
        keyed=True,
        timeout_s=30,
        alone=True,
        roles=EVERYWHERE,
    ),
    shell(
        "images",
        each_domain("domblklist --details $i; domblklist --details --inactive $i;") + '[ -n "$u" ] || exit 0\n'
        "l=$(v 2>/dev/null |"
        r" sed -nE 's/ *$//; s/^ *(file|block) +(disk|lun) +[^ ]+ +(\/.*)$/\3/p' | sort -u)"
        "\n"
        f"{_REMOTE_MOUNTS}"
        "s() { timeout 8 stat -L -c '%b %B %s %t:%T %F|%m|%n' -- \"$@\" 2>/dev/null; }"
        f"{_HEADS}"
        "R=; set --; set -f; IFS='\n'\n"
        "for f in $l; do unset IFS\n"
        '  y=; for t in $m; do case $f in "$t"/*) y=1 ;; esac; done\n'
        '  if [ "$y" ]; then R="$R$f\n"; else set -- "$@" "$f"; fi\n'
        "done; unset IFS\n"
        'if [ $# -gt 0 ]; then echo @@$N local/stat; s "$@"; heads local "$@"; fi\n'
        "IFS='\n'; set -f -- $R; set +f; unset IFS\n"
        '[ $# -gt 0 ] || exit 0; echo @@$N remote/stat; s "$@"\n'
        'if [ $? -lt 124 ]; then heads remote "$@"; else echo @@$N remote/hung; fi\n'
        "exit 0",
        "disk images: size, allocation, file system, device, and what they begin with",
        keyed=True,
        timeout_s=45,
        max_bytes=8 * MAX_BYTES,
        no_rule="a rule that opens any image would open the guests' data",
    ),
    files(
        "block_devices",
        "/sys/block/*/dev /sys/block/*/*/dev /sys/block/*/size /sys/block/*/*/size /sys/block/*/*/start"
        " /sys/block/*/alignment_offset /sys/block/*/*/alignment_offset"
        " /sys/block/*/queue/physical_block_size /sys/block/*/queue/optimal_io_size /sys/block/*/queue/discard_max_bytes"
        " /sys/block/*/queue/write_cache /sys/block/*/cache_type /sys/block/nvme*/wwid",
        "block devices and partitions: numbers, alignment, discard, write cache, identity of NVMe namespaces",
        max_bytes=4 * MAX_BYTES,  # hosts of a SAN have thousands of paths
    ),
    # The names of these hold colons, which part path and line in the answer of a file probe.
    shell(
        "scsi_disk",
        "[ -d /sys/class/scsi_disk ] || exit 66\n"
        "grep -Hs ^ /sys/class/scsi_disk/*/thin_provisioning /sys/class/scsi_disk/*/cache_type; exit 0",
        "SCSI disks: thin provisioning and cache by the disk itself",
    ),
    file("mdstat", "/proc/mdstat", "state of software RAID"),
    # A call of its own: a domain whose QEMU is stuck blocks it, and it has no --nowait.
    shell(
        "domblkerror",
        each_domain(f"{section('$i')} domblkerror $i;", running=True) + "v 2>&1; exit 0",
        "libvirt: I/O errors of the disks of the running domains",
        keyed=True,
        timeout_s=20,
        alone=True,
    ),
    # Only what is active and what LVM may look at is asked; nothing is scanned or activated.
    shell(
        "lvm",
        "command -v lvs >/dev/null || { echo 'lvs: not found' >&2; exit 127; }\n"
        f"echo @@$N lvs\n{_lvm(_LVS)}echo @@$N pvs\n{_lvm(_PVS)}"
        "echo @@$N config; lvmconfig --typeconfig full devices/use_devicesfile devices/filter devices/global_filter"
        " devices/scan_lvs 2>/dev/null\n"
        "exit 0",
        "LVM: volumes and fill of thin pools, physical volumes, and which devices it may look at",
        keyed=True,
        root=Root.MUST,
        timeout_s=20,
        alone=True,
        sudo=tuple(command.format(option) for command in (_LVS, _PVS) for option in (_QUIETLY, "")),
    ),
)
