"""What commands print in a sosreport, as our own probes would print it: each format keeps its one parser.

Source: sos/report/plugins/*.py of sos 3.9 to 4.12, for the commands and the names of their files. A conversion takes any text and
returns None where that does not tell the answer honestly: an error, a text that was cut, a format that leaves out what matters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from pytest_kvmcheck.gather import sosip, sostime
from pytest_kvmcheck.gather.sosip import whole_lines
from pytest_kvmcheck.probes.system import KERNEL_LOG, KERNEL_LOG_LINES

Convert = Callable[..., str | None]


class Form(NamedTuple):
    """Where a sosreport may keep an answer (a glob below its root), and what makes ours of it.

    ``beside`` is a file that the conversion takes too, as its second text.
    """

    place: str
    convert: Convert
    beside: str = ""


#: What systemctl is asked for by our own probe; sos asks for all properties of a unit.
_UNIT_PROPERTIES = ("Id", "Names", "LoadState", "ActiveState", "SubState", "UnitFileState", "TimeoutStopUSec")
_UNIT_NEEDS = {"Id", "LoadState", "ActiveState", "SubState", "UnitFileState"}
_MICROCODE = re.compile(r"(processor|cpu family|model|stepping|microcode)\s*:")


def units(text: str) -> str | None:
    """Return ``systemctl show -p ...`` from ``systemctl show service --all``: the units that are told in full.

    A listing that was stopped ends within a unit, and half a unit looks like one that is down.
    """
    blocks = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip()):
        lines = [line for line in block.split("\n") if line.partition("=")[0] in _UNIT_PROPERTIES]
        if {line.partition("=")[0] for line in lines} >= _UNIT_NEEDS:
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks) or None


def microcode(text: str) -> str | None:
    """Return the lines of ``/proc/cpuinfo`` that tell the microcode."""
    return "".join(f"{line}\n" for line in text.splitlines() if _MICROCODE.match(line)) or None


def sysctl_files(text: str) -> dict[str, str]:
    """Return the files below /proc/sys that ``sysctl -a`` tells of. Lines of errors are passed over.

    >>> sysctl_files("net.ipv4.conf.eth0/7.arp_filter = 0\\nsysctl: permission denied on key 'x'\\nkernel.tainted = 0\\n")
    {'/proc/sys/net/ipv4/conf/eth0.7/arp_filter': '0\\n', '/proc/sys/kernel/tainted': '0\\n'}
    """
    found: dict[str, str] = {}
    for line in whole_lines(text[: text.rfind("\n") + 1]):
        if match := re.fullmatch(r"([a-z0-9_]+[./][^\s=]+) = (.*)", line, re.ASCII):
            path = "/proc/sys/" + match[1].translate(str.maketrans("./", "/."))
            found[path] = found.get(path, "") + match[2] + "\n"
    return found


_DF_HEAD = re.compile(r"Filesystem +(?P<type>Type +)?(?P<unit>1K-blocks|1024-blocks|Inodes) .*")
_DF_TYPED = re.compile(r"(?P<source>.+?) +\S+ +(?P<rest>(?:-|\d+) +(?:-|-?\d+) +(?:-|-?\d+) +(?:-|\d+%) +/.*)", re.ASCII)


def df(text: str) -> str | None:
    """Return ``df -Pkl`` or ``df -Pil`` from ``df -al`` or ``df -aliT``.

    Without -a, df leaves out what has no blocks. Inaccessible and hidden file systems are told as ``-``, which is no number.

    >>> print(df("Filesystem     Type   Inodes IUsed  IFree IUse% Mounted on\\n/dev/vda1      ext4  5160960 10092 50868    2% /\\n"
    ...          "portal         fuse         -     -      -     - /run/doc\\n"), end="")
    Filesystem     Inodes IUsed  IFree IUse% Mounted on
    /dev/vda1 5160960 10092 50868    2% /
    """
    lines = [line for line in whole_lines(text) if not line.startswith("df: ")]
    head = _DF_HEAD.fullmatch(lines[0]) if lines else None
    if not head:
        return None
    found = [f"Filesystem     {lines[0][head.start('unit') :]}"]
    for line in lines[1:]:
        if head["type"]:
            match = _DF_TYPED.fullmatch(line)
            if not match:
                return None
            line = f"{match['source']} {match['rest']}"  # noqa: PLW2901 - the same line without the column of types
        nothing = r" +-" if head["unit"] == "Inodes" else r" +(?:-|0)"
        if not re.match(rf".+?{nothing} +(?:-|0) +(?:-|0) +- +/", line):
            found.append(line)
    return "".join(f"{line}\n" for line in found) if len(found) > 1 else None


def kvm_modules(text: str) -> str | None:
    """Return the KVM modules from ``lsmod`` or ``/proc/modules``.

    One that is built in is not listed, and may be there all the same. With ``kvm`` itself listed, all that build on it are modules.

    >>> kvm_modules("Module         Size  Used by\\nkvm_intel    282624  0\\nkvm          663552  1 kvm_intel\\n")
    'kvm_intel\\nkvm\\n'
    >>> kvm_modules("Module         Size  Used by\\nveth          32768  0\\n")
    """
    lines = whole_lines(text)
    if lines and re.fullmatch(r"Module +Size +Used by *", lines[0]):
        lines = lines[1:]
    elif not all(line.endswith(")") or re.search(r" (?:Live|Loading|Unloading) 0x[0-9a-f]+$", line) for line in lines):
        return None
    matches = [re.fullmatch(r"(\w+) +\d+ +-?\d+\b.*", line, re.ASCII) for line in lines]
    names = [match[1] for match in matches if match]
    if len(names) != len(lines) or "kvm" not in names:
        return None
    return "".join(f"{name}\n" for name in names if name.startswith("kvm"))


_DMESG = re.compile(r"\[ *(?P<time>\d{1,9}\.\d{6})\](?:\[ *[TC]\d+\])? (?P<text>.*)", re.ASCII)
_TROUBLE = re.compile(KERNEL_LOG, re.IGNORECASE)


def kernel_log(text: str, stat: str) -> str | None:
    """Return ``journalctl -k -o short-unix``, as our probe picks of it, from ``dmesg`` and the time of the boot in ``/proc/stat``.

    Only of a log that begins with the boot: what a full buffer has lost may have been a trouble. Programs that write into it
    before the journal runs are left out.

    >>> text = "[    0.000000] Linux version 6.1.0\\n[    1.500000] usb 1-1: new\\n[   12.250000] EDAC MC0: 1 CE\\n"
    >>> print(kernel_log(text, "cpu 0 0 0 0\\nbtime 1700000000\\n"), end="")
    1700000000.000000 localhost kernel: Linux version 6.1.0
    1700000012.250000 localhost kernel: EDAC MC0: 1 CE
    >>> kernel_log(text.partition("\\n")[2], "btime 1700000000\\n")
    """
    boot = re.search(r"^btime (\d{9,11})$", stat.replace("\r", ""), re.ASCII | re.MULTILINE)
    messages: list[tuple[float, str]] = []
    for line in whole_lines(text):
        if match := _DMESG.fullmatch(line):
            messages.append((float(match["time"]), match["text"]))
        elif not line.startswith((" ", "\t")):  # continuation lines of one message are indented
            return None
    # Early microcode speaks before the kernel says its name.
    first = next((number for number, (_, said) in enumerate(messages[:4]) if said.startswith("Linux version ")), None)
    if first is None or messages[first][0] or not boot:
        return None
    picked = [item for item in messages if _TROUBLE.search(item[1]) and not re.match(r"(systemd|dracut)[\w.-]*\[\d+\]: ", item[1])]
    kept = [messages[first], *picked[-KERNEL_LOG_LINES:]]
    return "".join(f"{int(boot[1]) + time:.6f} localhost kernel: {said}\n" for time, said in kept)


_RPMS = ("qemu-kvm", "libvirt-daemon", "edk2", "seabios")
_DEBS = ("qemu-system", "libvirt-daemon")


def rpms(text: str) -> str | None:
    """Return our packages from ``installed-rpms`` or ``package-data`` of sos.

    >>> rpms("glibc-2.34-60.el9.x86_64            Mon\\nqemu-kvm-core-7.2.0-14.el9.x86_64      Mon 01 May 2023 12:00:00 PM UTC\\n")
    'qemu-kvm-core 7.2.0-14.el9\\n'
    """
    found, whole = "", False
    for line in whole_lines(text):
        match = re.fullmatch(r"(\S+)-([^\s-]+-[^\s-]+)\.[^\s.]+(?:\s.*)?", line)
        if not match:
            return None
        whole = whole or match[1] == "glibc"
        if match[1].startswith(_RPMS):
            found += f"{match[1]} {match[2]}\n"
    return found if whole and found else None


def debs(text: str) -> str | None:
    """Return our packages from ``dpkg -l``. A narrow table cuts names and versions.

    >>> debs("Desired=Unknown/Install\\n||/ Name        Version\\n+++-" + "=" * 100 + "\\nii  libc6:amd64   2.36-9   amd64 \\n"
    ...      "ii  qemu-system-x86   1:7.2+dfsg-7   amd64   QEMU\\nrc  ovmf   2022.11   all   x\\n")
    'qemu-system-x86 1:7.2+dfsg-7\\n'
    """
    lines = whole_lines(text)
    start = next((number for number, line in enumerate(lines) if re.fullmatch(r"\+\+\+-[=-]{90,}", line)), 0)
    if not start or not lines[start - 1].startswith("||/ Name"):
        return None
    found, whole = "", False
    for line in lines[start + 1 :]:
        match = re.fullmatch(r"([a-zA-Z]{2}[ A-Z]) (\S+) +(\S+) .*", line)
        if not match:
            return None
        name = match[2].partition(":")[0]
        whole = whole or name == "libc6"
        if match[1] == "ii " and (name.startswith(_DEBS) or name in ("ovmf", "seabios")):
            found += f"{name} {match[3]}\n"
    return found if whole and found else None


def host_name(text: str) -> str | None:
    """Return ``hostname -f``. One word without a domain may be a name, and may be an error."""
    name = text.strip()
    return f"{name}\n" if re.fullmatch(r"localhost|[\w-]{1,63}(\.[\w-]{1,63})+\.?", name, re.ASCII) else None


def scsi_disks(text: str) -> str | None:
    """Return the SCSI disks from ``ls -lanR /sys/block``, which lists all block devices, empty ones too.

    >>> scsi_disks("/sys/block:\\ntotal 0\\ndrwxr-xr-x  2 0 0 0 Feb 11 19:23 .\\n"
    ...            "lrwxrwxrwx  1 0 0 0 Feb 11 19:23 sda -> ../devices/pci0000:00/0000:00:1f.2/ata1/block/sda\\n")
    'sda\\n'
    """
    head, *lines = whole_lines(text) or [""]
    names = [match[1] for line in lines if (match := re.fullmatch(r"l\S+ .+ ([^\s/]+) -> \.\./devices/\S+", line))]
    plain = [line for line in lines if not re.fullmatch(r"total \d+|d\S+ .* \.\.?|l.+ -> \.\./devices/\S+|", line, re.ASCII)]
    if head != "/sys/block:" or not names or plain:
        return None
    return "".join(f"{name}\n" for name in names if name.startswith("sd"))


_ISCSI = {
    "Iface Name": "ifacename",
    "Persistent Portal": "portal",
    "SID": "sid",
    "iSCSI Connection State": "connection",
    "iSCSI Session State": "state",
    "Recovery Timeout": "recovery_tmo",
}


def iscsi(text: str) -> str | None:
    """Return the files of sysfs from ``iscsiadm -m session -P 3``, asked by root as sos is: to others it denies all sessions.

    >>> print(iscsi('''iSCSI Transport Class version 2.0-870
    ... version 6.2.1.4-1
    ... Target: iqn.2003-01.org.example:vm (non-flash)
    ... 	Current Portal: 192.0.2.7:3260,1
    ... 	Persistent Portal: 192.0.2.7:3260,1
    ... 		Iface Name: default
    ... 		SID: 1
    ... 		iSCSI Connection State: LOGGED IN
    ... 		iSCSI Session State: LOGGED_IN
    ... 		Recovery Timeout: 5
    ... '''), end="")
    /sys/class/iscsi_session/session1/targetname:iqn.2003-01.org.example:vm
    /sys/class/iscsi_session/session1/state:LOGGED_IN
    /sys/class/iscsi_session/session1/recovery_tmo:5
    /sys/class/iscsi_session/session1/ifacename:default
    /sys/class/iscsi_connection/connection1:0/state:up
    /sys/class/iscsi_connection/connection1:0/persistent_address:192.0.2.7
    /sys/class/iscsi_connection/connection1:0/persistent_port:3260
    """
    lines = whole_lines(text)
    if [line.strip() for line in lines] == ["iscsiadm: No active sessions."]:
        return ""
    if not lines or not lines[0].startswith("iSCSI Transport Class version"):
        return None
    target, sessions = "", list[dict[str, str]]()
    portal = ""
    for line in lines:
        if line.startswith("iscsiadm:"):
            return None
        name, _, value = (part.strip() for part in line.partition(":"))
        key = _ISCSI.get(name)
        if name == "Target":
            target, portal = value.partition(" ")[0], ""
        elif key == "portal":
            portal = value
        elif key == "ifacename":
            sessions.append({"target": target, "portal": portal, "ifacename": value})
        elif key and sessions:
            sessions[-1].setdefault(key, value)
    found = [_session(told) for told in sessions]
    return "".join(map(str, found)) if found and None not in found else None


def _session(told: dict[str, str]) -> str | None:
    """Return the files of one session; None when the daemon does not say how it is."""
    portal = re.fullmatch(r"\[?([0-9a-fA-F.:]+?)\]?:(\d{1,5}),-?\d+", told["portal"], re.ASCII)
    number, seconds, link = told.get("sid", ""), told.get("recovery_tmo", ""), told.get("connection", "")
    if not portal or not told["target"] or not told.get("state") or not re.fullmatch(r"[A-Z ]{2,30}", link):
        return None
    if not re.fullmatch(r"\d{1,9}", number, re.ASCII) or not re.fullmatch(r"\d{1,9}", seconds, re.ASCII) or link == "UNKNOWN":
        return None
    session, connection = f"/sys/class/iscsi_session/session{number}", f"/sys/class/iscsi_connection/connection{number}:0"
    return (
        f"{session}/targetname:{told['target']}\n{session}/state:{told['state']}\n{session}/recovery_tmo:{seconds}\n"
        f"{session}/ifacename:{told['ifacename']}\n{connection}/state:{'up' if link == 'LOGGED IN' else 'failed'}\n"
        f"{connection}/persistent_address:{portal[1]}\n{connection}/persistent_port:{portal[2]}\n"
    )


def iscsi_nodes(text: str) -> str | None:
    """Return the start modes in the records of targets from ``iscsiadm -m node --op show``.

    >>> print(iscsi_nodes('''# BEGIN RECORD 2.1.8
    ... node.name = iqn.2003-01.org.example:vm
    ... node.tpgt = 1
    ... node.startup = automatic
    ... iface.iscsi_ifacename = default
    ... node.conn[0].address = 192.0.2.7
    ... node.conn[0].port = 3260
    ... # END RECORD
    ... '''), end="")
    /var/lib/iscsi/nodes/iqn.2003-01.org.example:vm/192.0.2.7,3260,1/default:node.startup = automatic
    """
    if text.strip() == "iscsiadm: No records found":
        return ""
    found, told = "", dict[str, str]()
    for line in whole_lines(text):
        if line.startswith("# BEGIN RECORD"):
            told = {"begun": line}
        elif line.startswith("# END RECORD") and told:
            address, port, tag = (told.get(name, "") for name in ("node.conn[0].address", "node.conn[0].port", "node.tpgt"))
            target, startup, iface = (told.get(name, "") for name in ("node.name", "node.startup", "iface.iscsi_ifacename"))
            wrong = not re.fullmatch(r"[\w.:-]+", target) or not re.fullmatch(r"\d{1,5},[\d-]{1,6}", f"{port},{tag}", re.ASCII)
            if wrong or not re.fullmatch(r"[\w.:-]+,\w+,[\w.-]+", f"{address},{startup},{iface}"):
                return None
            found += f"/var/lib/iscsi/nodes/{target}/{address},{port},{tag}/{iface}:node.startup = {startup}\n"
            told = {}
        elif told and (setting := re.fullmatch(r"(\S+) = (.*)", line)):
            told[setting[1]] = setting[2].strip()
        else:
            return None
    return None if told else found or None


_NET, _CHRONY = "sos_commands/networking", "sos_commands/chrony"

#: The forms of each answer, by the key of its record; the first that tells it wins.
FORMS: dict[str, tuple[Form, ...]] = {
    # Services that are loaded: sockets, timers and the others are not told of.
    "systemd_units": (Form("sos_commands/systemd/systemctl_show_service_--all", units),),
    "microcode": (Form("proc/cpuinfo", microcode),),
    "now": (Form("sos_commands/date/date_--utc", sostime.now), Form("sos_commands/date/date", sostime.now)),
    # The first one tells of virtual functions too.
    "ip_link": (Form(f"{_NET}/ip_-s_-d_link", sosip.ip_link), Form(f"{_NET}/ip_-d_address", sosip.ip_link)),
    "ip_addr": (Form(f"{_NET}/ip_-d_address", sosip.ip_addr), Form(f"{_NET}/ip_-o_addr", sosip.ip_addr_lines)),
    "ip_route": (Form(f"{_NET}/ip_route_show_table_all", sosip.ip_route),),
    "ip_route6": (Form(f"{_NET}/ip_-6_route_show_table_all", sosip.ip_route6),),
    "ip_rule": (Form(f"{_NET}/ip_-4_rule_list", sosip.ip_rule), Form(f"{_NET}/ip_-4_rule", sosip.ip_rule)),
    "chrony_tracking": (
        Form(f"{_CHRONY}/chronyc_tracking", sostime.chrony_tracking),
        Form(f"{_CHRONY}/chronyc_-n_tracking", sostime.chrony_tracking),
    ),
    "chrony_sources": (Form(f"{_CHRONY}/chronyc_-n_sources", sostime.chrony_sources),),
    # Where the directories of libvirt and the logs are, is asked by our own probe only.
    "df:blocks": (Form("sos_commands/filesys/df_-al_-x_autofs", df),),
    "df:inodes": (Form("sos_commands/filesys/df_-aliT_-x_autofs", df), Form("sos_commands/filesys/df_-ali_-x_autofs", df)),
    "kvm_modules": (Form("sos_commands/kernel/lsmod", kvm_modules), Form("proc/modules", kvm_modules)),
    "kernel_log": (Form("sos_commands/kernel/dmesg", kernel_log, beside="proc/stat"),),
    "packages": (
        *(Form("installed-rpms", rpms), Form("sos_commands/rpm/sh_-c_rpm_*", rpms), Form("sos_commands/rpm/package-data", rpms)),
        *(Form("installed-debs", debs), Form("sos_commands/dpkg/dpkg_-l", debs)),
    ),
    "hostname_fqdn": (Form("sos_commands/host/hostname_-f", host_name), Form("sos_commands/general/hostname_-f", host_name)),
    "scsi_disks": (Form("sos_commands/block/ls_-*R*_.sys.block", scsi_disks),),
    "iscsi": (Form("sos_commands/iscsi/iscsiadm_-m_session_-P_3", iscsi),),
    "iscsi_nodes": (Form("sos_commands/iscsi/iscsiadm_-m_node_--op_show", iscsi_nodes),),
}

#: The settings of the kernel, for files below /proc/sys that sos did not copy.
SYSCTL = "sos_commands/kernel/sysctl_-a"
