"""Conditions: when a check has something to judge. Each returns the reason why not, or None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_kvmcheck.registry import Condition
from pytest_kvmcheck.views.host import Host
from pytest_kvmcheck.views.time import virtualization


def all_of(*conditions: Condition) -> Condition:
    """Return a condition that holds when all of *conditions* do; the first reason against is given."""

    def combined(**subject: Any) -> str | None:
        for condition in conditions:
            if reason := condition(**subject):
                return reason
        return None

    return combined


def condition(function: Callable[..., str | None]) -> Condition:
    """Let *function* ask by name for what it needs of a subject, as checks do."""
    import inspect

    names = tuple(inspect.signature(function).parameters)

    def adapted(**subject: Any) -> str | None:
        return function(**{name: subject[name] for name in names})

    adapted.__doc__ = function.__doc__
    return adapted


@condition
def bare_metal(host: Host) -> str | None:
    """Hold on machines that are no virtual ones. Reads ``detect_virt``."""
    kind = virtualization(host)
    return None if kind == "none" else f"the host is a virtual machine ({kind})"
