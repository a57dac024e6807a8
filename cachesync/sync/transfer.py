"""Transfers one path: stores its file, or deletes its object.

The order keeps the promises. The generation is read before the file is opened. The stat is read before and after the
bytes and compared. The journal confirms an entry only after the store's response. Every write names the version that it
replaces (P9).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from cachesync.journal.journal import Journal
from cachesync.model import attributes
from cachesync.model.errors import (
    FileChanging,
    JournalUnavailable,
    ObjectNotFound,
    PreconditionFailed,
    StorePermanent,
    StoreTransient,
    Unstorable,
)
from cachesync.model.events import What
from cachesync.model.gate import Gate
from cachesync.model.policy import (
    FARTHEST,
    Writer,
    cuts_at_line_end,
    defer_for_writer,
    is_same_file,
    is_unsettled,
    may_be_renamed,
    was_reverted,
)
from cachesync.model.record import record
from cachesync.model.shares import Limit
from cachesync.model.values import Attributes, Entry, FileStat, Kind, Multipart, ObjectInfo, Stored, Version
from cachesync.root.open_file import OpenFile
from cachesync.root.snapshot import Snapshot, take
from cachesync.sync.conflicts import Rivals, is_same, with_digest
from cachesync.sync.context import Context
from cachesync.sync.remote_listing import Learner
from cachesync.sync.removal import Removal
from cachesync.sync.scanner.scan import Scanner

logger = logging.getLogger(__name__)


@record(frozen=True, slots=True)
class JournalResume:
    """Records multipart uploads in the journal (store.base.Resume)."""

    journal: Journal
    session: str
    path: str

    def load(self) -> Multipart | None:
        """Return the unfinished upload of this path, or None."""
        return self.journal.uploads.load(self.session, self.path)

    def started(self, upload: Multipart) -> None:
        """Record a new upload."""
        self.journal.uploads.save(self.session, self.path, upload)

    def part(self, number: int, etag: str) -> None:
        """Record a part that the store confirmed."""
        self.journal.uploads.add_part(self.session, self.path, number, etag)

    def finished(self) -> None:
        """Forget the upload."""
        self.journal.uploads.drop(self.session, self.path)


class Transfer:
    """Stores and deletes single entries. Safe to call from many threads, for one path at a time.

    Each call records its result in the journal or raises a CacheSyncError. While a flush of the session waits, a
    transfer does not wait for writers and executes deletions at once.
    """

    def __init__(self, context: Context, scanner: Scanner, learner: Learner) -> None:
        self._c = context
        self._scanner = scanner
        self._learner = learner
        processors = os.cpu_count() or 1
        self._hashing = Gate(Limit(processors, processors))
        self._rivals = Rivals(context)
        self.removal = Removal(context, scanner, self._rivals)
        self.stored: Counter[str] = Counter()
        self.deleted = self.removal.deleted
        self.bytes_sent = 0

    def run(self, session: str, path: str) -> bool:
        """Store or delete what is dirty and due at the path. Returns whether bytes were sent or an object deleted.

        Raises CacheSyncError.
        """
        self._c.identity.admit()
        entry, learned = self._c.journal.entries.with_learned(session, path)
        if not learned:
            if not self._learner.ensure(session):
                return False  # another thread learns it; the uploader retries later
            entry = self._c.journal.entries.entry(session, path)
        now = self._c.clock()
        if entry is None or not entry.dirty or now + self._c.pace.settle < entry.due_at <= now + FARTHEST:
            return False
        if entry.kind is Kind.FILE and not entry.tombstone:
            return self._put(entry) if entry.resident else self._find(entry)
        if entry.kind is Kind.FILE or entry.stored is not None:
            return self.removal.delete(entry)
        return False

    def _put(self, entry: Entry) -> bool:
        file = self._c.tree.open(entry.session, entry.path)
        if file is None:
            self._scanner.look_again(entry)
            return False
        with file:
            key = self._c.key(entry.session, entry.path)  # after open: a missing file with a bad name is no error
            self._check_size(file)
            file.await_tick(self._c.clock())
            now = self._c.clock()
            writer = file.writer()  # asked even after a close: another program may have the file open
            flushing = self._c.urgent(entry.session)
            if not flushing:
                changed_at = file.stat.mtime_ns / 1e9
                untold = writer is Writer.UNKNOWN and _closed(entry, file)
                awaited = Writer.CLOSED if untold else writer
                # A time in the future shows that the clock was set back: the true age is unknown.
                since = entry.dirty_since if entry.dirty_since <= now else 0.0
                later = defer_for_writer(now, since, changed_at, awaited, pace=self._c.pace)
                if later is not None:
                    self._c.journal.work.await_close(entry, later)
                    return False
            cut = cuts_at_line_end(entry.path) and writer is Writer.OPEN and not flushing
            turn = partial(self._turn, entry, file)
            snapshot = take(file, at_line_end=cut, writer=writer, stored=entry.stored, turn=turn)
            if snapshot.cut and not snapshot.body.size:
                self._c.journal.work.postpone(entry, now + self._c.pace.max_dirty_age)
                return False
            unsettled = is_unsettled(now, snapshot.stat, writer, tick=file.capabilities.tick)
            try:
                stored, sent = self._send(entry, key, snapshot)
                self._c.identity.confirmed()
                self._c.journal.work.confirm(
                    entry, stored, read=snapshot.stat, unsettled=unsettled, complete=not snapshot.cut, put=sent
                )
            except (StoreTransient, JournalUnavailable):
                self.removal.broke_off(entry)
                raise
        self._c.identity.affirm()
        self._tell_stored(entry, stored.size, sent=sent, complete=not snapshot.cut)
        if snapshot.cut:
            self._c.journal.work.postpone(entry, self._c.clock() + self._c.pace.max_dirty_age)
        if snapshot.grew:
            self._scanner.look_again(entry)
        self._give_up_upload(entry)
        if sent:
            self.stored[entry.session] += 1
            self.bytes_sent += stored.size
        if sent and logger.isEnabledFor(logging.INFO):
            uri = f"{self._c.url}/{key}"
            facts = {"session": entry.session, "path": entry.path, "size": stored.size, "uri": uri}
            done = self._c.clock()
            took = {"duration": round(done - now, 4), "latency": round(max(0.0, done - entry.dirty_since), 4)}
            logger.info("stored", extra=facts | took)
        return sent

    def _check_size(self, file: OpenFile) -> None:
        """Raise Unstorable if the store takes no object of this size: before all of it is read."""
        size, largest = file.stat.size, self._c.store.largest
        if largest is not None and size > largest:
            why = f"it has {size:,} bytes, and the store takes at most {largest:,}"
            raise Unstorable("store", file.path, why, "make it smaller or list it in .cachesyncignore")

    @contextlib.contextmanager
    def _turn(self, entry: Entry, file: OpenFile) -> Iterator[None]:
        """Wait until the session may hash, while the bytes are wanted. Raises FileChanging if they are not."""
        if self._c.ending():
            raise FileChanging("read", file.path, "the daemon stops")
        latest = self._c.journal.entries.entry(entry.session, entry.path)
        if latest is None or latest.tombstone or (latest.stat is not None and latest.stat.inode != file.stat.inode):
            raise FileChanging("read", file.path, "it was deleted or replaced while it was being read")
        with self._hashing.entered(entry.session):
            yield

    def _find(self, entry: Entry) -> bool:
        """Mark an evicted file that the store had lost as clean if the object exists again. Raises ObjectNotFound."""
        try:
            info = self._c.store.head(self._c.key(entry.session, entry.path))
        except ObjectNotFound:
            self._learner.if_changed(entry.session)  # another host's manifest may show that it deleted the file
            name = f"{entry.session}/{entry.path}"
            hint = f"restore an old version with cachesync restore {name}, or forget it with cachesync rm {name}"
            raise ObjectNotFound("find", entry.path, "the store lost it, and it is not on this host", hint) from None
        same = entry.stored is not None and entry.stored.version.etag == info.version.etag
        stored = entry.stored if same and entry.stored is not None else attributes.to_stored(info)
        self._c.journal.work.confirm(entry, stored, read=None, put=False)
        return False

    def _tell_stored(self, entry: Entry, size: int, *, sent: bool, complete: bool) -> None:
        seconds = self._c.clock() - entry.dirty_since if complete else None
        tell, place = self._c.events.tell, (entry.session, entry.path)
        tell(What.STORED, *place, size=size, seconds=seconds, sent=sent, complete=None if complete else False)

    def _give_up_upload(self, entry: Entry) -> None:
        """Discard a multipart upload of the file's earlier content."""
        if (upload := self._c.journal.uploads.load(entry.session, entry.path)) is not None:
            self._c.store.discard(upload)
            self._c.journal.uploads.drop(entry.session, entry.path)

    def _send(self, entry: Entry, key: str, snapshot: Snapshot) -> tuple[Stored, bool]:
        """Store the snapshot's bytes. Returns what the store has, and whether bytes or a copy request were sent."""
        body, stat = snapshot.body, snapshot.stat
        known = base = self._base(entry, key)
        attempt = self._c.journal.lives.attempt(entry, key)
        carried = attributes.for_file(entry, stat, body.sha256, self._c.journal.id, attempt)
        resume = JournalResume(self._c.journal, entry.session, entry.path)
        old = entry.older
        told = (body.sha256, body.size, stat.mtime_ns, stat.mode)
        # A power failure may have reverted the file to older, fewer or no bytes. Keep the confirmed object then.
        reverted = entry.doubted and was_reverted(stat, entry.stored, self._c.journal.reverted_until)
        kept = False
        try:
            if base is not None and (base.sha256, base.size, base.mode) == (body.sha256, body.size, stat.mode):
                base = self._as_it_is(entry, key, base, stat)
                if base is not None and base is known and not entry.relabelled:
                    return replace(base, mtime_ns=stat.mtime_ns), False
            if base is known and old is not None and (old.sha256, old.size, old.mtime_ns, old.mode) == told:
                return old, False  # unchanged while its directory was missing: the store is newer
            expect = None if base is None else base.version
            replaced = base is not None and base.sha256 != body.sha256
            kept = replaced and (entry.hidden or reverted)
            if kept:
                expect = self._rivals.keep_hidden(entry, key, ours=reverted)
            elif replaced and _is_unseen(entry):
                raise PreconditionFailed("store", key, "another writer stored other bytes")
            info = self._copy(entry, key, snapshot, carried, expect)
            if info is None:
                tail = body.tail if base is known and base is entry.stored and not entry.hidden and not kept else None
                info = self._c.store.put(key, body, carried, expect=expect, resume=resume, tail=tail)
        except PreconditionFailed:
            info = self._rivals.contend(entry, key, body, carried, resume, reverted=reverted)
        return _confirmed(info, stat, body.sha256, self._c.clock()), True

    def _as_it_is(self, entry: Entry, key: str, base: Stored, stat: FileStat) -> Stored | None:
        """Return what the store has at ``key`` when the file equals ``base``; None if the object is gone.

        The object may differ from ``base``: an earlier put or delete of ours, whose response was lost, may have changed
        it before a program changed the file back. So the store is asked.

        If another writer stored other bytes and the file is unchanged since it was stored, the journal records that
        version and the file stays clean. Else raises PreconditionFailed.
        """
        try:
            info = self._c.store.head(key)
        except ObjectNotFound:
            return None
        if is_same(info, base):
            return base
        if self._rivals.is_ours(entry, info):
            return attributes.to_stored(info)
        theirs = with_digest(self._c.store, info)
        if theirs.sha256 == base.sha256 or stat.mtime_ns != base.mtime_ns:
            raise PreconditionFailed("store", key, "another writer stored another version")
        found = (entry.path, base.version.etag, attributes.to_stored(theirs))
        self._c.journal.residence.supersede(entry.session, [found])
        return base

    def _base(self, entry: Entry, key: str) -> Stored | None:
        """Return the object that the put replaces. If only a listing named it, the store is asked for its digest."""
        if entry.stored is None or entry.stored.sha256 is not None:
            return entry.stored
        try:
            info = self._c.store.head(key)
        except ObjectNotFound:
            return None
        return attributes.to_stored(
            with_digest(self._c.store, info), fallback_mode=entry.stat.mode if entry.stat else 0o644
        )

    def _copy(
        self, entry: Entry, key: str, snapshot: Snapshot, carried: Attributes, expect: Version | None
    ) -> ObjectInfo | None:
        """If this is a renamed file whose bytes the store has under another name, copy them there."""
        if entry.stat is None or snapshot.cut or snapshot.grew or not may_be_renamed(snapshot.stat):
            return None
        for old in self._c.journal.work.left_behind(entry.stat.inode):
            if old.stored is None or old.stat is None or old.stored.sha256 != snapshot.body.sha256:
                continue
            if (old.session, old.path) == (entry.session, entry.path) or not is_same_file(old.stat, snapshot.stat):
                continue
            source = self._c.key(old.session, old.path)
            try:
                return self._c.store.copy(source, key, carried, source_version=old.stored.version, expect=expect)
            except (ObjectNotFound, PreconditionFailed, StorePermanent):
                continue  # the source changed or cannot be copied: the caller sends the bytes
        return None


def _is_unseen(entry: Entry) -> bool:
    """Whether the journal knows the object from a listing only, without its bytes."""
    return entry.stored is not None and entry.stored.sha256 is None


def _closed(entry: Entry, file: OpenFile) -> bool:
    """Whether the last hint was a writer's close of this file, unchanged since."""
    return entry.closed and entry.stat is not None and file.stat == entry.stat


def _confirmed(info: ObjectInfo, stat: FileStat, sha256: str, now: float) -> Stored:
    return Stored(info.version, info.size, sha256, stat.mtime_ns, stat.mode, now)
