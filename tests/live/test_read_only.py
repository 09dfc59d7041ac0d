"""Gathering reads, and does nothing but what is published: every probe under strace, on this machine, as root and as nobody."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kvmcheck.gather.script import build, carry
from pytest_kvmcheck.probes import PROBES, Probe
from pytest_kvmcheck.probes.model import shell
from pytest_kvmcheck.probes.touches import TOUCHES, is_published
from tests.live.strace import touched, trace
from tests.live.test_libvirtd import libvirtd  # noqa: F401  # a fixture: guests that can be asked about

NONCE = "0123456789abcdef0123456789abcdef"
USERS = ["root", "nobody"]

#: Probes that only read files are run together: they have no program of their own.
GROUPS = {"files": [probe for probe in PROBES.values() if probe.reads_files]} | {
    probe.id: [probe] for probe in PROBES.values() if not probe.reads_files and not probe.active
}


def events(probes: list[Probe], place: Path, user: str = "root", path: str = "") -> set[str]:
    """What the gathering script touches when it asks *probes*, carried as it is to a host."""
    command = ["env", f"PATH={path}:{os.environ['PATH']}"] if path else []
    done, found = trace([*command, "sh", "-c", carry(build(probes, NONCE))], place, user=user)
    assert done.stdout.endswith(b" DONE\n"), done.stdout[-300:] + done.stderr[-300:]
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that nobody may enter too: those of pytest are closed to all but their owner."""
    with tempfile.TemporaryDirectory(prefix="kvmcheck-test-") as path:
        place = Path(path)
        place.chmod(0o755)
        yield place


@pytest.mark.usefixtures("libvirtd")
@pytest.mark.parametrize("user", USERS)
def test_each_probe_touches_only_what_is_published(user: str, place: Path) -> None:
    modules = {path.name for path in Path("/sys/module").iterdir()}
    own = events([], place / "none", user)
    assert own == set(), "the script itself"
    beyond = {
        f"{name}: {event}"
        for name, probes in GROUPS.items()
        for event in events(probes, place / name, user)
        if not is_published(name, event)
    }
    assert not beyond
    assert {path.name for path in Path("/sys/module").iterdir()} <= modules, "kernel modules were loaded"


@pytest.mark.usefixtures("libvirtd")
@pytest.mark.parametrize(("sh", "user"), [("dash", "root"), ("bash", "nobody")])
def test_the_whole_script_touches_only_what_is_published(sh: str, user: str, place: Path) -> None:
    """In one go, by each shell: bash, for one, would write here-documents to the disk."""
    (place / "bin").mkdir()
    found = shutil.which(sh)
    assert found, f"{sh} is not installed; see tests/packages.txt"
    (place / "bin" / "sh").symlink_to(found)
    seen = events(list(PROBES.values()), place / "all", user, path=str(place / "bin"))
    assert {event for event in seen if not any(is_published(name, event) for name in PROBES)} == set()


def test_a_probe_that_does_more_is_found(place: Path) -> None:
    """The tests above can fail: whatever a probe does on purpose here is seen and refused."""
    target = place / "target"
    target.mkdir()
    target.chmod(0o777)
    bad = shell(
        "bad",
        f"t={target}; echo x >$t/a; mkdir $t/b; mv $t/a $t/c; chmod 600 $t/c; touch $t/c; rm $t/c; mkfifo $t/f\n"
        "getent -s dns ahosts name.invalid; ip -o link; exit 0",
        "",
    )
    seen = {event for event in events([bad], place / "t") if not is_published("bad", event)}
    for event in (
        *(f"write {target}/a", f"make {target}/b", f"move {target}/a", f"mark {target}/c", f"remove {target}/c"),
        *(f"make {target}/f", f"write {target}/c"),
    ):
        assert event in seen
    servers = [line.split()[1] for line in Path("/etc/resolv.conf").read_text().splitlines() if line.startswith("nameserver ")]
    assert not servers or any(f" {server}:53" in event for server in servers for event in seen)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('openat(AT_FDCWD</>, "/run/x", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = -1 EACCES (Permission denied)', "write /run/x"),
        ('openat(AT_FDCWD</root>, "x", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</root/x>', "write /root/x"),
        ('openat(5</var>, "x", O_RDONLY|O_CREAT, 0666) = 3</var/x>', "write /var/x"),
        ('openat(AT_FDCWD</>, "/tmp", O_RDWR|O_EXCL|O_CLOEXEC|O_TMPFILE, 0600) = 4</tmp/#9>(deleted)', "write /tmp"),
        ('openat(AT_FDCWD</>, "/dev/null", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</dev/null<char 1:3>>', ""),
        ('openat(AT_FDCWD</>, "/dev/tty", O_RDWR|O_NOCTTY) = -1 ENXIO (No such device or address)', "write /dev/tty"),
        ('openat(AT_FDCWD</>, "/dev/kvm", O_RDONLY) = 3</dev/kvm<char 10:232>>', "device /dev/kvm"),
        ('openat(AT_FDCWD</>, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3</etc/hosts>', ""),
        ('openat(AT_FDCWD</>, "/odd, \\"O_WRONLY", O_RDONLY) = 3</odd>', ""),
        ('mkdir("/run/lock/lvm", 0777)              = -1 EEXIST (File exists)', "make /run/lock/lvm"),
        ('unlinkat(AT_FDCWD</>, "/a", 0) = 0', "remove /a"),
        ('utimensat(1</a>, NULL, NULL, 0) = 0', "mark /a"),
        ('ftruncate(3</var/lib/rpm/x>, 0) = 0', "cut /var/lib/rpm/x"),
        ('fchmodat(AT_FDCWD</>, "/a", 0600) = 0', "mark /a"),
        ('linkat(AT_FDCWD</>, "/a", AT_FDCWD</>, "/b", 0) = 0', "move /a"),
        ("flock(5</run/lvm/hints>, LOCK_EX|LOCK_NB) = 0", "lock /run/lvm/hints"),
        ("fcntl(4</x>, F_SETLK, {l_type=F_WRLCK, l_whence=SEEK_SET, l_start=0, l_len=0}) = 0", "lock /x"),
        ("fcntl(4</x>, F_GETFL) = 0x8000", ""),
        ('connect(3<UNIX-STREAM:[1]>, {sa_family=AF_UNIX, sun_path="/run/x.sock"}, 110) = 0', "connect unix /run/x.sock"),
        ('connect(3<UNIX-STREAM:[1]>, {sa_family=AF_UNIX, sun_path=@"/org/x"}, 110) = 0', "connect unix @/org/x"),
        ('bind(3<UNIX-DGRAM:[1]>, {sa_family=AF_UNIX, sun_path="/run/c.1.sock"}, 110) = 0', "bind unix /run/c.1.sock"),
        (
            'connect(5<UDP:[1]>, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.1")}, 16) = 0',
            "connect udp 192.0.2.1:53",
        ),
        (
            'connect(5<UDPv6:[1]>, {sa_family=AF_INET6, sin6_port=htons(53), sin6_flowinfo=htonl(0),'
            ' inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = 0',
            "connect udpv6 2001:db8::1:53",
        ),
        ('sendto(5<UDP:[192.0.2.7:1->192.0.2.1:53]>, ""..., 31, MSG_NOSIGNAL, NULL, 0) = 31', "send udp"),
        ('sendmmsg(5<UDP:[192.0.2.7:1->192.0.2.1:53]>, [{msg_hdr={}, msg_len=30}], 1, MSG_NOSIGNAL) = 1', "send udp"),
        ('sendto(5<UNIX-STREAM:[1->2]>, ""..., 31, 0, NULL, 0) = 31', ""),
        ("socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_SOCK_DIAG) = 3<SOCK_DIAG:[1]>", "socket NETLINK_SOCK_DIAG"),
        ("socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 3<ROUTE:[1]>", ""),
        ("socket(AF_INET, SOCK_RAW, IPPROTO_RAW) = 3<RAW:[1]>", "socket AF_INET SOCK_RAW"),
        ("socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)) = 3", "socket AF_PACKET"),
        ("socket(AF_INET, SOCK_DGRAM, IPPROTO_IP) = 3<UDP:[1]>", ""),
        ("listen(3<TCP:[1]>, 5) = 0", "listen tcp"),
        ('finit_module(3</lib/modules/x.ko>, "", 0) = 0', "change finit_module"),
        ("bpf(BPF_PROG_QUERY, {query={}}, 144) = 0", ""),
        ("bpf(BPF_PROG_LOAD, {prog_type=BPF_PROG_TYPE_SOCKET_FILTER}, 144) = 3", "change bpf"),
        ("syslog(5 /* SYSLOG_ACTION_CLEAR */, NULL, 0) = 0", "change syslog"),
        ('execve("/sbin/modprobe", ["/sbin/modprobe", "x"], 0x1 /* 3 vars */) = 0', "run modprobe"),
        ('execve("/bin/grep", ["grep"], 0x1 /* 3 vars */) = 0', ""),
        ("kill(4711, SIGHUP) = 0", "signal 4711"),
        ("kill(4711, 0) = 0", ""),
        ("semget(0x1, 1, IPC_CREAT|0600) = 0", "change semget"),
        ("io_uring_setup(8, {flags=0}) = 3", "change io_uring_setup"),
    ],
)  # fmt: skip
def test_lines_of_strace(line: str, event: str) -> None:
    assert touched(line) == event


def test_the_list_speaks_of_probes_that_there_are() -> None:
    for touch in TOUCHES:
        assert set(touch.probes) <= PROBES.keys(), touch.what
        assert touch.what, touch.why
        assert touch.active is bool(touch.probes and all(PROBES[name].active for name in touch.probes)), touch.what
    active = {name for touch in TOUCHES if touch.active for name in touch.probes}
    assert active == {probe.id for probe in PROBES.values() if probe.active}, "each active probe says what it sends"
    asking = {probe.id for probe in PROBES.values() if "virsh " in probe.script}
    assert asking <= {name for touch in TOUCHES for name in touch.probes}
