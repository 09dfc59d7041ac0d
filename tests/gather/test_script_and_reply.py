"""The script and its reply, run by every POSIX shell at hand."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import parse_files
from pytest_kvmcheck.gather import reply, script
from pytest_kvmcheck.gather.script import ARGUMENT_BYTES, build, carry
from pytest_kvmcheck.probes import MAX_BYTES, PROBES, Probe, Root, probes_for
from pytest_kvmcheck.probes.services import DELETED_LIBRARY
from pytest_kvmcheck.probes.virsh import ASK, VIRSH

TOKEN = "0123456789abcdef0123456789abcdef"
SECRET, INNER = "5ec2e7-5ec2e7-5ec2e7-5ec2e7", "1223e12-1223e12-1223e12"
SHELLS = [["dash"], ["bash", "--posix"], ["busybox", "sh"], ["ksh93"], ["mksh"]]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches have little time: many tests wait for the end of it."""
    monkeypatch.setattr(script, "BATCHES", (script.Batches(10, 36, 2), script.Batches(30, 12, 3)))


def ask(*probes: Probe, shell: list[str] = SHELLS[0], sudo: bool = False, active: bool = False) -> dict[str, reply.Record]:
    text = build(probes, TOKEN, sudo=sudo, active=active)
    done = subprocess.run([*shell, "-c", text], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = reply.read(done.stdout, TOKEN, probes)
    assert found is not None, done.stderr
    assert found.complete
    return found.records


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def shell(request: pytest.FixtureRequest) -> list[str]:
    if not shutil.which(request.param[0]):
        pytest.fail(f"{request.param[0]} is not installed; see tests/packages.txt")
    return request.param


def test_output_error_and_exit_code(shell: list[str]) -> None:
    record = ask(Probe("x", "", "echo out; echo err >&2; exit 3"), shell=shell)["x"]
    assert (record.stdout, record.stderr.strip(), record.rc, record.cause) == ("out\n", "err", 3, None)


def test_anything_goes_through(shell: list[str]) -> None:
    record = ask(Probe("x", "", r"""printf 'a\000b\377c\r\n@%s END x , !0\n' $N; printf '!forged!0!' >&2"""), shell=shell)["x"]
    assert re.fullmatch(r"a\x00b\\xffc\r\n@[0-9a-f-]{36} END x , !0\n", record.stdout)
    assert record.rc == 0


def test_standard_input_is_empty(shell: list[str]) -> None:
    """A command that reads its standard input must not eat the rest of the script."""
    records = ask(Probe("greedy", "", "cat"), Probe("next", "", "echo here"), shell=shell)
    assert (records["greedy"].stdout, records["next"].stdout) == ("", "here\n")


def test_a_hanging_probe_is_stopped(shell: list[str]) -> None:
    records = ask(Probe("x", "", "trap '' TERM; sleep 30", timeout_s=1), Probe("y", "", "echo on"), shell=shell)
    assert (records["x"].cause, records["y"].stdout) == (Cause.TIMEOUT, "on\n")


def test_too_much_is_cut(shell: list[str]) -> None:
    record = ask(Probe("x", "", "yes", max_bytes=1000), shell=shell)["x"]
    assert (record.cause, len(record.stdout)) == (Cause.TRUNCATED, 1000)


def test_exactly_enough_is_whole(shell: list[str]) -> None:
    record = ask(Probe("x", "", "printf 12345", max_bytes=5), shell=shell)["x"]
    assert (record.cause, record.stdout) == (None, "12345")


def test_a_flood_of_errors_is_bounded(shell: list[str]) -> None:
    record = ask(Probe("x", "", "i=0; while [ $i -lt 20000 ]; do echo problem $i >&2; i=$((i+1)); done; echo done"), shell=shell)[
        "x"
    ]
    assert len(record.stderr) <= 2048


def test_missing_command(shell: list[str]) -> None:
    assert ask(Probe("x", "", "no-such-command -x"), shell=shell)["x"].cause is Cause.MISSING


def test_files_say_missing_denied_and_empty(shell: list[str], tmp_path: Path) -> None:
    place = tmp_path
    (place / "full").write_text("1\n2")
    (place / "empty").write_text("")
    several = f"g {place}/full {place}/empty {place}/none {place}/*.none"
    assert ask(Probe("x", "", several), shell=shell)["x"].stdout == f"{place}/full:1\n{place}/full:2\n"
    assert ask(Probe("x", "", f"g {place}/none {place}/*.none"), shell=shell)["x"].cause is Cause.MISSING
    assert ask(Probe("x", "", f"g {place}/none", one_file=True), shell=shell)["x"].cause is Cause.MISSING
    empty = ask(Probe("x", "", f"g {place}/empty", one_file=True), shell=shell)["x"]
    assert (empty.cause, empty.stdout) == (None, "")
    full = ask(Probe("x", "", f"g {place}/full", one_file=True), shell=shell)["x"]
    assert full.stdout == "1\n2\n"


def test_what_sudo_refuses_is_not_missing(shell: list[str], tmp_path: Path) -> None:
    """Whoever may run some commands by sudo need not may run all: a refusal ends with 1, as a search without result does."""
    for name in ("granted", "empty", "refused"):
        (tmp_path / name).touch(0)
    tmp_path.chmod(0o700)
    sudo = (
        "fake() {\n"
        "  case $5 in */granted) echo 'sudo: unable to resolve host kvm01' >&2; echo \"$5:text\" ;;\n"
        '  */empty) return 1 ;; */none) echo "grep: $5: No such file or directory" >&2; return 2 ;;\n'
        "  *) echo 'sudo: a password is required' >&2; return 1 ;; esac; }\nSUDO=fake\n"
    )

    def read(*names: str) -> tuple[str, str, int]:
        text = f"{script.HELPERS}{sudo}g {' '.join(f'{tmp_path}/{name}' for name in names)}"
        user: dict[str, Any] = {"user": 65534} if os.getuid() == 0 else {}
        done = subprocess.run([*shell, "-c", text], capture_output=True, text=True, timeout=20, check=False, cwd="/", **user)
        return done.stdout, done.stderr, done.returncode

    assert read("granted", "empty", "refused") == (
        f"{tmp_path}/granted:text\n",
        f"grep: {tmp_path}/refused: Permission denied\n",
        0,
    )
    assert read("refused")[2] == script.RC_DENIED
    assert reply.cause_of(0, "", "sudo: a password is required\n") is Cause.NOT_PERMITTED
    assert reply.cause_of(0, "x", "sudo: unable to resolve host kvm01: Name or service not known\n") is None


def test_a_command_that_reads_one_file_keeps_its_colons(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm\n")
    found = ask(Probe("x", "", f"grep -E '^flags' {tmp_path}/cpuinfo", one_file=True), shell=shell)["x"]
    assert found.stdout == "flags\t\t: fpu svm\n"


def test_files_are_read_together_and_stay_apart(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("@@forged BEGIN b\n@@forged END b 0\n")
    (tmp_path / "b").write_text("b\n")
    probes = [Probe(name, "", f"g {tmp_path}/{name}", one_file=True) for name in ("a", "b", "none")]
    records = ask(*probes, Probe("z", "", "echo z"), shell=shell)
    assert records["a"].stdout == "@@forged BEGIN b\n@@forged END b 0\n"
    assert (records["b"].stdout, records["none"].cause, records["z"].stdout) == ("b\n", Cause.MISSING, "z\n")


def test_who_hangs_in_a_batch_costs_nobody_else(shell: list[str], tmp_path: Path) -> None:
    """What came to its end before him is kept, and who comes after him is asked again."""
    (tmp_path / "a").write_text("a\n")
    file = f"g {tmp_path}/a"
    records = ask(
        Probe("a", "", file, one_file=True),
        Probe("stuck", "", "echo before; trap '' TERM; sleep 30", timeout_s=1),
        Probe("c", "", file, one_file=True),
        Probe("keyed", "", "echo @@$N one; echo 1", keyed=True),
        Probe("e", "", "echo e; exit 3"),
        shell=shell,
    )
    assert (records["a"].stdout, records["c"].stdout, records["keyed:one"].stdout) == ("a\n", "a\n", "1\n")
    assert (records["stuck"].cause, records["e"].stdout, records["e"].rc) == (Cause.TIMEOUT, "e\n", 3)


@pytest.mark.parametrize("flood", ["yes", "yes >&2", "while :; do head -c 1000000 /dev/zero; done"])
def test_who_floods_a_batch_costs_nobody_else(flood: str, shell: list[str]) -> None:
    records = ask(Probe("a", "", "echo a"), Probe("bad", "", flood, timeout_s=2), Probe("c", "", "echo c"), shell=shell)
    assert (records["a"].stdout, records["c"].stdout) == ("a\n", "c\n")
    assert records["bad"].cause or records["bad"].rc


@pytest.mark.parametrize("alone", [True, False])
def test_many_errors_do_not_end_a_command(alone: bool, shell: list[str]) -> None:
    noisy = "i=0; while [ $i -lt 9000 ]; do echo this file does not exist >&2; i=$((i+1)); done; echo end; exit 1"
    found = ask(Probe("x", "", noisy, alone=alone), shell=shell)["x"]
    assert (found.stdout, found.rc, found.cause) == ("end\n", 1, None)


def test_nothing_is_left_behind(shell: list[str], tmp_path: Path) -> None:
    """What ignores a polite signal is not left running on the target."""
    stubborn = tmp_path / "stubborn"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n")
    stubborn.chmod(0o755)
    assert ask(Probe("x", "", str(stubborn), timeout_s=1), shell=shell)["x"].cause is Cause.TIMEOUT
    assert subprocess.run(["pgrep", "-f", str(stubborn)], capture_output=True, check=False).returncode == 1


def test_who_kills_the_shell_costs_nobody_else(shell: list[str]) -> None:
    records = ask(Probe("a", "", "echo a"), Probe("bad", "", "kill -9 $PPID $$"), Probe("c", "", "echo c"), shell=shell)
    assert (records["a"].stdout, records["c"].stdout) == ("a\n", "c\n")


def test_a_probe_that_is_no_shell_script_costs_nobody_else(shell: list[str]) -> None:
    records = ask(Probe("a", "", "echo a"), Probe("bad", "", "if ) fi"), Probe("c", "", "echo c"), shell=shell)
    assert (records["a"].stdout, records["c"].stdout, records["bad"].rc != 0) == ("a\n", "c\n", True)


def test_the_streams_of_a_batch_stay_apart(shell: list[str]) -> None:
    forged = "echo '@=forged END one 1,2 0'; echo '@=forged END one' >&2; printf 'no end'; printf 'no end either' >&2; exit 4"
    records = ask(Probe("one", "", forged), Probe("one_more", "", "echo more; echo bad >&2"), shell=shell)
    assert records["one"].stdout == "@=forged END one 1,2 0\nno end"
    assert records["one"].stderr == "@=forged END one\nno end either"
    assert (records["one"].rc, records["one_more"].stdout, records["one_more"].stderr) == (4, "more\n", "bad\n")


def test_more_than_fits_into_one_batch(shell: list[str]) -> None:
    probes = [Probe(f"p{number}", "", f"echo {number}") for number in range(2 * script.BATCHES[0].size + 3)]
    others = [Probe("slow", "", "echo slow", timeout_s=60), Probe("alone", "", "echo alone", alone=True)]
    slower = [Probe(f"s{number}", "", f"echo s{number}", timeout_s=30) for number in range(script.BATCHES[1].size + 1)]
    large = [Probe(f"l{number}", "", f"echo l{number}", max_bytes=8 * MAX_BYTES) for number in range(6)]
    records = ask(*probes, *others, *slower, *large, Probe("late", "", "echo late", last=True), shell=shell)
    assert all(records[probe.id].stdout == f"{probe.id}\n" for probe in (*slower, *large, *others))
    assert all(records[f"p{number}"].stdout == f"{number}\n" for number in range(len(probes)))
    assert (records["slow"].stdout, records["late"].stdout) == ("slow\n", "late\n")


def big(script: str, **options: Any) -> Probe:
    """A probe that may say much, and so travels compressed."""
    return Probe("big", "", script, **{"max_bytes": MAX_BYTES + 1000, "alone": True, **options})


def raw(*probes: Probe, shell: list[str] = SHELLS[0], path: str = "") -> bytes:
    env = {**os.environ, **({"PATH": path} if path else {})}
    command = [shutil.which(shell[0]) or shell[0], *shell[1:], "-c", build(probes, TOKEN)]
    return subprocess.run(command, capture_output=True, timeout=60, check=True, env=env).stdout


def test_what_may_be_large_travels_compressed(shell: list[str]) -> None:
    many = big("i=0; while [ $i -lt 5000 ]; do echo the same line again and again $i; i=$((i+1)); done; echo err >&2; exit 3")
    text = raw(many, shell=shell)
    assert b" BEGIN big gzip\n" in text
    record = (reply.read(text, TOKEN, [many]) or pytest.fail("no reply")).records["big"]
    assert record.stdout.endswith("the same line again and again 4999\n")
    assert (record.rc, record.stderr.strip(), record.cause) == (3, "err", None)
    assert len(text) < len(record.stdout) / 4


def test_compressed_answers_are_bounded_and_may_be_empty_or_binary(shell: list[str]) -> None:
    assert ask(big("yes"), shell=shell)["big"].cause is Cause.TRUNCATED
    assert len(ask(big("yes"), shell=shell)["big"].stdout) == MAX_BYTES + 1000
    exact = ask(big("head -c 1049576 /dev/zero"), shell=shell)["big"]
    assert (exact.cause, len(exact.stdout)) == (None, MAX_BYTES + 1000)
    empty = ask(big("exit 0"), shell=shell)["big"]
    assert (empty.cause, empty.stdout) == (None, "")
    binary = ask(big(r"""printf 'a\000b\377c\r\n@%s END big , !0\n' $N"""), shell=shell)["big"]
    assert re.fullmatch(r"a\x00b\\xffc\r\n@[0-9a-f-]{36} END big , !0\n", binary.stdout)


def test_what_came_before_a_hang_is_told(shell: list[str]) -> None:
    records = ask(big("echo @@$N one; echo 1; sleep 30", timeout_s=1, keyed=True), Probe("y", "", "echo on"), shell=shell)
    assert (records["big"].cause, records["big:one"].stdout, records["y"].stdout) == (Cause.TIMEOUT, "1\n", "on\n")


def test_without_gzip_it_travels_as_it_is(shell: list[str], tmp_path: Path) -> None:
    for directory in ("/bin", "/usr/bin"):
        for found in Path(directory).iterdir():
            link = tmp_path / found.name
            if found.name != "gzip" and not link.is_symlink():
                link.symlink_to(found)
    probe = big("echo plain")
    text = raw(probe, shell=shell, path=str(tmp_path))
    if shell[0] != "busybox":  # it has a gzip of its own, whatever the PATH
        assert b" BEGIN big\n" in text
    assert (reply.read(text, TOKEN, [probe]) or pytest.fail("no reply")).records["big"].stdout == "plain\n"


def hello(*frames: str, token: str = TOKEN) -> bytes:
    return "".join((f"@{token} HELLO 2 {SECRET} base64 uid=0 sudo=off\n", *frames, f"@{SECRET} DONE\n")).encode()


def frame(data: bytes, *, flag: str = " gzip", probe: str = "big") -> bytes:
    return hello(f"@{SECRET} BEGIN {probe}{flag}\n{base64.encodebytes(data).decode()}@{SECRET} END {probe} 1,2 !0\n")


def read_one(text: bytes) -> reply.Record:
    found = reply.read(text, TOKEN, [big("echo")])
    assert found
    return found.records["big"]


def test_a_bomb_costs_no_memory() -> None:
    import tracemalloc

    bomb = gzip.compress(gzip.compress(f"{INNER}\n".encode() + b"\0" * 10**9))
    bomb = gzip.decompress(bomb)  # 1 MB that unpacks to 1 GB
    text = frame(bomb)
    tracemalloc.start()
    try:
        record = read_one(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (record.cause, len(record.stdout)) == (Cause.TRUNCATED, MAX_BYTES + 1000)
    assert peak < 40 * 2**20


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not compressed at all",
        gzip.compress(b"x" * 1000)[:-1],
        gzip.compress(b"x" * 1000)[:15],
        gzip.compress(b"x" * 1000)[:-6] + b"\0\0\0\0\0\0",
        gzip.compress(b"x") + b"more",
        gzip.compress(b"x") + gzip.compress(b"y"),
    ],
    ids=["nothing", "plain", "end cut", "cut", "checksum", "more", "twice"],
)
def test_damaged_compression_is_lost(data: bytes) -> None:
    record = read_one(frame(data))
    assert (record.cause, record.stdout, record.rc) == (Cause.LOST, "", -1)


def test_content_is_never_taken_for_compressed() -> None:
    """Only the head of the frame says so: what looks like gzip in an answer stays what it is."""
    data = gzip.compress(b"inner")
    said = f"{INNER}\n".encode() + data
    assert read_one(frame(said, flag="")).stdout == reply.decode(data)
    assert read_one(frame(gzip.compress(said))).stdout == reply.decode(data)


def test_unknown_flags_are_lost() -> None:
    assert read_one(frame(b"x", flag=" zstd")).cause is Cause.LOST


def test_keyed_answers(shell: list[str]) -> None:
    probe = Probe("x", "", "echo before; echo @@$N one; echo 1; echo @@$N two; echo @@forged three; exit 1", keyed=True)
    records = ask(probe, shell=shell)
    assert {name: record.stdout for name, record in records.items()} == {
        "x": "before\n",
        "x:one": "1\n",
        "x:two": "@@forged three\n",
    }
    assert records["x"].rc == 1


def test_cgroups_whose_names_hold_backslashes_are_read(shell: list[str], tmp_path: Path) -> None:
    """systemd writes ``-`` as ``\\x2d`` in the names of scopes, and a backslash in a glob quotes what comes after it."""
    group = "/machine.slice/machine-qemu\\x2d1\\x2dweb.scope"
    for name, text in (
        ("run/libvirt/qemu/web.pid", "4711"),
        ("proc/4711/cgroup", f"0::{group}/libvirt/emulator\n"),
        (f"sys/fs/cgroup{group}/memory.events", "oom 0\n"),
        (f"sys/fs/cgroup{group}/hugetlb.2MB.numa_stat", "total=4 N0=4\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    probe = PROBES["qemu_cgroup"]
    for root in ("/run/libvirt", "/proc/$p", "/sys/fs/cgroup"):
        probe = dataclasses.replace(probe, script=probe.script.replace(root, f"{tmp_path}{root}"))
    told = parse_files("qemu_cgroup", ask(probe, shell=shell)["qemu_cgroup"].stdout)
    assert {path.rpartition("/")[2] for path in told} == {"memory.events", "hugetlb.2MB.numa_stat"}


def test_a_condition_that_does_not_hold(shell: list[str]) -> None:
    assert ask(Probe("x", "", "echo no", when="false"), shell=shell)["x"].cause is Cause.SKIPPED


def test_active_probes_are_asked_on_request_only() -> None:
    probe = Probe("x", "", "echo sent", active=True)
    assert "echo sent" not in build([probe], TOKEN)
    held = ask(probe)["x"]
    assert (held.cause, held.stdout) == (Cause.SKIPPED, "")
    assert ask(probe, active=True)["x"].stdout == "sent\n"


def test_root_only_is_not_tried_without_root() -> None:
    probe = Probe("x", "", "touch /tmp/never", root=Root.MUST)
    script = build([probe], TOKEN).replace("U=$(id -u)", "U=1000")
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    found = reply.read(done.stdout, TOKEN, [probe])
    assert found
    assert found.records["x"].cause is Cause.NOT_PERMITTED


def whole_reply() -> bytes:
    done = subprocess.run(["sh", "-c", build(probes_for("host"), TOKEN)], capture_output=True, timeout=120, check=True)
    return done.stdout


def test_a_reply_cut_anywhere_loses_only_what_was_not_closed() -> None:
    text = whole_reply()
    whole = reply.read(text, TOKEN, probes_for("host"))
    assert whole
    for cut in range(0, len(text), max(1, len(text) // 60)):
        part = reply.read(text[:cut], TOKEN, probes_for("host"))
        if part is None:
            assert b"HELLO" not in text[:cut] or cut < 100
            continue
        for name, record in part.records.items():
            assert record.cause is Cause.LOST or record.stdout == whole.records[name].stdout


def test_a_reply_with_another_token_is_none() -> None:
    assert reply.read(whole_reply(), "f" * 32, probes_for("host")) is None


def test_damage_inside_an_answer_is_lost() -> None:
    probe = Probe("x", "", "echo hello")
    text = hello(f"@{SECRET} BEGIN x\naGVs*G8K\n@{SECRET} END x 1,2 !0\n")
    found = reply.read(text, TOKEN, [probe])
    assert found
    assert found.records["x"].cause is Cause.LOST


@pytest.mark.parametrize("login", ["sh", "bash", "busybox sh", "csh -f", "fish"])
def test_the_argument_survives_every_login_shell(login: str) -> None:
    script = "printf '%s|' \"it's\" '$HOME `id` !! \\n' \"a\tb\"; echo 'ünï'\n# ! comment\necho second"
    expected = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
    done = subprocess.run([*login.split(), "-c", carry(script)], capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_the_whole_script_fits_into_one_argument() -> None:
    for role in ("host", "guest"):
        assert len(carry(build(probes_for(role), TOKEN, sudo=True))) < ARGUMENT_BYTES * 2 / 3


#: Commands that change something, and those that only may when their condition stands in the script (or None: never).
COMMANDS = {
    **dict.fromkeys(("modprobe", "rm", "mv", "cp", "tee", "touch", "mkdir", "mount", "chmod", "kill", "mktemp", "sleep")),
    **dict.fromkeys(("apt", "iscsiadm", "timedatectl", "ip6tables", "iptables")),
    "apt-get": "setpriv --reuid=65534",
    "iptables-save": "/proc/net/ip_tables_names",
    "ip6tables-save": "/proc/net/ip6_tables_names",
    "nft": "/sys/module/nf_tables",
    "firewall-cmd": "is-active -q firewalld",
    "ausearch": "--input-logs",
    "ovs-vsctl": "/sys/module/openvswitch",
    "multipathd": "is-active multipathd",
    "virt-admin": "systemctl list-units --state=active",
    "pmc": "is-active",
    "qemu-img": "qemu-img info -U -f",
    # tests/live/test_read_only.py has what these would touch
    "ss": "",
    "dnf": "",
    "yum": "",
    "zypper": "",
    "lvs": "--nolocking",
    "pvs": "--nolocking",
    "chronyc": "-h 127.0.0.1",
    "dmsetup": "/dev/mapper/control",
    "dmidecode": "/sys/firmware/dmi/tables",
}


def test_probes_do_not_write_start_or_open_what_they_must_not() -> None:
    """A list of known traps; the review of a new probe is still a person's."""
    assert PROBES
    for probe in PROBES.values():
        assert not re.search(r"(?<!stat -c '%u %g %F %t:%T %a' )/dev/kvm", probe.script), probe.id
        assert not re.search(r"systemctl\s+(?:-\S+\s+)*(?!show|list-units|is-active|cat)[a-z]", probe.script), probe.id
        for word, unless in COMMANDS.items():
            if re.search(rf"(?:^|[;|&({{]|\bdo|\bthen|\$SUDO|\btimeout \d+)\s*{re.escape(word)}(?=\s)", probe.script, re.MULTILINE):
                assert unless, f"{probe.id}: {word}"
                assert unless in f"{probe.when} {probe.script}", f"{probe.id}: {word} without {unless}"
        if "virsh" in probe.script and "list" in probe.script:
            assert VIRSH in probe.script or ASK in probe.script
        shell_only = re.sub(r"awk (?:-F: )?'.*?'", "", probe.script, flags=re.DOTALL)  # awk compares with the same sign
        shell_only = re.sub(r"2>&1|>&2|2?> ?/dev/null", "", shell_only)
        assert ">" not in shell_only, f"{probe.id} writes somewhere"


def test_replaced_libraries_are_told_from_other_mappings() -> None:
    libraries = [
        f"/proc/631/maps:7f1b2c000000-7f1b2c021000 r-xp 00000000 fd:00 134312  {path} (deleted)"
        for path in (
            "/usr/lib64/libcrypto.so.1.1.1k",
            "/usr/lib/libssl.so.3",
            "/usr/lib/libc-2.31.so",
            "/usr/lib64/libz.so.1;65f1c2d3",
        )
    ]
    others = [
        f"/proc/631/maps:7f1b2c000000-7f1b2c021000 rw-s 00000000 00:0f 1026  {path} (deleted)"
        for path in ("/memfd:pc.ram", "/dev/hugepages/libvirt/qemu/1-web/pc.ram", "/[aio]", "/run/x.sock", "/opt/vm.solid/ram")
    ]
    done = subprocess.run(
        ["grep", "-E", DELETED_LIBRARY], input="\n".join([*others, *libraries]), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == libraries


ABOUT_EACH_DOMAIN = [probe.id for probe in PROBES.values() if "v() {" in probe.script]

#: Not the real one: it lists 1,500 domains, and notes what it is asked. The kernel's bound for an argument is the real one.
MANY_DOMAINS = """#!/bin/sh
for last; do :; done
case "$*" in
*" list "*--uuid) seq -f '00000000-0000-4000-8000-%012.0f' 1500 ;;
*) printf '%s\\n' "$last" | tr ';' '\\n' >>"$ASKED" ;;
esac
"""


@pytest.mark.parametrize("probe_id", ABOUT_EACH_DOMAIN)
def test_every_domain_of_many_is_asked_about(probe_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen hundred domains are more than one argument can name."""
    virsh, asked = tmp_path / "virsh", tmp_path / "asked"
    virsh.write_text(MANY_DOMAINS)
    virsh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(asked))
    record = ask(PROBES[probe_id])[probe_id]
    assert (record.cause, record.stderr.strip()) == (None, "")
    assert len(set(re.findall(r"0{8}-[0-9-]+", asked.read_text()))) == 1500


def test_dnf_tells_what_is_left_out_and_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither rpm nor dnf is the real one; the configuration is read by the probe's own script, from another place."""
    for name in ("rpm", "dnf"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    conf = tmp_path / "etc/dnf/dnf.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(
        "[main]\nproxy_password=s3cret\nexcludepkgs=kernel*\n  qemu-kvm\nproxy=http://user:s3cret@proxy\n  s3cret\nexclude: x"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    probe = dataclasses.replace(
        PROBES["updates"], script=PROBES["updates"].script.replace(" /etc/", f" {tmp_path}/etc/").replace("/dpkg", "")
    )
    answers = ask(probe)
    assert answers["updates:dnf/held"].stdout == "excludepkgs=kernel*\n  qemu-kvm\nexclude: x\n"
    assert not any("s3cret" in record.stdout for record in answers.values())
