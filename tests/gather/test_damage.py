"""Replies that are not what the script writes: damage is told, no choice is made between two answers, and the cost is bounded."""

from __future__ import annotations

import base64
import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import Record
from pytest_kvmcheck.gather import budget, frame, reply
from pytest_kvmcheck.gather.recorded import from_reply
from pytest_kvmcheck.gather.script import build
from pytest_kvmcheck.probes import PROBES, Probe
from pytest_kvmcheck.targets import Target

TOKEN = "0123456789abcdef0123456789abcdef"
N, M = "aaaaaaaa-0000-4000-8000-000000000000", "bbbbbbbb-0000-4000-8000-000000000000"
HELLO = f"@{TOKEN} HELLO 2 {N} base64 uid=0 sudo=off\n"
DONE = f"@{N} DONE\n"
PROBES_ASKED = (Probe("a", "", "true"), Probe("b", "", "true"), Probe("k", "", "true", keyed=True))


def encoded(*lines: str) -> str:
    return base64.b64encode("\n".join(lines).encode()).decode()


def single(name: str, text: str = "x", rc: int = 0, secret: str = M) -> str:
    return f"@{N} BEGIN {name}\n{encoded(*filter(None, (secret,)), text)}\n@{N} END {name} 1,2 !{rc}\n"


def section(name: str, text: str = "x") -> tuple[str, str]:
    return f"@={M} BEGIN {name}\n{text}\n@={M} END {name} 1,2 0\n", f"@={M} BEGIN {name}\n\n@={M} END {name}\n"


def batch(*sections: tuple[str, str], number: int = 0, asked: str = "a b k") -> str:
    stdout, stderr = ("".join(parts) for parts in zip(*sections, strict=True))
    return f"@{N} BEGIN @{number} = {asked}\n{encoded(M, stdout)}\n@{N} END @{number} 1,2 !0 {encoded(stderr)}\n"


UNENDED = (f"@={M} BEGIN b\ny\n", f"@={M} BEGIN b\n")
NO_ERRORS = (section("b")[0], f"@={M} BEGIN b\n")


def read(*parts: str, token: str | None = TOKEN) -> dict[str, Record]:
    found = reply.read("".join((HELLO, *parts, DONE)).encode(), token, PROBES_ASKED)
    assert found
    return found.records


def test_what_the_script_writes_is_read() -> None:
    found = read(single("a", "1"), single("b", "2"), single("k", f"0\n@@{M} one\n1\nqemu:///system?{M}\n\n@@ two\n2\n"))
    assert {name: record.stdout for name, record in found.items()} == {
        "a": "1",
        "b": "2",
        "k": "0\n",
        "k:one": "1\n",
        "k:two": "2\n",
    }
    found = read(batch(section("a", "1"), section("b", "2")), single("k"))
    assert (found["a"].stdout, found["b"].stdout, found["k"].stdout) == ("1", "2", "x")


@pytest.mark.parametrize("batched", [UNENDED, NO_ERRORS], ids=["no end", "no end of its errors"])
def test_who_did_not_end_in_his_batch_is_asked_again(batched: tuple[str, str]) -> None:
    found = read(batch(section("a"), batched), single("b", "again"))
    assert (found["a"].cause, found["b"].cause, found["b"].stdout) == (None, None, "again")
    alone = read(batch(section("a"), batched))
    assert (alone["a"].cause, alone["b"].cause, alone["b"].stdout) == (None, Cause.LOST, "")


TWICE_K = single("k", f"@@{M} one\n1\n@@{M} two\n2\n@@{M} one\n3\n")


@pytest.mark.parametrize(
    ("parts", "damaged"),
    [
        ((single("a", "1"), single("a", "2")), "a"),
        ((single("a", "1"), single("b"), single("a", "1")), "a"),
        ((f"@{N} BEGIN a\n?\n@{N} END a 1,2 !0\n", single("a")), "a"),
        ((batch(section("a"), section("b")), single("b")), "b"),
        ((batch(section("a"), UNENDED), single("b"), single("b")), "b"),
        ((single("b"), batch(section("a"), section("b"))), "b"),
        ((single("b"), batch(section("a"), UNENDED)), "b"),
        ((batch(section("a")), batch(section("a"), number=1)), "a"),
        ((batch(section("a")), batch(section("b"))), "abk"),
        ((batch(section("a"), section("b"), section("a")), single("k")), "abk"),
        ((batch(section("a"), section("b"), asked="a"),), "a"),
        ((batch(section("a"), section("foreign")),), "abk"),
        ((batch((f"@={M} END a 1,2 0\n{section('a')[0]}", section("a")[1])),), "abk"),
        ((batch((f"@={M} BEGIN a\n{section('b')[0]}", section("b")[1])),), "abk"),
        ((batch((section("a")[0], section("a")[1] * 2)),), "abk"),
        ((batch((section("a")[0], section("a")[1] + section("b")[1] + f"@={M} END b\n")),), "abk"),
        ((batch((f"@={M} nonsense\n{section('a')[0]}", section("a")[1])),), "abk"),
        ((f"@{N} BEGIN a\n{single('b')}@{N} END a 1,2 !0\n",), "ab"),
        ((f"@{N} BEGIN @0 = a b\n{single('b')}@{N} END @0 1,2 !0\n",), "ab"),
        ((f"@{N} END a 1,2 !0\n", single("a")), "a"),
        ((single("a"), f"@{N} END a 1,2 !0\n"), "a"),
        ((f"@{N} BEGIN a\n@{N} END b 1,2 !0\n@{N} END a 1,2 !0\n",), "ab"),
        ((f"@{N} BEGIN a zstd\neA==\n@{N} END a 1,2 !0\n",), "a"),
        ((DONE, single("a")), "a"),
        ((f"@{N} BEGIN a\n", DONE, f"eA==\n@{N} END a 1,2 !0\n"), "a"),
        ((single("a", secret=""),), "a"),
        ((single("a", secret="guess"),), "a"),
        ((TWICE_K,), "k"),
        ((single("k", f"@@{M} one\nqemu:///system?{M}\n\n@@ one\n"),), "k"),
        ((batch(section("k", f"@@{M} one\n@@{M} one\n")),), "abk"),
        ((single("a"), HELLO, single("b")), "abk"),
        ((single("a"), HELLO.replace(N, M), single("b")), "abk"),
    ],
)
def test_what_it_does_not_write_is_damage(parts: tuple[str, ...], damaged: str) -> None:
    found = read(*parts)
    told = {name for name, record in found.items() if "arrived damaged" in record.stderr}
    assert "".join(sorted(told)) == damaged
    for name in damaged:
        assert (found[name].cause, found[name].stdout) == (Cause.LOST, "")
    assert not [name for name in found if name.startswith("k:") and "k" in damaged]


@pytest.mark.parametrize("guess", ["0" * 32, TOKEN, M, N.upper(), f"{N} ", ""])
def test_marks_with_a_guess_stay_text(guess: str) -> None:
    said = f"@{guess} END a 1,2 !0\n@{guess} BEGIN b\n@@{guess}x k\n@={guess} END a 1,2 0\nqemu:///system?{guess}\n"
    if guess == M:  # this is the frame's own
        said = said.replace(f"@={guess}", "@=")
    found = read(single("a", said), single("k", f"@@{M} one\n{said}"))
    assert (found["a"].cause, found["a"].stdout, found["b"].cause) == (None, said, Cause.LOST)
    assert {name for name in found if name.startswith("k")} == {"k", "k:one"}


def test_a_section_begins_wherever_its_mark_stands() -> None:
    """What was printed before may lack the end of its line: a process may write so into its own arguments."""
    found = read(single("k", f"@@{M} one\nno end@@{M} two\n2\n"))
    assert (found["k:one"].stdout, found["k:two"].stdout) == ("no end", "2\n")


def test_a_line_that_is_cut_is_no_mark() -> None:
    """An exit code of 127 that was cut to 1 would be another one."""
    text = (HELLO + single("a", rc=127)).encode()
    for cut in range(1, 4):
        found = reply.read(text[:-cut], TOKEN, PROBES_ASKED)
        assert found
        assert (found.records["a"].cause, found.records["a"].stderr) == (Cause.LOST, reply.ENDED)


def test_a_saved_reply_has_one_beginning(tmp_path: Path) -> None:
    path = tmp_path / "kvm01.reply"
    text = HELLO + single("uname", "Linux kvm01 6.1.0\n") + DONE
    path.write_text(f"Welcome!\n{text}")
    target = Target("kvm01", f"reply:{path}")
    assert from_reply(target).text("uname") == "Linux kvm01 6.1.0\n"
    path.write_text(text.replace("6.1.0", "6.6.6").replace(N, M).replace(TOKEN, "f" * 32) + text)
    assert {record.cause for record in from_reply(target).records.values()} == {Cause.LOST}


def test_a_reply_of_an_older_version_is_refused(tmp_path: Path) -> None:
    """Every user of the host could read its nonce while it was made."""
    path = tmp_path / "kvm01.reply"
    path.write_text(f"@{TOKEN} HELLO 1 base64 uid=0 sudo=off\n@{TOKEN} BEGIN a\neA==\n@{TOKEN} END a 1,2 !0\n@{TOKEN} DONE\n")
    failure = from_reply(Target("kvm01", f"reply:{path}")).failure
    assert failure
    assert failure.cause is Cause.UNPARSABLE
    assert failure.detail.endswith(
        "made by an older kvmcheck, whose replies users of the host could forge: run its collect-script again"
    )


def test_probes_give_the_secret_to_nothing_but_the_shell_itself() -> None:
    """What stands in the arguments of a command is read by everybody: only echo, printf and the environment of virsh get it."""
    for probe in PROBES.values():
        rest = probe.script
        for own in ("echo @@$N ", 'echo "@@$N ', "VIRSH_DEFAULT_CONNECT_URI=qemu:///system?$N virsh -r "):
            rest = rest.replace(own, "")
        for line in rest.splitlines():
            if line.lstrip().startswith("printf '%s\\n' \"@@$N "):
                rest = rest.replace(line, "")
        for place in rest.split("$N")[1:]:
            assert place[:1].isalnum() or place[:1] == "_", f"{probe.id}: $N stands in other arguments"
    script = build(PROBES.values(), TOKEN)
    assert not [line for line in script.splitlines() if line.startswith("export") and set(line.split()) & {"N", "M", "Q", "R", "D"}]


MEASURE = """
import re, sys, time
from pathlib import Path
from pytest_kvmcheck.gather import budget, reply
from pytest_kvmcheck.probes import probes_for
from tests.gather.test_damage import hostile
token, data = hostile(sys.argv[1])
begin = time.process_time()
found = reply.read(data, token, probes_for("host"))
spent = time.process_time() - begin
causes = {str(record.cause) for record in found.records.values() if record.cause} if found else {"none"}
# Of this program alone: ru_maxrss is handed down by whoever started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
print(peak, round(spent, 2), len(found.records) if found else 0, *sorted(causes))
"""


def hostile(kind: str) -> tuple[str, bytes]:
    """What a hostile host sends, made with little memory."""
    begin, end = f"@{N} BEGIN {{}}{{}}\n".format, f"@{N} END {{}} 1,2 !0\n".format
    head = HELLO.encode()
    if kind == "lines":
        return TOKEN, b"".join([head, begin("domain", "").encode(), *[b"x\n" * 10**6] * 120])
    if kind == "blank lines":
        return TOKEN, b"\n" * (240 * 10**6)
    if kind == "bombs":
        bomb = base64.encodebytes(gzip.compress(f"{M}\n".encode() + b"\xff" * (40 * budget.MIB)))
        names = [name for name, probe in PROBES.items() if "host" in probe.roles][:50]
        parts = [
            begin(name, " gzip").encode() + bomb + end(name).encode() for name in ["domain", *names, *(f"@{n}" for n in range(50))]
        ]
        return TOKEN, head + b"".join(parts)
    if kind == "emoji":
        text = gzip.compress(f"{M}\n".encode() + (b"\xff" * 999 + "🐢".encode()) * 32_000)
        return TOKEN, head + begin("domain", " gzip").encode() + base64.encodebytes(text) + end("domain").encode()
    if kind == "sections":
        keys = "".join(f"@@{M} k{number}\n" for number in range(700_000))
        body = base64.encodebytes(gzip.compress(f"{M}\n{keys}".encode()))
        return TOKEN, head + begin("domain", " gzip").encode() + body + end("domain").encode()
    if kind == "batch":
        names = "".join(f"@={M} BEGIN a\n\n@={M} END a 1,2 0\n" for _ in range(400_000))
        body = base64.encodebytes(gzip.compress(f"{M}\n{names}".encode()))
        return TOKEN, head + begin("@0", f" gzip = {'a ' * 4000}").encode() + body + end("@0").encode()
    if kind == "frames":
        return TOKEN, head + "".join(f"@{N} BEGIN f{number}\n@{N} END f{number} , !0\n" for number in range(700_000)).encode()
    if kind == "ends":
        return TOKEN, head + f"@{N} END a 1,2 !0\n@{N} nonsense\n".encode() * 700_000
    if kind == "beginnings":
        return TOKEN, f"@{TOKEN} HELLO 2 \n".encode() * 1_400_000
    raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("lines", "truncated"),
        ("blank lines", "none"),
        ("bombs", "truncated"),
        ("emoji", "truncated"),
        ("sections", "truncated"),
        ("batch", "lost"),
        ("frames", "truncated"),
        ("ends", "truncated"),
        ("beginnings", "none"),
    ],
)
def test_a_hostile_host_costs_little(kind: str, cause: str) -> None:
    """Below 512 MiB, what it sent included, and 10 s; nothing of it is believed."""
    done = subprocess.run([sys.executable, "-c", MEASURE, kind], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    peak_mib, seconds, records, *causes = done.stdout.split()
    print(kind, done.stdout)
    assert int(peak_mib) < 512, done.stdout
    assert float(seconds) < 10, done.stdout
    assert cause in causes, done.stdout
    assert int(records) <= budget.SECTIONS + 1000


def test_large_hosts_are_within_the_budget() -> None:
    """Two thousand guests with names of any script."""
    xml = "<domain type='kvm'><title>機械 🐢 é</title>" + "<device kind='x' name='a'/>\n" * 150 + "</domain>\n"
    sections = [
        f"@@{M} 6d1a6e8a-0000-4000-8000-{number:012d}/{part}\n{xml if part in ('live', 'saved') else 'one line'}\n"
        for number in range(2000)
        for part in ("live", "saved", "snapshots", "info", "state")
    ]
    body = base64.encodebytes(gzip.compress(f"{M}\n{''.join(sections)}".encode())).decode()
    text = f"{HELLO}@{N} BEGIN domain gzip\n{body}@{N} END domain 1,2 !0\n{DONE}"
    found = reply.read(text.encode(), TOKEN, [PROBES["domain"]])
    assert found
    assert len(found.records) == 10_001
    assert {record.cause for record in found.records.values()} == {None}


def test_text_is_what_decoding_gives() -> None:
    """It is put together in pieces; what is cut between two of them stays what it is."""
    for unit in ("é".encode(), "🐢".encode(), b"\xff", b"\xe6\xa9", "機".encode() + b"\x80"):
        data = b"x" * (budget.MIB - 1) + unit * 9
        assert frame.as_text(data, frame.Room()) == reply.decode(data)
