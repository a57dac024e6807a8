"""What the journal has entries of, against what stands: a session's directory, a path in it. What went is marked."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from cachesync.errors import FileUnreadable
from cachesync.events import Events, What
from cachesync.files import Tree, tells_births
from cachesync.journal import Journal
from cachesync.model import FileStat, Kind, Session
from cachesync.policy import Pace
from cachesync.watcher import Hint

logger = logging.getLogger(__name__)

_GONE, _MADE = Hint.GONE.value, (Hint.CHANGED | Hint.TREE).value
flags = int.__and__
"""Of a hint: the enum's own arithmetic costs more than the rest of a look at it."""


class Presence:
    """Safe to call from many threads. Only ``meet`` and ``is_known`` look whether the root itself stands."""

    def __init__(self, tree: Tree, journal: Journal, pace: Pace, clock: Callable[[], float], events: Events) -> None:
        self._tree = tree
        self._journal = journal
        self._pace = pace
        self._clock = clock
        self._tell = events.tell
        self.lost: Counter[str] = Counter()
        """How many files went with their session's directory before they were stored, since this process began."""
        self._last_gone: dict[str, float] = {}
        self._last_made: dict[str, float] = {}
        self._lock = threading.Lock()

    def is_known(self, session: str) -> bool:
        """Whether the session's directory stands and is the one that the journal's entries are about.

        Raises RootHalted, FileUnreadable.
        """
        row = self._journal.sessions.get(session)
        directory = self._tree.session_directory(session)
        return row is not None and directory is not None and row.directory == directory

    def meet(self, session: str) -> Session | None:
        """The session's row if its directory stands; learns of a new session, and of one whose directory is another.

        Removing a whole session means "evicted here": nothing is deleted in the store (P7). Raises RootHalted, and
        FileUnreadable for a directory that gives no answer; it is known from then on, so that its status says so.
        """
        row = self._journal.sessions.get(session)
        try:
            directory = self._tree.session_directory(session)
        except FileUnreadable:
            self._journal.sessions.add(session, self._clock())
            raise
        if directory is None:
            if row is not None:
                self._removed(session)
            return None
        if row is None:
            self._journal.sessions.add(session, self._clock())
        elif row.directory not in (None, directory):
            self._removed(session)
        if row is None or row.directory != directory or row.lost:
            self._journal.sessions.set_directory(session, directory)
            row = self._journal.sessions.get(session)
        return row

    def _removed(self, session: str) -> None:
        if not self._journal.entries.any_resident(session):
            return
        evicted, lost = self._journal.sessions.removed(session)
        with self._lock:
            self.lost[session] += lost
        log = logger.warning if lost else logger.info
        sentence = "session directory removed: %d entries stay in the store, %d files were not stored before that"
        log(sentence, evicted, lost, extra={"session": session})
        self._tell(What.EVICTED, session, files=evicted, left=lost)

    def hear(self, session: str, hints: Collection[Hint]) -> None:
        """Note whether something in a session went, or was made or written, be it stored, ignored or never seen."""
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
        """When the watcher last reported that anything went, and was made, in a session; 0 for never."""
        return self._last_gone.get(session, 0.0), self._last_made.get(session, 0.0)

    def heard_replaced(self, session: str) -> None:
        """The watcher reports that the session's directory went. Where the file system tells no birth times, the one
        that stands there now may have the same identity."""
        row = self._journal.sessions.get(session)
        if row is not None and not tells_births(row.directory):
            self._removed(session)

    def gone(self, session: str, path: str) -> int:
        """Mark that a path went, and what stood below it if it was a directory; how many those were."""
        if self._journal.sessions.has_mounts(session):
            volume = self._tree.volume(session, path.rstrip("/").rpartition("/")[0])
            self.vanished(session, (), {path.rstrip("/"): volume, path.rstrip("/") + "/": volume})
        return self.tree_gone(session, path.rstrip("/") + "/")

    def vanished(self, session: str, paths: Sequence[str], volumes: Mapping[str, str | None] | None = None) -> None:
        """Evict what is missing without evidence that a program deleted it (P7); or what was on another file system
        than the one that its directory is on now (``volumes``, by path)."""
        stands, now = partial(self.stands, session), self._clock()
        evicted, lost = self._journal.sessions.vanished(
            session, paths if volumes is None else volumes, self.gone_due(), now, stands=stands, volumes=volumes
        )
        if evicted or lost:
            sentence = "missing here, not seen to be deleted: %d entries stay in the store, %d changes were not stored"
            logger.warning(sentence, evicted, lost, extra={"session": session})
            self._tell(What.EVICTED, session, files=evicted, left=lost)

    def tree_gone(self, session: str, directory: str) -> int:
        """Mark what stood in a directory that is gone; how many that were."""
        count = self._journal.entries.mark_tree_gone(session, directory, self.gone_due(), self._clock())
        if count:
            self._tell(What.DIRTY, session, directory, changes=count)
        return count

    def gone_due(self) -> float:
        """When the deletion of what is missing now is due."""
        return self._clock() + self._pace.delete_settle

    def stands(self, session: str, path: str) -> bool:
        """Whether there is a file at ``path``, or a directory if that ends in "/"; where nobody can tell, there is."""
        try:
            found = self._tree.lstat(session, path.rstrip("/"))
        except FileUnreadable:
            return True  # nobody knows: nothing is deleted for that
        return isinstance(found, FileStat) and (found.kind is Kind.DIRECTORY) == path.endswith("/")
