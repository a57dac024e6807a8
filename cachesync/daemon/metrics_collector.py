"""Taking a daemon's measures: counters from memory, and what the journal alone knows by one query bounded in time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from cachesync.model.values import QueueCounts
from cachesync.telemetry.metrics import CacheUse, Measures, Watching

if TYPE_CHECKING:
    from cachesync.daemon.engine import Engine
    from cachesync.daemon.expiry import Expiry
    from cachesync.watch.watch import Watcher

WAIT = 0.5
"""Seconds that a scrape waits for the queue to be counted. What takes longer is shown by the next one: a million dirty
entries take half a second of a processor, as many clean ones none."""

LONGEST = 60.0
"""Seconds after which a count is given up."""

_CHEAP = 0.02
_SHARE = 10
"""A count that took longer than _CHEAP seconds is believed for so many times as long."""


class Measuring:
    """Safe to use from many threads. ``since`` is when the daemon began, in seconds since the epoch."""

    def __init__(self, engine: Engine, watcher: Watcher, since: float, expiry: Expiry) -> None:
        self._engine = engine
        self._watcher = watcher
        self._since = since
        self._expiry = expiry
        self._lock = threading.Lock()
        self._counting: threading.Thread | None = None
        self._counted: QueueCounts | None = None
        self._believed_until = 0.0

    def __call__(self) -> Measures:
        """Everything that is measured, as of now."""
        engine, watcher, cache = self._engine, self._watcher, self._engine.cache
        return Measures(
            now=time.time(),
            since=self._since,
            totals=engine.activity.totals(),
            queue=self._queue(),
            unseen=sum(len(failures) for failures in list(engine.scanner.unseen.values())),
            in_flight=engine.uploader.all_in_flight(),
            cache=CacheUse(cache.hits, cache.misses, cache.evictions, cache.bytes),
            watching=Watching(
                healthy=watcher.healthy(),
                root_ok=watcher.root_ok,
                events=watcher.events,
                overflows=watcher.overflows,
                restarts=watcher.restarts,
                uncovered=len(watcher.uncovered()),
            ),
            listeners=engine.events.listeners,
            events_lost=engine.events.lost,
            store_silent_for=engine.service.store_silent_for(),
            credentials_expire_at=self._expiry.expire_at(),
            credentials_ending=bool(self._expiry.notes()),
        )

    def _queue(self) -> QueueCounts | None:
        """The last count that ended: a new one where it ends in time, None if there was none yet."""
        with self._lock:
            if self._counting is None and time.monotonic() >= self._believed_until:
                self._counting = threading.Thread(target=self._count, name="count", daemon=True)
                self._counting.start()
            counting = self._counting
        if counting is not None:
            counting.join(WAIT)
        return self._counted

    def _count(self) -> None:
        begun = time.monotonic()
        counted = self._engine.journal.queue.counts(LONGEST)
        cost = time.monotonic() - begun
        with self._lock:
            self._counted = counted or self._counted
            self._believed_until = begun + cost * _SHARE if cost > _CHEAP else 0.0
            self._counting = None
