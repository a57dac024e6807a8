"""The uploader: takes what is due from the journal and runs it, as many at once as the store bears.

The journal is the queue, so nothing is lost with this process and restart is nothing special. In flight is memory: at
most one transfer a path, so puts and deletes never overtake each other. Sessions share the transfers, and no small file
waits behind large ones (``backlog``; P13, P24).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from cachesync.journal.journal import Journal
from cachesync.model.errors import (
    CacheSyncError,
    JournalUnavailable,
    NoSuchBucket,
    RootHalted,
    StoreError,
    StoreSlowDown,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.model.events import Events, What
from cachesync.model.keys import printable
from cachesync.model.policy import Parallelism, after_failure
from cachesync.sync.backlog import Backlog, Work
from cachesync.sync.transfer import Transfer

logger = logging.getLogger(__name__)

_IDLE = 5.0
_SOON = 0.2
_LONGEST_PAUSE = 10.0
_BUFFER = 128
"""Rows that are read from the journal at once, of all sessions together; _FEWEST of each session at least."""

_FEWEST = 4
_MANY = 100
_LOOK = 0.0001
"""Seconds between two looks at the journal for each queue above _MANY, so that looks take no whole processor."""


class Uploader:
    """A dispatching thread and a pool of transfers. ``failed`` is told of every try that failed."""

    def __init__(self, journal: Journal, *, transfers: int, clock: Callable[[], float], events: Events) -> None:
        self._journal = journal
        self._clock = clock
        self._tell = events.tell
        self._pace = Parallelism(transfers)
        self._places: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._backlog = Backlog(transfers)
        self._in_flight: dict[tuple[str, str], Work | None] = {}  # None: apart
        self._again: set[tuple[str, str]] = set()
        self._looked_at = 0.0
        self._queues = 0
        self._parting = 0
        self._flushing: Counter[str] = Counter()
        self._believing: Counter[str] = Counter()
        self._look_now = True
        self._stopping = False
        self.small_first = False
        self.no_bucket: NoSuchBucket | None = None
        self.transfer: Transfer | None = None
        self._waiting: Callable[[], Collection[str]] = list
        self._thread = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)

    # -- for everybody -------------------------------------------------------------------------------------------------

    def start(self, transfer: Transfer, waiting: Callable[[], Collection[str]]) -> None:
        """Begin to work; ``waiting`` names the sessions of which nothing can be stored now."""
        self.transfer = transfer
        self._waiting = waiting
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Start nothing more, and wait ``timeout`` seconds for what is in flight; returns whether all of it ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            ended = self._changed.wait_for(lambda: not self._in_flight, timeout)
        for _ in self._threads:
            self._places.put(None)
        for thread in (self._thread, *self._threads):
            if ended and thread.is_alive():
                thread.join(timeout=1)
        return ended

    def wake(self) -> None:
        """Something was marked: look at the journal again."""
        with self._changed:
            self._look_now = True
            self._changed.notify_all()

    def resume(self) -> None:
        """Forget an outage: ask the store again now."""
        with self._changed:
            self._pace.resume()
            self._look_now = True
            self._changed.notify_all()

    @contextmanager
    def urgent(self, session: str, *, deletes: bool) -> Iterator[None]:
        """Somebody waits for this session; ``deletes`` says whether its deletions are believed at once."""
        with self._changed:
            self._flushing[session] += 1
            self._believing[session] += deletes
        try:
            yield
        finally:
            with self._changed:
                self._flushing[session] -= 1
                self._believing[session] -= deletes

    def is_urgent(self, session: str) -> bool:
        """Whether somebody waits for this session."""
        return self._flushing[session] > 0

    def waited_for(self) -> int:
        """How many wait, for whatever session."""
        with self._changed:
            return self._flushing.total()

    def is_believing(self, session: str) -> bool:
        """Whether the session's deletions are believed at once."""
        return self._believing[session] > 0

    def is_stopping(self) -> bool:
        """Whether ``stop`` was called: what is in flight should end."""
        return self._stopping

    def in_flight(self, session: str) -> int:
        """How many of the session's paths are being transferred."""
        with self._changed:
            return sum(1 for name, _ in self._in_flight if name == session)

    def flying(self, session: str) -> list[str]:
        """Return the session's paths that are being transferred."""
        with self._changed:
            return [path for name, path in self._in_flight if name == session]

    def all_in_flight(self) -> int:
        """How many paths are being transferred, of all sessions."""
        with self._changed:
            return len(self._in_flight)

    @contextmanager
    def apart(self, session: str, path: str) -> Iterator[None]:
        """While this lasts the path is not transferred: somebody else changes its object."""
        with self._changed:
            self._parting += 1
            self._changed.wait_for(lambda: (session, path) not in self._in_flight)
            self._parting -= 1
            self._in_flight[session, path] = None
        try:
            yield
        finally:
            with self._changed:
                del self._in_flight[session, path]
                self._look_now = True
                self._changed.notify_all()

    @property
    def store_down_since(self) -> float | None:
        """Since when nobody answers at the store's address, or None if somebody does."""
        return self._pace.down_since

    def wait_for_progress(self, timeout: float) -> None:
        """Return when a transfer has ended, or after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait(timeout)

    # -- the dispatching thread ----------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        while True:
            try:
                pause = self._round()
            except CacheSyncError as error:
                logger.warning("%s", error)
                pause = 1.0
            except Exception:
                logger.exception("the queue was not read; it is read again in a second")
                pause = 1.0
            with self._changed:
                if self._stopping:
                    return
                if not self._look_now:
                    self._changed.wait(pause)

    def _round(self) -> float:
        """Start what can be started; returns how long nothing more can be, in seconds."""
        now = self._clock()
        with self._changed:
            self._look_now = False
            paused = self._pace.paused_until - now
            if paused > _LONGEST_PAUSE:  # the clock was set back
                paused = self._pace.paused_until = 0.0
            if paused > 0:
                return paused
        pause = self._look(now)
        with self._changed:
            while not self._stopping and (place := self._next()) is not None:
                try:
                    self._submit(place)
                except RuntimeError:  # no more threads are to be had
                    self._landed(place)
                    raise
            self._look_now = self._look_now or self._backlog.hungry
        return pause

    def _look(self, now: float) -> float:
        """Read due work of the sessions that have none at hand; returns when to look again, in seconds."""
        with self._changed:
            self._backlog.hungry = False
            if 0 <= now - self._looked_at < (wait := _LOOK * max(0, self._queues - _MANY)):
                return wait
        left_out = set(self._waiting())
        pause = _SOON if left_out else _IDLE
        heads = self._journal.work.heads(now)
        self._looked_at, self._queues = now, len(heads)
        pause = min([pause, *(head.next_due - now for head in heads if head.next_due is not None)])
        with self._changed:
            busy = set(self._in_flight)
            due = [head for head in heads if head.is_due and not self._backlog.has(head.session, head.weight)]
        due = [head for head in due if head.session not in left_out]
        for head in due:
            limit = max(_FEWEST, _BUFFER // len(due)) + len(busy)
            rows = self._journal.work.due(head.session, head.weight, now, limit, small_first=self.small_first)
            with self._changed:
                found = [row for row in rows if not self._is_busy((head.session, row[0]), busy)]
                self._backlog.offer(head.session, head.weight, found, more=len(rows) >= limit)
        return pause

    def _is_busy(self, place: tuple[str, str], busy: Collection[tuple[str, str]]) -> bool:
        """Whether the path was in flight before the journal was asked. It is due again then, once it has landed."""
        if place not in busy:
            return False
        if place in self._in_flight:
            self._again.add(place)
        else:
            self._look_now = True
        return True

    def _next(self) -> tuple[str, str] | None:
        """What is to be transferred next, in flight from now on; None if nothing may be now."""
        work = self._backlog.begin(self._in_flight, allowed=self._pace.limit, small_first=self.small_first)
        if work is None:
            return None
        self._in_flight[work.session, work.path] = work
        return work.session, work.path

    def _landed(self, place: tuple[str, str]) -> None:
        """What ``_next`` gave out is not in flight any more."""
        if (work := self._in_flight.pop(place)) is not None:
            self._backlog.end(work)
        if place in self._again:
            self._again.discard(place)
            self._backlog.hungry = True

    def _submit(self, place: tuple[str, str]) -> None:
        """Hand one transfer to the pool: threads that end with the process, so that a hung one never holds it up."""
        if len(self._threads) < self._backlog.in_flight:
            thread = threading.Thread(target=self._serve, name=f"transfer-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._places.put(place)

    # -- the pool ------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (place := self._places.get()) is not None:
            following: tuple[str, str] | None = place
            while following is not None:
                self._run(*following)
                following = self._end(following)

    def _end(self, place: tuple[str, str]) -> tuple[str, str] | None:
        """A transfer has ended; returns the next one for its thread. Only who has to act is woken for that: being woken
        costs more than a transfer's own work."""
        with self._changed:
            self._landed(place)
            paused = self._pace.paused_until > self._clock()
            following = None
            if not self._stopping and not paused:
                following = self._next()
            if following is None or self._parting or self._backlog.hungry:
                self._look_now = True
                self._changed.notify_all()
            return following

    def _run(self, session: str, path: str) -> None:
        assert self.transfer is not None, "start() sets it"  # noqa: S101 -- an invariant, not a check of input
        begun = self._clock()
        try:
            sent = self.transfer.run(session, path)
        except JournalUnavailable as error:
            self._without_journal(error, session, path)
        except Exception as error:  # noqa: BLE001 -- whatever it was, the entry must be tried again
            self._judge(session, path, error, begun)
        else:
            if sent:
                with self._changed:
                    self._pace.succeeded()
                    self.no_bucket = None

    def _judge(self, session: str, path: str, error: Exception, begun: float) -> None:
        """A try failed: note it in the journal, with when it began and when to try again."""
        now = self._clock()
        with self._changed:
            if isinstance(error, StoreSlowDown):
                self._pace.slow_down()
            elif isinstance(error, StoreUnreachable):
                self._pace.unreachable(now)
            elif isinstance(error, StoreError) and not isinstance(error, StoreTransient):
                self._pace.answered()
            if isinstance(error, NoSuchBucket):
                self.no_bucket = error
        try:
            entry = self._journal.entries.entry(session, path)
            if entry is None:
                return
            verdict = after_failure(error, entry.attempts + 1, now)
            due_at = verdict.due_at
            if isinstance(error, StoreUnreachable | RootHalted):
                due_at = max(self._pace.paused_until, now + 0.2)
            expected = isinstance(error, CacheSyncError)
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, CacheSyncError):
                reason = error.advice if verdict.failed else error.reason
            reason = printable(reason)
            self._journal.work.fail(entry, tried_at=begun, due_at=due_at, error=reason, failed=verdict.failed)
        except Exception as second:  # noqa: BLE001 -- or its thread would end, and the path be in flight for ever
            self._without_journal(second, session, path)
            return
        what = What.FAILED if verdict.failed else What.RETRIED
        self._tell(what, session, path, error=reason, attempts=entry.attempts + 1, deleting=entry.tombstone or None)
        level = logging.WARNING if (verdict.failed and not entry.failed) or entry.attempts == 0 else logging.DEBUG
        facts: dict[str, object] = {"session": session, "path": path, "attempts": entry.attempts + 1}
        facts |= {"size": entry.stat and entry.stat.size, "duration": round(now - begun, 4)}
        facts |= {"again_in": round(due_at - now, 2)}
        told = "not stored: %s" if verdict.failed else "not stored yet, tried again by itself: %s"
        logger.log(level, told, printable(str(error)) if verdict.failed else reason, extra=facts, exc_info=not expected)

    def _without_journal(self, error: Exception, session: str, path: str) -> None:
        """Nothing can be noted: begin nothing for a second. At the end the journal is closed under what still hangs."""
        with self._changed:
            self._pace.paused_until = self._clock() + 1.0
            level = logging.DEBUG if self._stopping else logging.WARNING
        logger.log(level, "%s", error, extra={"session": session, "path": path})
