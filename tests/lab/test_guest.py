"""A real KVM guest inside kvm01, reached by ssh through it: its clock source is the true kvm-clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.lab import judge
from tests.lab.conftest import Lab
from tests.lab.machine import Machine

CLOCK = "/sys/devices/system/clocksource/clocksource0/current_clocksource"


@pytest.fixture
def with_guest(lab: Lab, clone: Callable[..., Machine]) -> Machine:
    """kvm01 with guest01 running inside."""
    machine = clone(lab.with_guest())
    machine.wait_for_ssh(60, host="guest01")
    return machine


def of_guest(machine: Machine, name: str) -> dict[str, str]:
    """Judge *name* as a guest and return its outcomes."""
    run = judge.kvmcheck(machine.place / "run", machine.ssh_config, {"guests": {name: None}}, "--kvmcheck-profile=guest-linux")
    return {check: judge.describe(result) for (check, _), result in run.results.items()}


def test_kvm_clock(with_guest: Machine) -> None:
    assert with_guest.run(f"cat {CLOCK}; systemd-detect-virt", host="guest01").split() == ["kvm-clock", "kvm"]
    assert of_guest(with_guest, "guest01")["KVM-GST-002"].startswith("pass")


def test_another_clock(with_guest: Machine) -> None:
    with_guest.run(f"echo acpi_pm > {CLOCK}", host="guest01")
    assert judge.fits(of_guest(with_guest, "guest01")["KVM-GST-002"], "fail: acpi_pm")


def test_not_a_kvm_guest(kvm01: Machine) -> None:
    """kvm01 is a virtual machine too, but an emulated one: nothing is said about its clock."""
    assert of_guest(kvm01, "kvm01")["KVM-GST-002"].startswith("na")
