"""What many guests on a host, and many hosts in a cluster, cost to judge: seconds, peak memory and JSON, side by side in one run.

Run: ``python -m benchmarks.domains``. The evidence is this machine's, with guests made up, each with a name of its own.
The bars: 200 guests below 12 MB of JSON, 2,000 within 60 s and 2 GiB; 200 hosts in one cluster not larger than in clusters of ten.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.replay import Run, run
from pytest_kvmcheck.evidence import Evidence, Record
from pytest_kvmcheck.gather import bundle
from pytest_kvmcheck.gather.live import gather
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.targets import Target
from tests.casefile import domain_records

GUESTS = (100, 200, 400, 2000)
HOSTS, OF_TEN = 200, 10
AT = "2026-06-01T12:00:00+00:00"
DOMAIN = """<domain type='kvm'{live}><name>vm{n:04}</name><uuid>6d1a6e8a-0000-4000-8000-{n:012d}</uuid>
<memory unit='MiB'>2048</memory><vcpu placement='static'>4</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
<cpu mode='host-model'/><clock offset='utc'/><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' io='native'/><source file='/v/{n}a.qcow2'/>
<target dev='vda' bus='virtio'/></disk><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/v/{n}b.raw'/>
<target dev='sda' bus='scsi'/></disk><controller type='scsi' model='virtio-scsi'/>
<interface type='bridge'><mac address='52:54:00:{n:02x}'/><source bridge='br0'/><model type='virtio'/></interface>
<memballoon model='virtio'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>"""


def guests(count: int) -> list[Record]:
    """Return what libvirt tells of *count* guests, three of four running."""
    made = []
    for n in range(count):
        xml = DOMAIN.format(n=n, live="")
        xml = xml.replace(f"52:54:00:{n:02x}", ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0, *n.to_bytes(3))))
        stats = "".join(f"  vcpu.{vcpu}.state=1\n  vcpu.{vcpu}.time=1000000000\n" for vcpu in range(4))
        stats = f"Domain: 'vm{n:04}'\n  state.state=1\n  state.reason=1\n  vcpu.current=4\n  vcpu.maximum=4\n{stats}"
        more = {"state": "running (booted)\n", "stats": stats, "later": stats} if n % 4 else {"state": "shut off (shutdown)\n"}
        made.append({"xml": xml, "running": bool(n % 4), "autostart": True, **more})
    return list(domain_records(made))


def record(place: Path, here: Evidence, targets: Iterable[Target], domains: list[Record]) -> None:
    """Write a bundle of *targets* to *place*, each with the evidence of *here* and with *domains*."""
    records = {name: item for name, item in here.records.items() if not name.startswith(("virsh", "dom"))}
    records |= {item.probe: item for item in domains}
    targets = tuple(targets)
    evidence = [Evidence(target.name, {name: replace(item) for name, item in records.items()}) for target in targets]
    bundle.write(place, bundle.Manifest("benchmark", AT, AT, targets), evidence)


def judged(place: Path) -> tuple[Run, int, int]:
    """Judge the bundle at *place*; return what it took, the verdicts, and the bytes of JSON."""
    out = place.with_suffix(".json")
    took = run(place.parent, "--kvmcheck", f"--hosts=bundle:{place}", "--kvmcheck-profile=production", f"--kvmcheck-json={out}")
    text = out.read_text()
    return took, len(json.loads(text)["results"]), len(text)


def show(what: str, units: int, measured: tuple[Run, int, int]) -> None:
    """Print a line: what was measured, all in all and per unit."""
    took, verdicts, size = measured
    print(
        f"{what}: {verdicts} verdicts | {took.seconds:.1f} s by the clock, {took.cpu_s:.1f} s of CPU,"
        f" {1000 * took.cpu_s / units:.0f} ms each | {took.memory_mib:.0f} MiB"
        f" | JSON {size / 1e6:.1f} MB, {size / units / 1e3:.1f} kB each",
        flush=True,
    )


def main(counts: Iterable[int] = GUESTS) -> None:
    """Measure and print."""
    here = gather(Target("localhost", "local://"), Connection())
    with tempfile.TemporaryDirectory() as name:
        for count in counts:
            place = Path(name) / f"guests{count}"
            record(place, here, [Target("kvm01", "ssh://kvm01", cluster="c")], guests(count))
            show(f"{count} guests on a host", count, judged(place))
        for size in (OF_TEN, HOSTS):
            place = Path(name) / f"hosts{size}"
            targets = [Target(f"kvm{n:03}", f"ssh://kvm{n:03}", cluster=f"c{n // size}") for n in range(HOSTS)]
            record(place, here, targets, guests(4))
            show(f"{HOSTS} hosts in clusters of {size}", HOSTS, judged(place))


if __name__ == "__main__":
    main()
