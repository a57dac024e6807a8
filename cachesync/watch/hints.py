"""What the watcher hands out, and the bounded collection in which it waits. Thread-safe, no I/O.

A hint says "look at this path", never what is there: by the time it is read the file may be another one. Paths are
relative to the root, POSIX, as ``os.fsdecode`` makes them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from enum import IntFlag

from cachesync.model.record import record
from cachesync.watch.arrivals import Arrivals

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
    """Hints that nobody has taken yet: one per path, at most ``limit`` paths. Beyond that, the session with the most
    loses its hints, and a rescan makes up for them.

    ``on_hints`` is called from the thread that adds, once per ``take``, when the first thing waits. ``events`` and
    ``overflows`` count for the metrics.
    """

    def __init__(self, on_hints: Callable[[], None], limit: int) -> None:
        self._on_hints = on_hints
        self._limit = limit
        self._lock = threading.Lock()
        self._sessions: dict[str, dict[str, int]] = {}
        self._count = 0
        self._lost: set[str] = set()
        self._reasons: set[str] = set()
        self._signalled = False
        self.listeners: tuple[Arrivals, ...] = ()
        self.events = 0
        self.overflows = 0

    def add(self, path: str, put: int, drop: int = 0) -> None:
        """Set the flags ``put`` of ``path``, and clear those in ``drop`` that an earlier event had set."""
        with self._lock:
            self.events += 1
            session = path.partition("/")[0]
            if session in self._lost:
                return  # the scan that is due will see it
            paths = self._sessions.get(session)
            if paths is None:
                paths = self._sessions[session] = {}
            known = paths.get(path, 0)
            paths[path] = known & ~drop | put
            if not known:
                self._count += 1
                if self._count > self._limit:
                    self._lose()
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

    def take(self, besides: Collection[str] = ()) -> Hints:
        """Swap everything out, except the hints of the sessions ``besides``."""
        with self._lock:
            kept = {session: self._sessions[session] for session in besides if session in self._sessions}
            taken = [paths for session, paths in self._sessions.items() if session not in kept]
            self._sessions = kept
            self._count = sum(map(len, kept.values()))
            self._lost.clear()
            reasons, self._reasons = self._reasons, set()
            self._signalled = False
        return Hints({path: _HINTS[flags] for paths in taken for path, flags in paths.items()}, frozenset(reasons))

    def _lose(self) -> None:
        largest = max(self._sessions, key=lambda session: len(self._sessions[session]))
        self._count -= len(self._sessions.pop(largest))
        self._lost.add(largest)
        self._reasons.add(TOO_MANY)

    def _wake(self) -> None:
        try:
            self._on_hints()
        except Exception:
            # It would end the thread that listens, and with it every later hint.
            logger.exception("telling of new hints failed")
