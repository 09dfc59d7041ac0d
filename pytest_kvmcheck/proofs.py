"""Which records a verdict rests on: the list of evidence beside each result."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pytest_kvmcheck.evidence import KEY_SEPARATOR, Evidence, Noted

#: More answers than this to one question (of many domains, of many hosts) are named together: a list of all of them beside
#: each of a thousand verdicts would grow with their square.
TOGETHER = 16

Proof = dict[str, Any]


def proofs(evidence: Evidence, read: Iterable[Noted], known: dict[frozenset[frozenset[str]], Summary]) -> list[Proof]:
    """Return what stands for the records of one host that were *read*, sorted; *known* remembers large sets of this host.

    The list depends on what was read alone, never on who read it first.
    """
    ids: set[str] = set()
    bulk: set[frozenset[str]] = set()
    for noted in read:
        ids |= noted.ids
        bulk |= noted.bulk
    key = frozenset(bulk)
    if key not in known:
        known[key] = Summary(evidence, frozenset().union(*bulk))
    summary = known[key]
    rest = Summary(evidence, frozenset(ids - summary.ids))
    return sorted([*summary.proofs, *rest.proofs], key=lambda proof: str(proof["probe"]))


class Summary:
    """Some records of a host, and what stands for them in a report."""

    def __init__(self, evidence: Evidence, ids: frozenset[str]) -> None:
        self.ids = ids
        groups: dict[str, list[str]] = defaultdict(list)
        for probe in sorted(ids):
            if probe in evidence.records:
                groups[_pattern(probe)].append(probe)
        self.proofs: list[Proof] = []
        for pattern, members in groups.items():
            digests = {probe: evidence.records[probe].sha256 for probe in members}
            if len(members) > TOGETHER:
                self.proofs.append({"host": evidence.host, "probe": pattern, **together(digests)})
            else:
                self.proofs += [{"host": evidence.host, "probe": probe, "sha256": digest} for probe, digest in digests.items()]


def _pattern(probe: str) -> str:
    """Return the name of the answers like *probe*.

    >>> _pattern("domain:1b4e28ba-2fa1-11d2-883f-0016d3cca427/saved"), _pattern("domstats:1b4e"), _pattern("ksm")
    ('domain:*/saved', 'domstats:*', 'ksm')
    """
    head, separator, key = probe.partition(KEY_SEPARATOR)
    if not separator:
        return probe
    _, slash, last = key.rpartition("/")
    return f"{head}{separator}*{slash}{last if slash else ''}"


def together(digests: dict[str, str]) -> Proof:
    """Return one digest for many: the SHA-256 of the lines ``<sha256>  <name>``, sorted by name; and how many they are."""
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return {"sha256": hashlib.sha256(lines.encode()).hexdigest(), "answers": len(digests)}


def of_peers(found: Iterable[list[Proof]], circle: str) -> list[Proof]:
    """Return the proofs of many hosts: those of the same question named together as ``host`` *circle* when they are many."""
    by_pattern: dict[str, list[Proof]] = defaultdict(list)
    for proofs_of_one in found:
        for proof in proofs_of_one:
            by_pattern[_pattern(proof["probe"])].append(proof)
    result: list[Proof] = []
    for pattern, members in sorted(by_pattern.items()):
        if len(members) > TOGETHER:
            digests = {f"{proof['host']}/{proof['probe']}": proof["sha256"] for proof in members}
            result.append({"host": circle, "probe": pattern, **together(digests)})
        else:
            result += members
    return sorted(result, key=lambda proof: (str(proof["host"]), str(proof["probe"])))
