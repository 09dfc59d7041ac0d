"""The pinned requirements are those of pyproject.toml, each with its hashes, and name no place to fetch them from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TESTED = ROOT / "requirements" / "tested.txt"
EXTRAS = ("libvirt", "xdist")


def pinned() -> dict[str, str]:
    """Version by name; every line that is no comment must be a pin with hashes."""
    text = re.sub(r" *#.*", "", TESTED.read_text()).replace("\\\n", " ")
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = re.fullmatch(r"([a-z0-9-]+)==([0-9][\w.]*)((?:\s+--hash=sha256:[0-9a-f]{64})+)", line)
        assert match, line
        found[match[1]] = match[2]
    return found


def test_they_cover_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    found = pinned()
    assert len(wanted) > 9
    for requirement in map(Requirement, wanted):
        version = found.get(requirement.name.lower())
        assert version, f"{requirement.name} is not in {TESTED.name}: nox -s pin"
        assert requirement.specifier.contains(version), f"{requirement}: {version} is pinned"


def test_they_name_no_place() -> None:
    assert not re.search(r"https?://|--(?:index|extra-index|find-links|trusted-host)", re.sub(r"(?m)^#.*", "", TESTED.read_text()))
    for name in ("noxfile.py", "docs/install.md"):
        assert "requirements/tested.txt" in (ROOT / name).read_text(), name
