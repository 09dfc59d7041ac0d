"""What a check says besides a plain assertion: several findings at once, warnings, and notes to a pass."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pytest_kvmcheck.errors import CheckWarning, EvidenceMissing

P = TypeVar("P", bound=Hashable)
T = TypeVar("T")

_notes: list[str] = []


def note(text: str) -> None:
    """Remember *text* as the message of a check that passes: what was found, for the record."""
    if text not in _notes:
        _notes.append(text)


def take_notes() -> str:
    """Return the notes since the last call, as one line."""
    text = "; ".join(_notes)
    _notes.clear()
    return text


def compared(peers: Iterable[P], ask: Callable[[P], T]) -> dict[P, T]:
    """Return what *peers* of a host answer. Who gives no answer is named in a note: his own verdict is the unknown one."""
    answers: dict[P, T] = {}
    silent = []
    for peer in peers:
        try:
            answers[peer] = ask(peer)
        except EvidenceMissing:
            silent.append(str(peer))
    if silent:
        note(f"not compared with {', '.join(silent[:8])}{', ...' if silent[8:] else ''}: no answer from there")
    return answers


class Findings:
    """Collects what is wrong about one subject; leaving the block decides.

    A failure beats what is unknown, which beats a warning: a finding that evidence proves is told even where other evidence
    is missing, and nothing passes or merely warns while something is unknown. ::

        with Findings() as found:
            found.fail_if(depth > 3, f"{disk}: {depth} images deep, at most 3 allowed.")
    """

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.warnings: list[str] = []
        self.missing: EvidenceMissing | None = None

    def fail(self, message: str) -> None:
        """Report a failure."""
        self.failures.append(message)

    def fail_if(self, bad: bool, message: str) -> None:
        """Report a failure when *bad*."""
        if bad:
            self.fail(message)

    def warn(self, message: str) -> None:
        """Report a warning."""
        self.warnings.append(message)

    def warn_if(self, bad: bool, message: str) -> None:
        """Report a warning when *bad*."""
        if bad:
            self.warn(message)

    def unknown(self, missing: EvidenceMissing | None) -> None:
        """Report that something could not be judged; None is no report."""
        self.missing = self.missing or missing

    @contextmanager
    def part(self) -> Iterator[None]:
        """Let a part of the check end where evidence is missing, report that, and go on with the other parts."""
        try:
            yield
        except EvidenceMissing as missing:
            self.unknown(missing)

    def __enter__(self) -> Findings:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: object) -> None:
        if isinstance(value, EvidenceMissing):
            self.unknown(value)
        elif value is not None:
            return
        if self.failures:
            raise AssertionError(" ".join(self.failures)) from None
        if self.missing:
            raise self.missing.with_traceback(None)
        if self.warnings:
            raise CheckWarning(" ".join(self.warnings))
