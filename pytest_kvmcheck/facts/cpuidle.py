r"""Idle states of each CPU: ``/sys/devices/system/cpu/cpu*/cpuidle`` and ``cpu*/power/pm_qos_resume_latency_us``.

Source: https://docs.kernel.org/admin-guide/pm/cpuidle.html. The limit of a CPU reads 0 when there is none, and n/a when no
latency at all is allowed.

>>> cpu = "/sys/devices/system/cpu"
>>> idle = parse_cpuidle({f"{cpu}/cpuidle/current_driver": "intel_idle\n", f"{cpu}/cpu0/power/pm_qos_resume_latency_us": "50\n",
...                       f"{cpu}/cpu0/cpuidle/state1/name": "C1\n", f"{cpu}/cpu0/cpuidle/state1/latency": "2\n",
...                       f"{cpu}/cpu0/cpuidle/state1/disable": "0\n", f"{cpu}/cpu0/cpuidle/state3/name": "C6\n",
...                       f"{cpu}/cpu0/cpuidle/state3/latency": "133\n", f"{cpu}/cpu0/cpuidle/state3/disable": "0\n"})
>>> idle.driver, idle.limits_us, idle.deepest(0).name
('intel_idle', {0: 50}, 'C1')
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpulist import MAX_CPUS
from pytest_kvmcheck.facts.honest import takes_any_line

_ROOT = "/sys/devices/system/cpu"
_STATE = re.compile(_ROOT + r"/cpu(\d{1,5})/cpuidle/state(\d{1,2})/(name|latency|disable)", re.ASCII)
_LIMIT = re.compile(_ROOT + r"/cpu(\d{1,5})/power/pm_qos_resume_latency_us", re.ASCII)


@dataclass(frozen=True)
class IdleState:
    """An idle state and how long it takes to leave it."""

    name: str
    latency_us: int
    enabled: bool


@dataclass(frozen=True)
class Cpuidle:
    """Idle states by CPU, shallow ones first, and the limits of single CPUs. ``driver`` is ``none`` where there is none."""

    driver: str
    states: Mapping[int, tuple[IdleState, ...]]
    limits_us: Mapping[int, int]

    def deepest(self, cpu: int) -> IdleState | None:
        """Return the slowest state that *cpu* may enter, by its own switches and its own limit."""
        limit = self.limits_us.get(cpu)
        allowed = [item for item in self.states.get(cpu, ()) if item.enabled and (limit is None or item.latency_us <= limit)]
        return max(allowed, key=lambda item: item.latency_us, default=None)


def _number(text: str, what: str) -> int:
    if not re.fullmatch(r"\d{1,10}", text.strip(), re.ASCII):
        raise ParseError(f"{what} is not a number: {text.strip()[:20]!r}")
    return int(text)


@takes_any_line("the name of a state may be any text")
def parse_cpuidle(files: Mapping[str, str]) -> Cpuidle:
    """Return the idle states. Raises :class:`ParseError`, also for a state that does not tell all of itself."""
    driver = files.get(f"{_ROOT}/cpuidle/current_driver", "").strip()
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", driver):
        raise ParseError(f"not an idle driver: {driver[:40]!r}")
    found: dict[int, dict[int, dict[str, str]]] = {}
    limits: dict[int, int] = {}
    for path, text in files.items():
        if (match := _STATE.fullmatch(path)) and int(match[1]) < MAX_CPUS:
            found.setdefault(int(match[1]), {}).setdefault(int(match[2]), {})[match[3]] = text
        elif match := _LIMIT.fullmatch(path):
            limit = -1 if text.strip() == "n/a" else _number(text, "pm_qos_resume_latency_us")
            if limit:
                limits[int(match[1])] = max(limit, 0)
    states: dict[int, tuple[IdleState, ...]] = {}
    for cpu, numbered in sorted(found.items()):
        listed = []
        for number, texts in sorted(numbered.items()):
            if (
                len(texts) < 3
                or not (name := texts["name"].strip())
                or not name.isprintable()
                or texts["disable"].strip() not in ("0", "1")
            ):
                raise ParseError(f"cpu{cpu}/cpuidle/state{number} does not tell name, latency and disable")
            listed.append(IdleState(name[:40], _number(texts["latency"], "latency"), texts["disable"].strip() == "0"))
        states[cpu] = tuple(listed)
    return Cpuidle(driver, states, limits)
