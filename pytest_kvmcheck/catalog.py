"""The catalogue: all shipped checks, loaded without pytest."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.paths import shipped
from pytest_kvmcheck.registry import REGISTRY, Check


def load(own: Iterable[Path] = ()) -> dict[str, Check]:
    """Import the shipped check modules, and those in *own* files and directories; return all registered checks by id.

    The modules get names of their own: pytest imports them again when it collects them.
    """
    for path in sorted(shipped("checks").glob("test_*.py")):
        load_file(path)
    for place in own:
        for path in sorted(place.rglob("test_*.py")) if place.is_dir() else [place]:
            if path.suffix == ".py" and "pytest_kvmcheck" in path.read_text("utf-8", "replace"):
                load_file(path)
    return dict(sorted(REGISTRY.items()))


def load_file(path: Path) -> None:
    """Import the check module *path*, once. Raises :class:`KvmcheckError` when it cannot be."""
    name = f"_kvmcheck_catalog_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise KvmcheckError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KvmcheckError:
        del sys.modules[name]
        raise
    except Exception as exc:
        del sys.modules[name]
        raise KvmcheckError(f"{path} cannot be imported: {exc!r}") from exc


@functools.cache
def shipped_digest() -> str:
    """Return the digest of the shipped checks."""
    return digest(shipped("checks").glob("test_*.py"))


def digest(paths: Iterable[Path]) -> str:
    """Return one SHA-256 over the contents of *paths*, in order of their names."""
    return digest_of((path.name, path.read_bytes()) for path in paths)


def digest_of(files: Iterable[tuple[str, bytes]]) -> str:
    """Return one SHA-256 over *files*, names and contents, in order of their names."""
    total = hashlib.sha256()
    for name, content in sorted(files, key=lambda file: file[0]):
        total.update(name.encode() + b"\0" + content + b"\0")
    return total.hexdigest()
