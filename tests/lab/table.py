"""Write what the lab has shown: ``python -m tests.lab.table`` makes docs/lab.md and pytest_kvmcheck/tried.yaml.

The lab's tests hold every line of it against a real host: exactly these verdicts turn, and no other.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from pytest_kvmcheck import catalog
from tests.lab import judge
from tests.lab.scenarios import SCENARIOS, Scenario

DISTRIBUTION = "Debian 12"

HEAD = f"""\
# The lab: what notices which fault

`nox -s lab` boots a whole KVM host ({DISTRIBUTION} under emulation, with a working `/dev/kvm`, two NUMA nodes, huge pages,
multipath, chrony and running guests), clones it for every fault below, breaks the clone, and judges it with the profile
named. Exactly the verdicts listed turn against those of the healthy host, and no other: `pytest tests/lab` fails
otherwise. What the healthy host is judged, and why, stands in `tests/lab/healthy.yaml`.

This page is generated from `tests/lab/scenarios.yaml` by `python -m tests.lab.table`.
"""

LETTERS = {"fail": "F", "warn": "W", "unknown": "?", "na": "-", "pass": "P", "gone": "."}


def notices(scenario: Scenario, *outcomes: str) -> str:
    """Return the checks that turn to one of *outcomes*, each once."""
    found = {name.split("@")[0]: turned for name, turned in scenario.turns.items() if turned.split(":")[0] in outcomes}
    return ", ".join(sorted(found))


def faults() -> str:
    lines = [
        "## The faults",
        "",
        "| fault | what is broken | profile | fail or warn | unknown | not applicable any more | should notice, not written yet |",
        "|---|---|---|---|---|---|---|",
    ]
    for scenario in SCENARIOS:
        unknown = sorted({name.split("@")[0] for name, turned in scenario.turns.items() if turned.startswith("unknown")})
        shown = ", ".join(unknown).replace("everything", "all").replace("others", "and others")
        cells = (
            f"`{scenario.name}`",
            scenario.what,
            scenario.profile,
            notices(scenario, "fail", "warn") or ("nothing" if not unknown else ""),
            shown,
            notices(scenario, "na", "gone"),
            ", ".join(scenario.should),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def matrix() -> str:
    """Return the table check x scenario. A host that cannot be reached is all unknown and not shown."""
    shown = [scenario for scenario in SCENARIOS if "everything" not in scenario.turns]
    checks = sorted({name.split("@")[0] for scenario in shown for name in scenario.turns} - {"others"})
    lines = [
        "## Check by fault",
        "",
        "F fail, W warn, ? unknown, - not applicable, . not judged any more; the worst of a check's subjects.",
        "",
        f"| check | {' | '.join(str(number) for number in range(1, len(shown) + 1))} |",
        f"|---|{'---|' * len(shown)}",
    ]
    for check in checks:
        row = []
        for scenario in shown:
            turned = {text.split(":")[0] for name, text in scenario.turns.items() if name.split("@")[0] == check}
            row.append(next((letter for outcome, letter in LETTERS.items() if outcome in turned), " "))
        lines.append(f"| {check} | {' | '.join(row)} |")
    lines += ["", *(f"{number}. `{scenario.name}`: {scenario.what}" for number, scenario in enumerate(shown, 1))]
    return "\n".join(lines)


def unproven() -> str:
    """Return the checks that find nothing wrong with the healthy host, and that no fault makes fail or warn."""
    wrong = ("fail", "warn")
    healthy = [item for profile in {scenario.profile for scenario in SCENARIOS} for item in judge.healthy(profile).items()]
    bad = {name.split("@")[0] for scenario in SCENARIOS for name, to in scenario.turns.items() if to.startswith(wrong)}
    bad |= {check for (check, _), outcome in healthy if outcome in wrong}
    never = ", ".join(sorted({check for (check, _), _ in healthy} - bad))
    return f"## Not seen to fail yet\n\nNeither on the healthy host, of which a part is not well, nor by a fault above: {never}."


def page() -> str:
    """Return the whole page."""
    return "\n\n".join([HEAD.rstrip(), faults(), matrix(), unproven()]) + "\n"


def tried() -> str:
    """Return on which living host each check was judged: its outcomes on the healthy one, and the faults that it noticed."""
    profiles = sorted(yaml.safe_load(judge.HEALTHY.read_text()))
    found: dict[str, dict[str, object]] = {}
    for check in sorted(catalog.load()):
        outcomes = {outcome for profile in profiles for (name, _), outcome in judge.healthy(profile).items() if name == check}
        faults = [
            item.name
            for item in SCENARIOS
            if any(name.split("@")[0] == check and turned.startswith(("fail", "warn")) for name, turned in item.turns.items())
        ]
        found[check] = {"on": DISTRIBUTION, "outcomes": sorted(outcomes - {"any"}), "faults": faults} if outcomes else {}
    head = "# Which checks were tried on a living host. Generated by python -m tests.lab.table, and held by the lab's tests.\n"
    return head + yaml.safe_dump(found, width=130)


FILES = {"docs/lab.md": page, "pytest_kvmcheck/tried.yaml": tried}

if __name__ == "__main__":
    for path, make in FILES.items():
        Path(__file__).parents[2].joinpath(path).write_text(make())
