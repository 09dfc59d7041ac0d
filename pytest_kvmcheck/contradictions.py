"""Contradictions within a profile: demands that no host can meet at the same time, or that cancel each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: A parameter: check id and name.
Param = tuple[str, str]

Told = Callable[[str], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Contradiction:
    """Parameters that do not go together, as the predicate *holds* on their values says; *text* tells why."""

    params: tuple[Param, ...]
    holds: Callable[..., bool]
    text: str


def _more(low: Any, high: Any) -> bool:
    return low is not None and high is not None and low > high


#: All of them. Only those are judged whose checks the profile runs and whose parameters exist.
CONTRADICTIONS = (
    Contradiction(
        (("KVM-KSM-002", "ksm_policy"), ("KVM-KSM-003", "ksm_policy")),
        lambda running, boot: running != boot,
        "KVM-KSM-002 and KVM-KSM-003 want different ksm_policy: what runs now has to be what comes up at boot",
    ),
    Contradiction(
        (("KVM-KSM-002", "ksm_policy"), ("KVM-KSM-001", "ksm_policy")),
        lambda running, available: {running, available} == {"on", "off"},
        "KVM-KSM-001 and KVM-KSM-002 want different ksm_policy",
    ),
    Contradiction(
        (("KVM-CPU-011", "smt_policy"), ("KVM-PIN-007", "smt_pin_policy")),
        lambda smt, pins: smt == "off" and pins == "require",
        "SMT is to be off (KVM-CPU-011), and pins are to come in pairs of SMT siblings (KVM-PIN-007)",
    ),
    Contradiction(
        (("KVM-CPU-006", "nested_policy"), ("KVM-SEC-011", "nested_guests")),
        lambda host, guests: host == "on" and guests == "deny",
        "nesting is demanded of the host (KVM-CPU-006), and denied to its guests (KVM-SEC-011)",
    ),
    Contradiction(
        (("KVM-MEM-005", "latency_sensitive"), ("KVM-MEM-005", "allowed")),
        lambda sensitive, allowed: sensitive and not set(allowed) & {"never", "madvise"},
        "a latency-sensitive host needs transparent huge pages at never or madvise, and neither is allowed",
    ),
    Contradiction(
        (("KVM-NET-012", "forward_policy"), ("KVM-NET-012", "router")),
        lambda policy, router: policy == "off" and router,
        "the host is a router, and forwarding is to be off",
    ),
    Contradiction(
        (("KVM-STO-005", "min_retries"), ("KVM-STO-005", "max_retries")),
        _more,
        "min_retries is above max_retries",
    ),
    Contradiction((("KVM-DSK-010", "warn_pct"), ("KVM-DSK-010", "crit_pct")), _more, "warn_pct is above crit_pct"),
    Contradiction(
        (("KVM-MEM-012", "min_free_min_pct"), ("KVM-MEM-012", "min_free_max_pct")),
        _more,
        "min_free_min_pct is above min_free_max_pct",
    ),
    Contradiction(
        (("KVM-SVC-006", "min_shutdown_timeout_s"), ("KVM-SVC-006", "max_total_s")),
        _more,
        "one guest may take longer to shut down (min_shutdown_timeout_s) than all of them (max_total_s)",
    ),
    Contradiction(
        (("KVM-PIN-003", "exclusive_core"), ("KVM-PIN-010", "max_ratio")),
        lambda exclusive, ratio: exclusive and ratio is not None and ratio > 1,
        "cores are to belong to one vCPU (KVM-PIN-003), and CPUs may be overcommitted (KVM-PIN-010)",
    ),
)


def contradiction(told: Told) -> Contradiction | None:
    """Return the first contradiction in the parameters that *told* gives by check id (None: the check is not run)."""
    for item in CONTRADICTIONS:
        values = []
        for check_id, name in item.params:
            params = told(check_id)
            if params is None or name not in params:
                break
            values.append(params[name])
        else:
            if item.holds(*values):
                return item
    return None
