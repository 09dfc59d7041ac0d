"""What `kvmcheck commands --sudoers` prints is enough for --sudo, and for nothing else: tried with the real sudo.

The target is this machine under an overlay of its own, where an account, the printed rules, files that only root may read and
daemons that answer only root are laid over it. Nothing of that is on the machine itself.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import KEY_SEPARATOR, Record
from pytest_kvmcheck.facts.programs import parse_programs
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.probes import PROBES, probes_for
from pytest_kvmcheck.reports.commands import as_sudoers
from tests.live.conftest import Kvmcheck
from tests.live.sshd import Farm

ACCOUNT = "kvmcheck-tester"
UID = 64999

Told = dict[str, dict[str, Record]]

#: Where sudo says what it was asked for, one line a command, and whether it ran it.
LOG = "asked.log"

FOR_ROOT = '[ "$(id -u)" = 0 ] || { echo "$0: Permission denied, you must be root" >&2; exit 1; }\n'

#: Commands that a host may have: each answers root alone. They stand in for those that this machine lacks or should not be asked.
TOOLS = {
    "auditctl": "echo enabled 1",
    "ausearch": "echo '<no matches>' >&2; exit 1",
    "dmidecode": "echo '# dmidecode 3.4'",
    "dmsetup": "echo 'mpatha: 0 1 multipath 2 0 0 0 1 1 A 0 1 2 8:0 A 0 0 1'",
    "dnf": "echo repo",
    "firewall-cmd": "echo public",
    "ip6tables-legacy-save": "echo '*filter'",
    "ip6tables-save": "echo '*filter'",
    "iptables-legacy-save": "echo '*filter'",
    "iptables-save": "echo '*filter'",
    "journalctl": "echo '1764000000.000000 kvm01 kernel: Linux version 6.1.0'",
    "lvs": "echo '{}'",
    "multipathd": """case "$*" in *maps*) echo '{"maps": []}' ;; *) echo 'defaults {' ;; esac""",
    "nft": "echo '{}'",
    "ovs-vsctl": "echo '{}'",
    "pvs": "echo '{}'",
    "teamdctl": "echo '{}'",
    "virt-admin": "echo ' Logging filters: '",
    "virt-host-validate": "echo '  QEMU: Checking for hardware virtualization : PASS'",
    "yum": "echo repo",
}
#: Others, which answer anybody.
FOR_ALL = {
    "ip": 'case "$*" in "-o link show type team") echo "7: team0: <UP> mtu 1500" ;; *) echo "[]" ;; esac',
    "lvmconfig": "exit 0",
    "rpm": "exit 0",
    "systemctl": 'case "$*" in *list-units*) echo "libvirtd.service loaded active running x" ;; *is-active*) echo active ;; esac',
    "virsh": 'case "$*" in *domcapabilities*) [ "$(id -u)" = 0 ] && exec echo "<domainCapabilities/>";'
    " echo 'error: access denied' >&2; exit 1 ;; esac",
}

#: Files that only root may read, and directories that only root may enter.
FILES = {
    "/etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.2026-01.example:kvm01",
    "/etc/iscsi/nodes/iqn/portal/default": "node.startup = automatic",
    "/etc/libvirt/libvirtd.conf": "listen_tls = 0",
    "/etc/libvirt/qemu.conf": "user = root",
    "/etc/libvirt/secrets/a.xml": "<secret/>",
    "/etc/NetworkManager/system-connections/a": "total-vfs=4",
    "/etc/nova/nova.conf": "live_migration_uri = x",
    "/etc/pki/libvirt-vnc/server-key.pem": "key",
    "/etc/pki/libvirt/private/serverkey.pem": "key",
    "/etc/polkit-1/rules.d/50.rules": "org.libvirt",
    "/etc/rsyslog.conf": "*.* @@log.example",
    "/etc/rsyslog.d/a.conf": "*.* @@other.example",
    "/etc/sasl2/libvirt.conf": "mech_list: gssapi",
    "/sys/class/dmi/id/product_uuid": "6d1a6e8a-0000-4000-8000-000000000001",
    "/var/lib/iscsi/nodes/iqn/portal/default": "node.startup = manual",
    "/var/lib/libvirt/images/a.img": "image",
    "/var/lib/libvirt/qemu/save/a.save": "state",
    "/var/log/journal/a/system.journal": "x",
    "/var/log/libvirt/qemu/a.log": "2026-01-01 00:00:00.000+0000: starting up",
}
CLOSED = [
    *("/etc/iscsi/nodes", "/var/lib/iscsi/nodes", "/etc/libvirt", "/etc/NetworkManager/system-connections", "/etc/nova"),
    *("/etc/pki/libvirt-vnc", "/etc/pki/libvirt/private", "/etc/polkit-1/rules.d", "/etc/rsyslog.d"),
    *("/var/lib/libvirt/images", "/var/lib/libvirt/qemu", "/var/log/libvirt", "/var/log/journal"),
]
MODULES = (
    "/sys/module/team",
    "/sys/module/nf_tables",
    "/sys/module/ip_tables",
    "/sys/module/ip6_tables",
    "/sys/module/openvswitch",
)


#: Makes the overlay, runs what lays things over it, and then the rest of the arguments. All that writes runs below the new root:
#: links there, such as /usr/sbin/ip -> /bin/ip, would lead whoever is outside to the files of the machine itself.
ENTER = """\
mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w /mnt/o &&
mount -t overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w overlay /mnt/o && cd /mnt/o &&
mount --rbind /proc proc && mount --rbind /dev dev && mount -t tmpfs none sys && mount -t tmpfs none run &&
mount --bind {place} .{place} &&
chroot . sh -e {place}/prepare && exec chroot . "$@"
"""


def written(path: str, text: str, mode: str) -> str:
    return f"mkdir -p {Path(path).parent}; rm -f {path}; printf '%s\\n' {shlex.quote(text)} >{path}; chmod {mode} {path}"


def prepare(place: Path) -> str:
    """Return the script that makes the target, to be run below its root."""
    tools = [(name, FOR_ROOT + text) for name, text in TOOLS.items()] + list(FOR_ALL.items())
    steps = [
        f"mkdir -p {' '.join(MODULES)} /sys/devices/system/cpu/cpu0/cpuidle/state1 /run/libvirt/qemu",
        *(f"rm -f /usr/bin/{name}; {written(f'/usr/sbin/{name}', f'#!/bin/sh{chr(10)}{text}', '755')}" for name, text in tools),
        *(written(path, text, "600") for path, text in FILES.items()),
        # The process of the tests: root's, and there all the time.
        *(written(path, str(os.getpid()), "644") for path in ("/run/libvirtd.pid", "/run/libvirt/qemu/a.pid")),
        f"chmod 700 {' '.join(CLOSED)}",
        "find /var/lib/libvirt /var/log/libvirt -exec touch -d @1764000000 {} +; touch -d @1764000000 /var /var/lib",
        f"echo '{ACCOUNT}:x:{UID}:{UID}::/:/bin/sh' >>/etc/passwd; echo '{ACCOUNT}:!:20000::::::' >>/etc/shadow",
        f"cp {place}/rules /etc/sudoers.d/kvmcheck; echo 'Defaults logfile={place}/{LOG}, loglinelen=0' >/etc/sudoers.d/log",
        "chmod 440 /etc/sudoers.d/kvmcheck /etc/sudoers.d/log",
    ]
    return "\n".join(steps) + "\n"


def below(place: Path, account: str) -> str:
    """Return the command that runs its further arguments as *account* ("" for root) below the overlay."""
    become = f"setpriv --reuid {UID} --regid {UID} --clear-groups env USER={account} LOGNAME={account}" if account else "env"
    return f"unshare -m --propagation private sh {place}/enter {become} sh -c"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sudo")
    (place / "rules").write_text(as_sudoers(PROBES.values(), ACCOUNT))
    (place / "prepare").write_text(prepare(place))
    (place / "enter").write_text(ENTER.format(place=place))
    return place


@pytest.fixture(scope="module")
def told(farm: Farm, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What root and the account with the rules were told: host -> record -> how it ended."""
    farm.host("asroot", login=f'exec {below(place, "")} "$SSH_ORIGINAL_COMMAND"')
    farm.host("bysudo", login=f'exec {below(place, ACCOUNT)} "$SSH_ORIGINAL_COMMAND"')
    record = tmp_path_factory.mktemp("record") / "evidence"
    run = Kvmcheck(record.parent)(
        "--hosts=ssh://asroot,ssh://bysudo", "--sudo", f"--ssh-config={farm.config}", f"--kvmcheck-record={record}"
    )
    assert run.rc == 1, run.stdout + run.stderr
    assert (run.host("asroot")["sudo"], run.host("bysudo")["sudo"]) == ("root", "granted")
    _, gathered = bundle.read(record)
    return {evidence.host: evidence.records for evidence in gathered}


def ended(record: Record | None) -> object:
    if record and record.probe == "programs:exe":  # ls for root, find by sudo
        return parse_programs(record.stdout)
    return record and (record.stdout, record.rc, record.cause)


def probe_of(record: str) -> str:
    return record.partition(KEY_SEPARATOR)[0]


def test_the_rules_leave_nothing_not_permitted_that_a_rule_could_lift(told: Told) -> None:
    root, account = told["asroot"], told["bysudo"]
    denied = {name for name, record in account.items() if record.cause is Cause.NOT_PERMITTED}
    denied -= {name for name, record in root.items() if record.cause is Cause.NOT_PERMITTED}
    assert not {name for name in denied if not PROBES[probe_of(name)].no_rule}


def test_who_has_the_rules_is_told_what_root_is_told(told: Told) -> None:
    """Not only is nothing refused: what is behind closed doors is not taken for absent either."""
    root, account = told["asroot"], told["bysudo"]
    asked = {name for name in root.keys() | account.keys() if PROBES[probe_of(name)].sudo}
    assert len(asked) > 40
    for name in sorted(asked):
        assert ended(account.get(name)) == ended(root.get(name)), name


def test_every_command_that_was_asked_for_has_its_rule(told: Told, place: Path) -> None:
    """By sudo's own log; and nothing is in the rules that nobody asks for, by the tools that ran."""
    lines = (place / LOG).read_text().splitlines()
    refused = [line for line in lines if "COMMAND=" in line and re.search(r"not allowed|password is required|incorrect", line)]
    assert not refused
    ran = {match[1] for line in lines if (match := re.search(r"COMMAND=/\S+/(\S+)", line))}
    ruled = {shlex.split(command)[0] for probe in probes_for("host") for command in probe.sudo}
    # Of pairs that stand for each other, only one is there to be asked: dnf for yum, and no table of the older iptables.
    # Asked only where the kernel has something for them: multipath maps, tables of the firmware, the older packet filter.
    only_there = {"dmidecode", "dmsetup", "iptables-legacy-save", "ip6tables-legacy-save"}
    assert ruled - ran <= only_there, sorted(ruled - ran)


#: What the rules must not open. Each is near to one of them.
HOLES = [
    "grep -HF '(deleted)' /proc/1 -e '' /etc/shadow /maps",
    "grep -HF '(deleted)' /proc/1/../../etc/shadow",
    "grep -HF '(deleted)' /proc/12/task/12/maps",
    "grep -raH --include=x -e '' /etc/shadow --include=.log . /var/log/libvirt/qemu",
    "grep -raH --include=x.log . /var/log/libvirt/qemu",
    "grep -rh --include=.conf . /etc/rsyslog.conf /etc/shadow",
    "grep -H ^ -- /etc/libvirt/qemu.conf /etc/shadow",
    "grep -H ^ -- /etc/libvirt/../shadow",
    "grep",
    "iptables-save -M /tmp/evil",
    "iptables-save -f /etc/cron.d/evil",
    "ip6tables-save -t nat -f /etc/cron.d/evil",
    "find /proc -maxdepth 3 -exec sh -c id ;",
    "ls -l /proc/1/../../root/fd",
    "ls -l /proc/1 /root/fd",
    "ls -l /proc/12345678/fd",
    "teamdctl team0 config update x state dump",
    "teamdctl -x state dump",
    "teamdctl team0/../x state dump",
    "timeout 10 sh -c id",
    "virsh -c qemu:///system domcapabilities x",
    "virsh -c qemu+ssh://evil/system domcapabilities",
    "virt-admin -c libvirtd:///system 'daemon-log-filters 1:x; daemon-log-outputs'",
    "multipathd -k",
    "multipathd show config local x",
    "sh",
    "journalctl -q -k -b -o short-unix",
]


def commands() -> list[str]:
    """Every command that has a rule, with a process and a device put in."""
    every = {command for probe in PROBES.values() for command in probe.sudo}
    return sorted(command.replace("{pid}", "4242").replace("{nic}", "team0.7") for command in every)


def test_the_rules_allow_what_is_asked_and_nothing_near(place: Path) -> None:
    """sudo itself says which of the commands it would run."""
    allowed = commands()
    assert len(allowed) > 60
    asked = [shlex.join(shlex.split(command)) for command in [*allowed, *HOLES]]
    ask = "".join(f"sudo -n -l -- {command} >/dev/null 2>&1 && echo yes || echo no\n" for command in asked)
    done = subprocess.run([*below(place, ACCOUNT).split(), ask], capture_output=True, text=True, check=True)
    answers = done.stdout.split()
    assert len(answers) == len(allowed) + len(HOLES), done.stderr
    said = dict(zip([*allowed, *HOLES], answers, strict=True))
    assert [command for command in allowed if said[command] != "yes"] == []
    assert [command for command in HOLES if said[command] != "no"] == []
