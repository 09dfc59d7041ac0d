"""The evidence bundle: what is written is read back, and what was touched afterwards is known."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_kvmcheck.errors import Cause, EvidenceMissing, KvmcheckError
from pytest_kvmcheck.evidence import Evidence, Record
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.targets import Target

AT = "2026-06-01T12:00:00+00:00"
NASTY = '../../etc/x\n"><script>'


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    place = tmp_path / "e"
    records = {
        "uname": Record("uname", "Linux\r\n\x00é\\xff", 0, "warn", None, 0.25),
        f"domain:{NASTY}/saved": Record(f"domain:{NASTY}/saved", "<domain/>", 1, "", Cause.TRUNCATED),
    }
    targets = (
        Target("a", "ssh://a", tags=(("db*", frozenset({"critical"})),)),
        Target(NASTY, "ssh://b"),
        Target("c", "ssh://c"),
    )
    evidence = [
        Evidence("a", records),
        Evidence(NASTY, records),
        Evidence("c", failure=EvidenceMissing(Cause.UNREACHABLE, "no route")),
    ]
    bundle.write(place, bundle.Manifest("test", AT, AT, targets), evidence)
    return place


def test_what_is_written_is_read_back(sealed: Path) -> None:
    manifest, evidence = bundle.read(sealed)
    assert [target.name for target in manifest.targets] == ["a", NASTY, "c"]
    assert manifest.targets[0].tags == (("db*", frozenset({"critical"})),)
    assert evidence[0].records["uname"] == Record("uname", "Linux\r\n\x00é\\xff", 0, "warn", None, 0.25)
    assert evidence[1].records[f"domain:{NASTY}/saved"].cause is Cause.TRUNCATED
    assert evidence[2].failure
    assert evidence[2].failure.cause is Cause.UNREACHABLE
    assert not bundle.verify(sealed)


def test_nothing_is_written_outside(sealed: Path) -> None:
    assert {path.name for path in sealed.parent.iterdir()} == {"e"}
    for path in sealed.rglob("*"):
        assert path.name.isprintable()


def sha256sum(place: Path) -> bool:
    return subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=place, capture_output=True).returncode == 0


def test_one_byte_changed_makes_that_host_unknown_and_no_other(sealed: Path) -> None:
    path = sealed / "hosts" / "a" / "uname.txt"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    assert bundle.verify(sealed) == {"hosts/a/uname.txt": "was changed"}
    assert not sha256sum(sealed)
    _, evidence = bundle.read(sealed)
    with pytest.raises(EvidenceMissing, match=r"hosts/a/uname.txt was changed after the bundle was sealed") as caught:
        evidence[0].text("uname")
    assert caught.value.cause is Cause.TAMPERED
    assert evidence[1].records["uname"].rc == 0


def test_added_missing_and_linked_files_are_found(sealed: Path) -> None:
    (sealed / "hosts" / "a" / "extra.txt").write_text("x")
    assert bundle.verify(sealed)["hosts/a/extra.txt"] == "was added"
    (sealed / "hosts" / "a" / "extra.txt").unlink()
    (sealed / "hosts" / "a" / "uname.txt").unlink()
    assert bundle.verify(sealed)["hosts/a/uname.txt"] == "is missing"
    (sealed / "hosts" / "a" / "uname.txt").symlink_to("/etc/hostname")
    assert bundle.verify(sealed)["hosts/a/uname.txt"] == "leads out of the bundle"


def test_a_changed_manifest_is_refused(sealed: Path) -> None:
    manifest = sealed / "manifest.json"
    manifest.write_text(manifest.read_text().replace("ssh://a", "ssh://z"))
    with pytest.raises(KvmcheckError, match=r"manifest.json was changed after the bundle was sealed"):
        bundle.read(sealed)


@pytest.mark.parametrize("damage", ["", "not a sum\n", "\xff"])
def test_damaged_sums_are_refused(sealed: Path, damage: str) -> None:
    sums = sealed / "SHA256SUMS"
    if damage:
        sums.write_bytes(damage.encode("latin-1"))
    else:
        sums.unlink()
    with pytest.raises(KvmcheckError):
        bundle.read(sealed)


def test_evidence_is_never_overwritten(sealed: Path) -> None:
    with pytest.raises(KvmcheckError, match="never overwritten"):
        bundle.write(sealed, bundle.Manifest("test", AT, AT, ()), [])


def test_an_archive_of_it(sealed: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-czf", tmp_path / "e.tgz", "-C", tmp_path, "e"], check=True)
    manifest, _ = bundle.read(tmp_path / "e.tgz")
    assert len(manifest.targets) == 3


@pytest.mark.parametrize(
    "name",
    ["/tmp/kvmcheck-escaped", "../escaped", "hosts/../../escaped"],
)
def test_an_archive_that_leads_out_of_itself(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "e.tgz", "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(KvmcheckError, match=re.escape(f"holds '{name}', which is no file of an evidence bundle")):
        bundle.read(tmp_path / "e.tgz")


def test_an_archive_with_a_link(sealed: Path, tmp_path: Path) -> None:
    (sealed / "manifest.json").unlink()
    (sealed / "manifest.json").symlink_to("/etc/passwd")
    subprocess.run(["tar", "-czf", tmp_path / "e.tgz", "-C", tmp_path, "e"], check=True)
    with pytest.raises(KvmcheckError, match=r"holds 'e/manifest\.json', which is no file"):
        bundle.read(tmp_path / "e.tgz")


def test_an_archive_that_was_cut_short(sealed: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-czf", tmp_path / "e.tgz", "-C", tmp_path, "e"], check=True)
    whole = (tmp_path / "e.tgz").read_bytes()
    for share in (0.5, 0.9):
        (tmp_path / "e.tgz").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(KvmcheckError, match=r"e\.tgz cannot be unpacked: "):
            bundle.read(tmp_path / "e.tgz")


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(KvmcheckError, match="not an evidence bundle"):
        bundle.read(tmp_path)


# -- a pen in the evidence: the sums are made anew, and what contradicts itself is noticed all the same -----------------------


def seal_again(place: Path) -> None:
    names = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = "".join(f"{hashlib.sha256((place / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (place / "SHA256SUMS").write_text(sums)
    assert sha256sum(place)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


def records(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda place: edit(place / "hosts" / "a" / "records.json", change)


def moved(place: Path) -> None:
    (place / "hosts" / "a").rename(place.parent / "elsewhere")
    (place / "hosts" / "a").symlink_to(place.parent / "elsewhere")


#: What is done to the bundle, the file that is complained of, the complaint, and whether one host alone suffers.
PENS: list[tuple[str, Callable[[Path], object], str, str, bool]] = [
    (
        "answer",
        lambda e: (e / "hosts/a/uname.txt").write_text("Linux 9"),
        "hosts/a/uname.txt",
        "is not what records.json says",
        True,
    ),
    ("answer gone", lambda e: (e / "hosts/a/uname.txt").unlink(), "hosts/a/uname.txt", "is not what records.json says", True),
    (
        "answer denied",
        records(lambda body: body["records"]["uname"].update(file=None)),
        "hosts/a/records.json",
        "is not what records.json says",
        True,
    ),
    (
        "other answer",
        records(lambda body: body["records"]["uname"].update(file="domain.txt")),
        "hosts/a/records.json",
        "cannot be read",
        True,
    ),
    ("host", records(lambda body: body.update(host="b")), "hosts/a/records.json", "is of b", True),
    ("rc", records(lambda body: body["records"]["uname"].update(rc="0")), "hosts/a/records.json", "cannot be read", True),
    ("cause", records(lambda body: body["records"]["uname"].update(cause="fine")), "hosts/a/records.json", "cannot be read", True),
    ("no records", lambda e: (e / "hosts/a/records.json").unlink(), "hosts/a/records.json", "is missing", True),
    (
        "deep records",
        lambda e: (e / "hosts/a/records.json").write_text("[" * 10**5 + "]" * 10**5),
        "hosts/a/records.json",
        "cannot be read",
        True,
    ),
    (
        "a key twice",
        lambda e: (e / "hosts/a/records.json").write_text(
            (e / "hosts/a/records.json").read_text().replace('"rc": 0', '"rc": 1, "rc": 0')
        ),
        "hosts/a/records.json",
        "cannot be read",
        True,
    ),
    (
        "not a number",
        lambda e: (e / "hosts/a/records.json").write_text('{"host": NaN}'),
        "hosts/a/records.json",
        "is no number",
        True,
    ),
    ("answer added", lambda e: (e / "hosts/a/ksm.txt").write_text("x"), "hosts/a/ksm.txt", "is not named in records.json", True),
    ("file added", lambda e: (e / "hosts/a/notes.md").write_text("x"), "hosts/a/notes.md", "has no place in a bundle", True),
    ("folder added", lambda e: (e / "hosts/a/more").mkdir(), "hosts/a/more", "is an empty folder", True),
    ("fifo added", lambda e: os.mkfifo(e / "hosts/a/uname2.txt"), "hosts/a/uname2.txt", "is no plain file", True),
    ("link added", lambda e: (e / "hosts/a/etc").symlink_to("/etc"), "hosts/a/etc", "leads out of the bundle", True),
    ("folder is a link", moved, "hosts/a", "leads out of the bundle", True),
    ("host taken away", lambda e: shutil.rmtree(e / "hosts/a"), "hosts/a/records.json", "is missing", True),
    ("strange host", lambda e: shutil.copytree(e / "hosts/a", e / "hosts/z"), "hosts/z", "is of no host", False),
    ("empty host", lambda e: (e / "hosts/z").mkdir(), "hosts/z", "is an empty folder", False),
    ("file at the top", lambda e: (e / "README").write_text("x"), "README", "has no place in a bundle", False),
    (
        "host twice",
        lambda e: edit(e / "manifest.json", lambda body: body["targets"].append(body["targets"][0])),
        "manifest.json",
        "names a twice",
        False,
    ),
    ("large", lambda e: os.truncate(e / "hosts/a/uname.txt", 2**40), "hosts/a/uname.txt", "is larger than any answer", True),
]


@pytest.mark.parametrize(("change", "file", "complaint", "alone"), [pen[1:] for pen in PENS], ids=[pen[0] for pen in PENS])
def test_a_pen_is_noticed(sealed: Path, change: Callable[[Path], object], file: str, complaint: str, alone: bool) -> None:
    """By ``verify`` and by judging alike: one mechanism."""
    change(sealed)
    if complaint not in ("is larger than any answer", "leads out of the bundle"):
        fifo = sealed / "hosts/a/uname2.txt"
        is_fifo = fifo.exists()
        if is_fifo:
            fifo.unlink()
        seal_again(sealed)
        if is_fifo:
            os.mkfifo(fifo)
    found = bundle.verify(sealed)
    assert complaint in found[file], found
    if alone:
        _, evidence = bundle.read(sealed)
        assert evidence[0].failure
        assert evidence[0].failure.cause is Cause.TAMPERED
        assert evidence[0].failure.detail.isprintable()
        assert evidence[1].failure is None
        assert evidence[1].records["uname"].rc == 0
    else:
        with pytest.raises(KvmcheckError, match=re.escape(complaint)):
            bundle.read(sealed)


def test_without_new_sums_additions_count_too(sealed: Path) -> None:
    """Judging once ignored what was added."""
    (sealed / "README").write_text("x")
    with pytest.raises(KvmcheckError, match=r"README was added after the bundle was sealed"):
        bundle.read(sealed)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda body: body.update(started_at="yesterday"), "Invalid isoformat string"),
        (lambda body: body.update(started_at="2026-06-01T12:00:00"), "not a time in UTC"),
        (lambda body: body.update(started_at="2026-06-01T12:00:00+02:00"), "not a time in UTC"),
        (lambda body: body.update(started_at=7), "TypeError"),
        (lambda body: body.update(finished_at="2020-01-01T00:00:00+00:00"), "ends before it starts"),
        (lambda body: body.update(targets=[[]]), "is not a manifest"),
        (lambda body: body["targets"][0].update(name=5), "is not a manifest"),
        (lambda body: body["targets"][0].update(tags="x"), "is not a manifest"),
        (lambda body: body["targets"][0].update(shell="/bin/sh"), "a target has no shell"),
        (lambda body: body.update(schema=2), "bundle schema 2"),
        (lambda body: body.update(schema=[[]]), "bundle schema"),
    ],
)
def test_a_manifest_that_is_none(sealed: Path, change: Callable[[dict[str, Any]], object], complaint: str) -> None:
    edit(sealed / "manifest.json", change)
    seal_again(sealed)
    for use in (bundle.read, bundle.verify):
        with pytest.raises(KvmcheckError, match=re.escape(complaint)) as caught:
            use(sealed)
        assert str(caught.value).isprintable()


def test_a_manifest_that_is_too_deep(sealed: Path) -> None:
    (sealed / "manifest.json").write_text("[" * 10**5 + "]" * 10**5)
    seal_again(sealed)
    with pytest.raises(KvmcheckError, match="is not a manifest"):
        bundle.read(sealed)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{digest}  hosts/a/uname.txt", "stands in SHA256SUMS twice"),
        ("{digest}  ./hosts/a/uname.txt", "has no place in a bundle"),
        ("{digest}  hosts//a/uname.txt", "has no place in a bundle"),
        ("{digest}  hosts/a/../a/uname.txt", "leads out of the bundle"),
        ("{digest}  /etc/hostname", "leads out of the bundle"),
        ("{digest}  hosts/a/gone.txt", "is missing"),
    ],
)
def test_sums_that_mislead(sealed: Path, line: str, complaint: str) -> None:
    sums = sealed / "SHA256SUMS"
    digest = hashlib.sha256((sealed / "hosts/a/uname.txt").read_bytes()).hexdigest()
    with sums.open("a") as file:
        file.write(line.format(digest=digest) + "\n")
    name = line.split("  ")[1]
    assert bundle.verify(sealed) == {name: complaint}


def test_names_that_a_terminal_would_obey(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pytest_kvmcheck import cli

    for name in (b"\x1b]0;owned\x07", b"two\nlines", "\u202etxt".encode(), b"\xff"):
        (Path(os.fsdecode(bytes(sealed) + b"/" + name))).write_text("x")
    assert cli.main(["verify", str(sealed)]) == 1
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4
    assert all(line.isprintable() for line in out.splitlines())
    with pytest.raises(KvmcheckError) as caught:
        bundle.read(sealed)
    assert str(caught.value).isprintable()


def test_what_cannot_be_read_is_said(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> str:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(bundle, "_digest", refused)
    assert set(bundle.verify(sealed).values()) == {"cannot be read: Permission denied"}
