"""Twenty ssh targets at once, some of them in a bad way."""

from __future__ import annotations

import collections
import re
from pathlib import Path

from tests.lab import judge
from tests.lab.fleet import Fleet

SLOW_S = 20

#: Speaks like our script, in frames that are none, forges a screen, and does not stop.
HOSTILE = r"""
printf '@00000000000000000000000000000000 HELLO 2 00000000-0000-4000-8000-000000000000 base64 uid=0 sudo=off\n'
printf '\033]0;owned\007\033[2J'
printf '@00000000-0000-4000-8000-000000000000 BEGIN cmdline\n\377\000\n@00000000-0000-4000-8000-000000000000 DONE\n'
yes '@00000000-0000-4000-8000-000000000000 END cmdline 1,1 !0' | head -c 30000000
exec sh -c "$SSH_ORIGINAL_COMMAND" | head -c 200
"""


def test_fleet(ships: Fleet, tmp_path: Path) -> None:
    """The dead, the slow and the hostile cost the others nothing; it takes as long as the slowest living one."""
    for number in range(1, 16):
        ships.host(f"h{number:02d}")
    ships.host("slow", login=f'sleep {SLOW_S}; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    ships.host("hostile", login=HOSTILE)
    ships.host("closed", alive="closed")
    ships.host("absent", alive="absent")
    ships.host("mute", alive="mute")
    assert len(ships.names) == 20

    dead = ("closed", "absent", "mute", "hostile")
    run = judge.kvmcheck(tmp_path, ships.ssh_config, {"hosts": dict.fromkeys(ships.names)})

    outcomes = collections.defaultdict(set)
    judged = collections.defaultdict(set)
    for (check, subject), result in run.results.items():
        host = result["host"]
        outcomes[host].add(result["outcome"])
        judged[host].add(check)
        # They are one machine. What lives on it, its domains for one, may come and go meanwhile.
        if subject == "h01":
            for twin in ("h07", "h15", "slow"):
                same = run.results[check, twin]
                assert same["outcome"] == result["outcome"], (result, same)
    for name in dead:
        assert outcomes[name] == {"unknown"}, name
    for name in ships.names:
        assert judged[name] == judged["h01"], name
    assert "pass" in outcomes["slow"]
    assert "\033]0;owned" not in run.output
    # Each is told with the time after which it was done, the last one with all: a living one sets the pace.
    took = re.search(r"^gathering  20 hosts in ([\d.]+) s", run.output, re.MULTILINE)
    assert took, run.output[:2000]
    after = {name: float(seconds) for name, seconds in re.findall(r"^gathering  (\w+) ([\d.]+) s", run.output, re.MULTILINE)}
    assert float(took[1]) > SLOW_S
    assert max(after[name] for name in dead) < float(took[1]), after
    assert run.seconds < float(took[1]) * 1.5 + 10
