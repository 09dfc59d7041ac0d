"""Archives of strangers: damaged, endless, misleading. A bundle is refused, a sosreport tells nothing, and each in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause, EvidenceMissing, KvmcheckError
from pytest_kvmcheck.gather import budget, bundle
from pytest_kvmcheck.gather.recorded import from_sosreport
from pytest_kvmcheck.targets import Target

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "gz": lambda data: gzip.compress(data, 9),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def unpacked(path: Path) -> list[str]:
    with bundle.opened(path) as directory:
        return sorted(str(found.relative_to(directory)) for found in directory.rglob("*") if found.is_file())


def sosreport(path: Path) -> EvidenceMissing | None:
    return from_sosreport(Target("kvm01", f"sosreport:{path}")).failure


@pytest.mark.parametrize("where", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_damaged(tmp_path: Path, compression: str, where: float) -> None:
    lines = "".join(f"line {number * number}\n" for number in range(60_000))
    for names, whole in ((("manifest.json", "hosts/a/meminfo.txt"), True), (("proc/meminfo", "etc/os-release"), False)):
        path = tmp_path / f"{whole}.tar.{compression}"
        with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
            for name in names:
                member = tarfile.TarInfo(f"e/{name}")
                member.size = len(lines)
                archive.addfile(member, io.BytesIO(lines.encode()))
        if whole:
            assert unpacked(path) == ["hosts/a/meminfo.txt", "manifest.json"]
        else:
            assert sosreport(path) is None
        data = bytearray(path.read_bytes())
        data[int(len(data) * where)] ^= 0x55
        path.write_bytes(data)
        if whole:
            with pytest.raises(KvmcheckError, match="cannot be unpacked"):
                unpacked(path)
        else:
            failure = sosreport(path)
            assert failure
            assert failure.cause == Cause.UNPARSABLE


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, **more: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    for key, value in more.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def packed(size: int, head: bytes, compression: str, path: Path) -> Path:
    """An archive whose one member says that it holds *size* bytes, and holds them as far as a small file can."""
    zeros = b"\0" * 2**20
    opener = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[compression]
    with opener(path, "wb") as file:
        file.write(head)
        for _ in range(min(size, 2**27) // len(zeros)):
            file.write(zeros)
    return path


def measured(code: str) -> tuple[float, int, str]:
    """CPU seconds and peak memory (bytes) of *code* in a process of its own, and what it printed.

    The peak is told by the process itself: ru_maxrss is handed down by whoever started it.
    """
    tail = "\nimport sys, time\nprint(time.process_time(), open('/proc/self/status').read(), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=True)
    seconds, _, status = done.stderr.partition(" ")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    return float(seconds), int(peak[1]) * 1024, done.stdout


@pytest.mark.parametrize("compression", ["gz", "xz"])
@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("e/hosts/a/x.txt", tarfile.REGTYPE, "which is larger than any answer"),
        ("e/hosts/a/x.txt", tarfile.GNUTYPE_LONGNAME, "header of more than 64 KiB"),
        ("e/hosts/a/x.txt", tarfile.XHDTYPE, "header of more than 64 KiB"),
        ("e/hosts/a/x.txt", tarfile.XGLTYPE, "header of more than 64 KiB"),
        ("e/var/log/huge", tarfile.REGTYPE, "which is no file of an evidence bundle"),
    ],
)
def test_a_bomb_costs_nothing(tmp_path: Path, compression: str, name: str, kind: bytes, said: str) -> None:
    path = packed(2**40, header(name, 2**40, kind), compression, tmp_path / f"bomb.tar.{compression}")
    code = f"""
from pathlib import Path
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.gather import bundle
try:
    bundle.read(Path({str(path)!r}))
except KvmcheckError as exc:
    print(exc)
"""
    seconds, memory, printed = measured(code)
    assert said in printed
    assert len(printed.splitlines()) == 1
    assert seconds < 10
    assert memory < 256 * 2**20


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_sosreport_that_never_ends(tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody asks for is passed over, up to a bound; then the host alone is unknown."""
    monkeypatch.setattr(budget, "STREAM_BYTES", 2**26)
    path = packed(2**40, header("sos/var/log/huge", 2**40), compression, tmp_path / "s.tar")
    monkeypatch.setattr("pytest_kvmcheck.gather.archive.members.__defaults__", (2**26,))
    failure = sosreport(path)
    assert failure
    assert failure.cause is Cause.TRUNCATED
    assert "it unpacks to more than 64 MiB" in failure.detail


@pytest.mark.parametrize("place", ["sos_commands/logs/journalctl_--no-pager", "etc/huge"])
def test_a_large_log_spoils_nothing(tmp_path: Path, place: str) -> None:
    path = tmp_path / "s.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header(f"sos/{place}", 300 * 2**20))
        for _ in range(300):
            file.write(b"x" * 2**20)
        file.write(header("sos/proc/cmdline", 9) + b"ro quiet\n".ljust(512, b"\0") + b"\0" * 1024)
    evidence = from_sosreport(Target("kvm01", f"sosreport:{path}"))
    assert evidence.failure is None
    assert evidence.text("cmdline") == "ro quiet\n"


def test_xz_that_asks_for_memory(tmp_path: Path) -> None:
    """The dictionary is as large as its maker says: up to 4 GiB for an archive of a few bytes."""
    path = tmp_path / "s.tar.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    data = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    path.write_bytes(data.compress(header("sos/proc/cmdline", 0)) + data.flush())
    failure = sosreport(path)
    assert failure
    assert "Memory usage limit" in failure.detail


def test_xz_in_several_streams(tmp_path: Path) -> None:
    """As pxz writes it, and with padding between."""
    whole = header("sos/proc/cmdline", 9) + b"ro quiet\n".ljust(512, b"\0") + b"\0" * 1024
    path = tmp_path / "s.tar.xz"
    path.write_bytes(lzma.compress(whole[:700]) + b"\0" * 8 + lzma.compress(whole[700:]))
    assert from_sosreport(Target("kvm01", f"sosreport:{path}")).text("cmdline") == "ro quiet\n"


@pytest.mark.parametrize("compression", PACKERS)
@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("e/hosts/a/x.txt", tarfile.LNKTYPE, {"linkname": "e/manifest.json"}),
        ("e/hosts/a/x.txt", tarfile.SYMTYPE, {"linkname": "/etc/passwd"}),
        ("e/hosts/a/x.txt", tarfile.FIFOTYPE, {}),
        ("e/hosts/a/x.txt", tarfile.CHRTYPE, {}),
        ("e/hosts/a/x.txt", tarfile.GNUTYPE_SPARSE, {}),
        ("e/hosts/a/x.txt", b"Z", {}),
        ("/e/manifest.json", tarfile.REGTYPE, {}),
        ("e//manifest.json", tarfile.REGTYPE, {}),
        ("e/../manifest.json", tarfile.REGTYPE, {}),
        ("e/hosts/a/b/c/x.txt", tarfile.REGTYPE, {}),
        ("/".join("d" for _ in range(45)), tarfile.REGTYPE, {}),
        ("e/hosts/a/\x1b]0;x\x07.txt", tarfile.REGTYPE, {}),
        ("e/hosts/a/\u202etxt.txt", tarfile.REGTYPE, {}),
        ("e/hosts/a/x\n.txt", tarfile.REGTYPE, {}),
        ("e/hosts/a/\udcff.txt", tarfile.REGTYPE, {}),
        ("other/manifest.json", tarfile.REGTYPE, {}),
    ],
)
def test_what_has_no_place_in_a_bundle(tmp_path: Path, compression: str, name: str, kind: bytes, more: dict[str, str]) -> None:
    whole = header("e/manifest.json", 0) + header(name, 0, kind, **more) + b"\0" * 1024
    path = tmp_path / "e.tar"
    path.write_bytes(PACKERS[compression](whole))
    with pytest.raises(KvmcheckError, match=r"which is no file of an evidence bundle|cannot be unpacked") as caught:
        bundle.read(path)
    assert str(caught.value).isprintable()
    assert sosreport(path) is not None


def test_a_member_that_comes_twice(tmp_path: Path) -> None:
    path = tmp_path / "e.tar"
    path.write_bytes(header("e/manifest.json", 0) * 2 + b"\0" * 1024)
    with pytest.raises(KvmcheckError, match=r"holds 'e/manifest\.json' twice"):
        bundle.read(path)


def test_a_member_that_leads_backwards(tmp_path: Path) -> None:
    """A negative size, by which tarfile reads the same header for ever."""
    member = tarfile.TarInfo("e/manifest.json")
    member.size = -1024
    path = tmp_path / "e.tar"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)
    with pytest.raises(KvmcheckError):
        bundle.read(path)
    assert sosreport(path) is not None


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    path = tmp_path / "e.tar"
    path.write_bytes(header("e/manifest.json", 0) + b"\0" * 1024)
    with pytest.raises(KvmcheckError, match="not sealed"):
        bundle.read(path)
    path.write_bytes(header("e/manifest.json", 0) * 2 + b"\0" * 1024)
    with pytest.raises(KvmcheckError):
        bundle.read(path)
    assert not list((tmp_path / "t").iterdir())


@pytest.mark.parametrize("kind", ["reply", "sosreport"])
@pytest.mark.parametrize("special", ["fifo", "/dev/zero", "/dev/tty", "directory of fifos"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str, special: str) -> None:
    from pytest_kvmcheck.gather.recorded import from_reply

    path = tmp_path / "x"
    if special == "fifo":
        os.mkfifo(path)
    elif special.startswith("/"):
        path.symlink_to(special)
    else:
        (path / "proc").mkdir(parents=True)
        os.mkfifo(path / "proc" / "cmdline")
        (path / "proc" / "meminfo").symlink_to("/dev/zero")
    read = from_reply if kind == "reply" else from_sosreport
    failure = read(Target("kvm01", f"{kind}:{path}")).failure
    assert failure
    assert failure.detail.isprintable()


def test_a_folder_that_is_too_deep(tmp_path: Path) -> None:
    top = tmp_path / "sos"
    (top / "proc").mkdir(parents=True)
    (top / "proc" / "cmdline").write_text("ro\n")
    here = os.open(top, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert from_sosreport(Target("kvm01", f"sosreport:{top}")).text("cmdline") == "ro\n"
        with pytest.raises(KvmcheckError):
            bundle.read(top)
    finally:
        subprocess.run(["rm", "-rf", top], check=True)
