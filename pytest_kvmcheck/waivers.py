"""Waivers: failures that someone answers for, until a date."""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pytest_kvmcheck.yamlfile import YamlFile, did_you_mean


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    check: str
    subject: str
    reason: str
    owner: str
    approver: str
    expires: dt.datetime
    ticket: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    waivers: list[_Entry]


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

    def expired(self, at: dt.datetime) -> bool:
        """Whether the waiver is no longer in force at the time *at* (with time zone)."""
        return at >= self.expires

    @property
    def until(self) -> str:
        """The last moment, for people: the day when it ends with one."""
        if self.expires.time() == dt.time(0):
            return (self.expires - dt.timedelta(days=1)).date().isoformat()
        return self.expires.isoformat()

    def __str__(self) -> str:
        ticket = f" ({self.ticket})" if self.ticket else ""
        return f"{self.check} on {self.subject} until {self.until}{ticket}"


def load(path: Path, known: Collection[str]) -> list[Waiver]:
    """Return the waivers in *path*. Each needs check, subject, reason, owner, another approver, and an expiry in UTC.

    A bare date is in force to the end of that day. Raises :class:`~pytest_kvmcheck.errors.ConfigError`.
    """
    source = YamlFile(path)
    if isinstance(source.data, list):
        entries = [source.validated(_Entry, entry, (index,)) for index, entry in enumerate(source.data)]
        base: tuple[str | int, ...] = ()
    else:
        entries = source.validated(_File).waivers
        base = ("waivers",)
    waivers = []
    for index, entry in enumerate(entries):
        here = (*base, index)
        if entry.check not in known:
            raise source.error(f"unknown check id{did_you_mean(entry.check, known)}", (*here, "check"))
        for name in ("reason", "owner", "approver", "subject"):
            if not getattr(entry, name).strip():
                raise source.error("is empty", (*here, name))
        if entry.approver.strip().casefold() == entry.owner.strip().casefold():
            raise source.error("the approver has to be someone else than the owner", (*here, "approver"))
        waivers.append(
            Waiver(
                entry.check,
                entry.subject,
                entry.reason.strip(),
                entry.owner.strip(),
                entry.approver.strip(),
                _moment(entry.expires),
                entry.ticket.strip(),
            )
        )
    return waivers


def _moment(value: dt.datetime) -> dt.datetime:
    """Return the moment from which a waiver is void: the given one, or the end of the given day, in UTC."""
    if value.tzinfo is not None:
        return value.astimezone(dt.UTC)
    whole_day = dt.timedelta(days=1) if value.time() == dt.time(0) else dt.timedelta()
    return value.replace(tzinfo=dt.UTC) + whole_day
