"""Which watch is of which directory. No I/O; not thread-safe."""

from __future__ import annotations

from watchdog.observers.inotify_c import WatchDescriptor


class Table:
    """Watched directories as a tree, so that one which moves away costs what is below it and nothing else.

    A directory is named by its prefix: its path and a slash, or "" for the top. While events are behind the disk, two
    watches may have one prefix.
    """

    def __init__(self) -> None:
        self._prefixes: dict[WatchDescriptor, str] = {}
        self._watches: dict[str, set[WatchDescriptor]] = {}
        self._below: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._prefixes)

    def prefix(self, wd: WatchDescriptor) -> str | None:
        """Return the directory of a watch, or None if it has none."""
        return self._prefixes.get(wd)

    def put(self, wd: WatchDescriptor, prefix: str) -> None:
        """Give a watch its directory, instead of the one that it had."""
        if self._prefixes.get(wd) == prefix:
            return
        self.drop(wd)
        self._prefixes[wd] = prefix
        self._watches.setdefault(prefix, set()).add(wd)
        while prefix:
            above = _above(prefix)
            siblings = self._below.setdefault(above, set())
            if prefix in siblings:
                break
            siblings.add(prefix)
            prefix = above

    def drop(self, wd: WatchDescriptor) -> None:
        """Forget a watch, if it is known."""
        prefix = self._prefixes.pop(wd, None)
        if prefix is None:
            return
        watches = self._watches[prefix]
        watches.discard(wd)
        if not watches:
            del self._watches[prefix]
            self._prune(prefix)

    def take(self, prefix: str) -> list[WatchDescriptor]:
        """Forget the watches of a directory and of all below it, and return them."""
        taken: list[WatchDescriptor] = []
        todo = [prefix]
        while todo:
            each = todo.pop()
            taken += self._watches.pop(each, ())
            todo += self._below.pop(each, ())
        for wd in taken:
            del self._prefixes[wd]
        self._prune(prefix)
        return taken

    def _prune(self, prefix: str) -> None:
        while prefix and prefix not in self._watches and prefix not in self._below:
            above = _above(prefix)
            siblings = self._below.get(above)
            if siblings is None:
                return
            siblings.discard(prefix)
            if siblings:
                return
            del self._below[above]
            prefix = above


def _above(prefix: str) -> str:
    return prefix[: prefix.rfind("/", 0, -1) + 1]
