"""Twenty facts of a host over ssh: plain testinfra on a multiplexed connection against our one trip, side by side.

Run: ``python -m benchmarks.gathering``. Needs sshd. Both sides read the same facts over the same proxy, turn by turn.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import testinfra

from benchmarks.delay import DelayProxy
from pytest_kvmcheck.gather.live import gather
from pytest_kvmcheck.gather.transport import Connection
from pytest_kvmcheck.probes import PROBES as PROBES_BY_ID
from pytest_kvmcheck.probes import Probe
from pytest_kvmcheck.targets import Target
from tests.live.sshd import Farm

ROUNDS = 5

#: The facts, each as a testinfra user writes it; all of them are among what our one trip brings.
FACTS: tuple[Callable[[Any], object], ...] = (
    lambda host: host.file("/proc/cmdline").content_string,
    lambda host: host.file("/proc/meminfo").content_string,
    lambda host: host.file("/sys/kernel/mm/ksm/run").content_string,
    lambda host: host.file("/sys/kernel/mm/transparent_hugepage/enabled").content_string,
    lambda host: host.file("/sys/devices/system/cpu/online").content_string,
    lambda host: host.file("/sys/devices/system/clocksource/clocksource0/current_clocksource").content_string,
    lambda host: (host.file("/dev/kvm").user, host.file("/dev/kvm").group, host.file("/dev/kvm").mode),
    lambda host: host.file("/etc/libvirt/libvirtd.conf").exists,
    lambda host: host.file("/etc/machine-id").content_string,
    lambda host: host.check_output("uname -r"),
    lambda host: host.check_output("hostname"),
    lambda host: host.check_output("cat /sys/devices/system/cpu/vulnerabilities/*"),
    lambda host: host.service("libvirtd").is_running,
    lambda host: host.service("libvirtd").is_enabled,
    lambda host: host.service("libvirt-guests").is_enabled,
    lambda host: host.package("libvirt-daemon").is_installed,
    lambda host: host.package("qemu-system-x86").is_installed,
    lambda host: host.interface("lo").addresses,
    lambda host: host.socket("tcp://16509").is_listening,
    lambda host: host.user("libvirt-qemu").exists and host.user("libvirt-qemu").groups,
)


#: The probes that bring these facts.
PROBES = (
    *("cmdline", "meminfo", "ksm", "thp", "cpu_lists", "clocksource", "dev_kvm", "libvirt_conf", "machine_id", "uname"),
    *("hostname", "vulnerabilities", "systemd_units", "packages", "ip_addr", "listeners", "qemu_user"),
)


def plain_testinfra(config: Path) -> float:
    """Return the seconds that testinfra takes for the facts over the open connection."""
    host = testinfra.get_host("ssh://target", ssh_config=str(config), controlpersist=0)
    begin = time.monotonic()
    for fact in FACTS:
        with contextlib.suppress(NotImplementedError, ValueError):  # a module that finds no systemd, a command it lacks
            fact(host)
    return time.monotonic() - begin


def ours(config: Path, probes: Sequence[Probe] | None = None) -> float:
    """Return the seconds that gathering takes, over the open connection if there is one; by default of all facts we know."""
    begin = time.monotonic()
    evidence = gather(Target("target", "ssh://target"), Connection(ssh_config=str(config)), probes=probes)
    seconds = time.monotonic() - begin
    if evidence.failure:
        raise evidence.failure
    return seconds


@contextlib.contextmanager
def opened(config: Path) -> Iterator[None]:
    """Keep a multiplexed connection open, as ControlMaster does."""
    subprocess.run(["ssh", "-F", config, "-o", "ControlMaster=yes", "-fN", "target"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ssh", "-F", config, "-O", "exit", "-q", "target"], check=False, stderr=subprocess.DEVNULL)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        farm = Farm(Path(name))
        try:
            farm.host("target")
            port = int(re.findall(r"Port (\d+)", farm.config.read_text())[-1])
            print(f"{len(FACTS)} facts, medians of {ROUNDS} rounds")
            for delay_ms in (0, 50):
                with DelayProxy(port, delay_ms / 1000) as proxied:
                    config = Path(name) / f"config{delay_ms}"
                    known = (Path(name) / "target.known_hosts").read_text().replace(f":{port}", f":{proxied}")
                    (Path(name) / "known").write_text(known)
                    text = re.sub(r"UserKnownHostsFile .*", f"UserKnownHostsFile {name}/known", farm.config.read_text())
                    control = f" ControlPath {name}/c{delay_ms}\n"
                    config.write_text(text.replace(f"Port {port}", f"Port {proxied}") + control)
                    cold = ours(config)
                    same = [PROBES_BY_ID[name] for name in PROBES]
                    with opened(config):
                        rows = [(plain_testinfra(config), ours(config, same), ours(config)) for _ in range(ROUNDS)]
                    theirs, mine, everything = (statistics.median(column) for column in zip(*rows, strict=True))
                    print(
                        f"{delay_ms:3} ms one way: testinfra {theirs:.2f} s | kvmcheck, the same facts {mine:.2f} s:"
                        f" {theirs / mine:.1f} times faster | all {len(PROBES_BY_ID)} probes {everything:.2f} s"
                        f" | with a connection of its own {cold:.2f} s"
                    )
        finally:
            farm.close()


if __name__ == "__main__":
    main()
