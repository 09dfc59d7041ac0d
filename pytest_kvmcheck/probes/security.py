"""Probes of confinement, accounts, permissions and keys."""

from __future__ import annotations

from pytest_kvmcheck.probes.model import MAX_BYTES, Probe, Root, files, shell
from pytest_kvmcheck.probes.virsh import NEEDS_VIRSH, VIRSH, each_domain

#: What a denial must name to concern virtualization.
_CONCERNED = "libvirt|virt-aa-helper|qemu|swtpm|svirt|virt[a-z_]*_t"

#: Where libvirt keeps what belongs to guests.
STATE_DIRS = (
    "/var/lib/libvirt/images",
    "/var/lib/libvirt/qemu/save",
    "/var/lib/libvirt/qemu/nvram",
    "/var/lib/libvirt/swtpm",
)

#: Directories of private keys and secrets.
_KEY_DIRS = (
    *("/etc/libvirt/secrets", "/etc/pki/libvirt/private", "/etc/pki/qemu"),
    *(f"/etc/pki/libvirt-{use}" for use in ("backup", "chardev", "migrate", "nbd", "spice", "vnc", "vxhs")),
)
_SHOW_KEYS = r"-maxdepth 2 \( -type d -o -type f \) -printf '%y %m %U %G %p\n'"
_SHOW_FILES = r"-printf '%y %m %U %T@ %s|%l|%p\n'"
_BELOW = r"-xdev -maxdepth 3 \( -type d -o -type f -o -type l \)"

SECURITY: tuple[Probe, ...] = (
    files(
        "security_modules",
        "/sys/fs/selinux/enforce /sys/module/apparmor/parameters/enabled /etc/selinux/config",
        "whether SELinux or AppArmor is on, and what SELinux will be after a reboot",
    ),
    # Without --input-logs ausearch reads its standard input; without a match it ends with 1.
    shell(
        "audit_denials",
        "command -v ausearch >/dev/null || { echo 'ausearch: not found' >&2; exit 127; }\n"
        "o=$($SUDO ausearch --input-logs --raw -m AVC,USER_AVC,SELINUX_ERR -ts week-ago 2>&1); r=$?\n"
        'case $r,$o in 0,*|1,|1,*"no matches"*) ;; *) printf "%s\\n" "$o" >&2; exit 2 ;; esac\n'
        f"printf '%s\\n' \"$o\" | grep -aiE '{_CONCERNED}' | tail -n 2000; exit 0",
        "what SELinux or AppArmor denied, by auditd's log",
        when="systemctl is-active -q auditd",
        root=Root.MUST,
        timeout_s=30,
        sudo=("ausearch --input-logs --raw -m AVC,USER_AVC,SELINUX_ERR -ts week-ago",),
    ),
    shell(
        "libvirt_access",
        "[ -d /run ] || exit 66\n"
        "{ [ -r /etc/group ] && [ -r /etc/passwd ]; } || exit 1\n"
        "echo @@$N sockets; stat -c '%a %u %g %F|%n' /run/libvirt/*-sock /run/libvirt/*-sock-ro 2>/dev/null | named 2 3\n"
        "echo @@$N groups; grep -E '^libvirtd?:' /etc/group\n"
        "echo @@$N primary\n"
        'awk -F: \'FILENAME == "/etc/group" { if ($1 ~ /^libvirtd?$/) G[$3]; next } $4 in G { print $1 ":" $4 }\''
        " /etc/group /etc/passwd\n"
        # sssd is named in many files and runs on few hosts.
        "echo @@$N elsewhere; x=; [ ! -r /etc/nsswitch.conf ] ||\n"
        'while read -r k l; do case $k in passwd:|group:|initgroups:) x="$x ${l%%#*}" ;; esac; done </etc/nsswitch.conf\n'
        "for w in $x; do case $w in \\[*|*\\]|files|systemd|db|altfiles|compat) ;;\n"
        '  sss) p=; { read -r p </run/sssd.pid; } 2>/dev/null; [ "$p" ] && [ -d /proc/$p ] && echo sss ;;\n'
        '  *) echo "$w" ;; esac; done | sort -u\n'
        "echo @@$N polkit; p=/usr/share/polkit-1/actions/org.libvirt.unix.policy; [ -e $p ] && echo $p; exit 0",
        "who may control libvirt: its sockets, the members of its groups by files, whether polkit guards it",
        keyed=True,
    ),
    shell(
        "libvirt_accounts",
        "g=$(timeout 5 getent group libvirt libvirtd) || [ $? = 2 ] || exit 1\n"
        "echo @@$N groups; printf '%s\\n' \"$g\"\n"
        "echo @@$N primary; { printf '%s\\n\\n' \"$g\"; timeout 5 getent passwd; } |"
        " awk -F: 'b { if ($4 in G) print $1 \":\" $4; next } !NF { b = 1; next } { G[$3] }'; exit 0",
        "members of libvirt's groups wherever the host looks for accounts, LDAP in the network as well",
        keyed=True,
        timeout_s=15,
        active=True,
    ),
    shell(
        "polkit_rules",
        "d=/etc/polkit-1; [ -d $d ] || exit 0\n$SUDO grep -rlsF org.libvirt $d; exit 0",
        "rules of this site for libvirt",
        root=Root.MUST,
        sudo=("grep -rlsF org.libvirt /etc/polkit-1",),
    ),
    # Paths come from XML that strangers wrote: they are never words of the script.
    shell(
        "image_modes",
        each_domain("dumpxml $i; dumpxml --inactive $i;") + '[ -n "$u" ] || exit 0\n'
        "g=$(printf '\\076')\n"  # what ends a tag
        'l=$(v 2>/dev/null | sed -nE "'
        "s/^ *<source [^$g]*file='(\\/[^']*)'.*/\\1/p; s/^ *<nvram[^$g]*$g(\\/[^<]*)<.*/\\1/p\" |"
        ' sed "s/&apos;/\'/g; s/&lt;/</g; s/&gt;/$g/g; s/&quot;/\\"/g; s/&amp;/\\&/g" | sort -u)\n'
        "s=; set --\nset -f; IFS='\n'\nfor f in $l; do\n"
        '  set -- "$@" "$f"; [ $# -lt 2000 ] || break; d=${f%/*}\n'
        '  while [ "$d" ]; do case "$s" in *"\n$d\n"*) break ;; esac\n'
        '    s="$s\n$d\n"; set -- "$@" "$d"; d=${d%/*}; done\ndone\nunset IFS\n'
        "[ $# -gt 0 ] || exit 0\n"
        "owned 2 3 timeout 8 stat -L -c '%a %u %g %F|%n' -- \"$@\"; r=$?; [ $r -lt 124 ] && exit 0; exit $r",
        "who may read the disk images and NVRAM of guests, and the directories above them",
        timeout_s=30,
        alone=True,
        max_bytes=2 * MAX_BYTES,
        no_rule="the paths of images are known on the host only",
    ),
    shell(
        "pool_files",
        NEEDS_VIRSH + f"awake virtstoraged || exit 1\nu=$({VIRSH} pool-list --uuid) || exit 1\n"
        'b=; for i in $u; do b="$b pool-dumpxml $i;"; done\n'
        f'p=; [ -z "$b" ] || p=$({VIRSH} "$b" 2>/dev/null | sed -nE \'s/^ *<path.(\\/[^<]*)<.*/\\1/p\' | sort -u)\n'
        "set --\nset -f; IFS='\n'\n"
        't() { [ -d "$1" ] || { [ "$SUDO" ] && denied "${1%/*}"; }; }\n'
        'for d in $p; do case $d in /dev/*|/) ;; *) t "$d" && set -- "$@" "$d" ;; esac; done\nunset IFS; set +f\n'
        f'for d in {" ".join(STATE_DIRS)}; do t $d && set -- "$@" $d; done\n'
        "[ $# -gt 0 ] || exit 0\n"
        f'f() {{ owned 3 0 $SUDO timeout 10 find "$@" {_SHOW_FILES}; }}\n'
        'a=; for d; do d=${d%/*}; while [ "$d" ]; do case "$a" in *"\n$d\n"*) break ;; esac; a="$a\n$d\n"; d=${d%/*}; done; done\n'
        # A rule of sudo can name one directory. Those above are seen without, unless they lie below a closed one.
        f'if [ "$SUDO" ]; then for d; do f "$d" {_BELOW} || {{ r=$?; [ $r = 1 ] && [ ! -d "$d" ]; }} || exit $r; done\n'
        f'else f "$@" {_BELOW} || exit; fi\n'
        "set -f; IFS='\n'; set -- $a; unset IFS; [ $# -gt 0 ] || exit 0\n"
        '[ -z "$SUDO" ] || { a=$(SUDO= f "$@" -maxdepth 0 -type d 2>/dev/null) && { printf "%s\\n" "$a"; exit 0; }; }\n'
        'f "$@" -maxdepth 0 -type d',
        "files of libvirt's directories and of the pools: mode, age and size",
        root=Root.MUST,
        timeout_s=30,
        alone=True,
        max_bytes=4 * MAX_BYTES,
        sudo=tuple(f"timeout 10 find {directory} {_BELOW} {_SHOW_FILES}" for directory in STATE_DIRS),
        no_rule="pools are where their XML says, and a rule cannot name a directory that it does not know",
    ),
    shell(
        "key_modes",
        # One command a directory: that is what a rule of sudo can name.
        f"r=0; for d in {' '.join(_KEY_DIRS[:3])} /etc/pki/libvirt-*; do\n"
        f"  if [ -d $d ]; then owned 3 4 $SUDO find -L $d {_SHOW_KEYS} || r=$?\n"
        f'  elif [ "$SUDO" ] && denied ${{d%/*}}; then owned 3 4 $SUDO find -L $d {_SHOW_KEYS}; fi\ndone; exit $r',
        "who may read private keys and secrets",
        root=Root.MUST,
        sudo=tuple(f"find -L {directory} {_SHOW_KEYS}" for directory in _KEY_DIRS),
        no_rule="a directory /etc/pki/libvirt-* whose name is none that libvirt documents has no rule",
    ),
    files(
        "certificates",
        "/etc/pki/CA/cacert.pem /etc/pki/libvirt/servercert.pem /etc/pki/libvirt/clientcert.pem /etc/pki/qemu/*-cert.pem"
        " /etc/pki/libvirt-*/*-cert.pem",
        "public certificates of libvirt and QEMU",
    ),
    shell(
        "nova_migration",
        "f=/etc/nova/nova.conf; [ -e $f ] || denied /etc/nova || exit 66\n$SUDO grep -h live_migration_ $f; [ $? -le 1 ]",
        "how OpenStack migrates guests",
        root=Root.MUST,
        sudo=("grep -h live_migration_ /etc/nova/nova.conf",),
    ),
)
