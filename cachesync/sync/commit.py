"""Writes a session's manifest to the store, after all files (P3), and only if it replaces the known version."""

from __future__ import annotations

import os
import socket
import tempfile
import threading

from cachesync.model.errors import ObjectNotFound, PreconditionFailed, StoreTransient
from cachesync.model.keys import manifest_key
from cachesync.model.policy import Writer
from cachesync.model.values import Attributes, Version
from cachesync.root.open_file import OpenFile
from cachesync.root.snapshot import take
from cachesync.root.staging import translated
from cachesync.sync import manifest
from cachesync.sync.context import Context
from cachesync.sync.manifest import Summary
from cachesync.sync.remote_listing import Learner


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
        """Store the manifest, unless the one in the store is equal. If the summary has failures, nothing was stored.

        ``state`` is open or closed. Without it, a closed session stays closed until it changes. Waits ``patience``
        seconds for another commit of the session.

        Returns None if the store lost files since their count was ``lost`` (default: since this call began). These
        files are dirty again, and a manifest without them would be wrong.

        Raises StoreError. PreconditionFailed means that another writer's manifest was merged; the next call may
        succeed.
        """
        lost = self._learner.lost[session] if lost is None else lost
        lock = self._locks.setdefault(session, threading.Lock())
        if not lock.acquire(timeout=patience):
            raise StoreTransient("write the manifest of", session, "an earlier attempt to write it has not finished")
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
            self._learner.again(session)  # with a known manifest, the request for it detects another store
            row = self._c.journal.sessions.get(session)
        if self._learner.lost[session] != lost:
            return None
        key = manifest_key(self._c.prefix, session)
        assert row is not None, "the caller has scanned the session"  # noqa: S101 -- an invariant, not a check of input
        generation = self._c.journal.generation()
        unchanged = row.manifest_revision == row.revision
        state = state or (row.state if unchanged else "open")
        same = unchanged and row.state == state
        if row.manifest is not None and same:
            if not self._stands(key, row.manifest):
                self._merge(session, lost)
                return None
            counts = self._c.journal.waiting.counts(session)
            self._c.journal.sessions.set_reported(session)
            self._c.identity.affirm()
            return Summary(counts.files, counts.bytes, counts.deleted_elsewhere)
        serial = row.serial + 1
        with translated("write the manifest of", session), tempfile.TemporaryFile(dir=self._c.scratch) as out:
            entries = self._c.journal.entries.walk(session)
            now = self._c.clock()
            summary = manifest.write(
                out, entries, session=session, state=state, host=self._host, now=now, serial=serial, mode=row.mode,
                owner=None if row.rights is None else row.rights.uid,
            )  # fmt: skip
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
        """Learn the session again, because the manifest in the store is not the one in the journal.

        Raises PreconditionFailed if the store lost no files. The next attempt may succeed.
        """
        self._learner.again(session)
        if self._learner.lost[session] == lost:
            raise PreconditionFailed("write the manifest of", session, "another writer changed the manifest")

    def _stands(self, key: str, version: Version) -> bool:
        """Whether the manifest in the store still has this version."""
        try:
            return self._c.store.head(key).version.etag == version.etag
        except ObjectNotFound:
            return False
