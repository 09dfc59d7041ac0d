"""The evidence bundle: what is written is read back, and what was touched afterwards is known."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path

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
