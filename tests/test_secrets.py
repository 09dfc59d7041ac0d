"""Seeded secrets in the answers of a whole host go through a real run, and nothing of them is in what it leaves or prints."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import canaries
from tests.gather.test_canaries import _shown, given, specimens

#: Stands for two targets: one whose answers are those of the file, one that cannot be reached and tells a secret with it. In a
#: worker of xdist it keeps what that was given.
PLUGIN = """
import json, os, shutil
from pathlib import Path
from pytest_kvmcheck import plan
from pytest_kvmcheck.errors import Cause, EvidenceMissing
from pytest_kvmcheck.evidence import Evidence, Record
from pytest_kvmcheck.gather import live

GIVEN = json.loads(Path(os.environ["CANARIES"]).read_text())

def gather(target, connection, **options):
    if target.name == "dead":
        return Evidence(target.name, failure=EvidenceMissing(Cause.UNREACHABLE, GIVEN["failure"]))
    if target.name == "broken":
        raise RuntimeError(GIVEN["failure"])
    records = {name: Record(name, stdout, rc, stderr) for name, (stdout, rc, stderr) in GIVEN["records"].items()}
    return Evidence(target.name, records)

live.gather = gather
if os.environ.get("UNREDACTED"):
    plan.redact_record = lambda record, key: record
    plan.redact = lambda text, key: text

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        place = Path(os.environ["CANARIES"]).parent / "worker" / config.workerinput["workerid"]
        place.mkdir(parents=True)
        (place / "input").write_text(repr(config.workerinput))
        [bundle] = [value for key, value in config.workerinput.items() if "kvmcheck" in key]
        shutil.copytree(bundle, place / "bundle")
"""


@dataclass
class Host:
    """Answers with secrets, and the secrets."""

    records: dict[str, tuple[str, int, str]]
    secrets: list[tuple[str, str]]


@pytest.fixture(scope="module")
def host() -> Host:
    records: dict[str, tuple[str, int, str]] = {}
    secrets: list[tuple[str, str]] = []
    number = 0
    uuids = []
    for probe, section in given():
        if (probe, section) == ("virsh", "all"):  # which domains there are is told below
            continue
        name = f"{probe}:{section}" if section else probe
        # one document each
        alone = section in ("u/live", "u/saved", "net/u/xml", "pool/u/xml") or probe in ("ip_link", "cmdline", "qemu_process")
        texts, stderr = [], []
        # a number of many digits is found by chance, in digests and times
        shown = [specimen for specimen in specimens(probe, section) if "number" not in specimen.shapes]
        if probe in ("ip_link", "cmdline"):  # one record: one of them
            shown = random.Random(probe).sample(shown, 1)
        for specimen in shown:
            for shape in random.Random(f"{name}/{specimen.text}").sample(
                specimen.shapes, 1 if alone else min(2, len(specimen.shapes))
            ):
                hidden = canaries.secret(f"run/{probe}/{section}/{specimen.text}", shape)
                secrets.append((f"{probe}:{section} {specimen.kind} ({shape})", hidden))
                texts.append(_shown(specimen, hidden, probe, section))
        for specimen in canaries.LOG[:: 1 + number % 7]:
            hidden = canaries.secret(f"stderr/{probe}/{section}/{specimen.text}", specimen.shapes[0])
            secrets.append((f"{probe}:{section} stderr {specimen.kind}", hidden))
            stderr.append(specimen.show(hidden))
        number += 1
        records[probe] = records.get(probe, ("", 0, "\n".join(stderr)))
        if alone:
            for index, text in enumerate(texts):
                uuid = f"00000000-0000-4000-8000-{index:012d}"
                uuids.append(uuid)
                key = name.replace("/u/", f"/{uuid}/").replace(":u", f":{uuid}" if probe != "qemu_process" else f":{index + 1}")
                said = "" if index else "\n".join(stderr)
                own = text.replace("6d1a6e8a-0000-4000-8000-000000000001", uuid).replace("\nu\n", f"\n{uuid}\n")
                records[key] = (own, 0, said)
        else:
            records[name] = ("\n".join(texts) + "\n", 0, "\n".join(stderr))
    everyone = "".join(f"{uuid}\n" for uuid in sorted(set(uuids)))
    for name in ("all", "running", "autostart", "persistent"):
        records[f"virsh:{name}"] = (everyone, 0, "")
    return Host(records, secrets)


def run(place: Path, host: Host, *options: str, unredacted: bool = False) -> subprocess.CompletedProcess[str]:
    place.mkdir(exist_ok=True)
    (place / "kvmcheck_canaries.py").write_text(PLUGIN)
    hidden = canaries.secret("failure", "at")
    host.secrets.append(("failure", hidden))
    failure = f"cannot connect to qemu+ssh://root:{hidden}@kvm/system: password={hidden} is wrong"
    (place / "given.json").write_text(json.dumps({"failure": failure, "records": host.records}))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("KVMCHECK", "PYTEST"))}
    env |= {
        "CANARIES": str(place / "given.json"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH", "")))),
        "XDG_STATE_HOME": str(place / "state"),
        "TMPDIR": str(place),
        **({"UNREDACTED": "1"} if unredacted else {}),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--kvmcheck", "-p", "kvmcheck_canaries", "-p", "no:cacheprovider"),
            "--hosts=ssh://full,ssh://dead,ssh://broken",
            "--kvmcheck-profile=production",
            f"--kvmcheck-json={place / 'out.json'}",
            *options,
        ],
        cwd=place,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def everything(place: Path, *more: str) -> set[str]:
    """All lines that stand in the files of *place*, but for what was put there by us."""
    mine = {"given.json", "kvmcheck_canaries.py"}
    files = [path for path in place.rglob("*") if path.is_file() and path.name not in mine and path.suffix != ".pyc"]
    assert files
    texts = [*(path.read_bytes().decode("utf-8", "replace") for path in files), *more]
    return {line for text in texts for line in text.split("\n")}


def found(host: Host, lines: set[str]) -> list[str]:
    """The secrets of which something is in *lines*: six characters in a row, or an encoded part. Looked up in one set for all."""
    text = "\n".join(sorted(lines))
    low = text.lower()
    pieces = {text[place : place + 6] for place in range(len(text) - 5)}
    pieces_low = {piece.lower() for piece in pieces}
    result = []
    for what, hidden in host.secrets:
        parts = [part for part in canaries.parts(hidden) if len(part) >= 6]
        direct = any(part[place : place + 6] in pieces for part in parts for place in range(len(part) - 5))
        forms = [form.lower() for part in parts for form in canaries.forms(part)]
        if direct or any(form[:6] in pieces_low and form[-6:] in pieces_low and form in low for form in forms):
            result.append(f"{what}: {hidden}")
    return result


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, host: Host) -> tuple[Path, Any]:
    place = tmp_path_factory.mktemp("secrets")
    done = run(
        place, host, "-vv", f"--kvmcheck-record={place / 'evidence'}", f"--junitxml={place / 'j.xml'}", f"--html={place / 'r.html'}"
    )
    return place, done


def test_nothing_of_them_is_in_what_a_run_leaves_or_prints(alone: tuple[Path, Any], host: Host) -> None:
    place, done = alone
    assert len(host.secrets) > 5_000
    for name in ("out.json", "j.xml", "r.html", "evidence/manifest.json", "evidence/hosts/full/records.json"):
        assert (place / name).stat().st_size > 500, name
    assert not (leaks := found(host, everything(place, done.stdout, done.stderr))), f"{len(leaks)}\n" + "\n".join(leaks[:50])


def test_nothing_of_them_is_in_what_is_made_of_it_later(alone: tuple[Path, Any], host: Host, tmp_path: Path) -> None:
    place, _ = alone
    kvmcheck = [sys.executable, "-m", "pytest_kvmcheck.cli"]
    merged = subprocess.run([*kvmcheck, "merge", "--help"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert merged.returncode == 0, merged.stderr
    made = subprocess.run(
        [*kvmcheck, "merge", str(place / "out.json"), "--output", str(tmp_path / "all.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "all.json").exists(), made.stdout + made.stderr
    verified = subprocess.run([*kvmcheck, "verify", str(place / "evidence")], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert not found(host, everything(tmp_path, made.stdout, made.stderr, verified.stdout, verified.stderr))


def test_nothing_of_them_reaches_the_workers_of_xdist(tmp_path: Path, host: Host) -> None:
    done = run(tmp_path, host, "-n", "2", "-vv")
    workers = sorted(path.name for path in (tmp_path / "worker").iterdir())
    assert workers == ["gw0", "gw1"]
    assert (tmp_path / "worker/gw0/bundle/hosts/full/records.json").stat().st_size > 10_000
    assert not (leaks := found(host, everything(tmp_path, done.stdout, done.stderr))), f"{len(leaks)}\n" + "\n".join(leaks[:50])


def test_without_redaction_every_single_one_would_be_found(tmp_path: Path, host: Host) -> None:
    done = run(tmp_path, host, "-q", f"--kvmcheck-record={tmp_path / 'evidence'}", unredacted=True)
    missed = {f"{what}: {hidden}" for what, hidden in host.secrets} - set(
        found(host, everything(tmp_path, done.stdout, done.stderr))
    )
    assert not missed, "\n".join(sorted(missed))
