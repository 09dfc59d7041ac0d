"""The script and its reply, run by every POSIX shell at hand."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.gather import reply
from pytest_kvmcheck.gather.script import ARGUMENT_BYTES, build, carry
from pytest_kvmcheck.probes import PROBES, Probe, Root, probes_for

NONCE = "0123456789abcdef0123456789abcdef"
SHELLS = [["dash"], ["bash", "--posix"], ["busybox", "sh"]]


def ask(*probes: Probe, shell: list[str] = SHELLS[0], sudo: bool = False) -> dict[str, reply.Record]:
    done = subprocess.run([*shell, "-c", build(probes, NONCE, sudo=sudo)], capture_output=True, timeout=60, check=False)
    found = reply.read(reply.decode(done.stdout), NONCE, probes)
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
    record = ask(Probe("x", "", r"""printf 'a\000b\377c\r\n@%s END x , !0\n' $N; printf '%s' "!$N!0!" >&2"""), shell=shell)["x"]
    assert record.stdout == f"a\x00b\\xffc\r\n@{NONCE} END x , !0\n"
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
    script = f"g {place}/full {place}/empty {place}/none {place}/*.none"
    assert ask(Probe("x", "", script), shell=shell)["x"].stdout == f"{place}/full:1\n{place}/full:2\n"
    assert ask(Probe("x", "", f"g {place}/none {place}/*.none"), shell=shell)["x"].cause is Cause.MISSING
    assert ask(Probe("x", "", f"g {place}/none", one_file=True), shell=shell)["x"].cause is Cause.MISSING
    empty = ask(Probe("x", "", f"g {place}/empty", one_file=True), shell=shell)["x"]
    assert (empty.cause, empty.stdout) == (None, "")
    full = ask(Probe("x", "", f"g {place}/full", one_file=True), shell=shell)["x"]
    assert full.stdout == "1\n2\n"


def test_files_are_read_together_and_stay_apart(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("@@forged BEGIN b\n@@forged END b 0\n")
    (tmp_path / "b").write_text("b\n")
    probes = [Probe(name, "", f"g {tmp_path}/{name}", one_file=True) for name in ("a", "b", "none")]
    records = ask(*probes, Probe("z", "", "echo z"), shell=shell)
    assert records["a"].stdout == "@@forged BEGIN b\n@@forged END b 0\n"
    assert (records["b"].stdout, records["none"].cause, records["z"].stdout) == ("b\n", Cause.MISSING, "z\n")


def test_a_file_that_never_ends_costs_the_files_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before it is judged; what comes after it is timed out, and other probes go on."""
    from pytest_kvmcheck.gather import script

    monkeypatch.setattr(script, "FILES_TIMEOUT_S", 2)
    (tmp_path / "a").write_text("a\n")
    first, stuck, last = (
        Probe("a", "", f"g {tmp_path}/a", one_file=True),
        Probe("b", "", "g x; sleep 30"),
        Probe("c", "", f"g {tmp_path}/a", one_file=True),
    )
    records = ask(first, stuck, last, Probe("z", "", "echo z"))
    assert records["a"].stdout == "a\n"
    assert (records["c"].cause, records["z"].stdout) == (Cause.TIMEOUT, "z\n")


def test_keyed_answers(shell: list[str]) -> None:
    probe = Probe("x", "", "echo before; echo @@$N one; echo 1; echo @@$N two; echo @@forged three; exit 1", keyed=True)
    records = ask(probe, shell=shell)
    assert {name: record.stdout for name, record in records.items()} == {
        "x": "before\n",
        "x:one": "1\n",
        "x:two": "@@forged three\n",
    }
    assert records["x"].rc == 1


def test_a_condition_that_does_not_hold(shell: list[str]) -> None:
    assert ask(Probe("x", "", "echo no", when="false"), shell=shell)["x"].cause is Cause.SKIPPED


def test_root_only_is_not_tried_without_root() -> None:
    probe = Probe("x", "", "touch /tmp/never", root=Root.MUST)
    script = build([probe], NONCE).replace("U=$(id -u)", "U=1000")
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
    found = reply.read(done.stdout.decode(), NONCE, [probe])
    assert found
    assert found.records["x"].cause is Cause.NOT_PERMITTED


def whole_reply() -> str:
    done = subprocess.run(["sh", "-c", build(probes_for("host"), NONCE)], capture_output=True, timeout=120, check=False)
    return done.stdout.decode()


def test_a_reply_cut_anywhere_loses_only_what_was_not_closed() -> None:
    text = whole_reply()
    whole = reply.read(text, NONCE, probes_for("host"))
    assert whole
    for cut in range(0, len(text), max(1, len(text) // 60)):
        part = reply.read(text[:cut], NONCE, probes_for("host"))
        if part is None:
            assert "HELLO" not in text[:cut] or cut < 100
            continue
        for name, record in part.records.items():
            assert record.cause is Cause.LOST or record.stdout == whole.records[name].stdout


def test_a_reply_with_another_nonce_is_none() -> None:
    assert reply.read(whole_reply(), "f" * 32, probes_for("host")) is None


def test_damage_inside_an_answer_is_lost() -> None:
    probe = Probe("x", "", "echo hello")
    text = f"@{NONCE} HELLO 1 base64 uid=0 sudo=off\n@{NONCE} BEGIN x\naGVs*G8K\n@{NONCE} END x 1,2 !0\n@{NONCE} DONE\n"
    found = reply.read(text, NONCE, [probe])
    assert found
    assert found.records["x"].cause is Cause.LOST


@pytest.mark.parametrize("login", ["sh", "bash", "busybox sh", "csh -f", "fish"])
def test_the_argument_survives_every_login_shell(login: str) -> None:
    script = "printf '%s|' \"it's\" '$HOME `id` !! \\n' \"a\tb\"; echo 'ünï'\n# ! comment\necho second"
    expected = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
    done = subprocess.run([*login.split(), "-c", carry(script)], capture_output=True, check=False, timeout=30)
    assert done.stdout == expected, done.stderr


def test_the_whole_script_fits_into_one_argument() -> None:
    for role in ("host", "guest"):
        assert len(carry(build(probes_for(role), NONCE, sudo=True))) < ARGUMENT_BYTES / 2


#: Commands that change something, and those that only may when their condition stands in the script (or None: never).
COMMANDS = {
    **dict.fromkeys(("modprobe", "rm", "mv", "cp", "tee", "touch", "mkdir", "mount", "chmod", "kill", "mktemp", "sleep")),
    **dict.fromkeys(("apt", "iscsiadm", "timedatectl", "ip6tables", "iptables")),
    "apt-get": "-s -qq -o Debug::NoLocking=1 -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=",
    "iptables-save": "/proc/net/ip_tables_names",
    "ip6tables-save": "/proc/net/ip6_tables_names",
    "nft": "/sys/module/nf_tables",
    "firewall-cmd": "is-active -q firewalld",
    "ausearch": "--input-logs",
    "ovs-vsctl": "/sys/module/openvswitch",
    "multipathd": "is-active multipathd",
    "virt-admin": "is-active",
    "pmc": "is-active",
    "qemu-img": "qemu-img info -U -f",
}


def test_probes_do_not_write_start_or_open_what_they_must_not() -> None:
    """A list of known traps; the review of a new probe is still a person's."""
    for probe in PROBES.values():
        assert "/dev/kvm" not in probe.script or probe.script.startswith("stat ")
        assert not re.search(r"systemctl\s+(?:-\S+\s+)*(?!show|list-units|is-active|cat)[a-z]", probe.script), probe.id
        for word, unless in COMMANDS.items():
            if re.search(rf"(?:^|[;|&({{]|\bdo|\bthen|\$SUDO|\btimeout \d+)\s*{re.escape(word)}(?=\s)", probe.script, re.MULTILINE):
                assert unless, f"{probe.id}: {word}"
                assert unless in f"{probe.when} {probe.script}", f"{probe.id}: {word} without {unless}"
        if "virsh" in probe.script and "list" in probe.script:
            assert "virsh -r -c qemu:///system" in probe.script
        assert ">" not in probe.script.replace("2>&1", "").replace(">/dev/null", "").replace("2>/dev/null", "").replace(
            ">&2", ""
        ).replace("2> /dev/null", ""), f"{probe.id} writes somewhere"
