"""The evidence bundle: raw answers in readable files, a manifest, and checksums that standard tools verify.

::

    manifest.json                   what was asked, of whom, when, with which tool and profile
    hosts/<name>/records.json       exit code, standard error and digest of each answer
    hosts/<name>/<probe>.txt        its standard output, after redaction
    SHA256SUMS                      of every file above; ``sha256sum -c SHA256SUMS`` verifies it
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pytest_kvmcheck.errors import Cause, EvidenceMissing, KvmcheckError
from pytest_kvmcheck.evidence import Evidence, Record
from pytest_kvmcheck.gather.archive import DAMAGED, check_end
from pytest_kvmcheck.targets import Target, safe_id

SCHEMA = 1
SUMS = "SHA256SUMS"
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself. Times are UTC, ISO 8601."""

    tool: str
    started_at: str
    finished_at: str
    targets: tuple[Target, ...]
    meta: dict[str, Any] = field(default_factory=dict)


def write(directory: Path, manifest: Manifest, evidence: Sequence[Evidence]) -> None:
    """Write a bundle to *directory*, which must not exist or be empty; it appears whole or not at all."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise KvmcheckError(f"{directory} exists and is not an empty directory: evidence is never overwritten")
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for host in evidence:
            _write_host(work / "hosts" / safe_id(host.host), host)
        body = {
            "schema": SCHEMA,
            "tool": manifest.tool,
            "started_at": manifest.started_at,
            "finished_at": manifest.finished_at,
            "targets": [_target_to_json(target) for target in manifest.targets],
            **manifest.meta,
        }
        _write(work / "manifest.json", _json(body))
        names = sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())
        _write(work / SUMS, "".join(f"{_digest(work / name)}  {name}\n" for name in names))
        work.chmod(0o750)
        if directory.is_dir():
            directory.rmdir()
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _json(body: Any) -> str:
    return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def _digest(path: Path | str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123 - see verify
        return hashlib.sha256(file.read()).hexdigest()


def _target_to_json(target: Target) -> dict[str, Any]:
    return {**asdict(target), "tags": [[pattern, sorted(tags)] for pattern, tags in target.tags]}


def _target_from_json(data: dict[str, Any]) -> Target:
    tags = tuple((str(pattern), frozenset(map(str, names))) for pattern, names in data["tags"])
    return Target(**{**data, "tags": tags})


def _write_host(directory: Path, evidence: Evidence) -> None:
    directory.mkdir(parents=True)
    body: dict[str, Any] = {"host": evidence.host, "partial": evidence.partial, "sudo": evidence.sudo, "records": {}}
    if evidence.failure:
        body["failure"] = {"cause": evidence.failure.cause, "detail": evidence.failure.detail}
    for name, record in sorted(evidence.records.items()):
        file = f"{safe_id(name)}.txt"
        body["records"][name] = {
            "rc": record.rc,
            "stderr": record.stderr,
            "cause": record.cause,
            "seconds": record.seconds,
            "sha256": record.sha256,
            "file": file if record.stdout else None,
        }
        if record.stdout:
            _write(directory / file, record.stdout)
    _write(directory / "records.json", _json(body))


def _unpack(path: Path, place: Path) -> None:
    """Unpack the archive at *path* into the empty directory *place*: plain files within it, and nothing else.

    Done here because ``extractall(filter="data")`` came with Python 3.11.4, and Debian 12 has 3.11.2.
    """
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isdir():
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or member.name.startswith("/") or ".." in member.name.split("/"):
                    raise KvmcheckError(f"{path} holds {member.name!r}, which is no file of an evidence bundle")
                file = place / member.name
                file.parent.mkdir(parents=True, exist_ok=True)
                with content, file.open("wb") as copy:
                    shutil.copyfileobj(content, copy)
            check_end(archive)
    except (*DAMAGED, ValueError) as exc:
        raise KvmcheckError(f"{path} cannot be unpacked: {exc}") from None


def open_directory(path: Path) -> Path:
    """Return the directory of the bundle at *path*, unpacking a .tar.gz of it into a temporary one."""
    if path.is_file() and tarfile.is_tarfile(path):
        place = Path(tempfile.mkdtemp(prefix="kvmcheck-bundle-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        _unpack(path, place)
        path = place
    if not (path / "manifest.json").is_file():
        inner = [child for child in path.iterdir() if (child / "manifest.json").is_file()] if path.is_dir() else []
        if len(inner) != 1:
            raise KvmcheckError(f"{path} is not an evidence bundle: it has no manifest.json")
        path = inner[0]
    return path


def verify(path: Path) -> dict[str, str]:
    """Return what is wrong with the bundle: ``{file: complaint}``, empty when all is as it was sealed.

    Raises :class:`KvmcheckError` when it is no bundle. Agrees with ``sha256sum -c``, and also finds files that were added.
    """
    directory = open_directory(path)
    try:
        lines = (directory / SUMS).read_text("utf-8").splitlines()
    except OSError as exc:
        raise KvmcheckError(f"{directory / SUMS}: {exc.strerror}: the bundle is not sealed") from None
    except UnicodeDecodeError:
        raise KvmcheckError(f"{directory / SUMS} is damaged") from None
    complaints: dict[str, str] = {}
    listed = {SUMS}
    for line in lines:
        match = _SUM_LINE.fullmatch(line)
        if not match:
            raise KvmcheckError(f"{directory / SUMS} is damaged")
        name = match[2]
        listed.add(name)
        file = f"{directory}/{name}"  # strings: a fleet has ten thousands of files, and Path is slow
        if name.startswith("/") or ".." in name.split("/") or os.path.islink(file):  # noqa: PTH114
            complaints[name] = "leads out of the bundle"
        elif not os.path.isfile(file):  # noqa: PTH113
            complaints[name] = "is missing"
        elif _digest(file) != match[1]:
            complaints[name] = "was changed"
    start = len(str(directory)) + 1
    for place, _, files in os.walk(directory):
        for file in files:
            name = f"{place}/{file}"[start:]
            if name not in listed:
                complaints[name] = "was added"
    return dict(sorted(complaints.items()))


def read(path: Path) -> tuple[Manifest, list[Evidence]]:
    """Return manifest and evidence of the bundle at *path*.

    A host one of whose files was changed, added or taken away gives no evidence at all: everything of it is unknown.
    Raises :class:`KvmcheckError` when the manifest itself cannot be trusted.
    """
    directory = open_directory(path)
    complaints = verify(directory)
    if complaint := complaints.get("manifest.json"):
        raise KvmcheckError(f"{directory}: manifest.json {complaint} after it was sealed")
    try:
        body = json.loads((directory / "manifest.json").read_text("utf-8"))
        if body["schema"] != SCHEMA:
            raise KvmcheckError(f"{directory}: bundle schema {body['schema']}, this version reads {SCHEMA}")
        targets = tuple(_target_from_json(entry) for entry in body["targets"])
        known = {"schema", "tool", "started_at", "finished_at", "targets"}
        meta = {key: value for key, value in body.items() if key not in known}
        manifest = Manifest(body["tool"], body["started_at"], body["finished_at"], targets, meta)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise KvmcheckError(f"{directory}: manifest.json is not a manifest: {exc!r}") from None
    evidence = []
    for target in targets:
        place = f"hosts/{safe_id(target.name)}"
        bad = [f"{name} {text}" for name, text in complaints.items() if name.startswith(f"{place}/")]
        if bad:
            missing = EvidenceMissing(Cause.TAMPERED, f"{bad[0]} after the bundle was sealed")
            evidence.append(Evidence(target.name, failure=missing))
        else:
            evidence.append(_read_host(directory / place, target.name))
    return manifest, evidence


def _read_host(directory: Path, name: str) -> Evidence:
    try:
        body = json.loads((directory / "records.json").read_text("utf-8"))
        records = {}
        for probe, entry in body["records"].items():
            stdout = ""
            if entry["file"]:
                path = f"{directory}/{os.path.basename(entry['file'])}"  # noqa: PTH119 - see verify
                with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123
                    stdout = file.read()
            cause = Cause(entry["cause"]) if entry["cause"] else None
            records[probe] = Record(probe, stdout, entry["rc"], entry["stderr"], cause, entry["seconds"])
        failure = None
        if "failure" in body:
            failure = EvidenceMissing(Cause(body["failure"]["cause"]), body["failure"]["detail"])
        return Evidence(name, records, failure, partial=body["partial"], sudo=body["sudo"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        return Evidence(name, failure=EvidenceMissing(Cause.TAMPERED, f"records.json cannot be read: {exc!r}"))
