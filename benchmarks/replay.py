"""Verdicts a second from a bundle of 200 hosts, against as many empty parametrized tests, side by side; and peak memory.

Run: ``python -m benchmarks.replay``. The bundle is recorded from this machine and four domains, then repeated.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pytest_kvmcheck.evidence import Evidence
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.gather.live import gather
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.targets import Target
from tests.casefile import domain_records

HOSTS = 200
ROUNDS = 3
DOMAIN = """<domain type='kvm'><name>web{n}</name><uuid>6d1a6e8a-0000-4000-8000-{n:012d}</uuid><memory unit='MiB'>96</memory>
<vcpu placement='static'>2</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/v/{n}.qcow2'/>
<target dev='vda' bus='virtio'/></disk><interface type='bridge'><mac address='52:54:00:00:00:{n:02x}'/><source bridge='br0'/>
<model type='virtio'/></interface></devices></domain>"""


def record(place: Path) -> None:
    """Write the bundle of 200 hosts to *place*."""
    here = gather(Target("localhost", "local://"), Connection())
    domains = [{"xml": DOMAIN.format(n=n), "running": n < 2, "autostart": True} for n in range(4)]
    records = {name: item for name, item in here.records.items() if not name.startswith(("virsh", "domain"))}
    records |= {item.probe: item for item in domain_records(domains)}
    targets = [Target(f"kvm{n:03}", f"ssh://kvm{n:03}", cluster=f"c{n // 10}") for n in range(HOSTS)]
    evidence = [Evidence(target.name, {name: replace(item) for name, item in records.items()}) for target in targets]
    at = "2026-06-01T12:00:00+00:00"
    bundle.write(place, bundle.Manifest("benchmark", at, at, tuple(targets)), evidence)


class Run(NamedTuple):
    """What a run took: seconds by the clock and of CPU time (which a busy machine falsifies less), peak memory in MiB."""

    seconds: float
    cpu_s: float
    memory_mib: float


def run(place: Path, *args: str) -> Run:
    """Run pytest and measure it."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
    begin = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(place / "pycache")  # as for any user, modules are compiled once
    process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return Run(time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        record(place / "bundle")
        out = place / "out.json"
        args = (
            "--kvmcheck",
            f"--hosts=bundle:{place / 'bundle'}",
            "--kvmcheck-profile=production",
            f"--kvmcheck-json={out}",
        )
        run(place, *args)
        verdicts = len(json.loads(out.read_text())["results"])
        (place / "test_empty.py").write_text(
            f"import pytest\n\n\n@pytest.mark.parametrize('number', range({verdicts}))\ndef test_empty(number):\n    pass\n"
        )
        run(place, "test_empty.py")
        empty, ours = zip(*((run(place, "test_empty.py"), run(place, *args)) for _ in range(ROUNDS)), strict=True)
        print(f"{HOSTS} hosts, {verdicts} verdicts, medians of {ROUNDS} rounds")
        for what, index in (("clock", 0), ("CPU time", 1)):
            theirs, mine = (statistics.median(one[index] for one in column) for column in (empty, ours))
            speed = f"{verdicts / mine:.0f} verdicts/s | ratio {mine / theirs:.2f}"
            print(f"{what}: empty tests {theirs:.2f} s | kvmcheck {mine:.2f} s, {speed}")
        most = [max(one.memory_mib for one in column) for column in (empty, ours)]
        print(f"peak memory: empty tests {most[0]:.0f} MiB | kvmcheck {most[1]:.0f} MiB")


if __name__ == "__main__":
    main()
