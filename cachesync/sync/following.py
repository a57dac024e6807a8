"""Tracks files that move while a flush runs.

A scan reads one directory after the other, so it can miss a file that moves between directories. A scan misses nothing
in two cases. Either it was still: no directory changed while it ran. Or a watcher reported every name that appeared
meanwhile, and the flush checked each of them. A file moved if its name appeared after the flush began and the file
itself is older.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from cachesync.model.errors import FileUnreadable
from cachesync.model.values import Entry, FileStat, Kind
from cachesync.sync.context import Context
from cachesync.sync.scanner.batch import ScanResult
from cachesync.sync.scanner.scan import Scanner
from cachesync.watch.arrivals import Arrival
from cachesync.watch.hearing import Ears, Hearing
from cachesync.watch.hints import Hint

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two scans of a tree that keeps changing."""


class Following:
    """The scans of one flush. ``whole`` says whether the last scan saw every file that existed when it began."""

    def __init__(
        self,
        context: Context,
        scanner: Scanner,
        hearing: Hearing,
        stack: contextlib.ExitStack,
        session: str,
        deadline: float,
    ) -> None:
        self._c = context
        self._scanner = scanner
        self._hearing = hearing
        self._stack = stack
        self._session = session
        self._deadline = deadline
        self._began_ns = time.time_ns()
        self._listens = False
        self._ears: Ears | None = None
        self._stamps: Mapping[str, int] = {}
        self._generation = 0
        self.whole = False
        self.moves = 0
        """The number of moves during the flush, also of files that are stored under their new names already."""
        self._old_names: set[str] = set()

    def look(self) -> ScanResult:
        """Scan until a scan missed nothing, or until the deadline. Raises RootHalted."""
        if self._c.watched:
            self._listen()
        pause = _FIRST_PAUSE
        while True:
            scan = self._scanner.scan(self._session, recheck=True, expired=self._expired, whole=self._is_settled)
            self.whole, self._stamps = scan.still, scan.stamps
            self._generation = self._c.journal.generation()
            if not scan.finished or scan.still or self._expired():
                return scan
            self._listen()
            time.sleep(max(0.0, min(pause, self._deadline - time.monotonic())))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def moved(self, *, look: bool = False) -> list[Entry] | None:
        """Return dirty files and links that are older than the flush and moved since the last call or scan.

        If there are none, return the tombstones of old names, each once: another host must not find both names.
        Returns None if they are not known before the deadline. ``look`` forces a new scan, which also resolves missing
        paths. Raises RootHalted.
        """
        entries = self._moved(look=look)
        if entries != [] or not self.moves or self._expired():
            return entries
        old = [one for one in self._c.journal.waiting.old_names(self._session) if one.path not in self._old_names]
        self._old_names |= {entry.path for entry in old}
        return old

    def _moved(self, *, look: bool) -> list[Entry] | None:
        if not look and self._ears is not None:
            heard = self._heard()
            if heard is not None:
                return [entry for entry in heard if entry.dirty]
        if not look and self._ears is None and self._scanner.stood_still(self._session, self._stamps):
            return []
        since = self._generation
        self.moves += 1  # perhaps: the tree changed
        self.look()
        if not self.whole:
            return None
        return self._old(self._c.journal.waiting.since(self._session, since))

    def _expired(self) -> bool:
        return time.monotonic() > self._deadline

    def _listen(self) -> None:
        """Start to collect new names. Without a daemon, this happens only if the tree changes during a scan."""
        if not self._listens:
            self._listens = True
            self._ears = self._stack.enter_context(self._hearing.listen(self._session))

    def _is_settled(self) -> bool:
        """Whether the flush checked every name that appeared since it began to listen."""
        return self._ears is not None and self._heard() is not None

    def _heard(self) -> list[Entry] | None:
        """Check every name that appeared since the last call, and return the files that moved. Returns None if the
        watcher may have missed some."""
        assert self._ears is not None  # noqa: S101 -- the callers checked it
        moved: list[Entry] = []
        missing: set[tuple[str, Arrival]] = set()
        while (names := self._ears.names()) is not None:
            hints: dict[str, Hint] = {}
            unsure = 0
            first = not missing
            for name, arrival in names.items():
                hint = self._hint(name)
                if hint is None and (name, arrival) not in missing:
                    # If it moved on, its next name is among the next names, as moved. So names that programs create
                    # and move all the time do not hold this up.
                    if first or arrival.moved:
                        missing.add((name, arrival))
                        unsure += 1
                    continue
                self._ears.take(name, arrival)
                if hint is not None:
                    hints[name] = hint
            if hints:
                self._scanner.notice(self._session, hints)
                old = self._old(self._entries(hints))
                self.moves += len(old)
                moved += old
            if not unsure:
                return moved
            if self._expired():
                return None
        self._ears = None
        return None

    def _hint(self, name: str) -> Hint | None:
        """Return the hint for a name; None if nothing is there."""
        try:
            found = self._c.tree.lstat(self._session, name)
        except FileUnreadable:
            return Hint.CHANGED
        if found is None:
            return None
        return Hint.TREE if isinstance(found, FileStat) and found.kind is Kind.DIRECTORY else Hint.CHANGED

    def _entries(self, hints: Mapping[str, Hint]) -> Iterator[Entry]:
        for name, hint in hints.items():
            if hint is Hint.TREE:
                yield from self._c.journal.entries.under(self._session, f"{name}/")
            elif (entry := self._c.journal.entries.entry(self._session, name)) is not None:
                yield entry

    def _old(self, entries: Iterator[Entry]) -> list[Entry]:
        """Return the existing files and links that are older than the flush."""
        return [
            entry
            for entry in entries
            if not entry.tombstone and entry.resident and entry.kind is not Kind.DIRECTORY
            if self._is_old(entry.path)
        ]

    def _is_old(self, path: str) -> bool:
        """Whether a file was created before the flush began; true if its birth time is unknown."""
        birth = self._c.tree.birth_ns(self._session, path)
        return birth is None or birth <= self._began_ns
