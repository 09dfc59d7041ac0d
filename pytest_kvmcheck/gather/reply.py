"""Read the framed reply of the gathering script. What is cut, forged or out of place is unknown, never parsed."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import KEY_SEPARATOR, NOT_PERMITTED, RC_DENIED, RC_NOTHING_THERE, RC_SKIPPED, Record
from pytest_kvmcheck.gather.script import BATCH, BATCH_BYTES, STDERR_BYTES
from pytest_kvmcheck.probes import Probe

_HELLO = re.compile(r"HELLO 1 (base64|hex) uid=(\d+) sudo=(\w+)")
_BEGIN = re.compile(r"BEGIN (\S+)( gzip)?")
_END = re.compile(r"END (\S+) ([\d.]*),([\d.]*)((?: \S+)*)")
_TIMED_OUT = {124, 137, 143}
#: What sudo says of a command that it does not run; it ends with 1 then, which many take for "nothing found".
_REFUSED = re.compile(
    r"^sudo: .*(?:password is required|terminal is required|not allowed to)|^sorry, user \S+ is not allowed to execute",
    re.IGNORECASE | re.MULTILINE,
)
_NOT_FOUND = re.compile(r"not found|no such file or directory", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """A decoded reply. ``complete`` is false when it ended before its DONE line.

    ``sudo``: how sudo was answered (off, granted, denied, absent), or "root", who needs none.

    ``missing`` are the probes that it ended before: there are records of them, and they are lost.
    """

    records: dict[str, Record]
    complete: bool
    uid: int
    sudo: str
    missing: tuple[str, ...] = ()


#: What is told of a probe that the reply ended before.
ENDED = "the reply ended before this answer"


def find_nonce(text: str) -> str | None:
    """Return the nonce of the first HELLO line of a saved reply, or None.

    >>> find_nonce("Welcome!\\n@0123456789abcdef HELLO 1 base64 uid=0 sudo=off\\n")
    '0123456789abcdef'
    """
    match = re.search(r"^@([0-9A-Za-z]{8,64}) HELLO 1 ", text, re.MULTILINE)
    return match[1] if match else None


def decode(data: bytes) -> str:
    """Return *data* as text; bytes that are not UTF-8 stay visible as ``\\xNN``."""
    return data.decode("utf-8", "backslashreplace")


def read(text: str, nonce: str, probes: Iterable[Probe]) -> Reply | None:
    """Return the reply in *text*, or None when it never began. Probes without a closed frame are LOST."""
    wanted = {probe.id: probe for probe in probes}
    mark = f"@{nonce} "
    hello: re.Match[str] | None = None
    complete = False
    open_probe, packed, body = "", False, list[str]()
    records: dict[str, Record] = {}
    for line in text.splitlines():
        if not line.startswith(mark):
            body.append(line)
            continue
        word = line[len(mark) :].rstrip()
        if match := _HELLO.fullmatch(word):
            hello = match
        elif hello is None:
            continue
        elif match := _BEGIN.fullmatch(word):
            open_probe, packed, body = match[1], bool(match[2]), []
        elif (match := _END.fullmatch(word)) and match[1] == open_probe:
            if open_probe.startswith(BATCH):
                whole = _whole(Probe(open_probe, "", "", max_bytes=BATCH_BYTES), body, match, hello[1], packed)
                records |= _batch(whole, wanted, nonce)
            elif open_probe in wanted:
                probe = wanted[open_probe]
                records |= _records(probe, _whole(probe, body, match, hello[1], packed), nonce)
            open_probe = ""
        elif word == "DONE":
            complete = True
    if hello is None:
        return None
    answered = {name.partition(KEY_SEPARATOR)[0] for name in records}
    missing = tuple(name for name in wanted if name not in answered)
    records |= {name: Record(name, rc=-1, cause=Cause.LOST, stderr=ENDED) for name in missing}
    uid = int(hello[2])
    return Reply(records, complete, uid, hello[3] if uid else "root", missing)


def _decoded(words: list[str], encoding: str) -> bytes:
    if encoding == "hex":
        return bytes.fromhex("".join(words))
    return base64.b64decode("".join(words), validate=True)


def _unpacked(data: bytes, bound: int) -> bytes:
    """Return what gzip packed, up to *bound* bytes: a bomb costs no more memory. Raises ValueError for a damaged or cut stream.

    >>> import gzip
    >>> _unpacked(gzip.compress(b"abc"), 9), _unpacked(gzip.compress(b"a" * 10**6), 4)
    (b'abc', b'aaaa')
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, bound)
    except zlib.error as exc:
        raise ValueError(str(exc)) from None
    if len(text) < bound and (not unpacker.eof or unpacker.unused_data):
        raise ValueError("the compressed answer is cut or followed by something else")
    return text


def _seconds(begin: str, end: str) -> float | None:
    try:
        return round(float(end) - float(begin), 2)
    except ValueError:
        return None


def _whole(probe: Probe, body: list[str], end: re.Match[str], encoding: str, packed: bool) -> Record:
    """Return what one frame holds."""
    words = end[4].split()
    codes = [word[1:] for word in words if word.startswith("!")]
    try:
        stdout = _decoded(body, encoding)
        if packed:
            stdout = _unpacked(stdout, probe.max_bytes + 1)
        stderr = decode(_decoded([word for word in words if not word.startswith("!")], encoding)).lstrip("\n")
        rc = int(codes[0])
    except (binascii.Error, ValueError, IndexError):
        return Record(probe.id, rc=-1, cause=Cause.LOST, stderr="the answer arrived damaged")
    cut = len(stdout) > probe.max_bytes
    text = decode(stdout[: probe.max_bytes])
    cause = Cause.TRUNCATED if cut else cause_of(rc, text, stderr)
    return Record(probe.id, text, rc, stderr, cause, _seconds(end[2], end[3]))


def _records(probe: Probe, whole: Record, nonce: str) -> dict[str, Record]:
    """Return the records of one probe, whose whole answer is *whole*."""
    if probe.keyed and whole.rc >= 0:
        return split(whole, nonce)
    # A command that reads one file prints lines of it as they are; only `g` puts the path before each.
    if not (probe.one_file and probe.reads_files):
        return {probe.id: whole}
    text = "".join(line.partition(":")[2] for line in whole.stdout.splitlines(keepends=True))
    denied = whole.stderr and not text and whole.cause is None
    return {probe.id: replace(whole, stdout=text, cause=Cause.NOT_PERMITTED if denied else whole.cause)}


def _batch(whole: Record, wanted: Mapping[str, Probe], nonce: str) -> dict[str, Record]:
    """Part the frame of a batch into the answers of its probes.

    A section without an end is cut: by the cause of the frame, until a frame of its own says better.
    """
    errors = {name: text for name, text, _ in _sections(whole.stderr, nonce)}
    records: dict[str, Record] = {}
    for name, text, end in _sections(whole.stdout, nonce):
        probe = wanted.get(name)
        if probe is None:
            continue
        if end is None:
            why = f"its batch ended before it did: {whole.cause or 'no reason told'}"
            records[name] = Record(name, rc=-1, stderr=why, cause=whole.cause or Cause.LOST)
            continue
        stderr = errors.get(name, "")[:STDERR_BYTES]
        data = text.encode()
        cut = len(data) > probe.max_bytes
        stdout = data[: probe.max_bytes].decode("utf-8", "ignore") if cut else text
        cause = Cause.TRUNCATED if cut else cause_of(int(end[3]), stdout, stderr)
        records |= _records(probe, Record(name, stdout, int(end[3]), stderr, cause, _seconds(end[1], end[2])), nonce)
    return records


def _sections(text: str, nonce: str) -> Iterator[tuple[str, str, re.Match[str] | None]]:
    """Yield name, text and end (begin, end, exit code; None: it has none) of the sections of one stream of a batch."""
    begin, finish = f"@={nonce} BEGIN ", f"@={nonce} END "
    name, lines = "", list[str]()
    for line in text.splitlines(keepends=True):
        if line.startswith(begin):
            if name:
                yield name, "".join(lines), None
            name, lines = line[len(begin) :].strip(), []
        elif name and line.startswith(f"{finish}{name}"):
            body = "".join(lines)
            match = re.fullmatch(r" ?([\d.]*),?([\d.]*) ?(\d*)", line[len(finish) + len(name) :].rstrip())
            yield name, body.removesuffix("\n"), match
            name = ""
        else:
            lines.append(line)
    if name:
        yield name, "".join(lines), None


def cause_of(rc: int, stdout: str, stderr: str) -> Cause | None:
    """Return why a command that ended with *rc* gave no usable answer, or None when the exit code is the answer."""
    if _REFUSED.search(stderr):
        return Cause.NOT_PERMITTED
    if rc == 0:
        return None
    if rc == RC_SKIPPED and not stdout:
        return Cause.SKIPPED
    if rc == RC_NOTHING_THERE and not stdout:
        return Cause.MISSING
    if rc == RC_DENIED and not stdout:
        return Cause.NOT_PERMITTED
    if rc in _TIMED_OUT:
        return Cause.TIMEOUT
    if rc == 127 or (rc == 1 and stderr.startswith(("stat: ", "cat: ")) and _NOT_FOUND.search(stderr)):
        return Cause.MISSING
    if rc == 126 or NOT_PERMITTED.search(stderr):
        return Cause.NOT_PERMITTED
    return None


def split(whole: Record, nonce: str) -> dict[str, Record]:
    """Part the output of a keyed probe into one record a section, and keep what stands before the first.

    The record under the probe's own id tells how the command ended. When it was cut short, its last section is marked.
    """
    heads: list[str] = []
    sections: dict[str, list[str]] = {}
    key = ""
    mark = f"@@{nonce} "
    for line in whole.stdout.splitlines(keepends=True):
        if line.startswith(mark):
            key = line[len(mark) :].strip()
            sections.setdefault(key, [])
        elif key:
            sections[key].append(line)
        else:
            heads.append(line)
    probe = whole.probe
    records = {probe: Record(probe, "".join(heads), whole.rc, whole.stderr, whole.cause, whole.seconds)}
    for name, lines in sections.items():
        cause = whole.cause if name == key else None
        records[f"{probe}{KEY_SEPARATOR}{name}"] = Record(f"{probe}{KEY_SEPARATOR}{name}", "".join(lines), 0, "", cause)
    return records
