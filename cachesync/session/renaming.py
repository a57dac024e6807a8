"""Removing and renaming what is only in the store, without bringing it."""

from __future__ import annotations

import stat as st
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from cachesync.model import attributes
from cachesync.model.errors import ObjectNotFound, PreconditionFailed, StoreError, StoreTransient
from cachesync.model.values import Entry, FileStat, Kind, Stored
from cachesync.session.hydration import Bringer
from cachesync.sync.conflicts import duplicate, with_digest
from cachesync.sync.context import Context
from cachesync.sync.parallel import in_parallel
from cachesync.sync.remote_listing import Learner
from cachesync.sync.scanner.scan import Scanner
from cachesync.sync.uploader import Uploader
from cachesync.watch.hints import Hint

_AT_ONCE = 8

_TRIES = 5
"""Of having the session's directory stand: each eviction of a session that is empty then removes it."""


class Renamer:
    """Removes and renames evicted entries."""

    def __init__(
        self, context: Context, scanner: Scanner, learner: Learner, bringer: Bringer, uploader: Uploader
    ) -> None:
        self._c = context
        self._scanner = scanner
        self._learner = learner
        self._bringer = bringer
        self._uploader = uploader

    def remove(self, session: str, path: str) -> None:
        """See verbs.OnDemand. The deletion is one as any other: settled first, guarded, conditional."""
        one = self._c.journal.entries.entry(session, path)
        if one is not None and not one.resident:
            self._keep_above(session, path)
        due = self._c.clock() + self._c.pace.delete_settle
        with self._turn(session):
            removed = self._c.journal.residence.removed(session, path, due, self._c.clock())
        if not removed:
            raise ObjectNotFound("remove", f"{session}/{path}", "nothing of this name is only in the store")
        self._uploader.wake()

    def move(self, session: str, path: str, to_session: str, to_path: str) -> None:
        """See verbs.OnDemand. Each file is copied, then its old name removed: none is ever without a name."""
        entries = self._c.journal.entries
        one = entries.entry(session, path)
        found = [*entries.under(session, path)] if path.endswith("/") else []
        found = [entry for entry in [*found, *([one] if one is not None else [])] if _is_away(entry)]
        if not found and not path.endswith("/") and (one is None or one.tombstone):
            raise ObjectNotFound("rename", f"{session}/{path}", "nothing of this name is only in the store")
        self._bringer.stand(to_session)
        if found:
            self._keep_above(session, path)
        self._learner.ensure(to_session, wait=True)

        def move(entry: Entry, _stop: threading.Event) -> None:
            self._move(entry, to_session, to_path + entry.path[len(path) :])

        in_parallel(iter(found), move, _AT_ONCE)

    @contextmanager
    def _turn(self, session: str) -> Iterator[None]:
        """The daemon's turn in a session whose directory stands. Where it does not, what the journal is told of a
        removed name would be taken for a loss of the directory. Raises StoreTransient."""
        for _ in range(_TRIES):
            self._bringer.stand(session)
            with self._learner.standing, self._c.journal.turns.alone(session):
                if self._scanner.presence.is_known(session):
                    yield
                    return
        raise StoreTransient("remove", session, "the session is evicted again and again", "do it again")

    def _keep_above(self, session: str, path: str) -> None:
        """Let the directory of a path stand that only the names in it tell of: it does not go with the last of them."""
        above = path.rstrip("/").rpartition("/")[0]
        if not above or self._c.tree.lstat(session, above) is not None:
            return
        told = self._c.journal.entries.entry(session, f"{above}/")
        if told is None or told.tombstone:
            self._bringer.bring(session, f"{above}/")

    def _move(self, entry: Entry, to_session: str, to_path: str) -> None:
        """Move one entry. What stands here by now is left to whoever renames what is on the disk; what cannot be moved
        in the store, because its new name has not left it yet, is brought here for them."""
        if entry.kind is not Kind.FILE or entry.stored is None:
            moved = self._renamed(entry, to_session, to_path, None)
        else:
            with ExitStack() as apart:
                for place in sorted({(entry.session, entry.path), (to_session, to_path)}):  # none that cross wait
                    apart.enter_context(self._uploader.apart(*place))
                moved = self._move_file(entry, to_session, to_path)
        if moved:
            return
        if self._is_away_still(entry):
            self._bringer.bring(entry.session, entry.path)
        elif entry.kind is not Kind.DIRECTORY:
            # Put into its place a moment ago, or the journal would go on to have it, in the store only, at this name.
            self._scanner.notice(entry.session, {entry.path: Hint.CHANGED})

    def _move_file(self, found: Entry, to_session: str, to_path: str) -> bool:
        """Return False, and change nothing, if the file is not what was ``found`` any more, or another version than the
        journal knows has one of the two names in the store."""
        entry = self._c.journal.entries.entry(found.session, found.path)
        there = self._c.journal.entries.entry(to_session, to_path)
        if entry is None or entry.resident or entry.stored is None:
            return False
        if there is not None and there.resident and not there.tombstone:
            return False
        try:
            copied = self._copy(entry, entry.stored, there, to_session, to_path)
        except PreconditionFailed:
            return False
        if not self._renamed(entry, to_session, to_path, copied):
            self._c.store.delete(self._c.key(to_session, to_path), expect=copied.version)
            return False
        try:
            self._c.store.delete(self._c.key(entry.session, entry.path), expect=entry.stored.version)
        except StoreError:
            self._uploader.wake()  # it goes when the store says yes
        else:
            gone = self._c.journal.entries.entry(entry.session, entry.path)
            if gone is not None and gone.tombstone:
                self._c.journal.work.confirm_delete(gone)
        return True

    def _renamed(self, entry: Entry, to_session: str, to_path: str, stored: Stored | None) -> bool:
        """Write down that an entry has another name; False if it stands here by now, or something else does there."""
        with self._turn(entry.session):
            if entry.kind is not Kind.DIRECTORY and self._c.tree.lstat(entry.session, entry.path) is not None:
                return False
            return self._c.journal.sessions.renamed(entry, to_session, to_path, stored, self._c.clock())

    def _is_away_still(self, entry: Entry) -> bool:
        now = self._c.journal.entries.entry(entry.session, entry.path)
        if now is None or now.resident:
            return False
        return entry.kind is Kind.DIRECTORY or self._c.tree.lstat(entry.session, entry.path) is None

    def _copy(self, entry: Entry, stored: Stored, there: Entry | None, to_session: str, to_path: str) -> Stored:
        store, now = self._c.store, self._c.clock()
        source, target = self._c.key(entry.session, entry.path), self._c.key(to_session, to_path)
        if stored.sha256 is None:
            told = attributes.to_stored(with_digest(store, store.head(source)))
            stored = replace(stored, sha256=told.sha256, mtime_ns=told.mtime_ns, mode=told.mode)
        stat = FileStat(Kind.FILE, stored.size, stored.mtime_ns, 0, 0, st.S_IMODE(stored.mode))
        named = replace(entry, session=to_session, path=to_path)
        attempt = self._c.journal.lives.attempt(named, target)
        carried = attributes.for_file(named, stat, stored.sha256 or "", self._c.journal.id, attempt)
        expect = None if there is None or there.stored is None else there.stored.version
        info = duplicate(self._c, source, target, carried, source_version=stored.version, expect=expect)
        return Stored(info.version, stored.size, stored.sha256, stored.mtime_ns, stored.mode, now)


def _is_away(entry: Entry) -> bool:
    return not entry.resident and (entry.kind is not Kind.FILE or entry.stored is not None)
