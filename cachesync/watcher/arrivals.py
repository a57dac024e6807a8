"""Which names came to a tree since somebody listens. Thread-safe, no I/O."""

from __future__ import annotations

import threading

_MOST = 100_000
"""Names that are kept; more than that is `lost`."""


class Arrivals:
    """Names that were made in, or moved to, the tree below ``below`` ("" or ending in "/"), and did not leave since.

    Names are relative to ``below``. ``lost`` is true once an arrival may have been missed: the kernel dropped events,
    a directory is not watched, or there are too many names.
    """

    def __init__(self, below: str) -> None:
        self.below = below
        self.lost = False
        self._names: dict[str, None] = {}
        self._lock = threading.Lock()

    def came(self, path: str) -> None:
        """A name was made or moved here; called by the watcher."""
        if path.startswith(self.below) and path != self.below:
            with self._lock:
                self._names[path[len(self.below) :]] = None
                self.lost = self.lost or len(self._names) > _MOST

    def went(self, path: str, *, directory: bool) -> None:
        """A name was deleted or moved away; called by the watcher."""
        if not path.startswith(self.below):
            return
        name = path[len(self.below) :]
        with self._lock:
            self._names.pop(name, None)
            if directory:
                for other in [other for other in self._names if other.startswith(f"{name}/")]:
                    del self._names[other]

    def names(self) -> list[str]:
        """The names that came and were not taken yet."""
        with self._lock:
            return list(self._names)

    def take(self, name: str) -> None:
        """Forget a name: it was looked at."""
        with self._lock:
            self._names.pop(name, None)
