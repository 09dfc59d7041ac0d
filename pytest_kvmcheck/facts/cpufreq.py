r"""What governs the frequency of each CPU: ``/sys/devices/system/cpu/cpu*/cpufreq``.

Source: https://docs.kernel.org/admin-guide/pm/cpufreq.html, intel_pstate.html and amd-pstate.html there.

>>> cpu = "/sys/devices/system/cpu"
>>> found = parse_cpufreq({f"{cpu}/cpu0/cpufreq/scaling_driver": "intel_pstate\n", f"{cpu}/intel_pstate/no_turbo": "0\n",
...                        f"{cpu}/cpu0/cpufreq/scaling_governor": "powersave\n",
...                        f"{cpu}/cpu0/cpufreq/energy_performance_preference": "balance_performance\n"})
>>> found.policies[0]
Policy(driver='intel_pstate', governor='powersave', preference='balance_performance')
>>> found.turbo
True
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import ParseError
from pytest_kvmcheck.facts.cpulist import MAX_CPUS

_ROOT = "/sys/devices/system/cpu"
_PATH = re.compile(_ROOT + r"/cpu(\d{1,5})/cpufreq/(scaling_driver|scaling_governor|energy_performance_preference)", re.ASCII)


@dataclass(frozen=True)
class Policy:
    """The policy of a CPU. ``preference`` (EPP) is empty where the driver has none; it may be a number (0 is performance)."""

    driver: str
    governor: str
    preference: str

    @property
    def hardware(self) -> bool:
        """Whether the processor itself chooses the frequency: ``powersave`` is then no fixed lowest one."""
        return self.driver in ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")


@dataclass(frozen=True)
class Cpufreq:
    """Policies by CPU, and whether turbo is allowed (None when the driver has no such switch)."""

    policies: Mapping[int, Policy]
    turbo: bool | None


def _word(text: str, what: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,40}", text.strip()):
        raise ParseError(f"{what} is no word: {text.strip()[:40]!r}")
    return text.strip()


def parse_cpufreq(files: Mapping[str, str]) -> Cpufreq:
    """Return the policies of the CPUs in *files*. Raises :class:`ParseError`."""
    found: dict[int, dict[str, str]] = {}
    for path, text in files.items():
        match = _PATH.fullmatch(path)
        if match and int(match[1]) < MAX_CPUS:
            found.setdefault(int(match[1]), {})[match[2]] = _word(text, match[2])
    for cpu, words in found.items():
        if "scaling_driver" not in words or "scaling_governor" not in words:
            raise ParseError(f"cpu{cpu}/cpufreq tells no driver or no governor")
    if not found:
        raise ParseError("no CPU has a policy")
    return Cpufreq(
        {
            cpu: Policy(words["scaling_driver"], words["scaling_governor"], words.get("energy_performance_preference", ""))
            for cpu, words in sorted(found.items())
        },
        _turbo(files),
    )


def _turbo(files: Mapping[str, str]) -> bool | None:
    for path, on in ((f"{_ROOT}/intel_pstate/no_turbo", "0"), (f"{_ROOT}/cpufreq/boost", "1")):
        text = files.get(path)
        if text is not None:
            if text.strip() not in ("0", "1"):
                raise ParseError(f"{path} is neither 0 nor 1: {text.strip()[:20]!r}")
            return text.strip() == on
    return None
