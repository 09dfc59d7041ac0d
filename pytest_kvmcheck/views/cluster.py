"""A cluster: the hosts between which guests may move; and what a host is beside its peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pytest_kvmcheck.errors import EvidenceMissing
from pytest_kvmcheck.views.host import Host

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Cluster:
    """Hosts that are judged together, sorted by name."""

    name: str
    hosts: tuple[Host, ...]

    def each(self, ask: Callable[[Host], T]) -> tuple[dict[str, T], EvidenceMissing | None]:
        """Ask every host; return the answers by host name, and the first :class:`EvidenceMissing` met.

        A rule can thus fail on what it knows before it says "unknown" for what it does not.
        """
        answers: dict[str, T] = {}
        missing: EvidenceMissing | None = None
        for host in self.hosts:
            try:
                answers[host.name] = ask(host)
            except EvidenceMissing as exc:
                missing = missing or EvidenceMissing(exc.cause, f"{host}: {exc.detail}", exc.probe, exc.blocked_by)
        return answers, missing

    def __str__(self) -> str:
        return self.name


def acquaint(hosts: Sequence[Host]) -> None:
    """Let the hosts of each cluster know their peers, and likewise the guests; guests without a cluster are peers of each other."""
    circles: dict[tuple[str, str], list[Host]] = {}
    for host in hosts:
        if host.target.cluster or host.target.role == "guest":
            circles.setdefault((host.target.role, host.target.cluster), []).append(host)
    for circle in circles.values():
        for host in circle:
            host.peers = tuple(other for other in circle if other is not host)
