"""Fixtures of the lab: the host that was frozen in good health, and clones of it."""

from __future__ import annotations

import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import emulator, fleet, image, judge
from tests.lab.lab import Lab, opened
from tests.lab.leftovers import workshop
from tests.lab.machine import Machine, SilentError, Template, stop_all
from tests.lab.scenarios import FAULTS, SCENARIOS, Scenario

#: Emulation takes a processor and a half each: several at a time only get slower, and run into time limits.
AT_A_TIME = 1


#: How long each scenario took.
TIMES = pytest.StashKey[dict[str, str]]()


#: What performs the scenarios, once it does.
STAGE = pytest.StashKey["Stage"]()


#: Which part of the faults is staged: ``2/3`` is the second of three, that is every third one from the second. All without it.
TURN = "LAB_TURN"


def turn(told: str, faults: Sequence[str]) -> set[str]:
    """Return the names of those *faults* whose turn it is. Raises ValueError for anything but ``NUMBER/OF``.

    >>> sorted(turn("2/3", ["a", "b", "c", "d", "e"])), turn("", ["a"])
    (['b', 'e'], {'a'})
    """
    if not told:
        return set(faults)
    number, of = map(int, told.split("/"))
    if not 1 <= number <= of:
        raise ValueError(f"{TURN}: {told}: expected 1/3, 2/3 or 3/3, or the like")
    return set(faults[number - 1 :: of])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Scenarios first: while they run, what others need is prepared. Faults whose turn it is not are deselected, and counted so.

    Where a machine fell silent, all is done once more with another copy of it.
    """
    mine = turn(os.environ.get(TURN, ""), [scenario.name for scenario in SCENARIOS])
    others = [
        item
        for item in items
        if isinstance(item, pytest.Function) and item.originalname == "test_broken" and _fault(item) not in mine
    ]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=f"^{SilentError.__name__}"))
    items.sort(key=lambda item: "verdict" not in getattr(item, "fixturenames", ()))


def _fault(item: pytest.Function) -> str:
    scenario = item.callspec.params.get("scenario") if hasattr(item, "callspec") else None
    return scenario.name if isinstance(scenario, Scenario) else ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell which machines fell silent, what could not be prepared, how long the scenarios took, and what emulated them."""
    stage = config.stash.get(STAGE, None)
    again = terminalreporter.stats.get("rerun", [])
    troubles = [(f"done once more: {report.nodeid}", "\n".join(re.findall("(?m)^E .*", report.longreprtext))) for report in again]
    troubles += [("left to the test that needs it", text) for text in (stage.troubles() if stage else ())]
    for title, text in troubles:
        terminalreporter.section(title)
        for line in text.splitlines():
            if "TCG doesn't support requested feature" not in line:
                terminalreporter.line(line)
    if times := config.stash.get(TIMES, None):
        told = os.environ.get(TURN, "")
        terminalreporter.section(f"scenarios, turn {told}" if told else "scenarios")
        for name, took in times.items():
            terminalreporter.line(f"{took}  {name}")
        used = emulator.chosen()
        terminalreporter.line(" ".join(filter(None, (used.version, used.note))))


def unable(reason: str) -> None:
    """Skip, or fail where nobody would notice."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"the lab cannot run here: {reason}", pytrace=False)
    pytest.skip(f"the lab cannot run here: {reason}")


@pytest.fixture(scope="session")
def place() -> Path:
    """The directory of this run. What runs that were killed have left is ended and removed."""
    return workshop(stop_all)


@pytest.fixture(scope="session")
def lab(place: Path) -> Iterator[Lab]:
    """The image, the time source and a directory for this run."""
    if reason := image.why_not():
        unable(reason)
    with opened(place) as found:
        yield found


@pytest.fixture
def clone(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Machine]]:
    """Makes running copies of a template, by default of the healthy host; they end with the test."""
    made: list[Machine] = []
    if stage := request.config.stash.get(STAGE, None):
        stage.finish()

    def clone(origin: Template | None = None, name: str = "kvm01") -> Machine:
        made.append(lab.clone(origin or lab.template(), f"{request.node.name}-{name}", name))
        return made[-1]

    yield clone
    for machine in made:
        machine.stop()
        shutil.rmtree(machine.place, ignore_errors=True)


@pytest.fixture
def kvm01(clone: Callable[..., Machine]) -> Machine:
    """A fresh copy of the healthy host."""
    return clone()


@dataclass(frozen=True)
class Verdict:
    """What a scenario did to the verdicts."""

    run: judge.Run
    turned: dict[str, str]


@dataclass(frozen=True)
class Performance:
    """A scenario that was performed, and how long cloning, breaking and judging took (s)."""

    run: judge.Run
    clone_s: float
    fault_s: float

    def __str__(self) -> str:
        parts = (self.clone_s, self.fault_s, self.run.seconds)
        took = "{:5.1f} s (clone {:.1f}, fault {:.1f}, run {:.1f})".format(sum(parts), *parts)
        return took + (f", stalled: {self.run.stalled}" if self.run.stalled else "")


def perform(lab: Lab, scenario: Scenario) -> Performance:
    """Clone the healthy host, break the clone, judge it."""
    origin = lab.template(scenario.cpu)
    begin = time.monotonic()
    machine = lab.clone(origin, scenario.name)
    try:
        cloned = time.monotonic()
        if scenario.shell:
            machine.run(scenario.shell, timeout_s=180)
        if scenario.fault:
            FAULTS[scenario.fault](machine)
        broken = time.monotonic()
        meanwhile = FAULTS[scenario.meanwhile] if scenario.meanwhile else None
        run = judge.check(
            machine,
            scenario.profile,
            *scenario.options,
            user=scenario.user,
            meanwhile=(lambda: meanwhile(machine)) if meanwhile else None,
        )
    finally:
        machine.stop()
        shutil.rmtree(machine.place, ignore_errors=True)
    return Performance(run, cloned - begin, broken - cloned)


class Stage:
    """Performs the scenarios of this run, several at a time, in the order in which they will be asked for.

    Then it does the *chores*: what other tests will need.
    """

    def __init__(self, lab: Lab, scenarios: list[Scenario], chores: list[Callable[[], object]], times: dict[str, str]) -> None:
        self._lab = lab
        self._times = times
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        self._evidence = self._pool.submit(lab.evidence, "root")
        self._coming = {scenario.name: self._pool.submit(perform, lab, scenario) for scenario in scenarios}
        self._good: dict[str, dict[tuple[str, str], str]] = {}
        self._chores = [self._pool.submit(chore) for chore in chores]

    def __call__(self, scenario: Scenario) -> Verdict:
        """Return what became of the verdicts in *scenario*."""
        # What failed is performed anew when it is asked for again.
        coming = self._coming.pop(scenario.name, None) or self._pool.submit(perform, self._lab, scenario)
        performance = coming.result()
        self._times[scenario.name] = str(performance)
        wait([self._evidence])
        if scenario.profile not in self._good:
            self._good[scenario.profile] = self._lab.good(scenario.profile)
        return Verdict(performance.run, judge.turned(performance.run.results, self._good[scenario.profile]))

    def finish(self) -> None:
        """Wait until nothing is being performed or made any more: others need the processors."""
        wait([*self._coming.values(), *self._chores])

    def troubles(self) -> list[str]:
        """Return why chores failed. The test that needs what they should have made makes it itself."""
        failed = (chore.exception() for chore in self._chores if chore.done() and not chore.cancelled())
        return ["".join(traceback.format_exception_only(exc)) for exc in failed if exc]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def verdict(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[[Scenario], Verdict]]:
    """What becomes of the verdicts in a scenario."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = [item.callspec.params["scenario"] for item in items if "verdict" in item.fixturenames]
    guests = any("with_guest" in item.fixturenames for item in items)
    chores: list[Callable[[], object]] = [lambda: lab.evidence("checker"), *([lambda: lab.evidence("guest01")] if guests else [])]
    stage = Stage(lab, wanted, chores, request.config.stash.setdefault(TIMES, {}))
    request.config.stash[STAGE] = stage
    yield stage
    stage.close()


@pytest.fixture
def ships(place: Path) -> Iterator[fleet.Fleet]:
    """An empty fleet."""
    if reason := fleet.why_not():
        unable(reason)
    with fleet.Fleet(place) as found:
        yield found
