"""Which sessions the store has, for a directory listing that does not wait long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from cachesync.model.errors import CacheSyncError

logger = logging.getLogger(__name__)

_WAIT = 1.0
"""Seconds that a caller waits for a listing."""

_SHARE = 20
"""A listing begins at the earliest this many times its own duration after the last one. One of 100,000 sessions takes
a hundred requests."""


class StoredSessions:
    """The names that the last listing found. One listing runs at a time, in a thread of its own; it ends also if the
    callers have stopped waiting, and its answer is kept. Safe to call from many threads.

    ``ask`` returns the names and raises CacheSyncError.
    """

    def __init__(self, ask: Callable[[], Iterable[str]]) -> None:
        self._ask = ask
        self._names: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._running: threading.Thread | None = None
        self._begun = self._not_before = float("-inf")

    def names(self, *, refresh: bool = True) -> frozenset[str]:
        """The names, at most a second later. Without ``refresh`` no new listing begins."""
        with self._lock:
            now = time.monotonic()
            if self._running is None and refresh and now >= self._not_before:
                self._begun = now
                self._running = threading.Thread(target=self._list, name="list-sessions", daemon=True)
                self._running.start()
            running, left = self._running, self._begun + _WAIT - now
        if running is not None:
            running.join(max(0.0, left))
        return self._names

    def _list(self) -> None:
        try:
            self._names = frozenset(self._ask())
        except CacheSyncError as error:
            logger.info("the sessions in the store were not listed: %s", error)
        finally:
            with self._lock:
                now = time.monotonic()
                self._not_before = now + _SHARE * (now - self._begun)
                self._running = None
