"""An archive with one damaged spot: a bundle is refused, a sosreport tells nothing."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause, KvmcheckError
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.gather.recorded import from_sosreport
from pytest_kvmcheck.targets import Target


@pytest.mark.parametrize("where", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_damaged(tmp_path: Path, compression: str, where: float) -> None:
    (tmp_path / "e" / "proc").mkdir(parents=True)
    for name in ("manifest.json", "proc/meminfo"):
        (tmp_path / "e" / name).write_text("".join(f"line {number * number}\n" for number in range(60_000)))
    path = tmp_path / f"e.tar.{compression}"
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        archive.add(tmp_path / "e", "e")
    assert (bundle.open_directory(path) / "proc").is_dir()
    assert from_sosreport(Target("kvm01", f"sosreport:{path}")).failure is None

    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(KvmcheckError):
        bundle.open_directory(path)
    failure = from_sosreport(Target("kvm01", f"sosreport:{path}")).failure
    assert failure
    assert failure.cause == Cause.UNPARSABLE
