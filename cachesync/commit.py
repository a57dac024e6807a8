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

    def commit(self, session: str, *, state: str | None = None, patience: float = 0.0) -> Summary:
        """Store the manifest, unless the one in the store shows the same. A summary with failures was not stored.
        ``state`` is open or closed; without it, a session that is closed stays so until something of it changes.

        Raises StoreError; after PreconditionFailed another writer's manifest has been merged: the next call may work.
        Waits ``patience`` seconds for another commit of the session.
        """
        lock = self._locks.setdefault(session, threading.Lock())
        if not lock.acquire(timeout=patience):
            raise StoreTransient("write the manifest of", session, "the store has not answered the try before this one")
        try:
            return self._commit(session, state)
        finally:
            lock.release()

    def _commit(self, session: str, state: str | None) -> Summary:
        self._learner.ensure(session, wait=True)
        key = manifest_key(self._c.prefix, session)
        row = self._c.journal.sessions.get(session)
        assert row is not None, "whoever commits has scanned it"  # noqa: S101 -- an invariant, not a check of input
        generation = self._c.journal.generation()
        unchanged = row.manifest_revision == row.revision
        state = state or (row.state if unchanged else "open")
        same = unchanged and row.state == state
        if row.manifest is not None and same and self._stands(key, row.manifest):
            counts = self._c.journal.sessions.counts(session)
            self._c.journal.sessions.set_reported(session)
            return Summary(counts.files, counts.bytes)
        with translated("write the manifest of", session), tempfile.TemporaryFile(dir=self._c.scratch) as out:
            entries = self._c.journal.entries.walk(session)
            summary = manifest.write(out, entries, session=session, state=state, host=self._host, now=self._c.clock())
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
                    self._learner.again(session)
                    raise
        with self._learner.standing:
            pulse = self._c.journal.sessions.manifest_written(
                session, generation=generation, revision=row.revision, manifest=info.version, state=state
            )
        self._c.pulse.show(pulse)
        return summary

    def _stands(self, key: str, version: Version) -> bool:
        """Whether the manifest in the store is still the one that was written last."""
        try:
            return self._c.store.head(key).version.etag == version.etag
        except ObjectNotFound:
            return False
