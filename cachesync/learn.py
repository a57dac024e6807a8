"""Learning what the store has of a session before anything of it is written: one listing and one manifest.

It is what makes a new journal safe (nothing is overwritten unknown, nothing is forgotten) and what merges another
host's work into ours.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from cachesync import manifest
from cachesync.errors import CacheSyncError, ObjectNotFound
from cachesync.journal import MANIFEST, Journal
from cachesync.keys import from_key, manifest_key, session_prefix
from cachesync.model import FileStat, ObjectInfo, Stored, Version
from cachesync.parallel import in_parallel
from cachesync.store.base import ObjectStore

logger = logging.getLogger(__name__)

_BATCH = 1000
_PAUSE = 0.5
_ASKING = 8
"""Objects that are asked for at once."""

_UNLISTED = 1000
"""Files of a manifest that are asked for at most where the listing does not show them: an old listing lacks the latest
few. Of a session whose objects somebody removed, the manifest may list a million."""


@dataclass(slots=True)
class Astray:
    """What other hosts did meanwhile: clean files that stand here and were ``replaced`` in the store, or ``deleted``
    there; and the links and directories that the manifest has (a directory's path ends in "/"), and its ``flaws``."""

    replaced: dict[str, Stored] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    others: dict[str, FileStat] = field(default_factory=dict)
    flaws: Sequence[str] = ()


class Learner:
    """Merges the store's side of a session into the journal, once; again when another writer was there.

    ``scan`` compares a session's directory with the journal: a file that the journal does not have yet would be taken
    for one that is only in the store, and then for another's.
    """

    def __init__(
        self, journal: Journal, store: ObjectStore, prefix: str, scan: Callable[[str], object] = lambda _: None
    ) -> None:
        self._journal = journal
        self._store = store
        self._prefix = prefix
        self._scan = scan
        self._locks: dict[str, threading.Lock] = {}
        self._not_before: dict[str, float] = {}
        self.standing = threading.Lock()
        """Held while what was learned is written, while a file is put where the journal says that it belongs (the
        version that it is made from is the one that the journal knows at that instant), and while a manifest that was
        stored is noted."""

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
                self._scan(session)
                self._learn(session)
        except CacheSyncError:
            self._not_before[session] = time.monotonic() + _PAUSE
            raise
        finally:
            lock.release()
        self._not_before.pop(session, None)
        return True

    def again(self, session: str) -> Astray:
        """Learn what changed in the store since. Raises StoreError."""
        with self._lock(session):
            return self._learn(session)

    def compare(self, session: str) -> Astray:
        """Whether the store still has what stands here clean; nothing is learned by it. Raises StoreError."""
        astray = Astray(deleted=self._journal.residence.here(session))
        for rows in self._listed(session, None):
            astray.deleted.difference_update(path for path, _ in rows)
            astray.replaced |= self._journal.residence.replaced(session, rows)
        return astray

    def look(self, session: str) -> tuple[dict[str, Stored], dict[str, FileStat], Sequence[str]]:
        """All files, links and directories that the store has of a session, past the journal; and what is wrong with
        its manifest. Raises StoreError."""
        found = self._manifest(session)
        files = {path: stored for rows in self._listed(session, found) for path, stored in rows}
        return (files, {}, ()) if found is None else (files, dict(found.others), found.flaws)

    def is_stored(self, session: str) -> bool:
        """Whether the store has anything of a session. Raises StoreError."""
        return next(iter(self._store.list(session_prefix(self._prefix, session))), None) is not None

    def _lock(self, session: str) -> threading.Lock:
        return self._locks.setdefault(session, threading.Lock())

    def _learn(self, session: str) -> Astray:
        with self._journal.sessions.listing(session) as overtaken:
            return self._learn_listed(session, overtaken)

    def _learn_listed(self, session: str, overtaken: AbstractSet[str]) -> Astray:
        found = self._manifest(session)
        sessions, residence = self._journal.sessions, self._journal.residence
        unseen = sessions.evicted(session)
        standing = residence.standing(session)  # before the store is asked: a version that is newer than that is ours
        astray = Astray(deleted=residence.here(session))
        unlisted = set[str]() if found is None else found.files.keys() - unseen - standing.keys()
        if found is not None:
            astray.others, astray.flaws = dict(found.others), found.flaws
        for rows in self._listed(session, found):
            paths = [path for path, _ in rows]
            unseen.difference_update(paths)
            unlisted.difference_update(paths)
            astray.deleted.difference_update(paths)
            replaced = residence.replaced(session, rows)
            astray.replaced |= {path: stored for path, stored in replaced.items() if path not in overtaken}
            known = [(path, *standing.pop(path), stored) for path, stored in rows if path in standing]
            with self.standing:
                sessions.learn(session, rows, [], overtaken=overtaken)
                residence.supersede(
                    session,
                    [
                        (path, etag, stored)
                        for path, etag, superseded, stored in known
                        if superseded or etag != stored.version.etag
                    ],
                )
        gone = self._gone(session, [*unseen, *standing])
        hidden = self._asked(session, sorted(unlisted)[:_UNLISTED])  # or the next manifest would forget them
        unshown = [(path, _stored(info, found, path)) for path, info in hidden.items()]
        with self.standing:
            if unshown:
                sessions.learn(session, unshown, [], overtaken=overtaken)
            residence.supersede(session, [(path, standing[path][0], None) for path in gone if path in standing])
            for path in gone:
                sessions.forget_evicted(session, path, overtaken=overtaken)
            if MANIFEST in overtaken:  # it was read before this host wrote the one that there is now
                found = None
            row = sessions.get(session)
            merged = None if row is None else row.manifest
            if found is not None and found.version != merged:  # else it would learn links again that are gone since
                residence.supersede_others(session, dict(found.others), whole=not found.flaws)
                sessions.learn(session, [], found.others)
                if not found.flaws:
                    sessions.forget_others(session, [path for path, _ in found.others])
            written = merged if MANIFEST in overtaken else None
            sessions.set_learned(session, written if found is None else found.version)
        return astray

    def _manifest(self, session: str) -> manifest.FoundManifest | None:
        try:
            return manifest.read(self._store, manifest_key(self._prefix, session))
        except ObjectNotFound:
            return None

    def _listed(self, session: str, found: manifest.FoundManifest | None) -> Iterator[list[tuple[str, Stored]]]:
        """The session's files, as the listing shows them, many at a time."""
        strange = 0
        objects = self._store.list(session_prefix(self._prefix, session))
        while batch := list(itertools.islice(objects, _BATCH)):
            rows = []
            for info in batch:
                path = from_key(self._prefix, session, info.key)
                if path is None:
                    strange += not info.key.endswith((manifest_key(self._prefix, session), "/"))
                    continue
                rows.append((path, _stored(info, found, path)))
            yield rows
        if strange:
            logger.warning("%d objects have keys that are no path of the session", strange, extra={"session": session})

    def _gone(self, session: str, unseen: Sequence[str]) -> list[str]:
        """Of the files that a listing did not show, those that the store says it has no more."""
        there = self._asked(session, unseen)
        return [path for path in unseen if path not in there]

    def _asked(self, session: str, paths: Sequence[str]) -> dict[str, ObjectInfo]:
        """Those of the paths that the store says it has, and what it has there."""
        there: dict[str, ObjectInfo] = {}

        def ask(path: str, _: threading.Event) -> None:
            with contextlib.suppress(ObjectNotFound):
                there[path] = self._store.head(session_prefix(self._prefix, session) + path)

        in_parallel(iter(paths), ask, min(_ASKING, len(paths)))
        return there


def _stored(info: ObjectInfo, found: manifest.FoundManifest | None, path: str) -> Stored:
    """A listed object, with what the manifest knows of that very version."""
    version = Version(info.version.etag)
    row = found.files.get(path) if found is not None else None
    if row is None or (row.etag, row.size) != (version.etag, info.size):
        return Stored(version, info.size, None, int(info.modified * 1e9), 0o644, info.modified)
    return Stored(version, info.size, row.sha256, row.mtime_ns, row.mode, info.modified)
