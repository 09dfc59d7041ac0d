"""Fixtures of the lab: the host that was frozen in good health, and clones of it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import fleet, image, judge, timeserver
from tests.lab.image import Image
from tests.lab.machine import CPU, Machine, Template, template, workshop
from tests.lab.scenarios import FAULTS, Scenario

#: Emulation takes a processor and a half each; more at a time only get slower.
AT_A_TIME = 2


def unable(reason: str) -> None:
    """Skip, or fail where nobody would notice."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"the lab cannot run here: {reason}", pytrace=False)
    pytest.skip(f"the lab cannot run here: {reason}")


@dataclass
class Lab:
    """What a test run works with."""

    image: Image
    place: Path

    def template(self, cpu: str = CPU) -> Template:
        """Return the frozen kvm01 with its guests. With another *cpu*, it was shut down and came up again on that one."""
        healthy = template(self.image, "sh /root/lab/setup.sh")
        return healthy if cpu == CPU else template(self.image, "true", cpu=cpu, disk=healthy.place / "disk.qcow2")

    def with_guest(self) -> Template:
        """Return the frozen kvm01 with guest01 alone, which can be reached by ssh."""
        return template(self.image, "sh /root/lab/guest.sh")

    def clone(self, origin: Template, place: str, name: str = "kvm01") -> Machine:
        """Return a running copy of *origin* whose guests run and whose clock is right."""
        machine = origin.clone(self.place / place, name)
        try:
            machine.run(f"/root/lab/wake.sh {time.time():.2f}")
        except BaseException:
            machine.stop()
            raise
        return machine


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The image, the time source and a directory for this run."""
    if reason := image.why_not():
        unable(reason)
    with timeserver.serving():
        yield Lab(image.image(), workshop())


@pytest.fixture
def clone(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[..., Machine]]:
    """Makes running copies of a template, by default of the healthy host; they end with the test."""
    made: list[Machine] = []

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
    """What a scenario did to the verdicts, and how long cloning, breaking and judging took (s)."""

    run: judge.Run
    turned: dict[str, str]
    clone_s: float
    fault_s: float

    @property
    def seconds(self) -> float:
        return self.clone_s + self.fault_s + self.run.seconds


def perform(lab: Lab, scenario: Scenario) -> Verdict:
    """Clone the healthy host, break the clone, judge it."""
    origin = lab.template(scenario.cpu)
    begin = time.monotonic()
    machine = lab.clone(origin, scenario.name)
    try:
        cloned = time.monotonic()
        if scenario.shell:
            machine.run(scenario.shell)
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
    return Verdict(run, judge.turned(run.results, judge.healthy(scenario.profile)), cloned - begin, broken - cloned)


class Stage:
    """Performs the scenarios of this run, several at a time, in the order in which they will be asked for."""

    def __init__(self, lab: Lab, scenarios: list[Scenario]) -> None:
        self._lab = lab
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        self._coming: dict[str, Future[Verdict]] = {
            scenario.name: self._pool.submit(perform, lab, scenario) for scenario in scenarios
        }

    def __call__(self, scenario: Scenario) -> Verdict:
        return self._coming[scenario.name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def verdict(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[[Scenario], Verdict]]:
    """What becomes of the verdicts in a scenario."""
    wanted = [item.callspec.params["scenario"] for item in request.session.items if "verdict" in getattr(item, "fixturenames", ())]
    for cpu in {scenario.cpu for scenario in wanted}:
        lab.template(cpu)
    stage = Stage(lab, wanted)
    yield stage
    stage.close()


@pytest.fixture
def ships(tmp_path: Path) -> Iterator[fleet.Fleet]:
    """An empty fleet."""
    if reason := fleet.why_not():
        unable(reason)
    with fleet.Fleet(tmp_path) as found:
        yield found
