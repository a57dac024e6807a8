"""Learning what the store has of a session before anything of it is written: one listing and one manifest.

It is what makes a new journal safe (nothing is overwritten unknown, nothing is forgotten) and what merges another
host's work into ours.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterator

from cachesync import manifest
from cachesync.errors import CacheSyncError, ObjectNotFound
from cachesync.journal import Journal
from cachesync.keys import from_key, manifest_key, session_prefix
from cachesync.model import ObjectInfo, Stored, Version
from cachesync.store.base import ObjectStore

logger = logging.getLogger(__name__)

_BATCH = 1000
_PAUSE = 0.5


class Learner:
    """Merges the store's side of a session into the journal, once; again when another writer was there."""

    def __init__(self, journal: Journal, store: ObjectStore, prefix: str) -> None:
        self._journal = journal
        self._store = store
        self._prefix = prefix
        self._locks: dict[str, threading.Lock] = {}
        self._not_before: dict[str, float] = {}

    def busy(self) -> list[str]:
        """Sessions that are being learned, or could not be a moment ago: nothing of them can be stored now."""
        now = time.monotonic()
        waiting = [name for name, until in list(self._not_before.items()) if until > now]
        return [*waiting, *(name for name, lock in list(self._locks.items()) if lock.locked())]

    def ensure(self, session: str, *, wait: bool = False) -> bool:
        """Learn the session unless that was done. False, at once, if another thread is at it and not ``wait``.

        Raises StoreError.
        """
        row = self._journal.sessions.get(session)
        if row is None or row.learned:
            return True
        lock = self._lock(session)
        if not lock.acquire(blocking=wait):
            return False
        try:
            row = self._journal.sessions.get(session)
            if row is not None and not row.learned:
                self._learn(session)
        except CacheSyncError:
            self._not_before[session] = time.monotonic() + _PAUSE
            raise
        finally:
            lock.release()
        self._not_before.pop(session, None)
        return True

    def again(self, session: str) -> None:
        """Learn what changed in the store since. Raises StoreError."""
        with self._lock(session):
            self._learn(session)

    def _lock(self, session: str) -> threading.Lock:
        return self._locks.setdefault(session, threading.Lock())

    def _learn(self, session: str) -> None:
        try:
            found = manifest.read(self._store, manifest_key(self._prefix, session))
        except ObjectNotFound:
            found = None
        unseen = self._journal.sessions.evicted(session)
        strange = 0
        objects = self._store.list(session_prefix(self._prefix, session))
        while batch := list(itertools.islice(objects, _BATCH)):
            rows = []
            for info in batch:
                path = from_key(self._prefix, session, info.key)
                if path is None:
                    strange += not info.key.endswith((manifest_key(self._prefix, session), "/"))
                    continue
                unseen.discard(path)
                rows.append((path, _stored(info, found, path)))
            self._journal.sessions.learn(session, rows, [])
        if found is not None:
            self._journal.sessions.learn(session, [], found.others)
            self._journal.sessions.forget_others(session, [path for path, _ in found.others])
        for path in self._gone(session, unseen):
            self._journal.sessions.forget_evicted(session, path)
        self._journal.sessions.set_learned(session, None if found is None else found.version)
        if strange:
            logger.warning("%d objects have keys that are no path of the session", strange, extra={"session": session})

    def _gone(self, session: str, unseen: set[str]) -> Iterator[str]:
        """Of the evicted entries that a listing did not show, those that the store says it has no more."""
        for path in unseen:
            try:
                self._store.head(session_prefix(self._prefix, session) + path)
            except ObjectNotFound:
                yield path


def _stored(info: ObjectInfo, found: manifest.FoundManifest | None, path: str) -> Stored:
    """A listed object, with what the manifest knows of that very version."""
    version = Version(info.version.etag)
    row = found.files.get(path) if found is not None else None
    if row is None or (row.etag, row.size) != (version.etag, info.size):
        return Stored(version, info.size, None, int(info.modified * 1e9), 0o644, info.modified)
    return Stored(version, info.size, row.sha256, row.mtime_ns, row.mode, info.modified)
