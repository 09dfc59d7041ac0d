"""Imports go one way; a layer knows only those before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pytest_kvmcheck"

#: From the bottom up. A module may import from its own layer and from those below.
LAYERS = (
    ("errors",),
    ("names",),
    ("evidence", "targets", "paths", "outcomes", "settings", "yamlfile"),
    ("probes",),
    ("gather", "facts", "inventory"),
    ("views",),
    ("findings", "parameters"),
    ("registry",),
    ("catalog", "conditions", "contradictions", "subjects", "waivers"),
    ("profiles",),
    ("proofs",),
    ("results", "selection", "tally"),
    ("asked", "places"),
    ("provenance",),
    ("judges",),
    ("plan",),
    ("reports",),
    ("plugin",),
    ("session", "cli"),
)
RANK = {name: number for number, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

#: plugin.py is what pytest loads; it fetches the session plugin when checks are asked for.
LATE = {("plugin", "session")}


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "pytest_kvmcheck":
            found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_kvmcheck."):
            found.add(str(node.module).split(".")[1])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    mine = layer(path)
    wrong = {name for name in imported(path) if RANK[name] > RANK[mine] and (mine, name) not in LATE}
    assert not wrong, f"{path.name} ({mine}) imports {wrong}"


def test_no_parser_and_no_check_runs_or_reads_anything() -> None:
    paths = [*PACKAGE.glob("facts/*.py"), *PACKAGE.glob("views/*.py"), *(PACKAGE.parent / "checks").glob("*.py")]
    assert len(paths) > 100
    for path in paths:
        tree = ast.parse(path.read_text("utf-8"))
        names = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not names & {"subprocess", "os", "socket", "testinfra", "libvirt", "requests", "urllib"}, path.name
        assert not any(isinstance(node, ast.Name) and node.id == "open" for node in ast.walk(tree)), path.name


def test_every_module_is_small() -> None:
    """A module that does not fit into a head is two modules."""
    assert len(MODULES) > 100
    for path in MODULES:
        assert len(path.read_text("utf-8").splitlines()) < 420, path
