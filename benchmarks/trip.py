"""The whole trip against its bare commands: what framing, bounds and time limits cost on the target itself.

Run: ``python -m benchmarks.trip [--ssh-config FILE] [HOST]``; without a host, this machine is asked. Both sides run the same
commands in one session, turn by turn; seconds are the target's own. The bar is a ratio of 1.3.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from collections.abc import Sequence

from pytest_kvmcheck.gather.script import HELPERS, build
from pytest_kvmcheck.probes import Probe, probes_for

ROUNDS = 5
NONCE = "0123456789abcdef"


def bare(probes: Sequence[Probe]) -> str:
    """Return the commands of *probes*, one after the other, with nothing around them."""
    lines = [
        "exec </dev/null >/dev/null 2>&1",
        f"LC_ALL=C PATH=$PATH:/usr/sbin:/sbin N={NONCE} S= SUDO=",
        "export LC_ALL PATH N S SUDO",
        HELPERS,
    ]
    for probe in sorted(probes, key=lambda probe: probe.last):
        script = f"( {probe.script}\n)"
        lines.append(f"if {probe.when}; then {script}; fi" if probe.when else script)
    return "\n".join(lines)


def seconds(shell: Sequence[str], script: str) -> float:
    """Return the seconds that *script* takes in a shell of its own on the target."""
    timed = 'read -r a _ </proc/uptime; sh -c "$1" >/dev/null 2>&1; read -r b _ </proc/uptime; echo "$a $b"'
    words = " ".join("'" + word.replace("'", "'\\''") + "'" for word in ("sh", "-c", timed, "sh", script))
    done = subprocess.run([*shell, "sh"], input=f"exec {words}\n", text=True, capture_output=True, check=True, timeout=600)
    begin, end = done.stdout.split()
    return float(end) - float(begin)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host", nargs="?")
    parser.add_argument("--ssh-config")
    options = parser.parse_args()
    shell = ["env"]
    if options.host:
        shell = ["ssh", "-T", *(["-F", options.ssh_config] if options.ssh_config else []), options.host]
    probes = probes_for("host")
    framed, plain = [], []
    for number in range(ROUNDS):
        framed.append(seconds(shell, build(probes, NONCE)))
        plain.append(seconds(shell, bare(probes)))
        print(f"round {number + 1}: {framed[-1]:.2f} s with everything around, {plain[-1]:.2f} s bare", flush=True)
    a, b = statistics.median(framed), statistics.median(plain)
    print(f"{len(probes)} probes: median {a:.2f} s against {b:.2f} s bare: ratio {a / b:.2f} (bar: 1.3)")


if __name__ == "__main__":
    main()
