"""Systems without inotify (macOS, BSD, Windows): watchdog's own observer, with the same hints."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from watchdog.events import (
    EVENT_TYPE_CLOSED,
    EVENT_TYPE_CREATED,
    EVENT_TYPE_DELETED,
    EVENT_TYPE_MODIFIED,
    EVENT_TYPE_MOVED,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from cachesync.watch.hints import Hint, Pending
from cachesync.watch.identity import identify

logger = logging.getLogger(__name__)

_WRITTEN = (Hint.CHANGED | Hint.CLOSED).value
_FORGET = (Hint.CHANGED | Hint.CLOSED | Hint.ATTRIBUTES).value


class Tree(FileSystemEventHandler):
    """Watches a root; the same face as the inotify tree, without a canary and without a watch limit.

    Raises OSError if the root is no directory or cannot be watched.
    """

    def __init__(
        self, root: str, *, canary: str, exclude: frozenset[str], pending: Pending, clock: Callable[[], float]
    ) -> None:
        del canary, clock  # nothing is timed here
        self._starts = tuple(dict.fromkeys(path.rstrip(os.sep) + os.sep for path in (root, os.path.realpath(root))))
        self._exclude = exclude
        self._pending = pending
        self.identity = identify(root)
        self._observer = Observer()
        self._observer.schedule(self, root, recursive=True)
        self._observer.start()

    @property
    def alive(self) -> bool:
        """Whether watchdog's threads run."""
        return self._observer.is_alive() and self.root_watched

    @property
    def root_watched(self) -> bool:
        """Whether the root's emitter runs."""
        return any(emitter.is_alive() for emitter in self._observer.emitters)

    def silent_for(self) -> float:
        """No canary here."""
        return 0.0

    def uncovered(self) -> frozenset[str]:
        """The system watches whole trees."""
        return frozenset()

    def hear(self, timeout: float) -> bool:
        """Return False: this platform does not report which events were handled."""
        del timeout
        return False

    def mend(self) -> None:
        """Nothing to tend."""

    def close(self, timeout: float) -> bool:
        """Stop, and wait ``timeout`` seconds at most; returns whether the thread has ended."""
        self._observer.stop()
        self._observer.join(timeout)
        return not self._observer.is_alive()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog, whose thread an exception would end."""
        try:
            self._translate(event)
        except Exception:
            logger.exception("a file system event could not be handled: %r", event)

    def _translate(self, event: FileSystemEvent) -> None:
        kind, tree = event.event_type, event.is_directory
        if kind in (EVENT_TYPE_MOVED, EVENT_TYPE_DELETED):
            self._hint(event.src_path, Hint.GONE | (Hint.TREE if tree else 0), _FORGET)
        if kind == EVENT_TYPE_MOVED:
            self._hint(event.dest_path, Hint.TREE if tree else _WRITTEN)
        elif kind == EVENT_TYPE_CREATED:
            self._hint(event.src_path, Hint.TREE if tree else Hint.CHANGED, Hint.CLOSED)
        elif kind == EVENT_TYPE_MODIFIED and not tree:
            self._hint(event.src_path, Hint.CHANGED, Hint.CLOSED)
        elif kind == EVENT_TYPE_CLOSED:
            self._hint(event.src_path, _WRITTEN)

    def _hint(self, absolute: bytes | str, put: int, drop: int = 0) -> None:
        name = os.fsdecode(absolute)
        for start in self._starts:
            if name.startswith(start):
                path = name[len(start) :].replace(os.sep, "/")
                if not any(path == kept or path.startswith(kept + "/") for kept in self._exclude):
                    self._pending.add(path, int(put), int(drop))
                return
