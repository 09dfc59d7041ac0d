"""A user of the target without any right tries to forge what it answers, while it is gathered and judged."""

from __future__ import annotations

import base64
import gzip
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import Evidence
from pytest_kvmcheck.gather import live
from pytest_kvmcheck.gather.transport import Answer, Connection
from pytest_kvmcheck.gather.transport import run as really_run
from pytest_kvmcheck.probes import PROBES
from pytest_kvmcheck.targets import Target
from tests.live import attacker
from tests.live.conftest import Kvmcheck
from tests.live.sshd import Farm, fakes, with_path

#: Neither root nor the account that gathers, and nobody else's.
STRANGER = 61_234

OWN, OTHER = "6d1a6e8a-0000-4000-8000-000000000001", "6d1a6e8a-0000-4000-8000-000000000002"

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


def virsh(place: Path) -> str:
    """A virsh whose first domain is the stranger's: its description says what he wants, at the moment of asking."""
    return f"""
for last; do :; done
case "$*" in *" list "*--uuid) printf '%s\\n' {OWN} {OTHER} ''; exit ;; esac
printf '%s\\n' "$last" | tr ';' '\\n' | while read -r word rest; do
case "$word $rest" in
echo*) echo "$rest" ;;
uri*) printf '%s\\n\\n' "$VIRSH_DEFAULT_CONNECT_URI" ;;
list*) printf '%s\\n' {OWN} {OTHER} '' ;;
dumpxml*{OWN}) sleep 0.1; echo "<domain type='kvm'><name>own</name><uuid>{OWN}</uuid><description>"
  cat {place}/marks; echo '</description><memory>1024</memory></domain>' ;;
dumpxml*) echo "<domain type='kvm'><name>other</name><uuid>{OTHER}</uuid><memory>1024</memory></domain>" ;;
domstats*) echo "Domain: 'x'"; sleep 0.1; cat {place}/marks ;;
esac
done
"""


@contextmanager
def attacking(place: Path) -> Iterator[None]:
    """The stranger at work."""
    script = place / "attacker.py"
    script.write_text(Path(attacker.__file__).read_text())
    script.chmod(0o644)
    process = subprocess.Popen(
        [sys._base_executable, "-I", script, place],  # type: ignore[attr-defined]
        user=STRANGER,
        group=STRANGER,
        extra_groups=(),
        cwd="/",
        env={"PATH": os.environ["PATH"]},
    )
    try:
        for _ in range(200):
            if (place / "ready").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        assert process.poll() is None, "the attacker could not begin"
        yield
        assert process.poll() is None, "the attacker gave up"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the stranger's; pytest's own are closed to him."""
    with tempfile.TemporaryDirectory(prefix="kvmcheck-stranger-") as name:
        (Path(name) / "marks").touch()
        for path in (Path(name), Path(name) / "marks"):
            os.chown(path, STRANGER, STRANGER)
        yield Path(name)


@pytest.fixture
def target(farm: Farm, place: Path, tmp_path: Path) -> str:
    name = f"forged-{tmp_path.name.replace('_', '-')}"
    journal = f"sleep 0.1; echo '1764000000.000000 kvm01 kernel: Linux version'; cat {place}/marks"
    farm.host(name, login=with_path(fakes(tmp_path / "fakes", virsh=virsh(place), journalctl=journal)))
    return name


Gather = Callable[[str], tuple[Evidence, set[str]]]
ASKED = ("clock", "vulnerabilities", "time_daemons", "qemu_strays", "uname", "journal", "virsh", "domain", "domstats", "cmdline")


@pytest.fixture
def gather(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Gather:
    """Gather the probes that strangers have a part in; return the evidence, and all secrets of the reply."""

    def gather(name: str) -> tuple[Evidence, set[str]]:
        answers: list[Answer] = []

        def run(target: Target, command: str, connection: Connection) -> Answer:
            answers.append(really_run(target, command, connection))
            return answers[-1]

        monkeypatch.setattr(live, "run", run)
        connection = Connection(ssh_config=str(farm.config))
        probes = [PROBES[probe] for probe in ASKED]
        found = live.gather(Target(name, f"ssh://{name}"), connection, probes=probes)
        return found, secrets(answers[0].stdout)

    return gather


def secrets(reply: bytes) -> set[str]:
    """Return the secrets that mark a reply and its frames."""
    hello = re.search(rb"^@\w+ HELLO 2 (\S+) base64", reply, re.MULTILINE)
    assert hello, reply[:1000]
    found = {hello[1].decode()}
    for packed, body in re.findall(rb"^@\S+ BEGIN \S+( gzip)?[^\n]*\n([^@]*)", reply, re.MULTILINE):
        data = base64.b64decode(body)
        found.add((gzip.decompress(data) if packed else data).partition(b"\n")[0].decode())
    return found - {""}


def test_the_stranger_forges_nothing(target: str, place: Path, gather: Gather) -> None:
    """The script as it is: he never sees a secret, and what he writes stays within the answers it belongs to."""
    before, _ = gather(target)
    with attacking(place):
        found, used = gather(target)
    seen = set((place / "seen").read_text().split())
    assert len(used) > 5
    assert not used & seen
    assert any(attacker.FORGED in record.stdout for record in found.records.values()), "he had no part in any answer"
    for probe in ("vulnerabilities", "uname", "cmdline", f"domain:{OTHER}/live", f"domain:{OTHER}/saved", "virsh:all", "virsh:uri"):
        assert found.records[probe].stdout == before.records[probe].stdout, probe
        assert found.records[probe].cause is None
    assert before.records["virsh:uri"].stdout.split() == ["qemu:///system"]
    assert f"domain:{OWN}/live" in found.records
    assert not [name for name in found.records if "forged" in name]
    assert {name for name in found.records if name.startswith("domain:")} == {
        f"domain:{uuid}/{part}" for uuid in (OWN, OTHER) for part in ("live", "saved", "snapshots", "info", "state")
    }


def test_the_stranger_is_able(target: str, place: Path, gather: Gather, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attack on a script whose secret stands in an argument: he finds it, and what he forges is told as damage."""
    weak = "11111111-2222-4333-8444-555555555555"
    build = live.build
    monkeypatch.setattr(live, "build", lambda *args, **options: _weakened(build(*args, **options), weak))
    with attacking(place):
        found, used = gather(target)
    assert used == {weak}
    assert weak in (place / "seen").read_text()
    damaged = {name for name, record in found.records.items() if "arrived damaged" in record.stderr}
    assert damaged & {"vulnerabilities", "time_daemons", "qemu_strays", "journal", "domain", "domstats"}
    for name, record in found.records.items():
        if name in damaged:
            assert (record.cause, record.stdout) == (Cause.LOST, "")
    assert "forged" not in found.records["vulnerabilities"].stdout


def _weakened(script: str, secret: str) -> str:
    """The script with a secret that everybody reads in the arguments of its shells."""
    weaker = script.replace("rnd() {\n", f"rnd() {{ N={secret}; return\n", 1)
    assert weaker != script
    return weaker


def test_verdicts_beside_a_stranger_at_work(target: str, place: Path, farm: Farm, kvmcheck: Kvmcheck) -> None:
    """What passes beside him passes without him; nothing becomes a pass or drops out by what he says."""
    options = (f"--hosts=ssh://{target}", f"--ssh-config={farm.config}")
    before = {(result["check"], result["subject"]): result["outcome"] for result in kvmcheck(*options).results}
    with attacking(place):
        run = kvmcheck(*options)
    for result in run.results:
        was = before.get((result["check"], result["subject"]))
        assert result["outcome"] == was or result["outcome"] not in ("pass", "na"), (result, was)
    assert {(result["check"], result["subject"]) for result in run.results} >= set(before)
