"""The evidence bundle: raw answers in readable files, a manifest, and checksums that standard tools verify.

::

    manifest.json                   what was asked, of whom, when, with which tool and profile
    hosts/<name>/records.json       exit code, standard error and digest of each answer
    hosts/<name>/<probe>.txt        its standard output, after redaction
    SHA256SUMS                      of every file above; ``sha256sum -c SHA256SUMS`` verifies it
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pytest_kvmcheck.errors import Cause, EvidenceMissing, KvmcheckError, printable
from pytest_kvmcheck.evidence import Evidence, Record
from pytest_kvmcheck.gather import archive, budget, leash
from pytest_kvmcheck.gather.files import open_plain, walk
from pytest_kvmcheck.targets import Target, safe_id

SCHEMA = 1
SUMS, MANIFEST, RECORDS = "SHA256SUMS", "manifest.json", "records.json"
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
#: What safe_id makes of the name of a host or an answer.
_SAFE = r"[\w.@+%~-]+"
#: Every file that a bundle has besides the sums.
_LAYOUT = re.compile(rf"{re.escape(MANIFEST)}|hosts/{_SAFE}/(?:{re.escape(RECORDS)}|{_SAFE}\.txt)", re.ASCII)
#: The same in an archive, which may hold it in a folder.
_MEMBER = re.compile(rf"((?:[^/]+/)?)(?:{_LAYOUT.pattern}|{SUMS})", re.ASCII)
_NOTHING = hashlib.sha256().hexdigest()


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
        _write(work / MANIFEST, _json(body))
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
    with open_plain(path) as file:
        return hashlib.sha256(file.read()).hexdigest()


def _target_to_json(target: Target) -> dict[str, Any]:
    return {**asdict(target), "tags": [[pattern, sorted(tags)] for pattern, tags in target.tags]}


def _target_from_json(data: dict[str, Any]) -> Target:
    if strange := set(data) - {item.name for item in fields(Target)}:
        raise ValueError(f"a target has no {min(strange)}")
    return TypeAdapter(Target).validate_python(data)


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
    _write(directory / RECORDS, _json(body))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Within the block, give the directory of the bundle at *path*; an archive of it is unpacked for so long.

    Raises :class:`KvmcheckError` when it is no bundle.
    """
    if path.is_dir():
        yield _top(path, path)
        return
    if not path.exists():
        raise KvmcheckError(f"{path} is not an evidence bundle: there is no such file or directory")
    with leash.stops(), tempfile.TemporaryDirectory(prefix="kvmcheck-bundle-") as place:
        _unpack(path, Path(place))
        yield _top(Path(place), path)


def _top(directory: Path, path: Path) -> Path:
    """Return where the manifest is: in *directory* or in a folder of it."""
    if (directory / MANIFEST).is_file():
        return directory
    inner = [child for child in directory.iterdir() if (child / MANIFEST).is_file()]
    if len(inner) != 1:
        raise KvmcheckError(f"{path} is not an evidence bundle: it has no {MANIFEST}")
    return inner[0]


def _unpack(path: Path, place: Path) -> None:
    """Unpack the archive at *path* into the empty directory *place*: plain files that a bundle has, each once, and nothing else.

    Done here because ``extractall(filter="data")`` came with Python 3.11.4, and Debian 12 has 3.11.2; and it has no bounds.
    """
    most = min(budget.BUNDLE_BYTES, shutil.disk_usage(place).free // 2)
    top = None
    try:
        for member, content in archive.members(path, most):
            name = member.name.removeprefix("./")
            if member.isdir():
                continue
            match = _MEMBER.fullmatch(name)
            if content is None or match is None or top not in (None, match[1]):
                raise KvmcheckError(f"{path} holds {printable(member.name)[:200]!r}, which is no file of an evidence bundle")
            if member.size > budget.FILE_BYTES:
                raise KvmcheckError(f"{path} holds {name!r} of {member.size >> 20} MiB, which is larger than any answer")
            top, file = match[1], place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with content, file.open("xb") as copy:
                shutil.copyfileobj(content, copy)
    except FileExistsError:
        raise KvmcheckError(f"{path} holds {name!r} twice") from None
    except archive.DAMAGED as exc:
        raise KvmcheckError(f"{path} cannot be unpacked: {exc}") from None


@dataclass
class _Inspection:
    """What is in a bundle: its manifest, what each host's records say, and ``{file: complaint}``."""

    manifest: Manifest | None
    hosts: dict[str, dict[str, Any]]
    complaints: dict[str, str]


def verify(path: Path) -> dict[str, str]:
    """Return what is wrong with the bundle: ``{file: complaint}``, empty when all is as it was sealed.

    Raises :class:`KvmcheckError` when it is no bundle. Agrees with ``sha256sum -c``, and also finds what was added, what leads
    elsewhere, and what contradicts the manifest or the records of its host.
    """
    with opened(path) as directory:
        found = _inspect(directory, path).complaints
    return {printable(name): printable(complaint) for name, complaint in found.items()}


def _inspect(directory: Path, path: Path) -> _Inspection:
    sums, complaints = _sums(directory, path)
    _compare(directory, sums, complaints)
    if MANIFEST in complaints:  # then nobody knows whose the folders are
        return _Inspection(None, {}, dict(sorted(complaints.items())))
    manifest = _manifest(directory, path)
    names = [target.name for target in manifest.targets]
    for name in {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ():
        complaints.setdefault(MANIFEST, f"names {name} twice")
    places = {safe_id(name): name for name in names}
    for place in {file.split("/")[1] for file in sums if file.startswith("hosts/")} - set(places):
        complaints[f"hosts/{place}"] = f"is of no host that {MANIFEST} names"
    hosts: dict[str, dict[str, Any]] = {}
    for place, name in places.items():
        records = f"hosts/{place}/{RECORDS}"
        if records not in sums:
            complaints.setdefault(records, "is missing")
        if records not in complaints:
            try:
                hosts[name] = _records(directory / records)
                complaints = _contradictions(place, name, hosts[name], sums) | complaints
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
                complaints[records] = f"cannot be read: {exc!r}"[:200]
    return _Inspection(manifest, hosts, dict(sorted(complaints.items())))


def _sums(directory: Path, path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the digests by file, and what is wrong with the list of them."""
    try:
        with open_plain(directory / SUMS) as file:
            data = file.read(budget.FILE_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as exc:
        raise KvmcheckError(f"{path}: {SUMS}: {exc.strerror}: the bundle is not sealed") from None
    except UnicodeDecodeError:
        raise KvmcheckError(f"{path}: {SUMS} is damaged") from None
    if len(data) > budget.FILE_BYTES:
        raise KvmcheckError(f"{path}: {SUMS} is larger than that of any bundle")
    sums: dict[str, str] = {}
    complaints: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n"):
        match = _SUM_LINE.fullmatch(line)
        if not match:
            raise KvmcheckError(f"{path}: {SUMS} is damaged")
        name = match[2]
        if name.startswith("/") or ".." in name.split("/"):
            complaints[name] = "leads out of the bundle"
        elif not _LAYOUT.fullmatch(name):
            complaints[name] = "has no place in a bundle"
        elif name in sums:
            complaints[name] = f"stands in {SUMS} twice"
        else:
            sums[name] = match[1]
    if MANIFEST not in sums:
        raise KvmcheckError(f"{path}: {SUMS} does not name {MANIFEST}")
    return sums, complaints


def _compare(directory: Path, sums: dict[str, str], complaints: dict[str, str]) -> None:
    """Compare what is in *directory* with *sums*, and add to *complaints*. Nothing but plain files is opened."""
    found, folders, filled = set(), set(), set()
    try:
        for name, entry in walk(directory, budget.MEMBERS):
            if isinstance(entry, OSError):
                complaints[name] = f"cannot be read: {entry.strerror}"
            elif entry.is_symlink():
                complaints[name] = "leads out of the bundle"
            elif entry.is_dir():
                folders.add(name)
                continue
            elif not entry.is_file():
                complaints[name] = "is no plain file"
            elif name == SUMS or name in sums:
                found.add(name)
            else:
                complaints.setdefault(name, "was added")
            filled.add(name.rpartition("/")[0])
    except OSError as exc:
        raise KvmcheckError(f"{directory}: {exc.strerror}") from None
    for folder in folders:
        if folder not in filled and not any(other.startswith(f"{folder}/") for other in folders):
            complaints[folder] = "is an empty folder"
    for name, digest in sums.items():
        if name in complaints:
            continue
        if name not in found:
            complaints[name] = "is missing"
            continue
        try:
            file = f"{directory}/{name}"  # strings: a fleet has ten thousands of files, and Path is slow
            if os.stat(file).st_size > budget.FILE_BYTES:  # noqa: PTH116
                complaints[name] = "is larger than any answer"
            elif _digest(file) != digest:
                complaints[name] = "was changed"
        except OSError as exc:
            complaints[name] = f"cannot be read: {exc.strerror}"


def _json_of(path: Path) -> Any:
    """Return the JSON in *path*. Raises ValueError for what has a key twice or no number that JSON knows."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands there twice")
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    with open_plain(path) as file:
        return json.loads(file.read(budget.FILE_BYTES), object_pairs_hook=once, parse_constant=refuse)


def _manifest(directory: Path, path: Path) -> Manifest:
    """Return the manifest; raises :class:`KvmcheckError` when it is none."""
    known = {"schema", "tool", "started_at", "finished_at", "targets"}
    try:
        body = _json_of(directory / MANIFEST)
        if body["schema"] != SCHEMA:
            raise KvmcheckError(f"{path}: bundle schema {str(body['schema'])[:20]}, this version reads {SCHEMA}")
        targets = tuple(_target_from_json(entry) for entry in body["targets"])
        times = [_utc(body[name]) for name in ("started_at", "finished_at")]
        if times != sorted(times):
            raise ValueError("it ends before it starts")
        meta = {key: value for key, value in body.items() if key not in known}
        return Manifest(str(body["tool"]), body["started_at"], body["finished_at"], targets, meta)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        why = " ".join(str(exc).split()) if isinstance(exc, ValueError) else repr(exc)
        raise KvmcheckError(f"{path}: {MANIFEST} is not a manifest: {printable(why)[:200]}") from None


def _utc(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    if moment.utcoffset() != dt.timedelta(0):
        raise ValueError(f"not a time in UTC: {text[:40]!r}")
    return moment


def _records(path: Path) -> dict[str, Any]:
    """Return what the records of a host say. Raises what :func:`_inspect` catches."""
    body = _json_of(path)
    for probe, entry in body["records"].items():
        whole = (
            isinstance(entry["rc"], int) and isinstance(entry["stderr"], str) and isinstance(entry["seconds"], int | float | None)
        )
        if not whole or entry["file"] not in (None, f"{safe_id(probe)}.txt"):
            raise ValueError(f"{probe} is no record")
        entry["cause"] = Cause(entry["cause"]) if entry["cause"] else None
    if "failure" in body:
        body["failure"] = EvidenceMissing(Cause(body["failure"]["cause"]), str(body["failure"]["detail"]))
    if not (isinstance(body["host"], str) and isinstance(body["partial"], bool) and isinstance(body["sudo"], str)):
        raise TypeError("host, partial or sudo")
    return dict(body)


def _contradictions(place: str, name: str, body: dict[str, Any], sums: dict[str, str]) -> dict[str, str]:
    """Return how the records of a host contradict its folder: ``{file: complaint}``."""
    complaints = {}
    if body["host"] != name:
        complaints[f"hosts/{place}/{RECORDS}"] = f"is of {body['host']}"
    named = {f"hosts/{place}/{RECORDS}"}
    for entry in body["records"].values():
        file = f"hosts/{place}/{entry['file']}" if entry["file"] else ""
        named.add(file)
        if (sums.get(file) if file else _NOTHING) != entry["sha256"]:
            complaints[file or f"hosts/{place}/{RECORDS}"] = f"is not what {RECORDS} says of it"
    start = f"hosts/{place}/"
    for file in sums:
        if file.startswith(start) and file not in named:
            complaints[file] = f"is not named in {RECORDS}"
    return complaints


def read(path: Path) -> tuple[Manifest, list[Evidence]]:
    """Return manifest and evidence of the bundle at *path*.

    A host about whose folder there is any complaint gives no evidence at all: everything of it is unknown.
    Raises :class:`KvmcheckError` when there is a complaint about anything else.
    """
    with opened(path) as directory:
        inspection = _inspect(directory, path)
        manifest, evidence = inspection.manifest, []
        tampered: dict[str, str] = {}
        places = {safe_id(target.name): target.name for target in manifest.targets} if manifest else {}
        for file, complaint in inspection.complaints.items():
            said = printable(f"{file} {complaint}") + (" after the bundle was sealed" if complaint.startswith("was ") else "")
            part, _, rest = file.partition("/")
            host = places.get(rest.partition("/")[0]) if part == "hosts" else None
            if host is None:
                raise KvmcheckError(f"{path}: {said}; kvmcheck verify tells all")
            tampered.setdefault(host, said)
        if manifest is None:
            raise AssertionError("a manifest that cannot be trusted is a complaint")
        for target in manifest.targets:
            if said := tampered.get(target.name, ""):
                evidence.append(Evidence(target.name, failure=EvidenceMissing(Cause.TAMPERED, said)))
            else:
                evidence.append(_read_host(directory / "hosts" / safe_id(target.name), target.name, inspection.hosts[target.name]))
        return manifest, evidence


def _read_host(directory: Path, name: str, body: dict[str, Any]) -> Evidence:
    records = {}
    try:
        for probe, entry in body["records"].items():
            stdout = ""
            if entry["file"]:
                with open(f"{directory}/{entry['file']}", encoding="utf-8", newline="") as file:  # noqa: PTH123 - see _compare
                    stdout = file.read()
            records[probe] = Record(probe, stdout, entry["rc"], entry["stderr"], entry["cause"], entry["seconds"])
    except (OSError, ValueError) as exc:
        return Evidence(name, failure=EvidenceMissing(Cause.TAMPERED, f"{entry['file']} cannot be read: {exc}"))
    return Evidence(name, records, body.get("failure"), partial=body["partial"], sudo=body["sudo"])
