"""Many hosts at a time: few are about to be connected, few are worked on, and those that hang wait beside everybody else.

A host has a thread of its own. What hangs holds that thread and nothing that others need.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from pytest_kvmcheck.errors import Cause
from pytest_kvmcheck.gather import budget, leash

T = TypeVar("T")
R = TypeVar("R")


class Crowd:
    """What the hosts of a run share: processors, and memory for their answers."""

    def __init__(self) -> None:
        self.processors = threading.Semaphore(os.cpu_count() or 1)
        self._places: set[Place] = set()
        self._bytes = 0
        self._lock = threading.Lock()

    def join(self, place: Place) -> None:
        """Count *place* in."""
        with self._lock:
            self._places.add(place)

    def leave(self, place: Place) -> None:
        """Count *place* out, with what it holds."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)
                self._bytes -= place.bytes

    def keep(self, place: Place, size: int) -> None:
        """Count *size* bytes more that *place* holds. Beyond the budget of all, the host that holds most is stopped."""
        most = None
        with self._lock:
            if place in self._places:
                place.bytes += size
                self._bytes += size
            if self._bytes > budget.HELD_BYTES:
                most = max(self._places, key=lambda other: other.bytes)
        if most:
            self.leave(most)
            most.stop(Cause.TRUNCATED, "the answers of all hosts together became too large, and its own was the largest")


class Place:
    """One host's place in the crowd; without one, it is alone. Times are seconds of the monotonic clock."""

    def __init__(self, crowd: Crowd | None = None) -> None:
        self.crowd = crowd
        self.began = self.heard = time.monotonic()
        self.said = False
        self.bytes = 0
        self.stopped: Cause | None = None
        self.why = ""
        self._session: int | None = None
        self._working = False
        self._lock = threading.Lock()

    def hear(self, size: int) -> None:
        """Note that the host said *size* bytes."""
        self.heard, self.said = time.monotonic(), True
        if self.crowd:
            self.crowd.keep(self, size)

    def stop(self, cause: Cause, why: str) -> None:
        """Make an end of waiting for the host, for *cause*; *why* is told."""
        with self._lock:
            if self.stopped is None:
                self.stopped, self.why = cause, why
            if self._session is not None:
                leash.end(self._session)

    @contextlib.contextmanager
    def waiting(self, session: int) -> Iterator[None]:
        """Within the block the host's process, *session*, is waited for: it needs no processor of ours."""
        with self._lock:
            self._session = session
            if self.stopped:
                leash.end(session)
        self.rest()
        try:
            yield
        finally:
            with self._lock:
                self._session = None
            self.work()

    def work(self) -> None:
        """Take a processor; those who work with large answers are never many at a time."""
        if self.crowd:
            self.crowd.processors.acquire()
            self._working = True

    def rest(self) -> None:
        """Give the processor back."""
        with self._lock:
            if self.crowd and self._working:
                self._working = False
                self.crowd.processors.release()


class _Runner(Generic[T, R]):
    def __init__(self, work: Callable[[T, Place], R], given_up: Callable[[T, Cause], R], room: int) -> None:
        self.crowd = Crowd()
        self.room = room
        self.work, self.given_up = work, given_up
        self.running: dict[Place, T] = {}
        self.done: SimpleQueue[tuple[Place, R]] = SimpleQueue()

    def start(self, item: T) -> bool:
        """Start a thread for *item*; tell whether the machine has room for it."""
        place = Place(self.crowd)
        self.running[place] = item
        self.crowd.join(place)
        try:
            threading.Thread(target=self._run, args=(item, place), name="kvmcheck", daemon=True).start()
        except RuntimeError:  # no more threads: a limit of this machine
            self.forget(place)
            if not self.running:
                raise
            return False
        return True

    def _run(self, item: T, place: Place) -> None:
        place.work()
        try:
            result = self.work(item, place)
        finally:
            place.rest()
        self.done.put((place, result))

    def forget(self, place: Place) -> T:
        self.crowd.leave(place)
        return self.running.pop(place)

    def may_start(self) -> bool:
        if len(self.running) >= self.room:
            return False
        began = time.monotonic() - budget.STARTING_S
        return sum(not place.said and place.began > began for place in self.running) < budget.STARTING

    def make_room(self) -> None:
        """When all places are taken, the host that has been silent for longest gives way."""
        if len(self.running) >= self.room:
            longest = min(self.running, key=lambda place: place.heard)
            if time.monotonic() - longest.heard > budget.SILENT_S:
                longest.stop(Cause.TIMEOUT, f"silent for {budget.SILENT_S:.0f} s while other hosts waited for its place")

    def overdue(self, deadline_s: float) -> Iterator[tuple[T, R]]:
        """Give up those who did not come back in time; their threads are left to themselves."""
        late = time.monotonic() - deadline_s - budget.OVERTIME_S
        for place in [place for place in self.running if place.began < late]:
            place.stop(Cause.TIMEOUT, "it did not come back")
            place.rest()
            item = self.forget(place)
            yield item, self.given_up(item, Cause.TIMEOUT)


def each(
    items: Sequence[T], work: Callable[[T, Place], R], given_up: Callable[[T, Cause], R], deadline_s: float
) -> Iterator[tuple[T, R]]:
    """Yield each of *items* with what *work* makes of it, as they come. *work* raises nothing.

    What has not come back some time after *deadline_s* is given up: then ``given_up(item, cause)`` stands for it.
    """
    runner = _Runner(work, given_up, _room(min(len(items), budget.WAITING)))
    waiting = deque(items)
    while waiting or runner.running:
        while waiting and runner.may_start() and runner.start(waiting[0]):
            waiting.popleft()
        if waiting:
            runner.make_room()
        yield from runner.overdue(deadline_s)
        with contextlib.suppress(Empty):
            place, result = runner.done.get(timeout=0.02 if waiting else 0.5)
            if place in runner.running:
                yield runner.forget(place), result


def _room(wanted: int) -> int:
    """Return how many hosts can be waited for at a time; let this process open enough files for *wanted*, as far as it may."""
    others, each_host = 256, 3
    soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    if soft < others + each_host * wanted:
        soft = min(others + each_host * wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.RLIM_INFINITY if hard == sys.maxsize else hard))
    return max(1, min(wanted, (soft - others) // each_host))
