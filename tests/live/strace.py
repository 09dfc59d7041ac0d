"""What a process and its children touch, by strace: everything but reading is told as one short line."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

#: All that takes a path, all of the network, and what changes or reaches something without either.
TRACED = (
    "%file,%network,%ipc,ftruncate,fchmod,fchown,fsetxattr,fremovexattr,fallocate,flock,fcntl,memfd_create,open_by_handle_at,"
    "init_module,finit_module,delete_module,kexec_load,reboot,sethostname,setdomainname,settimeofday,clock_settime,adjtimex,"
    "clock_adjtime,syslog,bpf,add_key,request_key,keyctl,io_uring_setup,ptrace,process_vm_writev,perf_event_open,kill,tkill,tgkill"
)

_CALL = re.compile(r"(\w+)\((.*)\)\s+= (\?|-?\d+|0x[0-9a-f]+)(.*)")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)(?:<((?:[^>\\]|\\.)*)>)?, )?"((?:[^"\\]|\\.)*)"')
_WRITING = re.compile(r"\bO_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)\b")

#: The sinks and sources that are no devices to anybody.
_HARMLESS = re.compile(r"/dev/(?:null|zero|full|u?random)")

_MAKES = re.compile(r"mkdir(?:at)?|mknod(?:at)?|creat")
_REMOVES = re.compile(r"unlink(?:at)?|rmdir")
_MOVES = re.compile(r"rename(?:at2?)?|link(?:at)?|symlink(?:at)?")
_MARKS = re.compile(
    r"(?:f|l)?chmod(?:at2?)?|(?:f|l)?chown(?:at)?|fchmodat2?|fchownat|utimes?|utimensat|futimesat|[fl]?(?:set|remove)xattr"
)
_CUTS = re.compile(r"f?truncate|fallocate")
_MOUNTS = re.compile(r"u?mount2?|pivot_root|chroot|swapon|swapoff|acct|quotactl|fsmount|fsopen|move_mount|open_tree|mount_setattr")
_LOADS = re.compile(r"(?:f?init|delete)_module|kexec_load|reboot|bpf|io_uring_setup|ptrace|process_vm_writev|perf_event_open")
_KEYS = re.compile(r"add_key|request_key|keyctl|set(?:host|domain)name|settimeofday|clock_settime")
_IPC = re.compile(r"shmget|semget|msgget|semop|semtimedop|semctl|shmctl|msgctl|msgsnd")
_LOADERS = re.compile(
    r"(?:modprobe|insmod|rmmod|kmod|depmod|dbus-launch|dbus-daemon|systemd-tmpfiles|.*ctl-start|initctl|service|invoke-rc\.d)"
)


def touched(line: str) -> str:
    """Return what one line of strace (``-y``, ``-s 0``) does beyond reading, ``""`` for nothing. Attempts that fail count as well.

    >>> touched('openat(AT_FDCWD</root>, "x", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</root/x>')
    'write /root/x'
    >>> touched('openat(AT_FDCWD</root>, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3</etc/hosts>')
    ''
    >>> touched('connect(3<UDP:[1]>, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.1")}, 16) = 0')
    'connect udp 192.0.2.1:53'
    """
    match = _CALL.match(line)
    if not match:
        return ""
    name, arguments = match[1], match[2]
    if name in ("open", "openat", "openat2"):
        return _opened(arguments)
    if name in ("execve", "execveat"):
        program = PurePosixPath(_path(arguments)).name
        return f"run {program}" if _LOADERS.fullmatch(program) and match[3] == "0" else ""
    for pattern, word in ((_MAKES, "make"), (_REMOVES, "remove"), (_MOVES, "move"), (_MARKS, "mark"), (_CUTS, "cut")):
        if pattern.fullmatch(name):
            return f"{word} {_path(arguments)}"
    if name == "flock" or (name == "fcntl" and re.search(r"F_(?:OFD_)?SETLKW?\b", arguments) and "F_UNLCK" not in arguments):
        return f"lock {_described(arguments)}"
    if name == "fcntl" or name in ("memfd_create", "syslog", "adjtimex", "clock_adjtime"):
        changes = {
            "syslog": "SYSLOG_ACTION_CLEAR|SYSLOG_ACTION_CONSOLE|READ_CLEAR",
            "adjtimex": r"modes=(?!0)",
            "clock_adjtime": r"modes=(?!0)",
        }
        return f"change {name}" if name in changes and re.search(changes[name], arguments) else ""
    if name in ("kill", "tkill", "tgkill"):
        return "" if re.search(r", (?:0|SIG_0)$", arguments) else f"signal {arguments.split(', ')[-2]}"
    if name == "bpf" and re.match(r"BPF_(?:PROG|MAP|LINK|BTF|OBJ)_(?:QUERY|LOOKUP_ELEM|GET\w*)\b", arguments):
        return ""  # questions
    if (
        _MOUNTS.fullmatch(name)
        or _LOADS.fullmatch(name)
        or _KEYS.fullmatch(name)
        or _IPC.fullmatch(name)
        or name == "open_by_handle_at"
    ):
        return f"change {name}"
    return _network(name, arguments)


def _opened(arguments: str) -> str:
    """Return what is opened to be written to, and which devices are opened at all."""
    path = _path(arguments)
    if _HARMLESS.fullmatch(path):
        return ""
    if _WRITING.search(arguments[arguments.rindex('"') :]):
        return f"write {path}"
    if path.startswith("/dev/") and "O_DIRECTORY" not in arguments and "O_PATH" not in arguments:
        return f"device {path}"
    return ""


def _network(name: str, arguments: str) -> str:
    """Return which socket is made, reached or bound. Sockets of the kernel's routing tables, and those of pairs, reach nobody."""
    if name == "socket":
        family, kind, protocol = [*arguments.split(", "), "", "", ""][:3]
        if family in ("AF_INET", "AF_INET6"):
            return f"socket {family} SOCK_RAW" if "SOCK_RAW" in kind else ""
        if family == "AF_NETLINK":
            return "" if protocol == "NETLINK_ROUTE" else f"socket {protocol}"
        return "" if family in ("AF_UNIX", "AF_LOCAL") else f"socket {family}"
    if name not in ("connect", "bind", "listen", "sendto", "sendmsg", "sendmmsg"):
        return ""
    if name.startswith("send"):
        kind = _described(arguments).split(":", 1)[0]
        return (
            f"send {kind.lower()} {_address(arguments)}".rstrip()
            if re.match(r"(?:UDP|TCP|RAW|PING|ICMP|SCTP|PACKET)", kind)
            else ""
        )
    if "sa_family=AF_NETLINK" in arguments:
        return ""
    kind = _described(arguments).split(":", 1)[0].split("-")[0].lower()
    return f"{name} {kind} {_address(arguments)}".rstrip()


def _address(arguments: str) -> str:
    """Return the address in the arguments of a call."""
    if match := re.search(r'sun_path=(@?)"((?:[^"\\]|\\.)*)"', arguments):
        return match[1] + match[2]
    if match := re.search(r'htons\((\d+)\).*?(?:inet_addr|inet_pton)\((?:AF_INET6, )?"([^"]*)"', arguments):
        return f"{match[2]}:{match[1]}"
    return ""


def _described(arguments: str) -> str:
    """Return what strace says of the descriptor that comes first."""
    match = re.match(r"\d+<((?:[^>\\]|\\.|->)*)>", arguments)
    return match[1] if match else arguments


def _path(arguments: str) -> str:
    """Return the first path in the arguments of a call, absolute where strace tells the directory."""
    match = _PATH.search(arguments)
    if not match:
        return _described(arguments)
    return str(PurePosixPath(match[1] or "", match[2]))


def trace(
    command: Sequence[str], place: Path, *, user: str = "root", timeout: float = 300
) -> tuple[subprocess.CompletedProcess[bytes], set[str]]:
    """Run *command* in the empty directory *place*, as *user*; return how it ended and all that it touched."""
    place.mkdir(parents=True)
    argv = ["strace", "-u", user, "--seccomp-bpf", "-f", "-ff", "-yy", "-s", "0", "-q", "-e", "signal=none"]
    argv += ["-e", f"trace={TRACED}", "-o", str(place / "t"), *command]
    done = subprocess.run(argv, cwd="/", capture_output=True, timeout=timeout, check=False)
    files = sorted(place.glob("t.*"))
    if not files:
        raise RuntimeError(f"strace saw nothing: {done.stderr.decode(errors='replace').strip()}")
    # Whom it started it may end: timeout does, and apt-get.
    own = {"signal 0", *(f"signal {path.suffix[1:]}" for path in files), *(f"signal -{path.suffix[1:]}" for path in files)}
    return done, {event for path in files for event in _events(path)} - own


def _events(path: Path) -> Iterator[str]:
    for line in path.read_text(errors="replace").splitlines():
        if event := touched(line):
            yield event
