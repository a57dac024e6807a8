"""Writing a session's manifest to the store, last of all (P3), under the same condition as every other write."""

from __future__ import annotations

import os
import socket
import tempfile
import threading

from cachesync import manifest
from cachesync.context import Context
from cachesync.errors import ObjectNotFound, PreconditionFailed, StoreTransient
from cachesync.files import OpenFile, take, translated
from cachesync.keys import manifest_key
from cachesync.learn import Learner
from cachesync.manifest import Summary
from cachesync.model import Attributes, Version
from cachesync.policy import Writer


class Committer:
    """Builds manifests from the journal and stores them."""

    def __init__(self, context: Context, learner: Learner) -> None:
        self._c = context
        self._learner = learner
        self._host = socket.gethostname()
        self._locks: dict[str, threading.Lock] = {}

    def lost(self, session: str) -> int:
        """See learn.Learner.lost."""
        return self._learner.lost[session]

    def expired(self, session: str) -> int:
        """See learn.Learner.expired."""
        return self._learner.expired[session]

    def commit(
        self, session: str, *, state: str | None = None, patience: float = 0.0, lost: int | None = None
    ) -> Summary | None:
        """Store the manifest, unless the one in the store shows the same. A summary with failures was not stored.
        ``state`` is open or closed; without it, a session that is closed stays so until something of it changes.

        None if the store was found to have lost files since their number was ``lost`` (by default: since now): they are
        dirty again, and a manifest without them would be wrong. Raises StoreError; after PreconditionFailed another
        writer's manifest has been merged: the next call may work. Waits ``patience`` seconds for another commit of the
        session.
        """
        lost = self._learner.lost[session] if lost is None else lost
        lock = self._locks.setdefault(session, threading.Lock())
        if not lock.acquire(timeout=patience):
            raise StoreTransient("write the manifest of", session, "the store has not answered the try before this one")
        try:
            return self._commit(session, state, lost)
        finally:
            lock.release()

    def _commit(self, session: str, state: str | None, lost: int) -> Summary | None:
        self._c.identity.admit()
        self._learner.ensure(session, wait=True)
        row = self._c.journal.sessions.get(session)
        if row is not None and self._learner.refresh(row):
            row = self._c.journal.sessions.get(session)
        if row is not None and row.manifest is None and self._c.identity.admit_manifest(session, older=False):
            self._learner.again(session)  # else the manifest's own request tells whether the store is another one
            row = self._c.journal.sessions.get(session)
        if self._learner.lost[session] != lost:
            return None
        key = manifest_key(self._c.prefix, session)
        assert row is not None, "whoever commits has scanned it"  # noqa: S101 -- an invariant, not a check of input
        generation = self._c.journal.generation()
        unchanged = row.manifest_revision == row.revision
        state = state or (row.state if unchanged else "open")
        same = unchanged and row.state == state
        if row.manifest is not None and same:
            if not self._stands(key, row.manifest):
                self._merge(session, lost)
                return None
            counts = self._c.journal.sessions.counts(session)
            self._c.journal.sessions.set_reported(session)
            self._c.identity.affirm()
            return Summary(counts.files, counts.bytes)
        serial = row.serial + 1
        with translated("write the manifest of", session), tempfile.TemporaryFile(dir=self._c.scratch) as out:
            entries = self._c.journal.entries.walk(session)
            now = self._c.clock()
            summary = manifest.write(
                out, entries, session=session, state=state, host=self._host, now=now, serial=serial
            )
            if summary.failures:
                return summary
            out.flush()
            with OpenFile(os.dup(out.fileno()), key) as file:
                body = take(file, writer=Writer.CLOSED).body
                metadata = {"sha256": body.sha256, "writer": self._c.journal.id}
                attributes = Attributes("application/json", metadata)
                try:
                    info = self._c.store.put(key, body, attributes, expect=row.manifest)
                except PreconditionFailed:
                    self._merge(session, lost)
                    return None
        self._c.identity.confirmed()
        with self._c.pulse.growing(), self._learner.standing:
            self._c.journal.sessions.manifest_written(
                session, generation=generation, revision=row.revision, manifest=info.version, state=state, serial=serial
            )
        self._c.identity.affirm()
        return summary

    def _merge(self, session: str, lost: int) -> None:
        """The manifest in the store is not the one that is known: learn what happened there. Raises PreconditionFailed
        if nothing was lost: the next try may work."""
        self._learner.again(session)
        if self._learner.lost[session] == lost:
            raise PreconditionFailed("write the manifest of", session, "another manifest was in its place")

    def _stands(self, key: str, version: Version) -> bool:
        """Whether the manifest in the store is still the one that was written last."""
        try:
            return self._c.store.head(key).version.etag == version.etag
        except ObjectNotFound:
            return False
