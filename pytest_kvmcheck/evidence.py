"""Evidence: what a host said, byte for byte after redaction, and nothing made of it yet."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from pytest_kvmcheck.errors import Cause, EvidenceMissing, ParseError

S = TypeVar("S")
T = TypeVar("T")

#: Parts a probe's id from the key of one of its answers: ``domain_xml:<uuid>``.
KEY_SEPARATOR = ":"

#: Records that are added to an answer without sections when it arrives.
ADDED = frozenset({f"clock{KEY_SEPARATOR}trip"})

#: Reserved exit codes of the gathering script's file readers (see gather/script.py).
RC_SKIPPED, RC_NOTHING_THERE, RC_DENIED, RC_EMPTY = 75, 66, 77, 65


#: How the kernel and the tools say that the account may not.
NOT_PERMITTED = re.compile(
    r"permission denied|operation not permitted|must be (?:run as )?root|need to be root|access denied"
    r"|authentication (?:failed|unavailable|is required)|^sudo: |requires? superuser|only root can",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Record:
    """The answer of one probe: standard output and error, exit code, and whether it is whole.

    ``cause`` is None when the probe ran to its end and its output is complete; otherwise it says what kept it from that.
    ``seconds`` is the run time on the target, None when it could not be measured.
    """

    probe: str
    stdout: str = ""
    rc: int = 0
    stderr: str = ""
    cause: Cause | None = None
    seconds: float | None = None

    @cached_property
    def sha256(self) -> str:
        """Digest of the standard output as it is kept in a bundle."""
        return hashlib.sha256(self.stdout.encode()).hexdigest()

    def overran(self, limit_s: float) -> bool:
        """Return whether it was ended on the target because its own limit of *limit_s* seconds ran out.

        That alone says something about the host. What a deadline of ours, a batch or somebody else ended says nothing of it.
        """
        return self.cause is Cause.TIMEOUT and self.rc >= 0 and self.seconds is not None and self.seconds >= limit_s - 0.5

    @property
    def complaint(self) -> str:
        """The first line that explains a failure, bounded."""
        for text in (self.stderr, self.stdout):
            for line in text.splitlines():
                if line.strip():
                    return line.strip()[:200]
        return f"exit code {self.rc}"


class Files(Mapping[str, str]):
    """Contents of the files that one probe read: a mapping path -> text.

    A file that could not be read, or that may not have been collected (``partial``), is unknown rather than absent:
    asking for it raises :class:`EvidenceMissing`; a file that is known not to exist raises KeyError (``get``: None).
    """

    def __init__(
        self, probe: str, contents: dict[str, str], denied: Mapping[str, str] | None = None, partial: bool = False
    ) -> None:
        self.probe = probe
        self._contents = contents
        self.denied = dict(denied or {})
        self.partial = partial

    def __getitem__(self, path: str) -> str:
        if path in self.denied:
            raise self._unreadable(path)
        if path not in self._contents and self.partial:
            raise EvidenceMissing(Cause.NOT_COLLECTED, f"{path} was not collected", self.probe)
        return self._contents[path]

    def _unreadable(self, path: str) -> EvidenceMissing:
        """Return why *path* was not read: only a refusal is lifted by more rights."""
        why = self.denied[path]
        cause = Cause.NOT_PERMITTED if NOT_PERMITTED.search(why) else Cause.FAILED
        return EvidenceMissing(cause, f"{path}: {why}", self.probe)

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)

    def demand_all_readable(self) -> None:
        """Raise :class:`EvidenceMissing` when a file exists that could not be read, or may exist."""
        for path in self.denied:
            raise self._unreadable(path)
        if self.partial:
            raise EvidenceMissing(Cause.NOT_COLLECTED, "the files may not all have been collected", self.probe)

    def need(self, path: str) -> str:
        """Return the text of *path*; a file that does not exist is :class:`EvidenceMissing` too."""
        try:
            return self[path]
        except KeyError:
            raise EvidenceMissing(Cause.MISSING, f"{path} does not exist", self.probe) from None

    def matching(self, pattern: str) -> dict[str, str]:
        """Return the files whose whole path matches the regular expression *pattern*, sorted by path."""
        regex = re.compile(pattern)
        return {path: self._contents[path] for path in sorted(self._contents) if regex.fullmatch(path)}


def parse_files(probe: str, stdout: str, stderr: str = "", partial: bool = False) -> Files:
    r"""Return the files in the output of ``grep -H ^ FILE...``.

    Source: grep(1). Lines read ``path:line``; unreadable files are named on standard error.

    >>> dict(parse_files("x", "/a/b:1\n/a/b:2\n/a/c:\n"))
    {'/a/b': '1\n2\n', '/a/c': '\n'}
    >>> parse_files("x", "", "grep: /a/d: Permission denied\n").denied
    {'/a/d': 'Permission denied'}
    """
    contents: dict[str, list[str]] = {}
    for line in stdout.removesuffix("\n").split("\n") if stdout else ():  # splitlines also parts at form feeds and the like
        path, colon, text = line.removesuffix("\r").partition(":")
        if not colon or not path.startswith("/"):
            raise EvidenceMissing(Cause.UNPARSABLE, f"not 'path:line': {line[:80]!r}", probe)
        contents.setdefault(path, []).append(text + "\n")
    denied: dict[str, str] = {}
    for line in stderr.splitlines():
        match = re.fullmatch(r"(?:\S*grep|cat): (/.*?): (.+)", line)
        if match and match[2] != "No such file or directory":
            denied[match[1]] = match[2]
    return Files(probe, {path: "".join(lines) for path, lines in contents.items()}, denied, partial)


#: A fact that read more records than this hands them on as one set, by reference: two thousand domains, each of which is
#: compared with all others, are otherwise four million entries.
BULK = 64


class Noted:
    """Ids of the records of one host that were read: some by one, and whole sets that facts read."""

    __slots__ = ("bulk", "ids")

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.bulk: set[frozenset[str]] = set()

    def __bool__(self) -> bool:
        return bool(self.ids or self.bulk)

    def add(self, read: Noted | str) -> None:
        """Count *read*, the id of a record or what others noted, as read."""
        if isinstance(read, str):
            self.ids.add(read)
        else:
            self.ids |= read.ids
            self.bulk |= read.bulk

    def sealed(self) -> Noted:
        """Return the same, fit to be handed on often: what is large is one set."""
        whole = Noted()
        whole.bulk |= self.bulk
        if len(self.ids) > BULK:
            whole.bulk.add(frozenset(self.ids))
        else:
            whole.ids |= self.ids
        return whole


@dataclass
class Evidence:
    """All records of one host. Reading one notes its id, so that a verdict can name its evidence.

    ``failure`` stands for a host that gave nothing at all: it is raised whatever is asked.
    ``default`` is the cause given to probes of which there is no record.
    """

    host: str
    records: dict[str, Record] = field(default_factory=dict)
    failure: EvidenceMissing | None = None
    default: Cause = Cause.NOT_COLLECTED
    partial: bool = False
    sudo: str = "off"
    _readers: list[Noted] = field(default_factory=list, repr=False)
    _sections: tuple[int, dict[str, dict[str, Record]]] | None = field(default=None, init=False, repr=False)

    @contextmanager
    def noting(self) -> Iterator[Noted]:
        """Collect what is read within the block. Whoever listens outside is told by :meth:`note`, or not at all."""
        seen = Noted()
        self._readers.append(seen)
        try:
            yield seen
        finally:
            self._readers.pop()

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Note nothing of what is read within the block: it decides nothing."""
        self._readers.append(Noted())
        try:
            yield
        finally:
            self._readers.pop()

    def note(self, read: Noted | str) -> None:
        """Count *read* as read by whoever is listening."""
        if self._readers:
            self._readers[-1].add(read)

    def record(self, probe: str) -> Record:
        """Return the record of *probe*, whatever its state; raises :class:`EvidenceMissing` when there is none."""
        if self.failure:
            raise self.failure
        self.note(probe)
        try:
            return self.records[probe]
        except KeyError:
            whole = self.records.get(probe.partition(KEY_SEPARATOR)[0])
            cause = whole.cause if whole and whole.cause else self.default  # a section shares the fate of its probe
            raise EvidenceMissing(cause, f"{probe}: {cause}", probe) from None

    def whole(self, probe: str) -> Record:
        """Return the record of *probe* when it ran to its end; its exit code is the caller's to judge."""
        record = self.record(probe)
        if record.cause:
            detail = f"{probe}: {record.cause}"
            if record.cause is not Cause.TRUNCATED and (record.stderr.strip() or record.stdout.strip()):
                detail += f" ({record.complaint})"
            raise EvidenceMissing(record.cause, detail, probe)
        base, separator, _ = probe.partition(KEY_SEPARATOR)
        if separator and base in self.records and probe not in ADDED:
            _demand_pure(self.records[base])
        return record

    def head(self, probe: str) -> None:
        """Raise :class:`EvidenceMissing` unless *probe*, whose answer consists of sections, ended well and said nothing else."""
        self.text(probe)
        _demand_pure(self.records[probe])

    def text(self, probe: str, ok: tuple[int, ...] = (0,)) -> str:
        """Return the standard output of *probe* if it ended with a code in *ok*."""
        record = self.whole(probe)
        if record.rc not in (*ok, RC_EMPTY):
            raise EvidenceMissing(Cause.FAILED, f"{probe}: exit code {record.rc}: {record.complaint}", probe)
        return record.stdout

    def files(self, probe: str) -> Files:
        """Return the files that *probe* read; none there at all is an empty mapping, not an error.

        That none is there, or that those there are empty, is told by an exit code: no text without it is no answer.
        """
        record = self.record(probe)
        if record.cause is Cause.MISSING:
            return Files(probe, {}, partial=self.partial)
        record = self.whole(probe)
        if record.rc != RC_EMPTY and not (record.stdout or record.stderr or self.partial):
            raise EvidenceMissing(Cause.EMPTY, f"{probe}: no file, and no word that there is none", probe)
        return parse_files(probe, record.stdout, record.stderr, self.partial)

    def parsed(self, probe: str, parse: Callable[[str], T], ok: tuple[int, ...] = (0,)) -> T:
        """Return ``parse(text)``; a :class:`ParseError` becomes *unknown: unparsable*."""
        return parsing(probe, parse, self.text(probe, ok))

    def keyed(self, probe: str) -> dict[str, Record]:
        """Return the records ``probe:key`` as ``{key: record}``, sorted by key. To look which there are notes none as read."""
        if self._sections is None or self._sections[0] != len(self.records):
            found: dict[str, dict[str, Record]] = {}
            for name in sorted(self.records):
                head, separator, key = name.partition(KEY_SEPARATOR)
                if separator:
                    found.setdefault(head, {})[key] = self.records[name]
            self._sections = (len(self.records), found)
        return dict(self._sections[1].get(probe, {}))


def _demand_pure(head: Record) -> None:
    """Refuse sections that come after a text: somebody else speaks there."""
    if head.cause is None and head.stdout.strip():
        seen = f"{head.probe}: {head.complaint[:80]!r} stands before its first section"
        raise EvidenceMissing(Cause.UNPARSABLE, seen, head.probe)


def parsing(probe: str, parse: Callable[[S], T], given: S) -> T:
    """Return ``parse(given)``; a :class:`ParseError` becomes :class:`EvidenceMissing` that names *probe*.

    So do a number and a depth beyond Python's own bounds: whatever a text holds, it is the text that is at fault.
    """
    try:
        return parse(given)
    except (ParseError, ValueError, OverflowError, RecursionError, MemoryError) as exc:
        raise EvidenceMissing(Cause.UNPARSABLE, f"{probe}: {exc or type(exc).__name__}", probe) from exc
