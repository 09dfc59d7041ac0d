r"""Which CPUs irqbalance leaves alone: its environment.

Source: irqbalance(1). IRQBALANCE_BANNED_CPUS (a mask) wins over IRQBALANCE_BANNED_CPULIST; while neither is set, irqbalance
leaves isolated and nohz_full CPUs alone by itself. Debian reads /etc/default/irqbalance, the Red Hat family and SUSE
/etc/sysconfig/irqbalance, others /etc/irqbalance.env; a drop-in of the unit may set both too.

>>> parse_banned({"/etc/sysconfig/irqbalance": "#IRQBALANCE_BANNED_CPUS=\nIRQBALANCE_BANNED_CPULIST=2-3\n"})
frozenset({2, 3})
>>> parse_banned({"/etc/systemd/system/irqbalance.service.d/x.conf": '[Service]\nEnvironment="IRQBALANCE_BANNED_CPUS=c"\n'})
frozenset({2, 3})
>>> parse_banned({"/etc/default/irqbalance": "#IRQBALANCE_ONESHOT=\n"})
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pytest_kvmcheck.facts.cpulist import parse_cpulist, parse_cpumask
from pytest_kvmcheck.facts.honest import empty_is_an_answer, takes_any_line
from pytest_kvmcheck.facts.shellvars import parse_assignments


@empty_is_an_answer("nothing is set")
@takes_any_line("sh and systemd pass over other lines")
def parse_banned(files: Mapping[str, str]) -> frozenset[int] | None:
    """Return the CPUs that the settings in *files* ban, None when they ban none. Raises :class:`ParseError`."""
    values: dict[str, str] = {}
    for path in sorted(files):  # drop-ins, below /etc/systemd, come last and win
        text = files[path]
        if path.startswith("/etc/systemd/"):
            text = re.sub(r"^\s*Environment\s*=\s*(\"?)(IRQBALANCE_\w+=[^\s\"]*)\1\s*$", r"\2", text, flags=re.MULTILINE)
        values |= parse_assignments(text)
    if mask := values.get("IRQBALANCE_BANNED_CPUS", ""):
        return parse_cpumask(mask)
    if cpus := values.get("IRQBALANCE_BANNED_CPULIST", ""):
        return parse_cpulist(cpus)
    return None
