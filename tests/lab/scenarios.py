"""The faults of ``scenarios.yaml``, and those that cannot be caused from inside the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.lab.machine import CPU, Machine


def unplug(machine: Machine) -> None:
    """Take one path of the LUN away, and wait until the host has noticed."""
    machine.qmp("device_del", id="path1")
    machine.run("for tenth in $(seq 100); do [ $(ls -d /sys/block/sd* | wc -l) = 1 ] && exit; sleep 0.1; done; exit 1")


def freeze(machine: Machine) -> None:
    """Stop the machine's processors."""
    machine.qmp("stop")


def freeze_half_way(machine: Machine) -> None:
    """Stop the processors as soon as the console says that a part of the reply was given."""
    end = time.monotonic() + 120
    while "half-way" not in machine.console() and time.monotonic() < end:
        time.sleep(0.05)
    machine.qmp("stop")


def cut_link(machine: Machine) -> None:
    """Cut the management link."""
    machine.qmp("set_link", name="n0", up=False)


FAULTS: Mapping[str, Callable[[Machine], None]] = {
    function.__name__: function for function in (unplug, freeze, freeze_half_way, cut_link)
}


@dataclass(frozen=True)
class Scenario:
    """One fault, as an entry of ``scenarios.yaml`` says."""

    name: str
    what: str
    turns: Mapping[str, str] = field(default_factory=dict)
    shell: str = ""
    fault: str = ""
    meanwhile: str = ""
    should: tuple[str, ...] = ()
    profile: str = "production"
    user: str = "root"
    cpu: str = CPU
    options: tuple[str, ...] = ()


#: What is judged without being broken.
HEALTHY = Scenario("healthy", "nothing is broken")

SCENARIOS = tuple(Scenario(**entry) for entry in yaml.safe_load(Path(__file__).with_name("scenarios.yaml").read_text()))
