"""Waivers: failures that someone answers for, until a date."""

from __future__ import annotations

import datetime as dt
import fnmatch
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from pytest_kvmcheck.names import alike, hidden, oddity, scripts, words
from pytest_kvmcheck.parameters import says_something
from pytest_kvmcheck.yamlfile import YamlFile, did_you_mean

#: The longest term of a waiver that no setting changes.
LONGEST = dt.timedelta(days=366)

#: A date, or a moment with or without its offset from UTC; YAML reads most of them itself.
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)

_EXPECTED = "expected a date such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z"


def _read_moment(value: object) -> dt.date:
    """Return the date or the moment that *value* is. Nothing is guessed: 20270131 is a number, 31.1.2027 a text."""
    if isinstance(value, str) and _ISO.fullmatch(value):
        read: Callable[[str], dt.date] = dt.date.fromisoformat if len(value) == 10 else dt.datetime.fromisoformat
        return read(value.upper())
    if isinstance(value, dt.date):  # a datetime is one too
        return value
    raise ValueError(f"{_EXPECTED}, given: {str(value)[:60]!r}")


class Entry(BaseModel):
    """A waiver as it is written."""

    model_config = ConfigDict(extra="forbid")
    check: str = Field(description="id of the check")
    subject: str = Field(description="glob over subjects; a host's name covers what is on it")
    reason: str
    owner: str
    approver: str = Field(description="somebody else than the owner")
    expires: Annotated[dt.date, PlainValidator(_read_moment)] = Field(description="date (to its end, UTC), or moment")
    ticket: str = ""


class WaiverFile(BaseModel):
    """A file of waivers; the list alone will do."""

    model_config = ConfigDict(extra="forbid", title="pytest-kvmcheck waivers")
    waivers: list[Entry]


@dataclass(frozen=True)
class Waiver:
    """One waiver. ``subject`` is a glob over subject ids; it is in force before ``expires`` (UTC)."""

    check: str
    subject: str
    reason: str
    owner: str
    approver: str
    expires: dt.datetime
    ticket: str

    def matches(self, check: str, subject: str) -> bool:
        """Whether the waiver speaks of this verdict. A glob for a host covers what is on it."""
        return self.check == check and (
            fnmatch.fnmatchcase(subject, self.subject) or fnmatch.fnmatchcase(subject.split("/", 1)[0], self.subject)
        )

    def speaks_of(self, host: str) -> bool:
        """Whether the waiver may cover something on *host*: a host's name, or ``cluster:NAME``."""
        return fnmatch.fnmatchcase(host, self.subject) or fnmatch.fnmatchcase(host, self.subject.split("/", 1)[0])

    def expired(self, at: dt.datetime) -> bool:
        """Whether the waiver is no longer in force at the time *at* (with time zone)."""
        return at >= self.expires

    @property
    def until(self) -> str:
        """The last moment, for people: the day when it ends with one."""
        if self.expires.time() == dt.time(0):
            return (self.expires - dt.timedelta(days=1)).date().isoformat()
        return self.expires.isoformat()

    @property
    def ended(self) -> str:
        """When it ended, in the words of every report: ``expired on 2026-11-01``."""
        return f"expired on {self.until}"

    def __str__(self) -> str:
        ticket = f" ({self.ticket})" if self.ticket else ""
        return f"{self.check} on {self.subject} until {self.until}{ticket}"


def load(path: Path, known: Collection[str], latest: dt.datetime | None = None) -> list[Waiver]:
    """Return the waivers in *path*. Each needs check, subject, reason, owner, another approver, and an expiry in UTC.

    A bare date is in force to the end of that day. None may last beyond *latest* (:data:`LONGEST` from now): who
    answers for a failure looks at it again.
    Raises :class:`~pytest_kvmcheck.errors.ConfigError`.
    """
    latest = latest or dt.datetime.now(dt.UTC) + LONGEST
    source = YamlFile(path, item="waiver")
    if isinstance(source.data, list):
        entries = [source.validated(Entry, entry, (index,)) for index, entry in enumerate(source.data)]
        base: tuple[str | int, ...] = ()
    else:
        entries = source.validated(WaiverFile).waivers
        base = ("waivers",)
    waivers: dict[Waiver, None] = {}
    for index, entry in enumerate(entries):
        here = (*base, index)
        if entry.check not in known:
            raise source.error(f"unknown check id{did_you_mean(entry.check, known)}", (*here, "check"))
        lines = {name: _line(source, (*here, name), getattr(entry, name)) for name in ("subject", "reason", "owner", "approver")}
        ticket = _line(source, (*here, "ticket"), entry.ticket) if entry.ticket else ""
        _demand_subject(source, (*here, "subject"), lines["subject"])
        _demand_people(source, here, lines["owner"], lines["approver"])
        try:
            expires = _moment(entry.expires)
        except OverflowError:
            expires = dt.datetime.max.replace(tzinfo=dt.UTC)
        if expires > latest:
            raise source.error(
                f"is too far away: at the latest {latest.date()} (kvmcheck_waiver_days sets the longest term)", (*here, "expires")
            )
        waiver = Waiver(entry.check, lines["subject"], lines["reason"], lines["owner"], lines["approver"], expires, ticket)
        if waiver in waivers:
            raise source.error("the same waiver twice", here)
        waivers[waiver] = None
    return list(waivers)


def _line(source: YamlFile, path: tuple[str | int, ...], text: str) -> str:
    """Return *text* as one line. Refuses a blank one, and characters that are not seen: they hide what is approved."""
    line = " ".join(text.split())
    if found := hidden(line):
        raise source.error(f"has a character that is not seen ({found})", path)
    if not line:
        raise source.error("is empty", path)
    return line


def _demand_subject(source: YamlFile, path: tuple[str | int, ...], subject: str) -> None:
    if not says_something(subject):
        raise source.error(
            f"{subject}: would cover every host there is; name hosts (kvm0*), or set the level of the check in a profile", path
        )


def _demand_people(source: YamlFile, here: tuple[str | int, ...], owner: str, approver: str) -> None:
    """Demand two people, whose names cannot be taken for one another's."""
    for role, name in (("owner", owner), ("approver", approver)):
        if not words(name):
            raise source.error("is empty", (*here, role))
        if problem := oddity(name):
            raise source.error(f"the name {problem}", (*here, role))
    if alike(owner, approver):
        raise source.error(f"the approver has to be someone else than the owner ({owner})", (*here, "approver"))
    if len(both := scripts(owner) | scripts(approver)) > 1:
        raise source.error(
            f"owner and approver are written in {' and '.join(sorted(both))}, whose letters look alike: write both in one script",
            (*here, "approver"),
        )


def _moment(value: dt.date) -> dt.datetime:
    """Return the moment from which a waiver is void: the given one (without an offset: UTC), or the end of the given day in UTC.

    Raises OverflowError beyond the year 9999.
    """
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC) if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
    return dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC) + dt.timedelta(days=1)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of files of waivers, for editors."""
    whole = WaiverFile.model_json_schema()
    date = {"type": "string", "pattern": f"^({_ISO.pattern})$"}
    whole["$defs"]["Entry"]["properties"]["expires"] = date
    rest = {key: whole.pop(key) for key in ("properties", "required", "type", "additionalProperties")}
    return {**whole, "anyOf": [rest, rest["properties"]["waivers"]]}
