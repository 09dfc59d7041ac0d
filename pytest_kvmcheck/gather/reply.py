"""Read the framed reply of the gathering script. What is cut, forged or out of place is unknown, never parsed.

Nothing but the target's own secrets opens or closes an answer, and nobody else knows them (script.py, decision 14). So whatever
comes twice, unasked, or out of order is damage, and no choice is made between two answers.

The reply is bytes that a hostile host wrote: it is looked through for our marks only, never line by line, and :class:`Room` bounds
what is made of it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import KEY_SEPARATOR, NOT_PERMITTED, RC_DENIED, RC_NOTHING_THERE, RC_SKIPPED, Record
from pytest_kvmcheck.gather import budget
from pytest_kvmcheck.gather.frame import (
    SECRET,
    BeyondError,
    DamagedError,
    Room,
    Whole,
    as_text,
    decoded,
    keys,
    marks,
    sections,
    unpacked,
)
from pytest_kvmcheck.gather.script import BATCH, BATCH_BYTES, SECRET_ROOM, STDERR_BYTES
from pytest_kvmcheck.probes import Probe

_HELLO = re.compile(rb"@([0-9A-Za-z]{8,64}) HELLO 2 (" + SECRET + rb") (base64|hex) uid=(\d{1,20}) sudo=(\w{1,20})\s*")
_OLD = re.compile(rb"^@[0-9A-Za-z]{8,64} HELLO 1 ", re.MULTILINE)
_BEGIN = re.compile(rb"BEGIN (\S+)( gzip)?(?: =([ 0-9a-z_]{1,9999}))?")
_END = re.compile(rb"END (\S+) ([\d.]{0,20}),([\d.]{0,20})((?: \S+)*)")
_NAME = re.compile(rb"(?:BEGIN|END) ([0-9a-z_]+)")
#: By timeout, and by signals KILL and TERM as shells tell them: 128 and the number, 256 and the number in ksh93.
_TIMED_OUT = {124, 137, 143, 265, 271}
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

    ``missing`` are the probes that it ended before: there are records of them, and they are lost. ``secret`` marks its frames.
    """

    records: dict[str, Record]
    complete: bool
    uid: int
    sudo: str
    secret: str = ""
    missing: tuple[str, ...] = ()


#: What is told of a probe that the reply ended before.
ENDED = "the reply ended before this answer"
#: What is told of a saved reply whose marks any user of the host could read while it was made.
OLD = "was made by an older kvmcheck, whose replies users of the host could forge: run its collect-script again"


@dataclass(frozen=True)
class _Frame:
    """One frame: what it is called, whose answers were asked for in it, and where it begins in the reply."""

    name: str
    packed: bool
    asked: frozenset[str]
    begin: int


def is_old(data: bytes) -> bool:
    """Return whether *data* is a reply of the first protocol, whose nonce stood in the arguments of its script.

    >>> is_old(b"Welcome!\\n@0123456789abcdef HELLO 1 base64 uid=0 sudo=off\\n")
    True
    """
    return _OLD.search(data, 0, budget.MIB) is not None


def decode(data: bytes) -> str:
    """Return *data* as text; bytes that are not UTF-8 stay visible as ``\\xNN``."""
    return data.decode("utf-8", "backslashreplace")


def _hellos(data: bytes, token: str | None, end: int) -> list[tuple[int, re.Match[bytes]]]:
    """Return where what follows the first lines of replies begins, and these lines: one is right, with two one is forged."""
    found: list[tuple[int, re.Match[bytes]]] = []
    word = b"@" + token.encode() + b" HELLO 2 " if token else b" HELLO 2 "
    at = -1
    while len(found) < 2 and (at := data.find(word, at + 1, end)) >= 0:
        begin = data.rfind(b"\n", max(0, at - 80), at + 1) + 1 or max(0, at - 80)
        match = _HELLO.match(data, begin, min(end, begin + 300))
        if match and match[0].endswith(b"\n") and (begin == 0 or data[begin - 1] == 10):
            found.append((match.end(), match))
    return found


class _Reader:
    """Puts together what the frames of one reply hold."""

    def __init__(self, wanted: Mapping[str, Probe], encoding: bytes) -> None:
        self.wanted = wanted
        self.encoding = encoding
        self.room = Room()
        self.answers: dict[str, dict[str, Record]] = {}
        self.closed: set[str] = set()  # names of frames
        self.ended: set[str] = set()  # who may not be asked again
        self.spoilt: dict[str, str] = {}
        self.complete = False
        self.open: _Frame | None = None

    def spoil(self, why: str, *names: str) -> None:
        """Note that whatever the reply says of *names* is not to be believed."""
        for name in self.wanted.keys() & names:
            self.spoilt.setdefault(name, str(DamagedError(why)))

    def spoil_open(self, why: str) -> None:
        if self.open:
            self.spoil(why, *self.open.asked)
        self.open = None

    def line(self, data: bytes, at: int, end: int, word: bytes) -> None:
        """Take one line of ours, from *at* to *end* in the reply. Raises :class:`BeyondError`."""
        if match := _BEGIN.fullmatch(word):
            self.room.take(frames=1)
            name = match[1].decode("ascii", "replace")
            asked = frozenset((match[3] or b"").decode().split() if name.startswith(BATCH) else (name,))
            amiss = "it comes after the end of the reply" if self.complete else "a frame begins within another" if self.open else ""
            if amiss:
                self.spoil_open(amiss)
                self.spoil(amiss, *asked)
            self.open = _Frame(name, bool(match[2]), asked, end)
        elif (match := _END.fullmatch(word)) and self.open and match[1].decode("ascii", "replace") == self.open.name:
            frame, self.open = self.open, None
            self.frame(frame, data[frame.begin : at], match)
        elif word == b"DONE":
            self.spoil_open("the reply ends within it")
            self.complete = True
        else:
            self.room.take(frames=1)
            amiss = "a line that is none of the script's"
            self.spoil_open(amiss)
            if match := _NAME.match(word):
                self.spoil(amiss, match[1].decode())

    def frame(self, frame: _Frame, body: bytes, end: re.Match[bytes]) -> None:
        """Take what one frame answers."""
        if frame.name in self.closed:
            self.spoil("it came twice", *frame.asked)
            return
        self.closed.add(frame.name)
        try:
            if frame.name.startswith(BATCH):
                self.batch(frame, _whole(frame, BATCH_BYTES, body, end, self.encoding, self.room))
            elif probe := self.wanted.get(frame.name):
                whole = _whole(frame, probe.max_bytes, body, end, self.encoding, self.room)
                if whole.stdout and not whole.secret:
                    raise DamagedError("its beginning is missing")
                self.take(frame.name, _records(probe, whole, self.room))
        except DamagedError as exc:
            if not exc.again:
                self.spoil(str(exc).partition(": ")[2], *frame.asked)
            for name in frame.asked:
                if name in self.wanted:
                    self.answers.setdefault(name, {name: Record(name, rc=-1, cause=Cause.LOST, stderr=str(exc))})

    def take(self, name: str, records: dict[str, Record]) -> None:
        """Take the whole answer of *name*: the only one, or that of its own frame after a batch that it did not end in."""
        if name in self.ended:
            self.spoil("it came twice", name)
        self.ended.add(name)
        self.answers[name] = records

    def batch(self, frame: _Frame, whole: Whole) -> None:
        """Part the frame of a batch into the answers of its probes.

        A section without an end on both streams is cut: by the cause of the frame, until a frame of its own says better.
        """
        cause = Cause.TRUNCATED if len(whole.stdout) > BATCH_BYTES else cause_of(whole.rc, "", "")
        errors = {name: text for name, text, end in sections(whole, whole.stderr, frame.asked, self.room) if end}
        for name, data, end in sections(whole, whole.stdout, frame.asked, self.room):
            probe = self.wanted.get(name)
            if probe is None:
                continue
            if end is None or end[4] is None or name not in errors:
                why = f"its batch ended before it did: {cause or 'no reason told'}"
                if name in self.answers:
                    self.spoil("it came twice", name)
                self.answers[name] = {name: Record(name, rc=-1, stderr=why, cause=cause or Cause.LOST)}
                if name in errors:  # the script did not ask again
                    self.ended.add(name)
                continue
            answer = Whole(whole.secret, data, errors[name], int(end[4]), _seconds(end[2], end[3]))
            self.take(name, _records(probe, answer, self.room))


def read(data: bytes, token: str | None, probes: Iterable[Probe]) -> Reply | None:
    """Return the reply in *data*, or None when it never began. Probes without a closed frame are LOST.

    Without a *token* (a saved reply) any will do. With two beginnings nothing is believed.
    """
    wanted = {probe.id: probe for probe in probes}
    stop = min(len(data), budget.REPLY_BYTES)
    hellos = _hellos(data, token, stop)
    if not hellos:
        return None
    begin, hello = hellos[0]
    reader = _Reader(wanted, hello[3])
    beyond = f"the reply is larger than {budget.REPLY_BYTES // budget.MIB} MiB" if stop < len(data) else ""
    if len(hellos) > 1:
        reader.spoil("the reply begins twice", *wanted)
    else:
        try:
            for at, end, word in marks(data, b"@" + hello[2] + b" ", begin, stop, own_line=True):
                reader.line(data, at, end, word)
        except BeyondError as exc:
            beyond = str(exc)
    reader.complete |= data.endswith(b"\n@" + hello[2] + b" DONE", begin, stop) and not beyond
    records = {name: record for answer in reader.answers.values() for name, record in answer.items()}
    for name, why in reader.spoilt.items():
        if name in wanted:
            for key in reader.answers.get(name, ()):
                del records[key]
            records[name] = Record(name, rc=-1, cause=Cause.LOST, stderr=why)
    missing = tuple(name for name in wanted if name not in reader.answers and name not in reader.spoilt)
    lost = (Cause.TRUNCATED, beyond) if beyond else (Cause.LOST, ENDED)
    records |= {name: Record(name, rc=-1, cause=lost[0], stderr=lost[1]) for name in missing}
    uid = int(hello[4])
    sudo = hello[5].decode() if uid else "root"
    return Reply(records, reader.complete, uid, sudo, hello[2].decode(), () if beyond else missing)


def _seconds(begin: bytes, end: bytes) -> float | None:
    try:
        return round(float(end) - float(begin), 2)
    except ValueError:
        return None


def _whole(frame: _Frame, max_bytes: int, body: bytes, end: re.Match[bytes], encoding: bytes, room: Room) -> Whole:
    """Return what one frame holds. Raises :class:`DamagedError`, and :class:`BeyondError` when there is no more room."""
    words = end[4].split()
    codes = [word[1:] for word in words if word.startswith(b"!")]
    try:
        stdout = decoded(body, encoding)
        if frame.packed:
            stdout = unpacked(stdout, min(max_bytes + SECRET_ROOM, room.decoded + 1))
        stderr = decoded(b" ".join(word for word in words if not word.startswith(b"!")), encoding)
        # Who is cut off may not live to tell his exit code.
        rc = int(codes[0]) if codes[0] or len(stdout) < max_bytes + SECRET_ROOM else -1
    except (binascii.Error, ValueError, IndexError) as exc:
        raise DamagedError(str(exc) or type(exc).__name__, again=True) from None
    room.take(decoded=len(stdout) + len(stderr))
    secret, _, rest = stdout.partition(b"\n")
    if not re.fullmatch(SECRET, secret):
        secret, rest = b"", stdout
    return Whole(secret, rest, stderr.lstrip(b"\n"), rc, _seconds(end[2], end[3]))


def _records(probe: Probe, whole: Whole, room: Room) -> dict[str, Record]:
    """Return the records of one probe, whose whole answer is *whole*."""
    stderr = as_text(whole.stderr[:STDERR_BYTES], room)
    cut = len(whole.stdout) > probe.max_bytes
    data = whole.stdout[: probe.max_bytes]
    cause = Cause.TRUNCATED if cut else cause_of(whole.rc, "something" if data else "", stderr)
    if probe.keyed:
        return _split(probe.id, data, whole, stderr, cause, room)
    text = as_text(data, room)
    # A command that reads one file prints lines of it as they are; only `g` puts the path before each.
    if probe.one_file and probe.reads_files:
        text = "".join(line.partition(":")[2] for line in text.splitlines(keepends=True))
        if stderr and not text and cause is None:
            cause = Cause.NOT_PERMITTED
    return {probe.id: Record(probe.id, text, whole.rc, stderr, cause, whole.seconds)}


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


def _split(probe: str, data: bytes, whole: Whole, stderr: str, cause: Cause | None, room: Room) -> dict[str, Record]:
    """Part the output of a keyed probe into one record a section, and keep what stands before the first.

    The record under the probe's own id tells how the command ended. When it was cut short, its last section is marked.
    Raises :class:`DamagedError` when a section comes twice.
    """
    found = list(keys(data, whole.secret, room)) if whole.secret else []
    head = as_text(data[: found[0][1]] if found else data, room)
    records = {probe: Record(probe, head, whole.rc, stderr, cause, whole.seconds)}
    for number, (key, _, begin) in enumerate(found):
        last = number + 1 == len(found)
        piece = data[begin:] if last else data[begin : found[number + 1][1]]
        if whole.secret in piece:  # where virsh was asked for its URI
            piece = piece.replace(b"?" + whole.secret, b"")
        name = f"{probe}{KEY_SEPARATOR}{key}"
        if name in records:
            raise DamagedError(f"its section {key} comes twice")
        records[name] = Record(name, as_text(piece, room), 0, "", cause if last else None)
    return records
