"""What the plugin costs a pytest that does not use it: start-up with and without it, side by side.

Run: ``python -m benchmarks.startup``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 15


def run(*args: str) -> tuple[float, float]:
    """Return the milliseconds of one ``pytest`` with *args* in an empty directory: by the clock, and of CPU time."""
    with tempfile.TemporaryDirectory() as place:
        begin = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "pytest", *args], cwd=place, stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        return 1000 * (time.monotonic() - begin), 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    """Measure and print."""
    for args in (("--version",), ("--collect-only", "-q")):
        pairs = [(run(*args), run("-p", "no:kvmcheck", *args)) for _ in range(ROUNDS)]
        for what, index in (("clock", 0), ("CPU time", 1)):
            with_it, without = (statistics.median(one[index] for one in column) for column in zip(*pairs, strict=True))
            print(
                f"pytest {' '.join(args):18} {what:8}: with {with_it:.0f} ms, without {without:.0f} ms:"
                f" {with_it - without:+.0f} ms (medians of {ROUNDS})"
            )


if __name__ == "__main__":
    main()
