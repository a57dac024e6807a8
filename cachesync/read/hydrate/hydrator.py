"""Bringing what a session lacks: many files at once, each whole or not at all.

A file is fetched into the staging folder, then put into its place, then written down. Whoever has one ready puts all in
place that are ready by then, under one lock and with one transaction: the version that a file was made from is still
the one that the journal knows when the file gets its name. That is done in the session's turn (journal.turns), as are
links and directories (frame.py): a program at the mount that renames what was brought finds it written down.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from cachesync.journal.session_lock import Turn
from cachesync.model.errors import CacheSyncError, FileUnwritable, JournalDamaged, JournalUnavailable, RootHalted
from cachesync.model.outcomes import OnProgress, no_progress
from cachesync.model.reports import Failure, Pending
from cachesync.model.values import FileStat, Kind, Skipped, Stored
from cachesync.read.hydrate.directories import Frame
from cachesync.read.hydrate.fetch import Fetcher
from cachesync.read.hydrate.plan import Marks, Placed, Wanted, parents
from cachesync.read.hydrate.progress import Brought, Tally
from cachesync.root.session_dir import Ground
from cachesync.root.staging import Staging, Temporary
from cachesync.sync.context import Context

_MANY = 64
"""Files that wait for their names before whoever has another one waits too."""

_LATE = "not brought in time"

_CLASH = "a directory has the same name in this session; the file stays in the store"
_REPLACED = "another host replaced it in the store; the file here is in use or changed, and stays"


class Hydrator:
    """Brings sessions. ``standing`` is the lock under which a file gets its name (learn.Learner.standing)."""

    def __init__(
        self,
        context: Context,
        standing: threading.Lock,
        *,
        threads: int = 32,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._c = context
        self._standing = standing
        self._threads = threads
        self._sleep = sleep

    def bring(
        self,
        session: str,
        marks: Marks,
        ground: Ground,
        staging: Staging,
        progress: OnProgress = no_progress,
        expired: Callable[[], bool] = bool,
    ) -> Brought:
        """Bring all that ``marks`` want of a session to ``ground``; no file is begun once it is ``expired``.

        Raises RootHalted, JournalUnavailable.
        """
        fetcher = Fetcher(self._c.store, sleep=self._sleep)
        try:
            run = _Run(self._c, session, self._standing, marks, ground, staging, fetcher, progress, expired=expired)
            run.files(self._threads)
            run.frame.links()
            run.frame.directories()
        finally:
            fetcher.close()
        return run.brought


class _Run:
    """One bringing of one session."""

    def __init__(
        self,
        context: Context,
        session: str,
        standing: threading.Lock,
        marks: Marks,
        ground: Ground,
        staging: Staging,
        fetcher: Fetcher,
        progress: OnProgress,
        *,
        expired: Callable[[], bool],
    ) -> None:
        self._c = context
        self._session = session
        self._standing = standing
        self._marks = marks
        self._ground = ground
        self._staging = staging
        self._fetcher = fetcher
        self._expired = expired
        plan = self._plan = marks.plan()
        self._tally = Tally(plan, progress)
        self.brought = self._tally.brought
        self.frame = Frame(context.journal.turns, session, standing, marks, ground, self._tally, plan)
        self._todo: Iterator[str] = iter(())
        self._next_ones: deque[tuple[str, Wanted | None]] = deque()
        self._ready: deque[tuple[Wanted, Stored, Temporary]] = deque()
        self._lock = threading.Lock()
        self._is_one = False
        self._raised: list[BaseException] = []

    def files(self, threads: int) -> None:
        """Fetch all files; the first error of a kind that ends everything is raised when all threads are done."""
        plan = self._plan
        folders = parents(plan.files) | parents(path for path, _ in plan.links) | plan.directories.keys()
        for path in [path for path in plan.files if path + "/" in folders]:
            del plan.files[path]
            self._tally.note(Failure(path, _CLASH))
        self._is_one = len(plan.files) == 1 and not plan.links and not plan.directories
        self._todo = iter(plan.files)
        self._tally.tell()
        workers = [
            threading.Thread(target=self._work, name=f"hydrate-{number}", daemon=True)
            for number in range(min(threads, len(plan.files)) - 1)
        ]
        for worker in workers:
            worker.start()
        self._work()
        for worker in workers:
            worker.join()
        if self._raised:
            for _, _, file in self._ready:
                file.discard()
            raise self._raised[0]
        while self._ready:
            with self._standing:
                self._place_ready()
        self._tally.tell()

    def _work(self) -> None:
        try:
            while not self._raised and (following := self._next()) is not None:
                path, wanted = following
                if self._tally.ended is None and self._expired():
                    self._tally.end(_LATE)
                if self._tally.ended is not None:
                    self._tally.note(Pending(path, self._tally.ended))
                else:
                    self._bring(path, wanted)
        except BaseException as error:  # noqa: BLE001 -- raised again by who waits for this thread
            self._raised.append(error)

    def _next(self) -> tuple[str, Wanted | None] | None:
        """The next path, and what was wanted of it a moment ago."""
        with self._lock:
            if not self._next_ones:
                paths = list(itertools.islice(self._todo, _MANY))
                wanted = self._marks.recall(paths)
                self._next_ones.extend((path, wanted.get(path)) for path in paths)
            return self._next_ones.popleft() if self._next_ones else None

    def _bring(self, path: str, wanted: Wanted | None) -> None:
        try:
            if wanted is None:
                self._note_present(path)
                return
            if wanted.replaces is None and (found := self._ground.tree.lstat(self._ground.session, path)) is not None:
                if isinstance(found, FileStat) and found.kind is Kind.FILE:
                    self._note_present(path)
                else:
                    self._tally.note(Skipped(path, "something that is no file stands there"))
                return
            self._fetch(wanted)
        except (RootHalted, JournalUnavailable, JournalDamaged):
            raise
        except CacheSyncError as error:
            self._tally.failed(path, error)

    def _fetch(self, wanted: Wanted) -> None:
        file = self._staging.temporary()
        try:
            stored = self._fetcher.fetch(self._c.key(self._session, wanted.path), wanted.stored, file)
            file.seal(stored.mode, stored.mtime_ns)
        except BaseException:
            file.discard()
            raise
        self._ready.append((wanted, stored, file))
        if self._standing.acquire(blocking=len(self._ready) > _MANY):
            try:
                self._place_ready()
            finally:
                self._standing.release()
        self._tally.tell()

    def _place_ready(self) -> None:
        """Put into place and write down what is ready, of all threads; where that was all, the directories too."""
        placed: list[Placed] = []
        finished: list[tuple[str, FileStat]] = []
        with self._c.journal.turns.alone(self._session) as turn:
            try:
                count = min(len(self._ready), _MANY)  # others add to it
                now = self._marks.recall([self._ready[number][0].path for number in range(count)])
                for _ in range(count):
                    wanted, stored, file = self._ready.popleft()
                    try:
                        if (done := self._place(wanted, now.get(wanted.path), stored, file, turn)) is not None:
                            placed.append(done)
                    except FileUnwritable as error:
                        self._tally.failed(wanted.path, error)
                    finally:
                        file.discard()
                if self._is_one and self.brought.complete:
                    finished = self.frame.finish_filled()
            finally:
                self._marks.placed(placed, finished)
        self._tally.fetched([done.stat.size for done in placed])

    def _place(self, wanted: Wanted, now: Wanted | None, stored: Stored, file: Temporary, turn: Turn) -> Placed | None:
        if now is None:  # somebody else has brought it
            self._note_present(wanted.path)
            return None
        if now.stored.version.etag != wanted.stored.version.etag:
            self._tally.note(Pending(wanted.path, "it changed while it was fetched"))
            return None
        # Only now that it is sure: its directory may have got another name.
        self.frame.make(wanted.path.rpartition("/")[0])
        if wanted.replaces is None:
            stat = self._ground.place(file, wanted.path, now.rights)
            if stat is None:
                self._note_present(wanted.path)
                return None
        else:
            expected = now.replaces.stat if now.replaces is not None else None
            idle = expected is not None and not turn.is_written(expected.inode)
            stat = self._ground.swap(file, wanted.path, expected) if expected is not None and idle else None
            if stat is None:
                self._tally.note(Skipped(wanted.path, _REPLACED))
                self._note_present(wanted.path)
                return None
        self.frame.filled(wanted.path)
        sealed = file.sealed
        if (stat.size, stat.mtime_ns, stat.mode) != (sealed.size, sealed.mtime_ns, sealed.mode):
            self._note_present(wanted.path)  # somebody has written to it already: a scan will see that
            return None
        return Placed(now, stored, stat)

    def _note_present(self, path: str) -> None:
        found = self._ground.tree.lstat(self._ground.session, path)
        self._tally.present(found.size if isinstance(found, FileStat) else 0)
