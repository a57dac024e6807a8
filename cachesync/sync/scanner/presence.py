"""Checks whether session directories and paths exist, and marks the missing ones in the journal."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from cachesync.journal.journal import Journal
from cachesync.model.errors import FileUnreadable
from cachesync.model.events import Events, What
from cachesync.model.policy import Pace, check_owner
from cachesync.model.values import FileStat, Kind, Session
from cachesync.root.tree import Tree, tells_births
from cachesync.watch.hints import Hint

logger = logging.getLogger(__name__)

_GONE, _MADE = Hint.GONE.value, (Hint.CHANGED | Hint.TREE).value
flags = int.__and__
"""Tests a hint's flags. The enum's own operators are slow."""


class Presence:
    """What exists on disk. Safe to call from many threads. Only ``meet`` and ``is_known`` check the root itself."""

    def __init__(self, tree: Tree, journal: Journal, pace: Pace, clock: Callable[[], float], events: Events) -> None:
        self._tree = tree
        self._journal = journal
        self._pace = pace
        self._clock = clock
        self._tell = events.tell
        self.lost: Counter[str] = Counter()
        """Files that disappeared with their session's directory before they were stored, since this process began."""
        self._last_gone: dict[str, float] = {}
        self._last_made: dict[str, float] = {}
        self._lock = threading.Lock()
        self._meeting: dict[str, threading.Lock] = {}

    def is_known(self, session: str) -> bool:
        """Whether the session's directory exists and is the one in the journal.

        Raises RootHalted, FileUnreadable.
        """
        row = self._journal.sessions.get(session)
        directory = self._tree.session_directory(session)
        return row is not None and directory is not None and row.directory == directory

    def meet(self, session: str) -> Session | None:
        """Return the session's row, or None if its directory does not exist.

        Adds a new session to the journal. If the directory was removed or replaced, the session's entries are evicted,
        and nothing is deleted in the store (P7).

        Raises RootHalted. Raises FileUnreadable if the directory cannot be read, or if another user than the session's
        made it (SessionTaken); the session is added all the same, so that its status reports the error.
        """
        row, directory = self._row_and_directory(session)
        if row is None and directory is None:
            return None
        if row is not None and row.directory == directory and not row.lost:
            return row
        with self._meeting.setdefault(session, threading.Lock()):
            # Another thread may have met the new directory just now, and entries in it.
            row, directory = self._row_and_directory(session)
            if directory is None:
                if row is not None:
                    self._removed(session)
                return None
            if row is None:
                self._journal.sessions.add(session, self._clock())
            elif row.directory != directory:
                self._check_owner(row)
                if row.directory is not None:
                    self._removed(session)
            if row is None or row.directory != directory or row.lost:
                self._journal.sessions.set_directory(session, directory)
            return self._journal.sessions.get(session)

    def _check_owner(self, row: Session) -> None:
        own = self._tree.rights(row.name)
        if own is not None and row.rights is not None:
            check_owner(row.name, own[1].uid, row.rights.uid, own=os.geteuid())

    def look_at_rights(self, session: str) -> None:
        """Record the permission bits and rights of the session's directory. Of several scans at once, the last one to
        record them has also seen them last."""
        with self._meeting.setdefault(session, threading.Lock()):
            own = self._tree.rights(session)
            if own is not None:
                self._journal.sessions.set_rights(session, *own)

    def _row_and_directory(self, session: str) -> tuple[Session | None, str | None]:
        row = self._journal.sessions.get(session)
        try:
            return row, self._tree.session_directory(session)
        except FileUnreadable:
            self._journal.sessions.add(session, self._clock())
            raise

    def _removed(self, session: str) -> None:
        if not self._journal.entries.any_resident(session):
            return
        evicted, lost = self._journal.sessions.removed(session)
        with self._lock:
            self.lost[session] += lost
        log = logger.warning if lost else logger.info
        sentence = "session directory removed: %d entries stay in the store, %d files were not stored"
        log(sentence, evicted, lost, extra={"session": session})
        self._tell(What.EVICTED, session, files=evicted, left=lost)

    def hear(self, session: str, hints: Collection[Hint]) -> None:
        """Record when hints reported a deletion, or a creation or write. Ignored files count too."""
        gone = made = False
        for hint in hints:
            if flags(hint, _GONE):
                gone = True
            elif flags(hint, _MADE):
                made = True
        if gone:
            self._last_gone[session] = self._clock()
        if made:
            self._last_made[session] = self._clock()

    def last_gone(self, session: str) -> tuple[float, float]:
        """Return when the watcher last reported a deletion, and a creation or write, in the session; 0 for never."""
        return self._last_gone.get(session, 0.0), self._last_made.get(session, 0.0)

    def heard_replaced(self, session: str) -> None:
        """Handle a report that the session's directory was removed.

        On a file system without birth times, a new directory may have the same identity, so the entries are evicted.
        """
        row = self._journal.sessions.get(session)
        if row is not None and not tells_births(row.directory):
            self._removed(session)

    def gone(self, session: str, path: str) -> int:
        """Mark as deleted what was below a missing path, if it was a directory. Returns the number of entries."""
        if self._journal.sessions.has_mounts(session):
            volume = self._tree.volume(session, path.rstrip("/").rpartition("/")[0])
            self.vanished(session, (), {path.rstrip("/"): volume, path.rstrip("/") + "/": volume})
        return self.tree_gone(session, path.rstrip("/") + "/")

    def vanished(self, session: str, paths: Sequence[str], volumes: Mapping[str, str | None] | None = None) -> None:
        """Evict paths that are missing without evidence of a deletion (P7).

        With ``volumes``, evicts only files that were on another file system than the given one, by path.
        """
        stands, now = partial(self.stands, session), self._clock()
        evicted, lost = self._journal.sessions.vanished(
            session, paths if volumes is None else volumes, self.gone_due(), now, stands=stands, volumes=volumes
        )
        if evicted or lost:
            sentence = "files missing, no deletion seen: %d entries stay in the store, %d changes were not stored"
            logger.warning(sentence, evicted, lost, extra={"session": session})
            self._tell(What.EVICTED, session, files=evicted, left=lost)

    def tree_gone(self, session: str, directory: str) -> int:
        """Mark as deleted all entries below a directory that does not exist. Returns their number."""
        stands = partial(self.stands, session)
        count = self._journal.entries.mark_tree_gone(session, directory, self.gone_due(), self._clock(), stands=stands)
        if count:
            self._tell(What.DIRTY, session, directory, changes=count)
        return count

    def gone_due(self) -> float:
        """Return when the deletion of a path that is missing now is due."""
        return self._clock() + self._pace.delete_settle

    def stands(self, session: str, path: str) -> bool:
        """Whether a file exists at ``path``, or a directory if it ends in "/". True if the path cannot be read."""
        try:
            return self.look(session, path) is not None
        except FileUnreadable:
            return True  # an unreadable path must not count as deleted

    def look(self, session: str, path: str) -> FileStat | None:
        """Return the stat of the file at ``path``, or of the directory if it ends in "/"; None if there is none.

        Raises FileUnreadable.
        """
        found = self._tree.lstat(session, path.rstrip("/"))
        if isinstance(found, FileStat) and (found.kind is Kind.DIRECTORY) == path.endswith("/"):
            return found
        return None
