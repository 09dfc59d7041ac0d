"""Which QEMU is taken, where a newer one cannot be had."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.lab import emulator, image
from tests.lab.conftest import unable


def test_no_newer_one_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own is taken, the reason is told, and nothing that looks like a fetched one stays behind."""
    if reason := image.why_not():
        unable(reason)
    monkeypatch.setattr(emulator, "SOUND", (999, 0))
    monkeypatch.setattr(image, "cache", lambda: tmp_path)
    monkeypatch.setattr(image, "mirror", lambda suite: "http://127.0.0.1:9/debian")
    taken = emulator.chosen.__wrapped__()
    assert taken.words == ("qemu-system-x86_64",)
    assert taken.version == subprocess.check_output([*taken.words, "--version"], text=True).splitlines()[0]
    assert "a newer one could not be had: apt-get update" in taken.note
    assert "127.0.0.1:9" in taken.note
    assert not (tmp_path / image.EMULATOR / "qemu").exists()
