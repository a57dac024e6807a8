"""Collects the names that appear in a tree. Thread-safe, no I/O."""

from __future__ import annotations

import threading
from typing import NamedTuple

_MOST = 100_000
"""The maximum number of names. Beyond it, the arrivals are ``lost``."""


class Arrival(NamedTuple):
    """The latest arrival at a name."""

    number: int
    """Counts all arrivals, from 1."""
    moved: bool
    """Whether something was moved here; otherwise the name was created: a new file, or another link to a file."""


class Arrivals:
    """Names that were created in or moved to the tree below ``below`` ("" or ending in "/") and were not deleted.

    Names are relative to ``below``. ``lost`` becomes True when an arrival may have been missed: the kernel dropped
    events, a directory is not watched, or there are too many names.

    A name stays when something moves away from it: after RENAME_EXCHANGE, the kernel reports that for a name that
    something else has moved to just before.
    """

    def __init__(self, below: str) -> None:
        self.below = below
        self.lost = False
        self._names: dict[str, Arrival] = {}
        self._count = 0
        self._lock = threading.Lock()

    def came(self, path: str, *, moved: bool) -> None:
        """Add a name that was created or moved here. The watcher calls this."""
        if path.startswith(self.below) and path != self.below:
            with self._lock:
                self._count += 1
                self._names[path[len(self.below) :]] = Arrival(self._count, moved)
                self.lost = self.lost or len(self._names) > _MOST

    def deleted(self, path: str) -> None:
        """Remove a name that was deleted. The watcher calls this."""
        if path.startswith(self.below):
            with self._lock:
                self._names.pop(path[len(self.below) :], None)

    def names(self) -> dict[str, Arrival]:
        """Return the names that appeared and were not taken yet, each with its latest arrival."""
        with self._lock:
            return dict(self._names)

    def take(self, name: str, arrival: Arrival) -> None:
        """Remove a name that the caller has checked, unless something arrived there since."""
        with self._lock:
            if self._names.get(name) == arrival:
                del self._names[name]
