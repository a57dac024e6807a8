"""Collects the names that appear in a tree. Thread-safe, no I/O."""

from __future__ import annotations

import threading

_MOST = 100_000
"""The maximum number of names. Beyond it, the arrivals are ``lost``."""


class Arrivals:
    """Names that were created in or moved to the tree below ``below`` ("" or ending in "/") and still exist.

    Names are relative to ``below``. ``lost`` becomes True when an arrival may have been missed: the kernel dropped
    events, a directory is not watched, or there are too many names.
    """

    def __init__(self, below: str) -> None:
        self.below = below
        self.lost = False
        self._names: dict[str, None] = {}
        self._lock = threading.Lock()

    def came(self, path: str) -> None:
        """Add a name that was created or moved here. The watcher calls this."""
        if path.startswith(self.below) and path != self.below:
            with self._lock:
                self._names[path[len(self.below) :]] = None
                self.lost = self.lost or len(self._names) > _MOST

    def went(self, path: str, *, directory: bool) -> None:
        """Remove a name that was deleted or moved elsewhere. The watcher calls this."""
        if not path.startswith(self.below):
            return
        name = path[len(self.below) :]
        with self._lock:
            self._names.pop(name, None)
            if directory:
                for other in [other for other in self._names if other.startswith(f"{name}/")]:
                    del self._names[other]

    def names(self) -> list[str]:
        """Return the names that appeared and were not taken yet."""
        with self._lock:
            return list(self._names)

    def take(self, name: str) -> None:
        """Remove a name that the caller has checked."""
        with self._lock:
            self._names.pop(name, None)
