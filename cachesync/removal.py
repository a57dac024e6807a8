"""Deleting the object of a path where no file is any more (P7, P8)."""

from __future__ import annotations

import logging
from collections import Counter

from cachesync import attributes
from cachesync.context import Context
from cachesync.errors import DeleteHeld, ObjectNotFound, PreconditionFailed
from cachesync.model import Conflict, Entry, Version
from cachesync.policy import Belief, believe_delete, may_be_stored
from cachesync.rivals import Rivals
from cachesync.scanner import Scanner

logger = logging.getLogger(__name__)


class Removal:
    """Carries deletions out, or finds out why not. ``deleted`` counts them by session."""

    def __init__(self, context: Context, scanner: Scanner, rivals: Rivals) -> None:
        self._c = context
        self._scanner = scanner
        self._rivals = rivals
        self.deleted: Counter[str] = Counter()

    def delete(self, entry: Entry) -> None:
        """Bring the store to "no object here". Raises DeleteHeld, RootHalted, StoreError."""
        if entry.tombstone and not self._believed(entry):
            return
        version = self._ours(entry)
        if version is not None:
            try:
                self._c.store.delete(self._c.key(entry.session, entry.path), expect=version)
            except PreconditionFailed:
                self._lose(entry)
                return
            self.deleted[entry.session] += 1
            logger.info("deleted", extra={"session": entry.session, "path": entry.path})
        upload = self._c.journal.uploads.load(entry.session, entry.path)
        if upload is not None:
            self._c.store.discard(upload)
            self._c.journal.uploads.drop(entry.session, entry.path)
        self._c.journal.work.confirm_delete(entry)

    def _believed(self, entry: Entry) -> bool:
        """Whether a tombstone is carried out now (P7, P8). Raises DeleteHeld, RootHalted."""
        if (
            self._c.tree.lstat(entry.session, entry.path) is not None
            or self._c.tree.session_inode(entry.session) is None
        ):
            self._scanner.look_again(entry)
            return False
        t = self._c.journal.work.tombstones(entry.session)
        belief = believe_delete(
            self._c.clock(),
            t.last_seen,
            tombstones=t.unconfirmed,
            stored=t.stored,
            flushing=self._c.urgent(entry.session),
            pace=self._c.pace,
        )
        if belief is Belief.TOO_SOON:
            self._c.journal.work.postpone(entry, t.last_seen + self._c.pace.delete_settle)
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
        if entry.stored is None and not may_be_stored(entry, self._c.journal.opened_at):
            return None
        try:
            info = self._c.store.head(self._c.key(entry.session, entry.path))
        except ObjectNotFound:
            return None
        if self._rivals.is_ours(info):
            return info.version
        self._c.journal.work.lose_delete(entry, attributes.to_stored(info))
        return None

    def _lose(self, entry: Entry) -> None:
        """Another writer changed what was deleted here: its version wins, unless it is ours after a lost reply."""
        info = self._c.store.head(self._c.key(entry.session, entry.path))
        if self._rivals.is_ours(info):
            self._c.store.delete(info.key, expect=info.version)
            self.deleted[entry.session] += 1
            self._c.journal.work.confirm_delete(entry)
            return
        self._c.journal.work.lose_delete(entry, attributes.to_stored(info))
        conflict = Conflict(entry.path, entry.path)
        self._c.journal.sessions.add_conflict(entry.session, conflict, None, self._c.clock())
        sentence = "deleted here, but another writer changed it: the object stays"
        logger.warning(sentence, extra={"session": entry.session, "path": entry.path})
