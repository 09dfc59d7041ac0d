"""Where the shipped checks and profiles are."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(kind: str) -> Path:
    """Return the directory ``checks`` or ``profiles``.

    In a checkout it stands beside the package, and is preferred: an editable install leaves a stale copy in site-packages,
    though not beside the package it imports.
    """
    beside = _PACKAGE.parent / kind
    if beside.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return beside
    return _PACKAGE / kind
