"""Deleting the object of a path where no file is any more (P7, P8)."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from cachesync import attributes
from cachesync.context import Context
from cachesync.errors import (
    DeleteHeld,
    ObjectNotFound,
    PreconditionFailed,
    Unstorable,
)
from cachesync.events import What
from cachesync.model import Conflict, Entry, FileStat, Kind, ObjectInfo, Stored, Tombstones, Version
from cachesync.policy import Belief, believe_delete, is_same_file, last_deletion, may_be_stored, was_reverted
from cachesync.rivals import Rivals
from cachesync.scanner import Scanner

logger = logging.getLogger(__name__)

_LANDING = 5.0
"""Seconds after which a request is in the store, or never will be, once who sent it has died or given it up."""

_MOVING, _MOVING_SLOWLY = 0.05, 2.0
"""Seconds until an old name is looked at again whose new name is not stored; the latter where a try has failed."""

_RECOUNT = 0.1

_MOST_UNANSWERED = 10_000


class Removal:
    """Carries deletions out, or finds out why not. ``deleted`` counts them by session."""

    def __init__(self, context: Context, scanner: Scanner, rivals: Rivals) -> None:
        self._c = context
        self._scanner = scanner
        self._rivals = rivals
        self.deleted: Counter[str] = Counter()
        self._asked: list[tuple[str, str]] = []
        self._counted: dict[str, tuple[float, Tombstones]] = {}
        self._begun = context.clock()
        self._unanswered: dict[tuple[str, str], float] = {}
        """Paths of which an upload failed without an answer in this life, and when."""

    @contextlib.contextmanager
    def asked(self, session: str, path: str) -> Iterator[None]:
        """Somebody asked for this one deletion by its name: it is neither waited for nor held."""
        self._asked.append((session, path))
        try:
            yield
        finally:
            self._asked.remove((session, path))

    def delete(self, entry: Entry) -> bool:
        """Bring the store to "no object here"; whether one was deleted. Raises DeleteHeld, RootHalted, StoreError."""
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
            # A file whose removal was not on disk when the power went stands again: taken for clean, it would be
            # nowhere but there.
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
        """Whether no file is at the path of a link that replaced one. Raises RootHalted."""
        found = self._c.tree.lstat(entry.session, entry.path)
        if isinstance(found, FileStat) and found.kind is Kind.FILE:
            self._scanner.look_again(entry)
            return False
        return True

    def _believed(self, entry: Entry) -> bool:
        """Whether a tombstone is carried out now (P7, P8). Raises DeleteHeld, RootHalted."""
        tree, work, now = self._c.tree, self._c.journal.work, self._c.clock()
        found = tree.lstat(entry.session, entry.path)
        stands = isinstance(found, FileStat) and found.kind is not Kind.DIRECTORY  # a directory is another entry
        if stands or not self._scanner.presence.is_known(entry.session):
            self._scanner.look_again(entry)
            return False
        if entry.stored is None or (entry.session, entry.path) in self._asked:
            return True
        names = self._new_names(entry)
        waiting = [other for other in names if other.dirty]
        if waiting:  # first the new name, so that the store has the bytes all the time
            pause = _MOVING if not any(other.attempts for other in waiting) else _MOVING_SLOWLY
            work.postpone(entry, now + pause)
            return False
        if self._lost_on_the_way(entry, entry.stored, names) and self._is_stored(entry, entry.stored):
            work.lose_delete(entry, entry.stored)
            sentence = "moved, and the power may have taken its bytes: those that the store has stay, evicted"
            logger.warning(sentence, extra={"session": entry.session, "path": entry.path})
            return False
        t = self._tombstones(entry.session)
        gone, made = self._scanner.presence.last_gone(entry.session)
        if self._begun <= now:  # what went before this life began may be part of an rm that goes on
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
            since = last if self._c.watched and last <= now else now  # a clock that was set back makes it later
            work.postpone(entry, since + self._c.pace.delete_settle)
        if belief is Belief.HELD:
            cause = f"{t.unconfirmed} of {t.stored} files went at once"
            mend = f"cachesync flush --confirm-deletes {entry.session} carries them out"
            raise DeleteHeld("delete", entry.path, cause, mend)
        return belief is Belief.BELIEVED

    def _new_names(self, entry: Entry) -> list[Entry]:
        """The names that a file has now whose name is gone: of a file that was moved, changed since or not."""
        return [other for other in self._c.journal.work.moved_to(entry) if self._is_it(entry, other)]

    def _is_stored(self, entry: Entry, stored: Stored) -> bool:
        """Whether the object is there still: this host may have deleted it just before the power went."""
        with contextlib.suppress(ObjectNotFound):
            return self._c.store.head(self._c.key(entry.session, entry.path)).version.etag == stored.version.etag
        return False

    def _lost_on_the_way(self, entry: Entry, stored: Stored, names: list[Entry]) -> bool:
        """Whether a moved file may have lost, with the machine's power, the bytes that only its old name's object has:
        there are others under its new ``names``, and nobody has written those since."""
        if not entry.doubted or stored.sha256 in (None, *(other.stored.sha256 for other in names if other.stored)):
            return False
        until = self._c.journal.reverted_until
        return any(other.stat is not None and was_reverted(other.stat, stored, until) for other in names)

    def _is_it(self, entry: Entry, other: Entry) -> bool:
        """Whether ``other`` is the file that stood at ``entry``'s path, not a new file that reuses its inode number: it
        looks the same, or it was created before the missing file last changed. Without birth times, the inode decides.
        """
        if entry.stat is None or other.stat is None:
            return False
        if is_same_file(entry.stat, other.stat):
            return True
        birth = self._c.tree.birth_ns(other.session, other.path)
        return birth is None or birth / 1e9 <= entry.stat.ctime_ns / 1e9 + self._c.tree.capabilities.tick

    def recount(self, session: str) -> None:
        """Forget the session's numbers: somebody has confirmed its deletions."""
        self._counted.pop(session, None)

    def _tombstones(self, session: str) -> Tombstones:
        """The session's numbers, counted at most ten times a second: a thousand deletions ask for the same ones."""
        known = self._counted.get(session)
        if known is None or not 0 <= self._c.clock() - known[0] < _RECOUNT:
            counted, changed = self._c.journal.work.tombstones(session)
            moved = sum(self._is_it(entry, other) for entry, other in changed)
            known = self._c.clock(), replace(counted, unconfirmed=counted.unconfirmed - moved)
            self._counted[session] = known
        return known[1]

    def _found(self, entry: Entry) -> tuple[bool, Version | None]:
        """Whether it is known what there is to delete of an entry whose version was not seen here, and what that is."""
        try:
            key = self._c.key(entry.session, entry.path)
        except Unstorable:
            return True, None
        if (info := self._look_up(entry, key)) is None:
            return not self._awaits_landing(entry, lately=True), None
        if self._rivals.is_ours(entry, info):
            return True, info.version
        if entry.hidden and not entry.tombstone:
            return True, self._rivals.keep_hidden(entry, key)
        self._leave(entry, info)
        return False, None

    def _look_up(self, entry: Entry, key: str) -> ObjectInfo | None:
        """The object of an entry whose version is not known to be ours, if there is one.

        An answer may have been lost, and a listing names versions that are not ours: the object's metadata say whether
        it is. One that is not lives on, as an evicted entry.
        """
        if not self._may_be_stored(entry):
            return None
        try:
            return self._c.store.head(key)
        except ObjectNotFound:
            return None

    def _may_be_stored(self, entry: Entry) -> bool:
        tried = (entry.session, entry.path) in self._unanswered
        return entry.stored is not None or tried or may_be_stored(entry, self._c.journal.opened_at)

    def broke_off(self, entry: Entry) -> None:
        """Note that an upload of an entry, or its confirmation, failed without an answer: the store may have the
        object, or get it within ``_LANDING`` seconds. A retry that succeeds does not change that: once the object is
        deleted, the late request finds none and creates it again."""
        now = self._c.clock()
        if len(self._unanswered) > _MOST_UNANSWERED:
            self._unanswered = {place: at for place, at in self._unanswered.items() if 0 <= now - at < _LANDING}
        self._unanswered[entry.session, entry.path] = now

    def _awaits_landing(self, entry: Entry, *, lately: bool) -> bool:
        """Whether an unanswered upload may still reach the store; then the deletion is due after it. ``lately`` says
        that the store may not have had the object before this process began: its predecessor may have sent it."""
        sent, now = self._unanswered.get((entry.session, entry.path), 0.0), self._c.clock()
        if lately and entry.born <= self._c.journal.opened_at:
            sent = max(sent, self._begun)
        landed = sent + _LANDING
        if not 0 < landed - now <= _LANDING:
            return False
        error = "a request that a killed process sent, or that was given up, may store it yet"
        self._c.journal.work.fail(entry, tried_at=now, due_at=landed, error=error, failed=False)
        return True

    def _settle(self, entry: Entry) -> bool:
        """The object was not what we last knew; whether it is gone now.

        Gone it may be by our own first request, whose answer was lost, and ours by a put whose answer was. Another
        writer's version wins.
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
        """The object was not seen here and stays: as an evicted entry, or, where a link stands, unmentioned."""
        if entry.tombstone:
            self._c.journal.work.lose_delete(entry, attributes.to_stored(info))
        else:
            self._c.journal.work.confirm_delete(entry)
        sentence = "deleted or replaced here, but the object is one that was not seen here: it stays"
        logger.warning(sentence, extra={"session": entry.session, "path": entry.path})


def _was_seen(entry: Entry, stored: Stored) -> bool:
    """Whether who removed or replaced a file here had seen what the store has of it. Of what a listing told of nobody
    has, unless it never stood here: then it was removed where it is shown from there, in a mount. Who made a file or a
    link of an evicted file's name, and removed it again, has seen nothing of that."""
    return not entry.hidden and (stored.sha256 is not None or (entry.tombstone and entry.stat is None))
