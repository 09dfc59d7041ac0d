"""Read the framed reply of the gathering script. What is cut, forged or out of place is unknown, never parsed.

Nothing but the target's own secrets opens or closes an answer, and nobody else knows them (script.py, decision 14). So whatever
comes twice, unasked, or out of order is damage, and no choice is made between two answers.

The reply is bytes that a hostile host wrote: it is looked through for our marks only, never line by line, and :class:`_Room` bounds
what is made of it.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.evidence import KEY_SEPARATOR, RC_DENIED, RC_NOTHING_THERE, RC_SKIPPED, Record
from pytest_kvmcheck.gather import budget
from pytest_kvmcheck.gather.script import BATCH, BATCH_BYTES, SECRET_ROOM, STDERR_BYTES
from pytest_kvmcheck.probes import Probe

_SECRET = rb"[0-9A-Za-z-]{22,64}"
_HELLO = re.compile(rb"@([0-9A-Za-z]{8,64}) HELLO 2 (" + _SECRET + rb") (base64|hex) uid=(\d+) sudo=(\w+)\s*")
_OLD = re.compile(rb"^@[0-9A-Za-z]{8,64} HELLO 1 ", re.MULTILINE)
_BEGIN = re.compile(rb"BEGIN (\S+)( gzip)?(?: =([ 0-9a-z_]+))?")
_END = re.compile(rb"END (\S+) ([\d.]*),([\d.]*)((?: \S+)*)")
_SECTION_END = re.compile(rb"END (\S+)(?: ([\d.]*),([\d.]*) (\d+))?")
_NAME = re.compile(rb"(?:BEGIN|END) ([0-9a-z_]+)")
#: Where virsh marks a section (probes/virsh.py): this, the secret, and after it the key.
_VIRSH_MARK = b"qemu:///system?"
_VIRSH_KEY = re.compile(rb"\s*@@ ([^\n]*)\n")
#: By timeout, and by signals KILL and TERM as shells tell them: 128 and the number, 256 and the number in ksh93.
_TIMED_OUT = {124, 137, 143, 265, 271}
_NOT_PERMITTED = re.compile(
    r"permission denied|operation not permitted|must be (?:run as )?root|need to be root|access denied"
    r"|authentication (?:failed|unavailable|is required)|^sudo: |requires? superuser|only root can",
    re.IGNORECASE | re.MULTILINE,
)
#: What sudo says of a command that it does not run; it ends with 1 then, which many take for "nothing found".
_REFUSED = re.compile(
    r"^sudo: .*(?:password is required|terminal is required|not allowed to)|^sorry, user \S+ is not allowed to execute",
    re.IGNORECASE | re.MULTILINE,
)
_NOT_FOUND = re.compile(r"not found|no such file or directory", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """A decoded reply. ``complete`` is false when it ended before its DONE line; ``sudo`` says how sudo was answered.

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


class _DamagedError(ValueError):
    """An answer is not what the target wrote; ``again``: asking once more within the same reply is no second answer."""

    def __init__(self, why: str, *, again: bool = False) -> None:
        super().__init__(f"the answer arrived damaged: {why}")
        self.again = again


class _BeyondError(Exception):
    """A host tells more than any host has to tell."""


@dataclass
class _Room:
    """What is left of a host's budget. Taking more raises :class:`_BeyondError`."""

    decoded: int = budget.DECODED_BYTES
    frames: int = budget.FRAMES
    sections: int = budget.SECTIONS

    def take(self, *, decoded: int = 0, frames: int = 0, sections: int = 0) -> None:
        self.decoded -= decoded
        self.frames -= frames
        self.sections -= sections
        for left, what in (
            (self.decoded, f"{budget.DECODED_BYTES // budget.MIB} MiB of answers"),
            (self.frames, f"{budget.FRAMES} frames"),
            (self.sections, f"{budget.SECTIONS} sections"),
        ):
            if left < 0:
                raise _BeyondError(f"the host tells more than {what}")


@dataclass(frozen=True)
class _Frame:
    """One frame: what it is called, whose answers were asked for in it, and where it begins in the reply."""

    name: str
    packed: bool
    asked: tuple[str, ...]
    begin: int


@dataclass(frozen=True)
class _Whole:
    """What one frame holds: its secret (empty when no shell came to make one) and both streams."""

    secret: bytes
    stdout: bytes
    stderr: bytes
    rc: int
    seconds: float | None


def is_old(data: bytes) -> bool:
    """Return whether *data* is a reply of the first protocol, whose nonce stood in the arguments of its script.

    >>> is_old(b"Welcome!\\n@0123456789abcdef HELLO 1 base64 uid=0 sudo=off\\n")
    True
    """
    return _OLD.search(data, 0, budget.MIB) is not None


def decode(data: bytes) -> str:
    """Return *data* as text; bytes that are not UTF-8 stay visible as ``\\xNN``."""
    return data.decode("utf-8", "backslashreplace")


def _text(data: bytes, room: _Room) -> str:
    """Return *data* as text, as :func:`decode` does. What it takes in memory beyond its bytes is taken from *room* first."""
    if data.isascii():
        return data.decode()
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    parts, chars, width = [], 0, 1
    for at in range(0, len(data), budget.MIB):
        part = decoder.decode(data[at : at + budget.MIB], at + budget.MIB >= len(data))
        parts.append(part)
        chars += len(part)
        highest = max(part, default="")
        width = max(width, 4 if highest > "\uffff" else 2 if highest > "\xff" else 1)
        if chars * width - len(data) > room.decoded:
            break
    room.take(decoded=max(0, chars * width - len(data)))
    return "".join(parts)


def _marks(data: bytes, mark: bytes, begin: int, end: int, *, own_line: bool) -> Iterator[tuple[int, int, bytes]]:
    """Yield where in *data* a mark and its line begin and end, and what the line says. A line without its end is none.

    With *own_line* it must stand at the beginning of a line; a secret within an answer is a mark wherever it stands, as what was
    printed before may lack the end of its line.
    """
    while (at := data.find(mark, begin, end)) >= 0:
        begin = data.find(b"\n", at, end) + 1
        if not begin:
            return
        if not own_line or at == 0 or data[at - 1] == 10:
            yield at, begin, data[at + len(mark) : begin].rstrip()


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
        self.room = _Room()
        self.answers: dict[str, dict[str, Record]] = {}
        self.ended: set[str] = set()  # who may not be asked again
        self.spoilt: dict[str, str] = {}
        self.complete = False
        self.open: _Frame | None = None

    def spoil(self, why: str, *names: str) -> None:
        """Note that whatever the reply says of *names* is not to be believed."""
        for name in names:
            self.spoilt.setdefault(name, str(_DamagedError(why)))

    def spoil_open(self, why: str) -> None:
        if self.open:
            self.spoil(why, *self.open.asked)
        self.open = None

    def line(self, data: bytes, at: int, end: int, word: bytes) -> None:
        """Take one line of ours, from *at* to *end* in the reply. Raises :class:`_BeyondError`."""
        if match := _BEGIN.fullmatch(word):
            self.room.take(frames=1)
            name = match[1].decode("ascii", "replace")
            asked = tuple((match[3] or b"").decode().split()) if name.startswith(BATCH) else (name,)
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
            amiss = "a line that is none of the script's"
            self.spoil_open(amiss)
            if match := _NAME.match(word):
                self.spoil(amiss, match[1].decode())

    def frame(self, frame: _Frame, body: bytes, end: re.Match[bytes]) -> None:
        """Take what one frame answers."""
        try:
            if frame.name.startswith(BATCH):
                self.batch(frame, _whole(frame, BATCH_BYTES, body, end, self.encoding, self.room))
            elif probe := self.wanted.get(frame.name):
                whole = _whole(frame, probe.max_bytes, body, end, self.encoding, self.room)
                if whole.stdout and not whole.secret:
                    raise _DamagedError("its beginning is missing")
                self.take(frame.name, _records(probe, whole, self.room))
        except _DamagedError as exc:
            if not exc.again:
                self.spoil(str(exc).partition(": ")[2], *frame.asked)
            for name in frame.asked:
                if name in self.wanted:
                    self.answers.setdefault(name, {name: Record(name, rc=-1, cause=Cause.LOST, stderr=str(exc))})

    def take(self, name: str, records: dict[str, Record]) -> None:
        """Take the whole answer of *name*: the first one, or the one of its own frame after a batch that it did not end in."""
        if name in self.ended:
            self.spoil("it came twice", name)
        self.ended.add(name)
        self.room.take(sections=len(records))
        self.answers[name] = records

    def batch(self, frame: _Frame, whole: _Whole) -> None:
        """Part the frame of a batch into the answers of its probes.

        A section without an end on both streams is cut: by the cause of the frame, until a frame of its own says better.
        """
        cause = Cause.TRUNCATED if len(whole.stdout) > BATCH_BYTES else cause_of(whole.rc, "", "")
        errors = {name: text for name, text, end in _sections(whole, whole.stderr, frame.asked, self.room) if end}
        for name, data, end in _sections(whole, whole.stdout, frame.asked, self.room):
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
            answer = _Whole(whole.secret, data, errors[name], int(end[4]), _seconds(end[2], end[3]))
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
            for at, end, word in _marks(data, b"@" + hello[2] + b" ", begin, stop, own_line=True):
                reader.line(data, at, end, word)
        except _BeyondError as exc:
            beyond = str(exc)
    reader.complete |= data[begin:stop].endswith(b"\n@" + hello[2] + b" DONE") and not beyond
    records = {name: record for answer in reader.answers.values() for name, record in answer.items()}
    for name, why in reader.spoilt.items():
        if name in wanted:
            for key in reader.answers.get(name, ()):
                del records[key]
            records[name] = Record(name, rc=-1, cause=Cause.LOST, stderr=why)
    missing = tuple(name for name in wanted if name not in reader.answers and name not in reader.spoilt)
    lost = (Cause.TRUNCATED, beyond) if beyond else (Cause.LOST, ENDED)
    records |= {name: Record(name, rc=-1, cause=lost[0], stderr=lost[1]) for name in missing}
    return Reply(records, reader.complete, int(hello[4]), hello[5].decode(), hello[2].decode(), () if beyond else missing)


def _decoded(text: bytes, encoding: bytes) -> bytes:
    if encoding == b"hex":
        return bytes.fromhex(text.decode("ascii"))
    return base64.b64decode(text.translate(None, b" \r\n"), validate=True)


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


def _seconds(begin: bytes, end: bytes) -> float | None:
    try:
        return round(float(end) - float(begin), 2)
    except ValueError:
        return None


def _whole(frame: _Frame, max_bytes: int, body: bytes, end: re.Match[bytes], encoding: bytes, room: _Room) -> _Whole:
    """Return what one frame holds. Raises :class:`_DamagedError`, and :class:`_BeyondError` when there is no more room."""
    words = end[4].split()
    codes = [word[1:] for word in words if word.startswith(b"!")]
    try:
        stdout = _decoded(body, encoding)
        if frame.packed:
            stdout = _unpacked(stdout, min(max_bytes + SECRET_ROOM, room.decoded + 1))
        stderr = _decoded(b" ".join(word for word in words if not word.startswith(b"!")), encoding)
        # Who is cut off may not live to tell his exit code.
        rc = int(codes[0]) if codes[0] or len(stdout) < max_bytes + SECRET_ROOM else -1
    except (binascii.Error, ValueError, IndexError) as exc:
        raise _DamagedError(str(exc) or type(exc).__name__, again=True) from None
    room.take(decoded=len(stdout) + len(stderr))
    secret, _, rest = stdout.partition(b"\n")
    if not re.fullmatch(_SECRET, secret):
        secret, rest = b"", stdout
    return _Whole(secret, rest, stderr.lstrip(b"\n"), rc, _seconds(end[2], end[3]))


def _records(probe: Probe, whole: _Whole, room: _Room) -> dict[str, Record]:
    """Return the records of one probe, whose whole answer is *whole*."""
    stderr = _text(whole.stderr[:STDERR_BYTES], room)
    cut = len(whole.stdout) > probe.max_bytes
    data = whole.stdout[: probe.max_bytes]
    cause = Cause.TRUNCATED if cut else cause_of(whole.rc, "something" if data else "", stderr)
    if probe.keyed:
        return _split(probe.id, data, whole, stderr, cause, room)
    text = _text(data, room)
    # A command that reads one file prints lines of it as they are; only `g` puts the path before each.
    if probe.one_file and probe.reads_files:
        text = "".join(line.partition(":")[2] for line in text.splitlines(keepends=True))
        if stderr and not text and cause is None:
            cause = Cause.NOT_PERMITTED
    return {probe.id: Record(probe.id, text, whole.rc, stderr, cause, whole.seconds)}


def _sections(
    whole: _Whole, stream: bytes, asked: tuple[str, ...], room: _Room
) -> Iterator[tuple[str, bytes, re.Match[bytes] | None]]:
    """Yield name, text and end (None: it has none) of the sections of one stream of a batch.

    Raises :class:`_DamagedError` for what the script does not write: a section that was not asked for, comes twice, begins within
    another, or ends without a beginning.
    """
    if not whole.secret:
        if whole.stdout:
            raise _DamagedError("its beginning is missing")
        return
    seen: set[str] = set()
    name, begin = "", 0
    for at, end, word in _marks(stream, b"@=" + whole.secret + b" ", 0, len(stream), own_line=False):
        match = _SECTION_END.fullmatch(word)
        if match and match[1].decode("ascii", "replace") == name:
            room.take(sections=1)
            yield name, stream[begin:at].removesuffix(b"\n"), match
            name = ""
            continue
        new = word.removeprefix(b"BEGIN ").decode("ascii", "replace")
        if match or name or new in seen or new not in asked:
            raise _DamagedError(f"section {new} is out of place")
        seen.add(new)
        name, begin = new, end
    if name:
        yield name, stream[begin:], None


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
    if rc == 126 or _NOT_PERMITTED.search(stderr):
        return Cause.NOT_PERMITTED
    return None


def _split(probe: str, data: bytes, whole: _Whole, stderr: str, cause: Cause | None, room: _Room) -> dict[str, Record]:
    """Part the output of a keyed probe into one record a section, and keep what stands before the first.

    The record under the probe's own id tells how the command ended. When it was cut short, its last section is marked.
    Raises :class:`_DamagedError` when a section comes twice.
    """
    found = list(_keys(data, whole.secret, room)) if whole.secret else []
    head = _text(data[: found[0][1]] if found else data, room)
    records = {probe: Record(probe, head, whole.rc, stderr, cause, whole.seconds)}
    for number, (key, _, begin) in enumerate(found):
        last = number + 1 == len(found)
        piece = data[begin:] if last else data[begin : found[number + 1][1]]
        if whole.secret in piece:  # where virsh was asked for its URI
            piece = piece.replace(b"?" + whole.secret, b"")
        name = f"{probe}{KEY_SEPARATOR}{key}"
        if name in records:
            raise _DamagedError(f"its section {key} comes twice")
        records[name] = Record(name, _text(piece, room), 0, "", cause if last else None)
    return records


def _keys(data: bytes, secret: bytes, room: _Room) -> Iterator[tuple[str, int, int]]:
    """Yield the keys of the sections, where their marks begin and where what they hold begins."""
    at = -1
    while (at := data.find(secret, at + 1)) >= 0:
        after = at + len(secret)
        if data[at - 2 : at] == b"@@" and data[after : after + 1] == b" ":
            begin, end = at - 2, data.find(b"\n", after) + 1
            key = data[after:end]
        elif data[max(0, at - len(_VIRSH_MARK)) : at] == _VIRSH_MARK and (match := _VIRSH_KEY.match(data, after)):
            begin, end, key = at - len(_VIRSH_MARK), match.end(), match[1]
        else:
            continue
        if not end:
            return
        room.take(sections=1)
        yield _text(key.strip(), room), begin, end
