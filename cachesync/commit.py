"""Writing a session's manifest to the store, last of all (P3), under the same condition as every other write."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from cachesync import manifest
from cachesync.errors import ObjectNotFound, PreconditionFailed
from cachesync.files import OpenFile, take
from cachesync.journal import Journal
from cachesync.keys import manifest_key
from cachesync.learn import Learner
from cachesync.manifest import Summary
from cachesync.model import Attributes, Version
from cachesync.store.base import ObjectStore


class Committer:
    """Builds manifests from the journal and stores them. ``scratch`` is a folder of ours for the one being built."""

    def __init__(
        self,
        journal: Journal,
        store: ObjectStore,
        learner: Learner,
        *,
        prefix: str,
        scratch: Path,
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._store = store
        self._learner = learner
        self._prefix = prefix
        self._scratch = scratch
        self._clock = clock
        self._host = socket.gethostname()

    def commit(self, session: str, *, state: str = "open") -> Summary:
        """Store the manifest, unless the one in the store shows the same. A summary with failures was not stored.

        Raises StoreError; after PreconditionFailed another writer's manifest has been merged, so the next call may work.
        """
        self._learner.ensure(session)
        key = manifest_key(self._prefix, session)
        row = self._journal.sessions.get(session)
        assert row is not None, "whoever commits has scanned it"  # noqa: S101 -- an invariant, not a check of input
        generation = self._journal.generation()
        same = row.manifest_revision == row.revision and row.state == state
        if row.manifest is not None and same and self._stands(key, row.manifest):
            counts = self._journal.sessions.counts(session)
            self._journal.sessions.set_reported(session)
            return Summary(counts.files, counts.bytes)
        with tempfile.TemporaryFile(dir=self._scratch) as out:
            entries = self._journal.entries.walk(session)
            summary = manifest.write(out, entries, session=session, state=state, host=self._host, now=self._clock())
            if summary.failures:
                return summary
            out.flush()
            with OpenFile(os.dup(out.fileno()), key) as file:
                body = take(file, at_line_end=False).body
                metadata = {"sha256": body.sha256, "writer": self._journal.id}
                attributes = Attributes("application/json", metadata)
                try:
                    info = self._store.put(key, body, attributes, expect=row.manifest)
                except PreconditionFailed:
                    self._learner.again(session)
                    raise
        self._journal.sessions.manifest_written(
            session, generation=generation, revision=row.revision, manifest=info.version, state=state
        )
        return summary

    def _stands(self, key: str, version: Version) -> bool:
        """Whether the manifest in the store is still the one that was written last."""
        try:
            return self._store.head(key).version.etag == version.etag
        except ObjectNotFound:
            return False
