"""Bringing one entry here because somebody opens it: the file, and the directories that lead to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from cachesync.model.errors import (
    DiskFull,
    FileUnwritable,
    ObjectNotFound,
    RootHalted,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.model.values import Kind
from cachesync.read.hydrate.hydrator import Hydrator
from cachesync.read.hydrate.plan import JournalMarks, Plan
from cachesync.root.session_dir import Ground
from cachesync.root.staging import Staging
from cachesync.sync.context import Context
from cachesync.sync.remote_listing import Astray, Learner
from cachesync.sync.scanner.scan import Scanner
from cachesync.watch.hints import Hint

_TRIES = 5
"""A directory may be evicted under the file that is being put into it."""

_MODE = 0o644


class OneEntry(JournalMarks):
    """Wants one entry, and what is missing above it."""

    def __init__(self, context: Context, ground: Ground, path: str) -> None:
        super().__init__(context.journal, ground, Astray(), resumed=False)
        self._entries = context.journal.entries
        self._path = path

    def plan(self) -> Plan:
        """See Marks."""
        plan = Plan()
        if self._path and not self._path.endswith("/"):
            entry = self._entries.entry(self._session, self._path)
            if entry is None or entry.tombstone:
                raise ObjectNotFound("bring", f"{self._session}/{self._path}", "nothing of this name is in the store")
            if entry.kind is Kind.FILE:
                self._plan_file(plan, entry)
            else:
                self._plan_link(plan, entry)
        for directory in _leading_to(self._path):
            found = self._entries.entry(self._session, directory)
            if found is None or found.stat is None or found.tombstone:
                continue
            if not found.resident:
                plan.add_directory(found, found.stat)
            elif not found.dirty:
                plan.standing[directory] = found.stat
        return plan


class Bringer:
    """Brings entries. Does not wait for a session's other verbs: a flush of it may take long."""

    def __init__(self, context: Context, scanner: Scanner, learner: Learner, staging: Callable[[], Staging]) -> None:
        self._c = context
        self._scanner = scanner
        self._learner = learner
        self._staging = staging
        self._hydrator = Hydrator(context, learner.standing, threads=1)
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, str], Future[None]] = {}

    def bring(self, session: str, path: str) -> None:
        """See verbs.OnDemand."""
        with self._lock:
            future = self._under_way.get((session, path))
            ours = future is None
            if future is None:
                future = self._under_way[session, path] = Future()
        if not ours:
            return future.result()
        try:
            self._bring(session, path)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._under_way[session, path]

    def _bring(self, session: str, path: str) -> None:
        learned = False
        for left in reversed(range(_TRIES)):
            try:
                with self._ground(session) as ground:
                    marks = OneEntry(self._c, ground, path)
                    brought = self._hydrator.bring(session, marks, ground, self._staging())
                    if brought.complete:
                        self._make(ground, path)
                    is_gone = not brought.complete and not ground.stands()
            except (RootHalted, FileUnwritable):
                if not left:
                    raise
                continue
            if is_gone and left:
                continue  # the session's directory was evicted
            if brought.full:
                raise DiskFull("bring", f"{session}/{path}", "the disk of the root is full")
            if brought.complete:
                return
            reason = next(iter([*(f.error for f in brought.failed), *(p.reason for p in brought.pending)]))
            if brought.unreachable:
                raise StoreUnreachable("bring", f"{session}/{path}", reason, "open it again")
            if learned or not left:
                raise StoreTransient("bring", f"{session}/{path}", reason, "open it again")
            learned = True
            self._learner.again(session)  # another host may have replaced it since we learned of it

    def make_empty(self, session: str, path: str) -> None:
        """See verbs.OnDemand."""
        for left in reversed(range(_TRIES)):
            try:
                self._make_empty(session, path)
            except (RootHalted, FileUnwritable):
                if not left:
                    raise
            else:
                return

    def _make_empty(self, session: str, path: str) -> None:
        entry = self._c.journal.entries.entry(session, path)
        above = path.rpartition("/")[0]
        self._bring(session, above + "/" if above else "")
        with self._ground(session) as ground:
            file = self._staging().temporary()
            try:
                mode = entry.stored.mode if entry is not None and entry.stored is not None else _MODE
                file.seal(mode, int(self._c.clock() * 1e9))
                with self._c.journal.turns.alone(session):
                    ground.place(file, path, None if entry is None else entry.rights)
                    self._scanner.notice(session, {path: Hint.CHANGED})
            finally:
                file.discard()

    def stand(self, session: str) -> None:
        """Let the session's directory stand, so that what happens in it is believed."""
        with self._ground(session):
            pass

    @contextmanager
    def _ground(self, session: str) -> Iterator[Ground]:
        if not self._scanner.presence.is_known(session):
            self._c.make_session(session, self._staging())
            self._scanner.notice(session, {})  # it learns which directory it is
        with Ground(self._c.tree, session, self._staging()) as ground:
            yield ground

    def _make(self, ground: Ground, path: str) -> None:
        """A directory that only the paths of what is below it tell of is in no plan."""
        if path.endswith("/") and (made := ground.make_directories(path.rstrip("/"), {})):
            self._scanner.notice(ground.session, {directory.rstrip("/"): Hint.CHANGED for directory in made})


def _leading_to(path: str) -> Iterator[str]:
    """The directories above a path, and the path itself if it is one; each ends in "/"."""
    at = path.find("/")
    while at >= 0:
        yield path[: at + 1]
        at = path.find("/", at + 1)
