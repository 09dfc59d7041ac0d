"""A host as the checks see it, and ``@fact``, by which its facts are read once and remembered."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pytest_kvmcheck.errors import EvidenceMissing
from pytest_kvmcheck.evidence import Evidence, Noted
from pytest_kvmcheck.targets import Target

T = TypeVar("T")


@dataclass(eq=False)
class Host:
    """A target and what it said. Facts are functions of it: ``ksm(host).run``.

    ``peers`` are the other hosts of its cluster; of a guest, the other guests of the run.
    """

    target: Target
    evidence: Evidence
    peers: tuple[Host, ...] = field(default=(), repr=False)
    summaries: dict[frozenset[frozenset[str]], Any] = field(default_factory=dict, repr=False)
    _facts: dict[Callable[..., Any], tuple[Any, EvidenceMissing | None, Noted]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The name by which reports call the host."""
        return self.target.name

    def __str__(self) -> str:
        return self.name


def fact(function: Callable[[Host], T]) -> Callable[[Host], T]:
    """Make *function* a fact: computed once a host; what it read is noted each time, and what it misses raised each time."""

    @functools.wraps(function)
    def remembered(host: Host) -> T:
        known = host._facts.get(function)
        if known is None:
            value: Any = None
            missing: EvidenceMissing | None = None
            with host.evidence.noting() as seen:
                try:
                    value = function(host)
                except EvidenceMissing as exc:
                    missing = exc
            known = host._facts[function] = (value, missing, seen.sealed())
        value, missing, read = known
        host.evidence.note(read)
        if missing:
            raise missing.with_traceback(None)
        return value  # type: ignore[no-any-return]

    return remembered
