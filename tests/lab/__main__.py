"""The lab by hand: ``python -m tests.lab up|evidence|propose``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from tests.lab import image, judge
from tests.lab.lab import ASKED, Lab, opened
from tests.lab.propose import table


def up(lab: Lab, where: Path) -> None:
    """Keep a healthy kvm01 running until it is interrupted; started again when it ends."""
    for number in range(100):
        machine = lab.clone(lab.template(), f"kept{number}")
        try:
            fresh = where.with_name(f".{where.name}.new")
            fresh.write_text(machine.ssh_config.read_text())
            fresh.replace(where)
            print(f"ssh -F {where} kvm01      # or checker@kvm01; QEMU is process {machine.process.pid}", flush=True)
            machine.process.wait()
            print("kvm01 ended:", (machine.place / "qemu.log").read_text()[-500:], file=sys.stderr, flush=True)
        finally:
            machine.stop()


def propose(lab: Lab, profile: str, user: str, *, live: bool) -> None:
    """Print what healthy.yaml lacks, or says otherwise than a run of today."""
    bundle = None if live else lab.evidence(user)
    if bundle is None:
        run = judge.check(lab.clone(lab.template(), "proposing"), profile, user=user)
    else:
        run = judge.replay(lab.place / "propose", bundle, profile)
    found = table(run.results, judge.healthy(profile), bundle)
    print(f"{profile}:\n{found}" if found else f"# {profile}: healthy.yaml says what was found.")


def main(arguments: list[str]) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser("python -m tests.lab", description="The healthy kvm01, for those who write checks.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("up", help="keep a healthy kvm01 running until interrupted; print how to reach it")
    one.add_argument("--ssh-config", type=Path, default=Path("kvm01.ssh_config"), help="where to write how to reach it")
    one = commands.add_parser("evidence", help="print where the recorded evidence is, for --hosts=bundle:...; record it if need be")
    one.add_argument("asked", nargs="*", choices=[*ASKED, []], help=f"whose: {', '.join(ASKED)} (default: all)")
    one = commands.add_parser("propose", help="print what healthy.yaml lacks or says otherwise, ready to be judged and pasted")
    one.add_argument("--profile", default="production")
    one.add_argument("--user", default="root", choices=ASKED)
    one.add_argument("--live", action="store_true", help="ask a fresh kvm01, not the recorded evidence")
    asked = parser.parse_args(arguments)
    if reason := image.why_not():
        print(f"the lab cannot run here: {reason}", file=sys.stderr)
        return 1
    with opened() as lab:
        begin = time.monotonic()
        if asked.command == "up":
            up(lab, asked.ssh_config.absolute())
        elif asked.command == "evidence":
            for name in asked.asked or ASKED:
                print(f"{name:8} --hosts=bundle:{lab.evidence(name)}", flush=True)
        else:
            propose(lab, asked.profile, asked.user, live=asked.live)
        print(f"# {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
