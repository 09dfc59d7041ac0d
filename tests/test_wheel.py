"""The wheel: built from the sdist, installed in an empty virtualenv away from the repository, and run from there."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "build", "--outdir", place, ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(place.glob("*.whl"))


def test_nothing_but_the_package_goes_to_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"pytest_kvmcheck", next(n for n in names if ".dist-info/" in n).split("/")[0]}
    checks = {path.name for path in (ROOT / "checks").glob("*.py")}
    profiles = {path.name for path in (ROOT / "profiles").glob("*.yaml")}
    assert {name.rpartition("/")[2] for name in names if name.startswith("pytest_kvmcheck/checks/")} == checks
    assert {name.rpartition("/")[2] for name in names if name.startswith("pytest_kvmcheck/profiles/")} == profiles
    assert "pytest_kvmcheck/py.typed" in names


def test_checks_run_from_an_empty_virtualenv(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel], check=True)
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [python.with_name("pytest"), "--kvmcheck", "--kvmcheck-json=out.json"],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    results = json.loads((work / "out.json").read_text())["results"]
    assert len({result["check"] for result in results}) > 20
    listed = subprocess.run([python.with_name("kvmcheck"), "list"], cwd=work, capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == len(list((ROOT / "tests" / "cases").iterdir()))
    explained = subprocess.run([python.with_name("kvmcheck"), "explain", "KVM-MEM-001"], capture_output=True, text=True, check=True)
    assert "Why it matters" in explained.stdout
