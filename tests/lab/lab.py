"""The healthy host, copies of it, and the evidence that it gave."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_kvmcheck.gather.script import build
from pytest_kvmcheck.probes import probes_for
from tests.lab import image, judge, timeserver
from tests.lab.files import digest, forget, made
from tests.lab.image import Image
from tests.lab.leftovers import workshop
from tests.lab.machine import CPU, Machine, Template, UnreachableError, stop_all, template

#: What is to be done on kvm01 after a thaw.
WAKE = Path(__file__).with_name("wake.sh").read_text()

#: What a host has done some time after it came up again: its services run, and libvirt has asked QEMU what it can do.
SETTLE = "systemctl is-system-running --wait >/dev/null || true; virsh -q capabilities >/dev/null"

#: Who asked for the evidence that is kept: an account of kvm01, or a guest of it.
ASKED = ("root", "checker", "guest01")


@dataclass
class Lab:
    """What a test run works with."""

    image: Image
    place: Path

    def template(self, cpu: str = CPU) -> Template:
        """Return the frozen kvm01 with its guests. With another *cpu*, it was shut down and came up again on that one."""
        healthy = template(self.image, "sh /root/lab/setup.sh")
        return healthy if cpu == CPU else template(self.image, SETTLE, cpu=cpu, disk=healthy.place / "disk.qcow2")

    def with_guest(self) -> Template:
        """Return the frozen kvm01 with guest01 alone, which can be reached by ssh."""
        return template(self.image, "sh /root/lab/guest.sh")

    def clone(self, origin: Template, place: str, name: str = "kvm01") -> Machine:
        """Return a running copy of *origin* whose guests run and whose clock is right."""
        machine = origin.clone(self.place / place, name)
        try:
            machine.run(f"NOW={time.time():.2f}\n{WAKE}", timeout_s=200)
        except BaseException:
            machine.stop()
            raise
        return machine

    @staticmethod
    def wait_for_guest(machine: Machine) -> None:
        """Wait until guest01 answers and its clock is right, and stays so.

        When it goes on, its chrony still believes in what it knew when it was frozen.
        """
        machine.wait_for_ssh(180, host="guest01")
        end, good = time.monotonic() + 180, 0
        while good < 3:
            now, tracking = machine.run("date +%s.%N; chronyc -n -c tracking", host="guest01").split("\n", 1)
            _, _, stratum, _, offset_s, *_ = tracking.split(",")
            right = stratum != "0" and abs(float(offset_s)) < 0.005 and abs(float(now) - time.time()) < 2
            good = good + 1 if right else 0
            if time.monotonic() > end:
                raise UnreachableError(f"the clock of guest01 does not become right: it is {now}, and chrony says {tracking}")
            machine.run(f"sleep 0.5{'' if right else '; chronyc makestep >&2 || true'}", host="guest01")

    def good(self, profile: str) -> dict[tuple[str, str], str]:
        """Return the outcomes of the healthy host: by ``healthy.yaml``, and by recorded evidence for checks that it lacks.

        So a check that nobody has judged yet is told once, by the test of the healthy host, and scenarios still tell what it does.
        """
        table = judge.healthy(profile)
        known = {check for check, _ in table}
        found = judge.replay(self.place / f"replay-{profile}", self.evidence("root"), profile).results
        return {key: result["outcome"] for key, result in found.items() if key[0] not in known} | table

    def evidence(self, asked: str) -> Path:
        """Return the sealed bundle of what the healthy host tells *asked*, or what its guest tells.

        It is kept beside the template, and made anew when the template or the probes are others.
        """
        origin, role = self._origin(asked)

        def make(place: Path) -> None:
            machine = self.clone(origin, f"recording-{asked}")
            try:
                if role == "guest":
                    self.wait_for_guest(machine)
                    inventory = judge.inventory_of_guest(asked)
                else:
                    inventory = judge.inventory_of_host(asked)
                profile = "guest-linux" if role == "guest" else "production"
                options = (f"--kvmcheck-profile={profile}", f"--kvmcheck-record={place / 'bundle'}")
                judge.kvmcheck(self.place / f"recorded-{asked}", machine.ssh_config, inventory, *options, state=machine.state)
            finally:
                machine.stop()
                shutil.rmtree(machine.place, ignore_errors=True)  # who tries again makes the same place

        return made(self._evidence_place(asked), make) / "bundle"

    def forget_evidence(self, asked: str) -> None:
        """Have it recorded anew by the next run: the emulation may have stalled during this one."""
        forget(self._evidence_place(asked))

    def _origin(self, asked: str) -> tuple[Template, str]:
        return (self.with_guest(), "guest") if asked == "guest01" else (self.template(), "host")

    def _evidence_place(self, asked: str) -> Path:
        origin, role = self._origin(asked)
        script = build(probes_for(role), "0" * 32)
        return self.image.place.with_name(f"evidence-{digest(origin.place.name.encode(), script.encode(), asked.encode())}")


@contextlib.contextmanager
def opened(place: Path | None = None) -> Iterator[Lab]:
    """Give the lab of the recipe as it is now: its image is built when it is not there, and its time source answers."""
    with timeserver.serving():
        yield Lab(image.image(), place or workshop(stop_all))
