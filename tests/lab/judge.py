"""The command line under test, run on a machine as a user would run it; and what turned against the healthy host."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.lab.machine import Machine, SilentError

Result = dict[str, Any]

#: (check, subject) -> result
Results = dict[tuple[str, str], Result]

HEALTHY = Path(__file__).with_name("healthy.yaml")

#: What the guests of kvm01 are to their owner.
TAGS = {"web01": ["critical", "linux"], "db01": ["critical", "database", "linux"], "legacy01": ["linux"]}


@dataclass(frozen=True)
class Run:
    """What one run left. ``stalled``: how the machine looked after a run in which it had not answered in time."""

    rc: int
    output: str
    seconds: float
    results: Results
    stalled: str = ""


def kvmcheck(
    place: Path,
    ssh_config: Path,
    inventory: Mapping[str, Any] | None,
    *options: str,
    meanwhile: Callable[[], None] | None = None,
    state: Callable[[], str] | None = None,
    timeout_s: float = 400,
) -> Run:
    """Run ``pytest --kvmcheck`` on *inventory*, in a process of its own; *meanwhile* is called while it runs.

    When a probe timed out, it is run once more: this machine may just have been busy. A probe that hangs will hang again.

    *state* tells what the host looks like, of which it is known that it lives: raises :class:`SilentError` when it fell silent.
    """
    run = _kvmcheck(place, ssh_config, inventory, *options, meanwhile=meanwhile, timeout_s=timeout_s)
    told = [describe(result) for result in run.results.values()]
    silent = [text for text in told if text.startswith("unknown: lost")]
    if silent and state and not meanwhile:
        raise SilentError(f"{silent[0]}\n{state()}")
    late = [text for text in told if re.search("timed out|did not answer within", text)]
    if not late or meanwhile or any(option.startswith("--kvmcheck-record") for option in options):
        return run
    stalled = f"{late[0]}\n{state() if state else ''}"
    again = _kvmcheck(place, ssh_config, inventory, *options, timeout_s=timeout_s)
    return dataclasses.replace(again, stalled=stalled, seconds=run.seconds + again.seconds)


def _kvmcheck(
    place: Path,
    ssh_config: Path,
    inventory: Mapping[str, Any] | None,
    *options: str,
    meanwhile: Callable[[], None] | None = None,
    timeout_s: float,
) -> Run:
    place.mkdir(parents=True, exist_ok=True)
    if inventory is not None:
        (place / "inventory.yaml").write_text(yaml.safe_dump(dict(inventory)))
        options = ("--kvmcheck-inventory=inventory.yaml", *options)
    command = [
        *(sys.executable, "-m", "pytest", "--kvmcheck", "-p", "no:cacheprovider", f"--ssh-config={ssh_config}"),
        *("-p", "no:hypothesispytest"),  # users have none, and it takes a second to load
        *("-o", f"kvmcheck_host_timeout={timeout_s * 0.8:.0f}"),
        *("--kvmcheck-json=out.json", *options),
    ]
    # Without its bytecode, each run would compile the plugin and all checks anew.
    others = ("KVMCHECK", "PYTEST", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    environment |= {"XDG_STATE_HOME": str(place / "state")}
    other = threading.Thread(target=meanwhile) if meanwhile else None
    begin = time.monotonic()
    if other:
        other.start()
    done = subprocess.run(
        command, cwd=place, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
    )
    seconds = time.monotonic() - begin
    if other:
        other.join()
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    assert "INTERNALERROR" not in output, output
    assert (place / "out.json").exists(), output
    report = json.loads((place / "out.json").read_text())
    return Run(done.returncode, output, seconds, {(r["check"], r["subject"]): r for r in report["results"]})


def check(machine: Machine, profile: str = "production", *options: str, user: str = "root", **more: Any) -> Run:
    """Judge kvm01 by *profile*, asked by *user*."""
    inventory = inventory_of_host(user)
    place, options = machine.place / "run", (f"--kvmcheck-profile={profile}", *options)
    return kvmcheck(place, machine.ssh_config, inventory, *options, state=machine.state, **more)


def replay(place: Path, bundle: Path, profile: str = "production", *options: str) -> Run:
    """Judge recorded evidence: no machine is needed. It knows the names, roles and tags by which it was asked for."""
    return kvmcheck(place, Path(os.devnull), None, f"--hosts=bundle:{bundle}", f"--kvmcheck-profile={profile}", *options)


def inventory_of_host(user: str) -> dict[str, Any]:
    """Return the inventory of kvm01, asked by *user*."""
    return {"hosts": {"kvm01": {"target": f"ssh://{user}@kvm01"}}, "domains": TAGS}


def inventory_of_guest(name: str) -> dict[str, Any]:
    """Return the inventory of the guest *name*."""
    return {"guests": {name: None}}


def healthy(profile: str) -> dict[tuple[str, str], str]:
    """Return the outcome of each check on each subject of a healthy kvm01, as a person reading the host gives it.

    ``any`` is what depends on how busy the machine is that emulates: it is not compared.
    """
    table: dict[tuple[str, str], str] = {}
    for check_id, entry in yaml.safe_load(HEALTHY.read_text())[profile].items():
        for subject, outcome in entry.items():
            if subject != "why":
                table[check_id, subject] = outcome
    return table


def describe(result: Result) -> str:
    """Return outcome and reason in one line."""
    reason = [result["cause"], result["blocked_by"] and f"by {result['blocked_by']}", result["message"]]
    return f"{result['outcome']}: {' '.join(filter(None, reason))}"


def turned(results: Results, before: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """Return what is not as *before*: ``check@subject`` and how it is now; ``gone`` when it is not judged any more.

    Where the subjects of a check could not even be listed, its ``?`` speaks for all that are gone.
    """
    found = {
        f"{check_id}@{subject}": describe(result)
        for (check_id, subject), result in results.items()
        if before.get((check_id, subject)) not in (result["outcome"], "any")
    }
    unlisted = {check_id for check_id, subject in results if subject.endswith("/?")}
    found |= {
        f"{check_id}@{subject}": "gone"
        for check_id, subject in before
        if (check_id, subject) not in results and check_id not in unlisted
    }
    return dict(sorted(found.items()))


def fits(found: str | None, expected: str | None) -> bool:
    """Whether *found*, a value of :func:`turned`, is as *expected*: the outcome, and after a colon words it must contain."""
    if found is None or expected is None:
        return found is expected
    outcome, _, words = expected.partition(": ")
    return found.partition(":")[0] == outcome and words in found
