"""One transfer: bringing the store to the state that the disk has at one path.

The order keeps the promises: the generation is taken before the file is opened, the stat before it is read and compared
after, and nothing is confirmed before the store said yes. Every write names the version that it replaces (P9).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cachesync import attributes
from cachesync.errors import DeleteHeld, ObjectNotFound, PreconditionFailed
from cachesync.files import OpenFile, Snapshot, Tree, take
from cachesync.journal import Journal
from cachesync.keys import conflict_path, to_key
from cachesync.learn import Learner
from cachesync.model import Attributes, Conflict, Entry, FileStat, Kind, Multipart, ObjectInfo, Stored, Version
from cachesync.policy import (
    Belief,
    Pace,
    Writer,
    believe_delete,
    cuts_at_line_end,
    defer_for_writer,
    is_same_file,
    is_unsettled,
    may_be_stored,
)
from cachesync.scanner import Scanner
from cachesync.store.base import ObjectStore
from cachesync.watcher import Hint

logger = logging.getLogger(__name__)

_CONFLICT_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class JournalResume:
    """A multipart upload's memory (store.base.Resume) in the journal."""

    journal: Journal
    session: str
    path: str

    def load(self) -> Multipart | None:
        """The upload under way for this path."""
        return self.journal.uploads.load(self.session, self.path)

    def started(self, upload: Multipart) -> None:
        """Remember a new upload."""
        self.journal.uploads.save(self.session, self.path, upload)

    def part(self, number: int, etag: str) -> None:
        """Remember a part that the store confirmed."""
        self.journal.uploads.add_part(self.session, self.path, number, etag)

    def finished(self) -> None:
        """Forget the upload."""
        self.journal.uploads.drop(self.session, self.path)


class Transfer:
    """Stores and deletes single entries. Safe to call from many threads, for one path at a time.

    Each call ends with a fact in the journal, or raises a CacheSyncError that the caller judges. ``flushing`` says
    whether somebody waits for a session: then writers are not waited for and deletions are believed at once.
    """

    def __init__(
        self,
        tree: Tree,
        journal: Journal,
        store: ObjectStore,
        scanner: Scanner,
        learner: Learner,
        *,
        prefix: str,
        url: str,
        pace: Pace,
        granularity: float,
        clock: Callable[[], float],
        flushing: Callable[[str], bool],
    ) -> None:
        self._tree = tree
        self._journal = journal
        self._store = store
        self._scanner = scanner
        self._learner = learner
        self._prefix = prefix
        self._url = url
        self._pace = pace
        self._granularity = granularity
        self._clock = clock
        self._flushing = flushing
        self.stored: Counter[str] = Counter()
        self.deleted: Counter[str] = Counter()
        self.bytes_sent = 0

    def run(self, session: str, path: str) -> None:
        """Do what the entry needs now, if it still needs anything."""
        self._learner.ensure(session)
        entry = self._journal.entries.entry(session, path)
        if entry is None or not entry.dirty or entry.due_at > self._clock() + self._pace.settle:
            return
        if entry.kind is Kind.FILE and not entry.tombstone:
            self._put(entry)
        elif entry.kind is Kind.FILE or entry.stored is not None:
            self._delete(entry)

    # -- storing -----------------------------------------------------------------------------------------------------

    def _put(self, entry: Entry) -> None:
        key = to_key(self._prefix, entry.session, entry.path)
        file = self._tree.open(entry.session, entry.path)
        if file is None:
            self._look_again(entry)
            return
        with file:
            writer = Writer.CLOSED if _closed(entry, file) else file.writer()
            flushing = self._flushing(entry.session)
            now = self._clock()
            if not flushing:
                changed_at = file.stat.mtime_ns / 1e9
                later = defer_for_writer(now, entry.dirty_since, changed_at, writer, pace=self._pace)
                if later is not None:
                    self._journal.work.postpone(entry, later)
                    return
            cut = cuts_at_line_end(entry.path) and writer is Writer.OPEN and not flushing
            snapshot = take(file, at_line_end=cut)
            if snapshot.cut and not snapshot.body.size:
                self._journal.work.postpone(entry, now + self._pace.max_dirty_age)
                return
            stored, sent = self._send(entry, key, snapshot)
            unsettled = is_unsettled(now, snapshot.stat, writer, self._granularity)
        self._journal.work.confirm(
            entry, stored, read=snapshot.stat, unsettled=unsettled, complete=not snapshot.cut, put=sent
        )
        if snapshot.cut:
            self._journal.work.postpone(entry, self._clock() + self._pace.max_dirty_age)
        if snapshot.grew:
            self._look_again(entry)
        if sent:
            self.stored[entry.session] += 1
            self.bytes_sent += stored.size
            uri = f"{self._url}/{key}"
            facts = {"session": entry.session, "path": entry.path, "size": stored.size, "uri": uri}
            logger.info("stored", extra=facts | {"duration": round(self._clock() - now, 4)})

    def _send(self, entry: Entry, key: str, snapshot: Snapshot) -> tuple[Stored, bool]:
        """Bring the object to the snapshot's bytes; returns what is stored, and whether bytes or a copy were sent."""
        body, stat = snapshot.body, snapshot.stat
        base = self._base(entry, key)
        if base is not None and base.sha256 == body.sha256 and base.size == body.size and base.mode == stat.mode:
            return replace(base, mtime_ns=stat.mtime_ns), False
        carried = attributes.for_file(entry, stat, body.sha256, self._journal.id)
        expect = None if base is None else base.version
        resume = JournalResume(self._journal, entry.session, entry.path)
        try:
            if (
                base is not None
                and entry.stored is not None
                and entry.stored.sha256 is None
                and base.sha256 != body.sha256
            ):
                raise PreconditionFailed("store", key, "another writer's bytes stand there")
            info = self._copy(entry, key, snapshot, carried, expect)
            if info is None:
                info = self._store.put(key, body, carried, expect=expect, resume=resume)
        except PreconditionFailed:
            info = self._contend(entry, key, snapshot, carried, resume)
        return _confirmed(info, stat, body.sha256, self._clock()), True

    def _base(self, entry: Entry, key: str) -> Stored | None:
        """What the object is that we are about to replace. A listing told us its version, but not its bytes."""
        if entry.stored is None or entry.stored.sha256 is not None:
            return entry.stored
        try:
            info = self._store.head(key)
        except ObjectNotFound:
            return None
        return attributes.to_stored(self._with_digest(info), fallback_mode=entry.stat.mode if entry.stat else 0o644)

    def _with_digest(self, info: ObjectInfo) -> ObjectInfo:
        """An object that was stored by other tools may carry no SHA-256: then its bytes are read."""
        if info.sha256 is not None:
            return info
        digest = hashlib.sha256()
        for chunk in self._store.get(info.key, version=info.version).chunks:
            digest.update(chunk)
        return replace(info, sha256=digest.hexdigest())

    def _copy(
        self, entry: Entry, key: str, snapshot: Snapshot, carried: Attributes, expect: Version | None
    ) -> ObjectInfo | None:
        """If this is a renamed file whose bytes the store has under another name, copy them there."""
        if entry.stat is None or snapshot.cut or snapshot.grew:
            return None
        for old in self._journal.work.left_behind(entry.stat.inode):
            if old.stored is None or old.stat is None or old.stored.sha256 != snapshot.body.sha256:
                continue
            if (old.session, old.path) == (entry.session, entry.path) or not is_same_file(old.stat, snapshot.stat):
                continue
            source = to_key(self._prefix, old.session, old.path)
            try:
                return self._store.copy(source, key, carried, source_version=old.stored.version, expect=expect)
            except (ObjectNotFound, PreconditionFailed):
                continue  # the source moved on; the bytes are here all the same
        return None

    # -- other writers -------------------------------------------------------------------------------------------------

    def _contend(
        self, entry: Entry, key: str, snapshot: Snapshot, carried: Attributes, resume: JournalResume
    ) -> ObjectInfo:
        """The object is not what we last knew. Ours after a lost reply is ours; another's bytes are kept beside it."""
        for _ in range(_CONFLICT_ROUNDS):
            expect: Version | None = None
            try:
                theirs = self._with_digest(self._store.head(key))
            except ObjectNotFound:
                theirs = None
            if theirs is not None:
                if theirs.sha256 == snapshot.body.sha256:
                    return theirs
                if theirs.metadata.get("writer") != self._journal.id:
                    self._keep(entry, key, theirs)
                expect = theirs.version
            try:
                return self._store.put(key, snapshot.body, carried, expect=expect, resume=resume)
            except PreconditionFailed as error:
                last = error
        raise last

    def _keep(self, entry: Entry, key: str, theirs: ObjectInfo) -> None:
        """Keep another writer's bytes beside the file, in the store, as an entry of the session."""
        stamp = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
        version = theirs.version.version_id or theirs.version.etag
        path = conflict_path(entry.path, stamp, version)
        target = to_key(self._prefix, entry.session, path)
        try:
            copied = self._store.copy(key, target, None, source_version=theirs.version, expect=None)
        except PreconditionFailed:
            copied = self._store.head(target)  # a try before this one kept them, if the digest says so
            if self._with_digest(copied).sha256 != theirs.sha256:
                raise
        conflict = Conflict(entry.path, path)
        kept = replace(attributes.to_stored(theirs), version=copied.version)
        self._journal.sessions.add_conflict(entry.session, conflict, kept, self._clock())
        sentence = "another writer changed the object: its bytes are kept"
        logger.warning(sentence, extra={"session": entry.session, "path": entry.path, "kept_as": path})

    # -- deleting --------------------------------------------------------------------------------------------------------

    def _delete(self, entry: Entry) -> None:
        """Delete the object of a path where no file is any more."""
        if entry.tombstone and not self._believed(entry):
            return
        key = to_key(self._prefix, entry.session, entry.path) if entry.stored or entry.tried_at else None
        version = self._ours(entry)
        if version is not None:
            try:
                self._store.delete(to_key(self._prefix, entry.session, entry.path), expect=version)
            except PreconditionFailed:
                self._lose(entry)
                return
            self.deleted[entry.session] += 1
            logger.info("deleted", extra={"session": entry.session, "path": entry.path, "key": key})
        upload = self._journal.uploads.load(entry.session, entry.path)
        if upload is not None:
            self._store.discard(upload)
            self._journal.uploads.drop(entry.session, entry.path)
        self._journal.work.confirm_delete(entry)

    def _believed(self, entry: Entry) -> bool:
        """Whether a tombstone is carried out now (P7, P8). Raises DeleteHeld, RootHalted."""
        if self._tree.lstat(entry.session, entry.path) is not None or self._tree.session_inode(entry.session) is None:
            self._look_again(entry)
            return False
        t = self._journal.work.tombstones(entry.session)
        belief = believe_delete(
            self._clock(),
            t.last_seen,
            tombstones=t.unconfirmed,
            stored=t.stored,
            flushing=self._flushing(entry.session),
            pace=self._pace,
        )
        if belief is Belief.TOO_SOON:
            self._journal.work.postpone(entry, t.last_seen + self._pace.delete_settle)
        if belief is Belief.HELD:
            raise DeleteHeld("delete", entry.path, f"{t.unconfirmed} of {t.stored} files went at once")
        return belief is Belief.BELIEVED

    def _ours(self, entry: Entry) -> Version | None:
        """The version to delete: the one that we stored, or nothing where we have none in the store.

        An answer may have been lost, and a listing names versions that are not ours: then the object's own metadata say
        whether it is. One that is not lives on, as an evicted entry.
        """
        if entry.stored is not None and entry.stored.sha256 is not None:
            return entry.stored.version
        if entry.stored is None and not may_be_stored(entry, self._journal.opened_at):
            return None
        try:
            info = self._store.head(to_key(self._prefix, entry.session, entry.path))
        except ObjectNotFound:
            return None
        if info.metadata.get("writer") == self._journal.id:
            return info.version
        self._journal.work.lose_delete(entry, attributes.to_stored(info))
        return None

    def _lose(self, entry: Entry) -> None:
        """Another writer changed what was deleted here: the newer version wins, unless it is ours after a lost reply."""
        info = self._store.head(to_key(self._prefix, entry.session, entry.path))
        if info.metadata.get("writer") == self._journal.id:
            self._store.delete(info.key, expect=info.version)
            self.deleted[entry.session] += 1
            self._journal.work.confirm_delete(entry)
            return
        self._journal.work.lose_delete(entry, attributes.to_stored(info))
        conflict = Conflict(entry.path, entry.path)
        self._journal.sessions.add_conflict(entry.session, conflict, None, self._clock())
        sentence = "deleted here, but another writer changed it: the object stays"
        logger.warning(sentence, extra={"session": entry.session, "path": entry.path})

    def _look_again(self, entry: Entry) -> None:
        """The disk is not as the journal says: compare it, and come back when that is done."""
        self._journal.work.postpone(entry, self._clock() + self._pace.settle)
        self._scanner.notice(entry.session, {entry.path.rstrip("/"): Hint.CHANGED})


def _closed(entry: Entry, file: OpenFile) -> bool:
    """Whether the last hint was a writer's close, of the very file that is open now."""
    return entry.closed and entry.stat is not None and file.stat == entry.stat


def _confirmed(info: ObjectInfo, stat: FileStat, sha256: str, now: float) -> Stored:
    return Stored(info.version, info.size, sha256, stat.mtime_ns, stat.mode, now)
