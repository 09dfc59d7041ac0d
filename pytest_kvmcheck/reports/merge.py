"""Merge the reports of sharded runs: our JSON, and JUnit files by junitparser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_kvmcheck.errors import Cause, KvmcheckError
from pytest_kvmcheck.outcomes import Outcome
from pytest_kvmcheck.reports import json_report
from pytest_kvmcheck.reports.score import counts, score
from pytest_kvmcheck.results import sort_key
from pytest_kvmcheck.tally import Key, keep_worse

#: What two reports must share to be parts of one.
_SAME = ("tool", "catalogue_sha256", "profile")


def merge_reports(paths: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """Return one report of all, and notes on verdicts that were in several: the worse one is kept.

    Raises :class:`KvmcheckError` for reports of different tools, catalogues or profiles.
    """
    reports = [json_report.read(path) for path in paths]
    first = reports[0]
    for path, report in zip(paths, reports, strict=True):
        for name in _SAME:
            if report.get(name) != first.get(name):
                raise KvmcheckError(
                    f"{path}: its {name} is {report.get(name)}, that of {paths[0]} is {first.get(name)}: not parts of one run"
                )
        for name, digest in report["profiles"].items():
            if first["profiles"].get(name, digest) != digest:
                raise KvmcheckError(f"{path}: its profile {name} is another one than that of {paths[0]}")
    notes = []
    kept: dict[Key, dict[str, Any]] = {}
    for path, report in zip(paths, reports, strict=True):
        for result in report["results"]:
            key = (result["check"], result["subject"])
            known = kept.get(key)
            if known is not None and known["outcome"] != result["outcome"]:
                notes.append(f"{key[0]} {key[1]}: {known['outcome']} and {result['outcome']} ({path}): the worse is kept")
            keep_worse(kept, result)
    hosts = {host["name"]: host for report in reports for host in report["hosts"]}
    clusters, split = _clusters(reports)
    for name in split:
        notes.append(
            f"cluster {name} was judged in parts and its hosts not compared: judge their bundles together (bundle:A,bundle:B)"
        )
        for key, result in kept.items():
            if result["host"] == f"cluster:{name}" and result["outcome"] != Outcome.FAIL:
                kept[key] = {**result, "outcome": str(Outcome.UNKNOWN), "cause": str(Cause.NOT_JUDGED), "message": NOT_COMPARED}
    planned = {host["name"]: host["planned"] for host in hosts.values()} | {
        f"cluster:{cluster['name']}": cluster["planned"] for cluster in clusters
    }
    judged = Counter(result["host"] for result in kept.values())
    missing = sum(max(0, count - judged[name]) for name, count in planned.items())
    if missing:
        notes.append(f"{missing} of {sum(planned.values())} planned verdicts are in none of the reports: there is no score")
    complete = not missing and not split
    waivers = {tuple(sorted(map(str, waiver.items()))): waiver for report in reports for waiver in report["waivers"]}
    totals = counts(kept.values())
    merged = {
        **first,
        "started_at": min(report["started_at"] for report in reports),
        "finished_at": max(report["finished_at"] for report in reports),
        "complete": complete,
        "planned": sum(planned.values()),
        "deselected": 0,
        "lost": missing,
        "selection": [],
        "recordings": list({one["bundle"]: one for report in reports for one in report["recordings"]}.values()),
        "profiles": {name: digest for report in reports for name, digest in report["profiles"].items()},
        "hosts": [hosts[name] for name in sorted(hosts)],
        "clusters": clusters,
        "waivers": list(waivers.values()),
        "totals": totals,
        "score": score(totals, with_waivers=False) if complete else None,
        "score_with_waivers": score(totals, with_waivers=True) if complete else None,
        "results": sorted(kept.values(), key=sort_key),
    }
    return merged, notes


#: What is said of a cluster whose hosts are in several reports.
NOT_COMPARED = "the hosts of this cluster were judged in several runs, and not compared: judge their evidence together"


def _clusters(reports: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the clusters of all *reports*, and the names of those that no single report judged whole by any check."""
    members: dict[str, set[str]] = {}
    best: dict[str, dict[str, Any]] = {}
    for report in reports:
        for cluster in report["clusters"]:
            members.setdefault(cluster["name"], set()).update(cluster["hosts"], cluster["absent"])
            if cluster["name"] not in best or len(cluster["hosts"]) > len(best[cluster["name"]]["hosts"]):
                best[cluster["name"]] = cluster
    merged, split = [], []
    for name, known in sorted(best.items()):
        here = {host for report in reports for one in report["clusters"] if one["name"] == name for host in one["hosts"]}
        merged.append({**known, "hosts": sorted(here), "absent": sorted(members[name] - here)})
        if known["checks"] and len(here) > len(known["hosts"]):
            split.append(name)
    return merged, split


def merge_junit(paths: Sequence[Path], output: Path) -> int:
    """Write one JUnit file of all to *output*; return how many test cases it has."""
    from xml.etree.ElementTree import ParseError

    from junitparser import JUnitXml, JUnitXmlError

    merged = JUnitXml()
    for path in paths:
        try:
            found = JUnitXml.fromfile(str(path))
        except (OSError, JUnitXmlError, ParseError, SyntaxError) as exc:
            raise KvmcheckError(f"{path}: not a JUnit file: {exc}") from None
        merged += found
    merged.update_statistics()  # type: ignore[no-untyped-call]
    root = merged._elem
    root.attrib.pop("skipped", None)  # xunit2 knows it in a suite only
    for element in root.iter():
        if "time" in element.attrib:
            element.set("time", f"{float(element.get('time') or 0):.3f}")
    merged.write(str(output), pretty=True)
    return int(merged.tests or 0)
