"""What the plugin costs a pytest that does not use it: start-up with and without it, side by side.

Run: ``python -m benchmarks.startup``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 15


def run(*args: str) -> float:
    """Return the seconds of one ``pytest`` with *args*, in an empty directory."""
    with tempfile.TemporaryDirectory() as place:
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "pytest", *args], cwd=place, capture_output=True, check=False)
        return time.monotonic() - begin


def main() -> None:
    """Measure and print."""
    for args in (("--version",), ("--collect-only", "-q")):
        pairs = [(run(*args), run("-p", "no:kvmcheck", *args)) for _ in range(ROUNDS)]
        with_it, without = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"pytest {' '.join(args):18} with {1000 * with_it:.0f} ms, without {1000 * without:.0f} ms:"
            f" {1000 * (with_it - without):+.0f} ms (medians of {ROUNDS})"
        )


if __name__ == "__main__":
    main()
