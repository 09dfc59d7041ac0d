"""A real KVM guest inside kvm01, reached by ssh through it: its clock source is the true kvm-clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import judge, propose
from tests.lab.lab import Lab
from tests.lab.machine import Machine, SilentError

CLOCK = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
GOOD = judge.healthy("guest-linux")


@pytest.fixture
def with_guest(lab: Lab, clone: Callable[..., Machine]) -> Machine:
    """kvm01 with guest01 running inside."""
    machine = clone(lab.with_guest())
    lab.wait_for_guest(machine)
    return machine


def of_guest(machine: Machine, name: str) -> judge.Results:
    """Judge *name* as a guest, of which it is known that it lives."""
    inventory, options = judge.inventory_of_guest(name), ("--kvmcheck-profile=guest-linux",)
    found = judge.kvmcheck(machine.place / "run", machine.ssh_config, inventory, *options, state=machine.state).results
    if {result["cause"] for result in found.values()} == {"unreachable"}:
        raise SilentError(f"{name} cannot be reached any more\n{machine.state()}")
    if hurt := machine.run("sh /root/lab/hurt.sh"):
        raise SilentError(f"{name} was hurt by emulation: {hurt}")
    return found


def test_healthy(with_guest: Machine) -> None:
    """It is what the guest checks want to read: a KVM guest by systemd, with kvm-clock, the host's PTP clock and an agent."""
    told = with_guest.run(
        f"cat {CLOCK}; systemd-detect-virt; cat /sys/class/ptp/ptp*/clock_name; systemctl is-active qemu-guest-agent;"
        " ls /dev/virtio-ports; systemctl is-system-running; dmesg | grep -om1 'kvm-clock: Using msrs'",
        host="guest01",
    )
    assert told.splitlines() == [
        *("kvm-clock", "kvm", "KVM virtual PTP", "active", "org.qemu.guest_agent.0", "running", "kvm-clock: Using msrs")
    ]
    assert "#* PHC0" in with_guest.run("chronyc -n sources", host="guest01")
    found = of_guest(with_guest, "guest01")
    assert not judge.turned(found, GOOD), propose.told(found, GOOD)


def test_broken(with_guest: Machine) -> None:
    """Its chrony follows a server that does not answer, its agent is stopped, and its clock source is another one.

    A guest that really reads acpi_pm under two emulations leaves its vCPU with each look at the clock and loses minutes: here the
    kernel only says so for a moment, and a copy of what it said then is put in place of the file that says otherwise again.
    """
    with_guest.run(
        "systemctl -q stop qemu-guest-agent.service\n"
        "sed -i 's/^refclock .*/server 192.168.77.250/' /etc/chrony/chrony.conf; systemctl restart chrony\n"
        f"was=$(cat {CLOCK}); echo acpi_pm > {CLOCK}; cat {CLOCK} > /run/said; echo $was > {CLOCK}; mount --bind /run/said {CLOCK}",
        host="guest01",
    )
    turned = judge.turned(of_guest(with_guest, "guest01"), GOOD)
    assert turned.keys() == {f"KVM-GST-00{number}@guest01" for number in (2, 3, 5)}, propose.turns(turned)
    assert judge.fits(turned["KVM-GST-002@guest01"], "fail: acpi_pm")
    assert judge.fits(turned["KVM-GST-003@guest01"], "fail: guest01: chrony follows no source.")
    assert judge.fits(turned["KVM-GST-005@guest01"], "fail: ")


def test_not_a_kvm_guest(kvm01: Machine) -> None:
    """kvm01 is a virtual machine too, but an emulated one: nothing is said about its clock."""
    assert judge.describe(of_guest(kvm01, "kvm01")["KVM-GST-002", "kvm01"]).startswith("na")


def test_recorded(lab: Lab, tmp_path: Path) -> None:
    """Recorded evidence of the guest is judged like the guest."""
    found = judge.replay(tmp_path, lab.evidence("guest01"), "guest-linux").results
    if judge.turned(found, GOOD):
        lab.forget_evidence("guest01")
        pytest.fail(propose.told(found, GOOD))
