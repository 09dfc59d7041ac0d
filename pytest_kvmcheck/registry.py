"""The registry of checks: ``@check`` turns a function into a pytest test with an id, a rule and its documentation."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import pytest

from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.parameters import Parameter, declared

_ID = re.compile(r"KVM-([A-Z]{2,4})-\d{3}")

#: What a check function may ask for; the deepest one says what it is about.
SCOPES = (
    "host", "guest", "cluster", "numa_node", "uplink", "pci_device", "domain", "multipath_map", "vcpu", "disk", "nic",
)  # fmt: skip

#: The headings of a check's docstring, in this order. The first three must be there.
HEADINGS = ("What it checks", "Why it matters", "How to fix", "When not to", "References")


class Severity(StrEnum):
    """How bad a failure is, worst first."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


class Params(Mapping[str, Any]):
    """The parameters of a check after the profile was applied; ``params.max_faults`` reads one."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no parameter {name}") from None

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


#: Returns why a check has nothing to judge on a subject, or None when it applies. May raise EvidenceMissing.
Condition = Callable[..., "str | None"]


@dataclass(frozen=True)
class Check:
    """A registered check.

    ``params`` are the defaults of its parameters, ``declared`` what they may be.
    ``reads`` are the ids of the probes it may read; ``sections`` its docstring by heading. ``compares``: it looks at the
    peers of the host too.
    """

    id: str
    title: str
    severity: Severity
    area: str
    scope: str
    params: Mapping[str, Any]
    declared: Mapping[str, Parameter]
    reads: tuple[str, ...]
    applies: Condition | None
    function: Callable[..., None]
    arguments: tuple[str, ...]
    sections: Mapping[str, str]
    since: str
    origin: str
    compares: bool = False


#: All checks that were imported, by id.
REGISTRY: dict[str, Check] = {}


def check(
    id: str,
    *,
    title: str,
    severity: Severity,
    reads: tuple[str, ...],
    params: Mapping[str, Parameter | bool] | None = None,
    applies: Condition | None = None,
    compares: bool = False,
    since: str = "0.1",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the decorated function as check *id* and make it a pytest test.

    The function asks by name for what it judges (one of ``SCOPES``, and ``params``); it asserts, or reports through
    :class:`~pytest_kvmcheck.findings.Findings`. *title* states the good state. Raises :class:`KvmcheckError` for an id that
    is taken or badly formed, an unknown argument, a parameter without bounds, or a docstring without its headings.
    """
    match = _ID.fullmatch(id)
    if not match:
        raise KvmcheckError(f"{id!r} is no check id: they read KVM-<AREA>-<three digits>")
    if title.lower().startswith(("ensure", "check")) or title.endswith("."):
        raise KvmcheckError(f"{id}: a title states the good state, without 'Ensure' and full stop: {title!r}")

    def register(function: Callable[..., None]) -> Callable[..., None]:
        origin = f"{function.__code__.co_filename}:{function.__name__}"
        known = REGISTRY.get(id)
        if known and known.origin != origin:
            raise KvmcheckError(f"{id} is registered twice: {known.origin} and {origin}")
        arguments = tuple(inspect.signature(function).parameters)
        scopes = [name for name in arguments if name in SCOPES]
        if unknown := set(arguments) - set(SCOPES) - {"params"}:
            raise KvmcheckError(f"{id}: nothing is called {', '.join(sorted(unknown))}; known are {', '.join(SCOPES)}, params")
        if not scopes:
            raise KvmcheckError(f"{id}: a check asks for one of {', '.join(SCOPES)}")
        try:
            parameters = {name: declared(name, value) for name, value in (params or {}).items()}
        except ValueError as exc:
            raise KvmcheckError(f"{id}: {exc}") from None
        entry = Check(
            id=id,
            title=title,
            severity=Severity(severity),
            area=match[1],
            scope=max(scopes, key=SCOPES.index),
            params=MappingProxyType({name: parameter.default for name, parameter in parameters.items()}),
            declared=MappingProxyType(parameters),
            reads=reads,
            applies=applies,
            function=function,
            arguments=arguments,
            sections=MappingProxyType(read_sections(id, inspect.getdoc(function) or "")),
            since=since,
            origin=origin,
            compares=compares,
        )
        REGISTRY[id] = entry

        def test(_kvm_subject: Callable[[], None] | None) -> None:
            if _kvm_subject is None:
                pytest.fail("a check of pytest-kvmcheck: run it with --kvmcheck", pytrace=False)
            _kvm_subject()

        functools.update_wrapper(test, function)
        del test.__wrapped__  # type: ignore[attr-defined]  # pytest would take its arguments for fixtures
        test.place_as = function  # type: ignore[attr-defined]  # where pytest says that the test is
        test.kvmcheck = entry  # type: ignore[attr-defined]
        return pytest.mark.kvmcheck(id=id, severity=str(entry.severity), area=entry.area)(test)

    return register


def read_sections(id: str, doc: str) -> dict[str, str]:
    """Return the sections of a check's docstring by heading. Raises :class:`KvmcheckError` when one is missing."""
    sections: dict[str, list[str]] = {"": []}
    current = ""
    for line in doc.splitlines():
        if line.rstrip(":") in HEADINGS:
            current = line.rstrip(":")
            sections[current] = []
        else:
            sections[current].append(line)
    missing = [heading for heading in HEADINGS[:3] if not "".join(sections.get(heading, [])).strip()]
    if missing:
        raise KvmcheckError(f"{id}: its docstring lacks {', '.join(missing)}")
    return {heading: inspect.cleandoc("\n".join(["", *lines])).strip() for heading, lines in sections.items() if heading}
