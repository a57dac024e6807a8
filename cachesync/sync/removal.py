"""Deletes the objects of files that were deleted here (P7, P8)."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from cachesync.model import attributes
from cachesync.model.errors import DeleteHeld, ObjectNotFound, PreconditionFailed, Unstorable
from cachesync.model.events import What
from cachesync.model.policy import Belief, believe_delete, is_same_file, last_deletion, may_be_stored, was_reverted
from cachesync.model.values import Conflict, Entry, FileStat, Kind, ObjectInfo, Stored, Tombstones, Version
from cachesync.sync.conflicts import Rivals
from cachesync.sync.context import Context
from cachesync.sync.scanner.scan import Scanner

logger = logging.getLogger(__name__)

_LANDING = 5.0
"""Seconds within which the store may still execute a request whose sender died or stopped waiting."""

_MOVING, _MOVING_SLOWLY = 0.05, 2.0
"""Seconds between checks whether the new name of a moved file is stored; the second applies after a failed attempt."""

_RECOUNT = 0.1

_MOST_UNANSWERED = 10_000


class Removal:
    """Executes deletions in the store, or records why not yet. ``deleted`` counts them by session."""

    def __init__(self, context: Context, scanner: Scanner, rivals: Rivals) -> None:
        self._c = context
        self._scanner = scanner
        self._rivals = rivals
        self.deleted: Counter[str] = Counter()
        self._asked: list[tuple[str, str]] = []
        self._counted: dict[str, tuple[float, Tombstones]] = {}
        self._begun = context.clock()
        self._unanswered: dict[tuple[str, str], float] = {}
        """When this process last lost the response to an upload, by session and path."""

    @contextlib.contextmanager
    def asked(self, session: str, path: str) -> Iterator[None]:
        """Execute the deletion of this path at once: a caller named it, so it is neither delayed nor held."""
        self._asked.append((session, path))
        try:
            yield
        finally:
            self._asked.remove((session, path))

    def delete(self, entry: Entry) -> bool:
        """Delete the object at the entry's path, if that is due. Returns whether an object was deleted.

        Raises DeleteHeld, RootHalted, StoreError.
        """
        if not (self._believed(entry) if entry.tombstone else self._is_replaced(entry)):
            return False
        seen = entry.stored if entry.stored is not None and _was_seen(entry, entry.stored) else None
        version = None if seen is None else seen.version
        if seen is None:
            known, version = self._found(entry)
            if not known:
                return False
        elif self._awaits_landing(entry, lately=seen.stored_at >= self._begun):
            return False
        if version is not None:
            # After a power failure, the deleted file may exist again. The journal must know then that it is dirty,
            # because the store no longer has it.
            self._c.journal.work.harden(entry)
            try:
                self._c.store.delete(self._c.key(entry.session, entry.path), expect=version)
            except PreconditionFailed:
                if not self._settle(entry):
                    return False
            self.deleted[entry.session] += 1
            logger.info("deleted", extra={"session": entry.session, "path": entry.path})
        upload = self._c.journal.uploads.load(entry.session, entry.path)
        if upload is not None:
            self._c.store.discard(upload)
            self._c.journal.uploads.drop(entry.session, entry.path)
        self._c.journal.work.confirm_delete(entry)
        self._unanswered.pop((entry.session, entry.path), None)
        seconds = self._c.clock() - entry.dirty_since
        self._c.events.tell(What.DELETED, entry.session, entry.path, seconds=seconds, sent=version is not None)
        return version is not None

    def _is_replaced(self, entry: Entry) -> bool:
        """Whether the link that replaced a file is still there. Raises RootHalted."""
        found = self._c.tree.lstat(entry.session, entry.path)
        if found is None or (isinstance(found, FileStat) and found.kind is not Kind.LINK):
            self._scanner.look_again(entry)
            return False
        return True

    def _believed(self, entry: Entry) -> bool:
        """Whether the tombstone's deletion is executed now (P7, P8). Raises DeleteHeld, RootHalted."""
        tree, work, now = self._c.tree, self._c.journal.work, self._c.clock()
        found = tree.lstat(entry.session, entry.path)
        stands = isinstance(found, FileStat) and found.kind is not Kind.DIRECTORY
        if stands or not self._scanner.presence.is_known(entry.session):
            self._scanner.look_again(entry)
            return False
        if (entry.session, entry.path) in self._asked or not self._may_be_stored(entry):
            return True
        names = self._new_names(entry)
        waiting = [other for other in names if other.dirty]
        if waiting:  # store the new name first, so that the store always has the bytes
            pause = _MOVING if not any(other.attempts for other in waiting) else _MOVING_SLOWLY
            work.postpone(entry, now + pause)
            return False
        stored = entry.stored
        if stored is not None and self._lost_on_the_way(entry, stored, names) and self._is_stored(entry, stored):
            work.lose_delete(entry, stored)
            sentence = "moved, but a power failure may have reverted its bytes; the object is kept as an evicted file"
            logger.warning(sentence, extra={"session": entry.session, "path": entry.path})
            return False
        t = self._tombstones(entry.session)
        gone, made = self._scanner.presence.last_gone(entry.session)
        if self._begun <= now:  # an rm that began before this process may still be running
            gone = max(gone, self._begun)
        last = last_deletion(t.last_seen, gone, made, pace=self._c.pace)
        belief = believe_delete(
            self._c.clock(),
            last,
            tombstones=t.unconfirmed,
            stored=t.stored,
            flushing=self._c.believing(entry.session),
            watched=self._c.watched,
            pace=self._c.pace,
        )
        if belief is Belief.TOO_SOON:
            since = last if self._c.watched and last <= now else now  # the clock may have been set back
            work.postpone(entry, since + self._c.pace.delete_settle)
        if belief is Belief.HELD:
            cause = f"{t.unconfirmed} of {t.stored} files were deleted at once"
            mend = f"cachesync flush --confirm-deletes {entry.session} carries them out"
            raise DeleteHeld("delete", entry.path, cause, mend)
        return belief is Belief.BELIEVED

    def _new_names(self, entry: Entry) -> list[Entry]:
        """Return the entries that the missing file may have become by a rename, even if it was written since."""
        return [other for other in self._c.journal.work.moved_to(entry) if self._is_it(entry, other)]

    def _is_stored(self, entry: Entry, stored: Stored) -> bool:
        """Whether the object still has this version: this host may have deleted it just before a power failure."""
        with contextlib.suppress(ObjectNotFound):
            return self._c.store.head(self._c.key(entry.session, entry.path)).version.etag == stored.version.etag
        return False

    def _lost_on_the_way(self, entry: Entry, stored: Stored, names: list[Entry]) -> bool:
        """Whether a power failure may have reverted a moved file, so that only its old name's object has the bytes.

        That is so if no object of its new ``names`` has those bytes, and the file was not written since the failure.
        """
        if not entry.doubted or stored.sha256 in (None, *(other.stored.sha256 for other in names if other.stored)):
            return False
        until = self._c.journal.reverted_until
        return any(other.stat is not None and was_reverted(other.stat, stored, until) for other in names)

    def _is_it(self, entry: Entry, other: Entry) -> bool:
        """Whether ``other`` is the file that was at ``entry``'s path, and not a new file with a reused inode number.

        It is the same file if its stat is the same, or if it was created before the missing file last changed. Without
        birth times, the inode decides.
        """
        if entry.stat is None or other.stat is None:
            return False
        if is_same_file(entry.stat, other.stat):
            return True
        birth = self._c.tree.birth_ns(other.session, other.path)
        return birth is None or birth / 1e9 <= entry.stat.ctime_ns / 1e9 + self._c.tree.capabilities.tick

    def recount(self, session: str) -> None:
        """Discard the session's cached counts, because its deletions were confirmed."""
        self._counted.pop(session, None)

    def _tombstones(self, session: str) -> Tombstones:
        """Return the session's counts, cached for ``_RECOUNT`` seconds because each of its deletions needs them."""
        known = self._counted.get(session)
        if known is None or not 0 <= self._c.clock() - known[0] < _RECOUNT:
            counted, changed = self._c.journal.work.tombstones(session)
            moved = sum(self._is_it(entry, other) for entry, other in changed)
            known = self._c.clock(), replace(counted, unconfirmed=counted.unconfirmed - moved)
            self._counted[session] = known
        return known[1]

    def _found(self, entry: Entry) -> tuple[bool, Version | None]:
        """Find the version to delete of an entry whose object was not seen here.

        Returns (False, None) if nothing may be deleted now, and (True, None) if there is no object.
        """
        try:
            key = self._c.key(entry.session, entry.path)
            if not self._may_be_stored(entry):
                return True, None
            if (entry.session, entry.path) not in self._asked and self._awaits_landing(entry, lately=True):
                return False, None
            info = self._c.store.head(key)
        except (Unstorable, ObjectNotFound):
            return True, None
        if self._rivals.is_ours(entry, info):
            return True, info.version
        if entry.hidden and not entry.tombstone:
            return True, self._rivals.keep_hidden(entry, key)
        self._leave(entry, info)
        return False, None

    def _may_be_stored(self, entry: Entry) -> bool:
        tried = (entry.session, entry.path) in self._unanswered
        return entry.stored is not None or tried or may_be_stored(entry, self._c.journal.opened_at)

    def broke_off(self, entry: Entry) -> None:
        """Record that the result of an upload is unknown, because the store's response or its confirmation was lost.

        The store may have the object, or create it within ``_LANDING`` seconds. A successful retry does not change
        that: if the object is deleted after it, the late request creates the object again.
        """
        now = self._c.clock()
        if len(self._unanswered) > _MOST_UNANSWERED:
            self._unanswered = {place: at for place, at in self._unanswered.items() if 0 <= now - at < _LANDING}
        self._unanswered[entry.session, entry.path] = now

    def _awaits_landing(self, entry: Entry, *, lately: bool) -> bool:
        """Whether an earlier upload may still reach the store. If so, the deletion is postponed until after it.

        ``lately`` says that the store may have got the object only after this process began. The previous process may
        have sent it.
        """
        sent, now = self._unanswered.get((entry.session, entry.path), 0.0), self._c.clock()
        if lately and entry.born <= self._c.journal.opened_at:
            sent = max(sent, self._begun)
        landed = sent + _LANDING
        if not 0 < landed - now <= _LANDING:
            return False
        error = "an earlier upload whose response was lost may still store it"
        self._c.journal.work.fail(entry, tried_at=now, due_at=landed, error=error, failed=False)
        return True

    def _settle(self, entry: Entry) -> bool:
        """Handle an object that is not the version in the journal. Returns whether the object is deleted now.

        An earlier delete of ours may have deleted it, or an earlier put of ours may have replaced it, if the response
        was lost. Another writer's version is kept and reported as a conflict.
        """
        try:
            info = self._c.store.head(self._c.key(entry.session, entry.path))
            if self._rivals.is_ours(entry, info):
                self._c.store.delete(info.key, expect=info.version)
                return True
        except ObjectNotFound:
            return True
        self._leave(entry, info)
        conflict = Conflict(entry.path, entry.path)
        self._c.journal.sessions.add_conflict(entry.session, conflict, None, self._c.clock())
        self._c.events.tell(What.CONFLICT, entry.session, entry.path, kept_as=entry.path)
        return False

    def _leave(self, entry: Entry, info: ObjectInfo) -> None:
        """Keep an object that was not seen here: as an evicted entry, or without an entry if a link is at its path."""
        if entry.tombstone:
            self._c.journal.work.lose_delete(entry, attributes.to_stored(info))
        else:
            self._c.journal.work.confirm_delete(entry)
        sentence = "deleted or replaced here, but the object was not seen here; it is kept"
        logger.warning(sentence, extra={"session": entry.session, "path": entry.path})


def _was_seen(entry: Entry, stored: Stored) -> bool:
    """Whether the program that deleted or replaced a file here had seen the stored bytes.

    A version known only from a listing counts as unseen, except for the deletion of a file that was never on this disk:
    a program deleted it through a mount, which showed it. If a program created and deleted a file or link with the name
    of an evicted file, the evicted bytes are unseen.
    """
    return not entry.hidden and (stored.sha256 is not None or (entry.tombstone and entry.stat is None))
