"""What the watcher hands out, and the bounded collection in which it waits. Thread-safe, no I/O.

A hint says "look at this path", never what is there: by the time it is read the file may be another one. Paths are
relative to the root, POSIX, as ``os.fsdecode`` makes them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from enum import IntFlag

from cachesync.record import record
from cachesync.watcher.arrivals import Arrivals

logger = logging.getLogger(__name__)


class Hint(IntFlag):
    """What happened to one path since the last ``take``; several may be set."""

    CHANGED = 1
    """Made or written."""
    CLOSED = 2
    """... and a writer closed it, or it was moved here whole, after the last write that was seen."""
    GONE = 4
    """Deleted or moved away at some time; with CHANGED or TREE, something else may stand there by now."""
    TREE = 8
    """A directory came or went here: compare everything below. Files in a new one may have no hint of their own."""
    ATTRIBUTES = 16
    """Mode, times or owner changed. Says nothing of writers, so it leaves CLOSED as it is."""


OVERFLOW = "overflow"
RESTART = "restart"
ROOT_REPLACED = "root replaced"
WATCH_LIMIT = "watch limit"
TOO_MANY = "too many changes"

_HINTS = tuple(Hint(value) for value in range(max(Hint) * 2))
"""Every combination, made once: the enum's own arithmetic costs more than the rest of a hint."""


@record(frozen=True, slots=True)
class Hints:
    """Everything since the last ``take``. Any reason in ``rescan`` means: hints are missing, scan the whole root."""

    paths: Mapping[str, Hint]
    rescan: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.paths or self.rescan)


class Pending:
    """Hints that nobody has taken yet: one per path, at most ``limit`` paths, then a rescan instead.

    ``on_hints`` is called from the thread that adds, once per ``take``, when the first thing waits. ``events`` and
    ``overflows`` count for the metrics.
    """

    def __init__(self, on_hints: Callable[[], None], limit: int) -> None:
        self._on_hints = on_hints
        self._limit = limit
        self._lock = threading.Lock()
        self._paths: dict[str, int] = {}
        self._reasons: set[str] = set()
        self._signalled = False
        self.listeners: tuple[Arrivals, ...] = ()
        self.events = 0
        self.overflows = 0

    def add(self, path: str, put: int, drop: int = 0) -> None:
        """Set the flags ``put`` of ``path``, and clear those in ``drop`` that an earlier event had set."""
        with self._lock:
            self.events += 1
            if TOO_MANY in self._reasons:
                return  # the scan that is due will see it
            known = self._paths.get(path, 0)
            self._paths[path] = known & ~drop | put
            if not known and len(self._paths) > self._limit:
                self._paths = {}
                self._reasons.add(TOO_MANY)
            signal, self._signalled = not self._signalled, True
        if signal:
            self._wake()

    def rescan(self, reason: str) -> None:
        """Ask for a scan of the whole root."""
        with self._lock:
            if reason == OVERFLOW:
                self.overflows += 1
            self._reasons.add(reason)
            signal, self._signalled = not self._signalled, True
        for listener in self.listeners:
            listener.lost = True
        if signal:
            self._wake()

    def take(self) -> Hints:
        """Swap everything out."""
        with self._lock:
            paths, self._paths = self._paths, {}
            reasons, self._reasons = self._reasons, set()
            self._signalled = False
        return Hints({path: _HINTS[flags] for path, flags in paths.items()}, frozenset(reasons))

    def _wake(self) -> None:
        try:
            self._on_hints()
        except Exception:
            # It would end the thread that listens, and with it every later hint.
            logger.exception("telling of new hints failed")
