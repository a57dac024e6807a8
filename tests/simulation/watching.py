"""The watcher of a simulated host, as far as a flush listens to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cachesync.watch.arrivals import Arrivals

Names = dict[str, tuple[int, bool]]
"""All names in a session's directory: which file or directory each is, and whether it is a directory."""


class SimulatedWatcher:
    """Tells who listens which names came and went, at once. While it is ``deaf`` it misses them, and says so.

    ``take_hints`` does what the daemon's thread for hints does.
    """

    def __init__(self, session: Path) -> None:
        self._session = session
        self.take_hints: Callable[[], None] = lambda: None
        self._listening: list[Arrivals] = []
        self._deaf = False

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listening)

    def turn_deaf(self, deaf: bool) -> None:  # noqa: FBT001
        """From now on events are dropped, or not any more."""
        self._deaf = deaf
        for arrivals in self._listening:
            arrivals.lost = arrivals.lost or deaf

    def names(self) -> Names:
        """The names that there are now."""
        found: Names = {}
        for above, folders, files in os.walk(self._session):
            for name in (*folders, *files):
                path = os.path.join(above, name)
                found[os.path.relpath(path, self._session)] = os.lstat(path).st_ino, name in folders
        return found

    def changed(self, before: Names, after: Names) -> None:
        """A program changed names. Of what lies in a directory that came or went as a whole there is no event."""
        files = {inode for inode, _ in after.values()}
        left = {inode for path, (inode, _) in before.items() if after.get(path, (0, False))[0] != inode}
        for path, (inode, _) in before.items():
            if path not in after and inode not in files and _stays(path, before, after):
                for arrivals in self._listening:
                    arrivals.deleted(arrivals.below + path)
        for path, what in after.items():
            if before.get(path) != what and _stays(path, before, after):
                for arrivals in self._listening:
                    arrivals.came(arrivals.below + path, moved=what[0] in left)

    # -- what the product asks (watcher.hearing.Listener) --------------------------------------------------------------

    def listen(self, below: str) -> Arrivals | None:
        if self._deaf:
            return None
        self._listening.append(arrivals := Arrivals(below))
        return arrivals

    def end_listening(self, arrivals: Arrivals) -> None:
        self._listening.remove(arrivals)

    def hear(self, _: float) -> bool:
        return not self._deaf

    def catch_up(self, _session: str, _timeout: float) -> bool:
        if not self._deaf:
            self.take_hints()
        return not self._deaf


def _stays(path: str, before: Names, after: Names) -> bool:
    """Whether the directory above a name was there before, and is."""
    above = path.rpartition("/")[0]
    return not above or (above in before and before.get(above) == after.get(above))
