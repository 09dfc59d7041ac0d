"""The JSON report: the source of truth that every other report can be made from. Its schema is published."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_kvmcheck import __version__, provenance
from pytest_kvmcheck.errors import KvmcheckError
from pytest_kvmcheck.outcomes import Outcome
from pytest_kvmcheck.registry import Severity
from pytest_kvmcheck.reports.score import counts, score
from pytest_kvmcheck.results import Result, sort_key
from pytest_kvmcheck.subjects import CLUSTER, clusters
from pytest_kvmcheck.tally import Tally
from pytest_kvmcheck.targets import hide_password

if TYPE_CHECKING:
    from pytest_kvmcheck.plan import Plan
    from pytest_kvmcheck.views.cluster import Cluster

SCHEMA = 2

#: Stands at the beginning of each report, as its keys are sorted.
_FIRST_KEY = b'"catalogue_sha256": '


def document(plan: Plan, results: Sequence[Result], tally: Tally, selection: Sequence[str]) -> dict[str, Any]:
    """Return the report of a run. *tally* tells what is missing in it, *selection* the options that left something out.

    A part has no score: what it says of a host is not the host's. ``judged_at`` is a day: who judges evidence twice gets
    the same report, byte for byte.
    """
    totals = counts(results)
    return {
        "schema": SCHEMA,
        "tool": f"pytest-kvmcheck {__version__}",
        "started_at": plan.started_at,
        "finished_at": plan.finished_at,
        "judged_at": dt.datetime.now(dt.UTC).date().isoformat(),
        "recordings": provenance.as_json(plan),
        "complete": tally.complete,
        "planned": tally.total,
        "deselected": tally.selected_away,
        "lost": tally.lost,
        "selection": list(selection),
        **plan.meta(),
        "hosts": [
            {
                "name": host.name,
                "target": hide_password(host.target.spec),
                "role": host.target.role,
                "cluster": host.target.cluster,
                "profile": host.target.profile or plan.profile.name,
                "reached": host.evidence.failure is None,
                "problem": host.evidence.failure.detail if host.evidence.failure else "",
                "sudo": host.evidence.sudo,
                "planned": tally.planned.get(host.name, 0),
            }
            for host in plan.hosts
        ],
        "clusters": [
            {
                "name": cluster.name,
                "hosts": [host.name for host in cluster.hosts],
                "absent": plan.absent.get(cluster.name, []),
                "planned": tally.planned.get(f"cluster:{cluster.name}", 0),
                "checks": _comparing(plan, cluster),
            }
            for cluster in clusters(host for host in plan.hosts if host.target.role == "host")
        ],
        "waivers": [
            {
                "check": waiver.check,
                "subject": waiver.subject,
                "reason": waiver.reason,
                "owner": waiver.owner,
                "approver": waiver.approver,
                "until": waiver.until,
                "ticket": waiver.ticket,
                "expired": waiver.expired(plan.at),
            }
            for waiver in plan.waivers
        ],
        "totals": totals,
        "score": score(totals, with_waivers=False) if tally.complete else None,
        "score_with_waivers": score(totals, with_waivers=True) if tally.complete else None,
        "results": sorted(results, key=sort_key),
    }


def _comparing(plan: Plan, cluster: Cluster) -> int:
    """Return how many checks compare the hosts of *cluster*, whether or not there are several in this run."""
    together = plan.profile_of(f"{CLUSTER}{cluster.name}")
    own = {host.target.profile for host in cluster.hosts}
    return sum(
        together.setting(check.id) is not None
        if check.scope == "cluster"
        else check.compares and any(plan.profile_of(profile).setting(check.id) for profile in own)
        for check in plan.checks.values()
    )


def _text(body: dict[str, Any]) -> str:
    """Return *body* as JSON with one result a line: quick to write (indentation is not), to read and to compare."""
    head = json.dumps({key: value for key, value in body.items() if key != "results"}, indent=1, sort_keys=True)
    results = ",\n  ".join(json.dumps(result, sort_keys=True) for result in body["results"])
    return f'{head[:-2]},\n "results": [\n  {results}\n ]\n}}\n'


def write(path: Path, body: dict[str, Any]) -> None:
    """Write *body* as JSON to *path*, whole or not at all; parent directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_text(body))
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def withdraw(path: Path | None) -> None:
    """Remove the report of an earlier run from *path*: a run that ends early must not leave another one's verdicts as its own.

    Any other file is left alone; it is replaced when there is a report to write.
    """
    if path is None:
        return
    with contextlib.suppress(OSError):
        if not path.is_file() or path.is_symlink():
            return
        with path.open("rb") as file:
            ours = _FIRST_KEY in file.read(200)
        if ours:
            path.unlink()


def read(path: Path) -> dict[str, Any]:
    """Return the report in *path*. Raises :class:`KvmcheckError` when it is none, or of another schema."""
    try:
        body = json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise KvmcheckError(f"{path}: {exc.strerror}") from None
    except ValueError as exc:
        raise KvmcheckError(f"{path}: not JSON: {exc}") from None
    if not isinstance(body, dict) or not isinstance(body.get("results"), list):
        raise KvmcheckError(f"{path}: not a report of pytest-kvmcheck")
    if body.get("schema") != SCHEMA:
        raise KvmcheckError(f"{path}: report schema {body.get('schema')}, this version reads {SCHEMA}")
    return body


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the report."""
    text = {"type": "string"}
    time = {"type": "string", "format": "date-time"}

    def record(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
        required = [name for name in properties if name not in optional]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    waiver = dict.fromkeys(("reason", "owner", "approver", "until", "ticket"), text)
    result = record(
        {
            "check": {"type": "string", "pattern": "^KVM-[A-Z]{2,4}-[0-9]{3}$"},
            "title": text,
            "severity": {"enum": [str(severity) for severity in Severity]},
            "host": text,
            "subject": text,
            "outcome": {"enum": [str(outcome) for outcome in Outcome]},
            "message": text,
            "fix": text,
            "cause": text,
            "blocked_by": text,
            "profile": text,
            "waiver": {"anyOf": [{"type": "null"}, record(dict(waiver))]},
            "expired_waiver": text,
            "evidence": {
                "type": "array",
                "items": record(
                    {
                        "host": text,
                        "probe": text,
                        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                        "answers": {"type": "integer", "minimum": 1},
                    },
                    ("answers",),
                ),
            },
        }
    )
    number = {"type": "integer", "minimum": 0}
    percent = {"type": ["number", "null"], "minimum": 0, "maximum": 100}
    names_of = {"type": "array", "items": text}
    names = ("name", "target", "role", "cluster", "profile", "problem", "sudo")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pytest-kvmcheck report",
        **record(
            {
                "schema": {"const": SCHEMA},
                "tool": text,
                "started_at": time,
                "finished_at": time,
                "judged_at": {"type": "string", "format": "date"},
                "recordings": {
                    "type": "array",
                    "items": record(
                        {
                            **dict.fromkeys(("bundle", "tool", "catalogue_sha256"), text),
                            **dict.fromkeys(("started_at", "finished_at"), time),
                            "profiles": {"type": "object", "additionalProperties": text},
                            "differences": names_of,
                        }
                    ),
                },
                "complete": {"type": "boolean"},
                "planned": number,
                "deselected": number,
                "lost": number,
                "selection": {"type": "array", "items": text},
                "catalogue_sha256": text,
                "profile": text,
                "profiles": {"type": "object", "additionalProperties": text},
                "hosts": {
                    "type": "array",
                    "items": record({**dict.fromkeys(names, text), "reached": {"type": "boolean"}, "planned": number}),
                },
                "clusters": {
                    "type": "array",
                    "items": record({"name": text, "hosts": names_of, "absent": names_of, "planned": number, "checks": number}),
                },
                "waivers": {
                    "type": "array",
                    "items": record({**waiver, "check": text, "subject": text, "expired": {"type": "boolean"}}),
                },
                "totals": record({str(outcome): number for outcome in Outcome}),
                "score": percent,
                "score_with_waivers": percent,
                "results": {"type": "array", "items": result},
            }
        ),
    }
