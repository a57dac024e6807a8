"""What happens, told to whoever listens in this process: a file became dirty, was stored, a flush ended.

Told where the fact is decided, after it is one. Telling costs under 2 microseconds while nobody listens, never waits,
and never raises: a listener that fails is logged once and heard of no more; one that is slow loses the oldest of what
it did not take, and is told how many.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, Self

from cachesync.model.errors import DaemonUnavailable
from cachesync.model.keys import printable
from cachesync.model.reports import Json

logger = logging.getLogger(__name__)

LISTENERS = 32
"""Listeners with a queue of their own, at once; the next one is refused."""

QUEUE = 2048
"""Events that wait for one listener; about 1 MB."""


class What(StrEnum):
    """What can happen. The names are those of ``GET /v1/events``."""

    DIRTY = "dirty"
    """A path was marked: the store does not have what is on disk."""
    STORED = "stored"
    """The store confirmed a file."""
    FAILED = "failed"
    """A file cannot be stored until somebody changes something."""
    RETRIED = "retried"
    """A try failed, and is made again by itself."""
    CONFLICT = "conflict"
    """Another writer's bytes were in the way, and are kept."""
    DELETED = "deleted"
    """A deletion is carried out: the store has no object of this path any more."""
    FLUSHED = "flushed"
    """A flush has ended, one way or the other."""
    REPAIRED = "repaired"
    """A scan found changes that no hint had told of."""
    OPENED = "opened"
    """A session was brought here."""
    EVICTED = "evicted"
    """Local bytes of a session were dropped, or its directory was removed."""


class Event(NamedTuple):
    """One fact. What does not belong to its kind is None.

    ``at`` is seconds since the epoch; ``size`` and ``bytes`` are bytes. ``seconds`` of STORED and DELETED is how long
    the path was dirty: from the change first noticed to the store's yes; of FLUSHED how long it took. ``sent`` is false
    where the store had the bytes already; ``complete`` is false where a part was stored and the path stays dirty.
    ``changes`` is how many paths a scan found (REPAIRED) or went with a directory (DIRTY); ``left`` how many paths a
    flush did not get stored, or went unstored with their directory; ``deleting`` is true where it was a deletion that
    failed or is tried again.
    """

    what: What
    at: float
    session: str
    path: str | None = None
    size: int | None = None
    seconds: float | None = None
    sent: bool | None = None
    complete: bool | None = None
    error: str | None = None
    attempts: int | None = None
    kept_as: str | None = None
    stored: bool | None = None
    files: int | None = None
    bytes: int | None = None
    changes: int | None = None
    left: int | None = None
    deleting: bool | None = None

    def json(self) -> Json:
        """As ``GET /v1/events`` shows it; names made printable."""
        told = zip(self._fields[1:], self[1:], strict=True)
        return {name: _shown(value) for name, value in told if value is not None}


def _shown(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4)
    return printable(value) if isinstance(value, str) else value


Hear = Callable[[Event], None]
"""Called in the thread that tells, which is the engine's: to be done in microseconds, and never to wait."""


class Events:
    """Who tells and who listens meet here. Safe to use from many threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hearing: tuple[Hear, ...] = ()
        self.listeners = 0
        """Queues there are."""
        self.lost = 0
        """Events that slow listeners have lost."""

    def tell(
        self,
        what: What,
        session: str,
        path: str | None = None,
        *,
        size: int | None = None,
        seconds: float | None = None,
        sent: bool | None = None,
        complete: bool | None = None,
        error: str | None = None,
        attempts: int | None = None,
        kept_as: str | None = None,
        stored: bool | None = None,
        files: int | None = None,
        bytes: int | None = None,  # noqa: A002 -- what it is called in every report
        changes: int | None = None,
        left: int | None = None,
        deleting: bool | None = None,
    ) -> None:
        """Something has happened; see Event."""
        hearing = self._hearing
        if not hearing:
            return
        if seconds is not None and seconds < 0:  # the clock was set back
            seconds = 0.0
        event = Event(
            what, self._clock(), session, path, size, seconds, sent, complete, error, attempts, kept_as, stored, files,
            bytes, changes, left, deleting,
        )  # fmt: skip
        for hear in hearing:
            try:
                hear(event)
            except Exception:
                self.leave(hear)
                logger.exception("somebody who listened to what happens is not told any more")

    def join(self, hear: Hear) -> None:
        """Tell ``hear`` everything from now on, in the thread where it happens."""
        with self._lock:
            self._hearing = (*self._hearing, hear)

    def leave(self, hear: Hear) -> None:
        """Tell it no more. Does nothing if it was not told."""
        with self._lock:
            self._hearing = tuple(other for other in self._hearing if other != hear)

    def listen(self, session: str | None, wake: Callable[[], None]) -> Listener:
        """A queue of what happens from now on, of one session or (None) of all. ``wake`` is called, in any thread, when
        something comes after all was taken. Raises DaemonUnavailable if LISTENERS listen already."""
        with self._lock:
            if self.listeners >= LISTENERS:
                cause = f"{LISTENERS} others listen already"
                raise DaemonUnavailable("listen to events", cause=cause, hint="end one of them")
            self.listeners += 1
        listener = Listener(self, session, wake)
        self.join(listener.hear)
        return listener

    def note_lost(self) -> None:
        """A listener's queue was full."""
        with self._lock:
            self.lost += 1

    def gone(self, listener: Listener) -> None:
        """A listener was closed."""
        self.leave(listener.hear)
        with self._lock:
            self.listeners -= 1


class Listener:
    """A bounded queue of events. ``close`` it, or use it as a context manager."""

    def __init__(self, events: Events, session: str | None, wake: Callable[[], None]) -> None:
        self._events = events
        self._session = session
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque(maxlen=QUEUE)
        self._lost = 0
        self._closed = False

    def hear(self, event: Event) -> None:
        """Queue it; if the queue is full the oldest is lost."""
        if self._session is not None and event.session != self._session:
            return
        with self._lock:
            idle = not self._waiting
            if len(self._waiting) == QUEUE:
                self._lost += 1
                self._events.note_lost()
            self._waiting.append(event)
        if idle:
            self._wake()

    def take(self) -> tuple[int, list[Event]]:
        """How many were lost since the last call, and what came after those, in order."""
        with self._lock:
            lost, self._lost = self._lost, 0
            taken = list(self._waiting)
            self._waiting.clear()
        return lost, taken

    def close(self) -> None:
        """Listen no more."""
        if not self._closed:
            self._closed = True
            self._events.gone(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
