"""pytest-kvmcheck: the truth about KVM hosts, as pytest checks with evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "CheckWarning",
    "Choice",
    "EvidenceMissing",
    "Findings",
    "Flag",
    "Glob",
    "Items",
    "NotApplicable",
    "Number",
    "Params",
    "Regex",
    "Severity",
    "Table",
    "Text",
    "Whole",
    "check",
    "note",
]

if TYPE_CHECKING:
    from pytest_kvmcheck.errors import CheckWarning, EvidenceMissing, NotApplicable
    from pytest_kvmcheck.findings import Findings, note
    from pytest_kvmcheck.parameters import Choice, Flag, Glob, Items, Number, Regex, Table, Text, Whole
    from pytest_kvmcheck.registry import Params, Severity, check

_HOMES = {
    "CheckWarning": "errors",
    "EvidenceMissing": "errors",
    "NotApplicable": "errors",
    "Findings": "findings",
    "note": "findings",
    "Choice": "parameters",
    "Flag": "parameters",
    "Glob": "parameters",
    "Items": "parameters",
    "Number": "parameters",
    "Regex": "parameters",
    "Table": "parameters",
    "Text": "parameters",
    "Whole": "parameters",
    "Params": "registry",
    "Severity": "registry",
    "check": "registry",
}


def __getattr__(name: str) -> Any:
    """Import what a check module needs on first use: merely installed, the plugin must cost nothing."""
    if name not in _HOMES:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(f"pytest_kvmcheck.{_HOMES[name]}"), name)
