"""What stands around the files of a session: its directories, with their modes and times, and its links."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cachesync.journal.session_lock import Turns
from cachesync.model.errors import FileUnwritable
from cachesync.model.keys import stays_inside
from cachesync.model.reports import Failure
from cachesync.model.values import FileStat, Skipped
from cachesync.read.hydrate.plan import Marks, Plan, deepest_first
from cachesync.read.hydrate.progress import Tally
from cachesync.root.session_dir import Ground

_BATCH = 64
"""Links or directories that are made in one turn."""


class Frame:
    """Of one bringing. All threads that fetch for it share it: who makes, fills or finishes has the lock ``standing``
    and the session's turn. ``links`` and ``directories`` take both themselves."""

    def __init__(
        self,
        turns: Turns,
        session: str,
        standing: threading.Lock,
        marks: Marks,
        ground: Ground,
        tally: Tally,
        plan: Plan,
    ) -> None:
        self._turns = turns
        self._session = session
        self._standing = standing
        self._marks = marks
        self._ground = ground
        self._tally = tally
        self._plan = plan
        self._modes = {path: stat.mode for path, stat in plan.directories.items()}
        self._made: set[str] = set()
        self._filled: set[str] = set()

    def make(self, directory: str) -> None:
        """Make a directory and those above it, unless they stand. Raises FileUnwritable."""
        if directory in self._made:
            return
        for made in self._ground.make_directories(directory, self._modes, self._plan.rights):
            self.filled(made.rstrip("/"))
        self._made.add(directory)

    def filled(self, path: str) -> None:
        """Something was put at ``path``: its directory has another time now."""
        self._filled.add(path.rpartition("/")[0] + "/")

    def finish_filled(self) -> list[tuple[str, FileStat]]:
        """Give the directories that stood here before, and were filled, their times again."""
        finished = self._finished(deepest_first(self._again()))
        self._filled.clear()
        return finished

    def links(self) -> None:
        """Make the links that stay in the session."""
        links = iter(self._plan.links)
        while batch := list(itertools.islice(links, _BATCH)):
            with self._turn():
                made = [link for path, told in batch if (link := self._link(path, told)) is not None]
                self._marks.placed([], made)

    def _link(self, path: str, told: FileStat) -> tuple[str, FileStat] | None:
        target = told.target or ""
        if not stays_inside(path, target):
            reason = f"it leads to {target!r}, which may be outside the session: no link is made"
            self._tally.note(Skipped(path, reason))
            return None
        if not self._marks.still(path):
            return None
        try:
            self.make(path.rpartition("/")[0])
            stat = self._ground.place_link(path, target, told.mtime_ns, self._plan.rights.get(path))
        except FileUnwritable as error:
            self._tally.failed(path, error)
            return None
        if stat is None:
            return None
        self.filled(path)
        return path, stat

    def directories(self) -> None:
        """Make the directories that are empty, and give all of them their modes and times, if nothing is left to be put
        into them."""
        plan = self._plan
        directories = iter(plan.directories)
        while batch := list(itertools.islice(directories, _BATCH)):
            with self._turn():
                for path in filter(self._marks.still, batch):
                    try:
                        self.make(path)
                    except FileUnwritable as error:
                        self._tally.failed(path, error)
        if not self._tally.brought.complete:
            return
        unfinished = deepest_first(plan.directories | self._again())
        while some := list(itertools.islice(unfinished, _BATCH)):
            with self._turn():
                self._marks.placed([], self._finished(some))

    def _again(self) -> dict[str, FileStat]:
        """Directories that stood here and into which something was put: they get their times again."""
        return {path: stat for path, stat in self._plan.standing.items() if path in self._filled}

    def _finished(self, directories: Iterable[tuple[str, FileStat]]) -> list[tuple[str, FileStat]]:
        return [done for path, told in directories if (done := self._finish(path, told)) is not None]

    def _finish(self, path: str, told: FileStat) -> tuple[str, FileStat] | None:
        if not self._marks.still(path):
            return None
        try:
            return path, self._ground.finish_directory(path, told.mode, told.mtime_ns)
        except FileUnwritable as error:
            self._tally.note(Failure(path, error.advice))
            return None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._standing, self._turns.alone(self._session):
            yield
