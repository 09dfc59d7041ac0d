"""What can go wrong, as types: the vocabulary of the whole package."""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """Why a fact is unknown. None of these is ever a pass."""

    UNREACHABLE = "unreachable"
    NOT_PERMITTED = "not permitted"
    MISSING = "missing"
    TIMEOUT = "timed out"
    TRUNCATED = "truncated"
    FAILED = "command failed"
    UNPARSABLE = "unparsable"
    EMPTY = "empty"
    LOST = "lost"
    NOT_COLLECTED = "not collected"
    SKIPPED = "not asked"
    TAMPERED = "tampered"
    BLOCKED = "blocked"
    NOT_JUDGED = "not judged"


def printable(text: str) -> str:
    """Return *text* as one line without control characters, those that turn the direction of writing among them.

    >>> printable("a\\x1b[31m\\nb\\u202ec")
    'a\\\\x1b[31m\\\\nb\\\\u202ec'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class KvmcheckError(Exception):
    """A mistake of the user's: one clear line, exit code 4, before any connection is made.

    Whatever it quotes (names of files, of members of archives, of hosts), it is one line that no terminal obeys.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class Interrupted(KeyboardInterrupt):
    """The run was stopped from outside, by Ctrl-C or a signal: one clear line, and pytest's exit code 2."""

    __module__ = "kvmcheck"  # pytest prints it


class ConfigError(KvmcheckError):
    """A mistake in a file of the user's, with its place.

    >>> str(ConfigError("unknown check id; did you mean KVM-MEM-001?", "site.yaml", 14, "checks.KVM-MEM-01"))
    'site.yaml:14: checks.KVM-MEM-01: unknown check id; did you mean KVM-MEM-001?'
    """

    def __init__(self, message: str, file: str = "", line: int | None = None, key: str = "") -> None:
        place = f"{file}:{line}" if line else file
        super().__init__(": ".join(part for part in (place, key, message) if part))


class ParseError(ValueError):
    """A text is not what its command or file should have given."""


class EvidenceMissing(Exception):  # noqa: N818 - it is an answer ("unknown"), not an error of the program
    """A fact could not be read: the outcome is *unknown*.

    ``probe`` names the evidence that is missing, ``blocked_by`` the check that reports the root cause.
    """

    def __init__(self, cause: Cause, detail: str, probe: str = "", blocked_by: str = "") -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail
        self.probe = probe
        self.blocked_by = blocked_by


class NotApplicable(Exception):  # noqa: N818 - an answer as well
    """The check has nothing to judge on this subject; the text says why."""


class CheckWarning(AssertionError):  # noqa: N818 - an answer as well
    """A finding that deserves attention but does not fail the run."""
