"""Merges the store's listing and manifest of a session into the journal, before the session's first write.

So a new journal overwrites only versions that it knows, and its manifest omits no file. The same code merges the
changes of other hosts.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from cachesync.journal.counters import MANIFEST
from cachesync.journal.journal import Journal
from cachesync.model import attributes
from cachesync.model.errors import CacheSyncError, ObjectNotFound
from cachesync.model.keys import from_key, manifest_key, session_prefix
from cachesync.model.policy import check_owner
from cachesync.model.values import FileStat, ObjectInfo, Session, Stored, Version
from cachesync.store.base import ObjectStore
from cachesync.sync import manifest
from cachesync.sync.identity import StoreIdentity
from cachesync.sync.parallel import in_parallel

logger = logging.getLogger(__name__)

_BATCH = 1000
_PAUSE = 0.5
_ASKING = 8
"""Concurrent HEAD requests."""

_UNLISTED = 1000
"""Limit of HEAD requests for files that are in the manifest and not in the listing. A delayed listing lacks the latest
few files. If all objects of a session were removed, the manifest may list a million."""

_UNKNOWN = 0o600
"""The permission bits of a file of which only a listing is known: the object itself may say that it is private."""

_DAY = 86400.0
"""Seconds until a session is listed again. No lifecycle rule expires an object that is younger than a day."""


@dataclass(slots=True)
class Astray:
    """Differences of the store from the journal.

    ``replaced`` and ``deleted`` are clean local files that other hosts replaced or deleted in the store. ``others`` are
    the links and directories of the manifest (a directory's path ends in "/"), ``flaws`` its errors. ``lost`` counts
    files that the store lost although no manifest records a deletion.
    """

    replaced: dict[str, Stored] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    lost: int = 0
    others: dict[str, FileStat] = field(default_factory=dict)
    flaws: Sequence[str] = ()


class Learner:
    """Merges the store's state of a session into the journal: once, and again after another writer's change.

    ``scan`` compares a session's directory with the journal. It runs first, because a local file without an entry would
    be recorded as evicted and treated as another host's.
    """

    def __init__(
        self,
        journal: Journal,
        store: ObjectStore,
        prefix: str,
        scan: Callable[[str], object] = lambda _: None,
        *,
        identity: StoreIdentity,
        clock: Callable[[], float] = time.time,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._store = store
        self._prefix = prefix
        self._scan = scan
        self._identity = identity
        self._clock = clock
        self._wake = wake
        self.lost: Counter[str] = Counter()
        """Files that the store lost, by session, since this process began."""
        self.expired: Counter[str] = Counter()
        """Evicted logs that expired in the store, by session, since this process began."""
        self._locks: dict[str, threading.Lock] = {}
        self._not_before: dict[str, float] = {}
        self.standing = threading.Lock()
        """Held while the journal merges a listing, while a downloaded file is moved to its path (it must be the version
        in the journal), and while the journal records a stored manifest."""

    def busy(self) -> list[str]:
        """Return the sessions that are being learned, or that failed to be a moment ago. They cannot be stored now."""
        now = time.monotonic()
        waiting = [name for name, until in list(self._not_before.items()) if until > now]
        return [*waiting, *(name for name, lock in list(self._locks.items()) if lock.locked())]

    def ensure(self, session: str, *, wait: bool = False) -> bool:
        """Learn the session, if it is not learned yet. Returns False if another thread is learning it; with ``wait``,
        waits for that thread instead.

        Raises StoreError, SessionTaken.
        """
        row = self._journal.sessions.get(session)
        if row is None or row.learned:
            return True  # a session in doubt is not learned either
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
        """Learn the session again. Raises StoreError, SessionTaken."""
        with self._lock(session):
            return self._learn(session)

    def if_changed(self, session: str) -> None:
        """Learn the session again if its manifest is not the one in the journal. Raises StoreError."""
        row = self._journal.sessions.get(session)
        found = None
        with contextlib.suppress(ObjectNotFound):
            found = self._store.head(manifest_key(self._prefix, session)).version.etag
        if row is not None and found != (row.manifest and row.manifest.etag):
            self.again(session)

    def refresh(self, row: Session) -> bool:
        """List the session if the last listing is older than a day, and learn it again if the listing differs.

        Lifecycle rules delete objects without a notice. Sends one request for each 1,000 objects. Returns whether a
        listing was due. Raises StoreError.
        """
        session, now = row.name, self._clock()
        if row.listed_at is not None and 0 <= now - row.listed_at < _DAY:
            return False
        residence = self._journal.residence
        known = {path: etag for path, (etag, *_) in residence.standing(session).items()}
        known |= {path: etag for path, (etag, *_) in residence.only_there(session).items()}
        differs = False
        for rows in self._listed(session, None):
            for path, stored in rows:
                differs |= known.pop(path, None) != stored.version.etag
        if differs or known:
            self.again(session)
        else:
            self._journal.sessions.set_listed(session, now)
        return True

    def compare(self, session: str) -> Astray:
        """Compare clean local files with a listing. The journal is not changed. Raises StoreError."""
        astray = Astray(deleted=self._journal.residence.here(session))
        for rows in self._listed(session, None):
            astray.deleted.difference_update(path for path, _ in rows)
            astray.replaced |= self._journal.residence.replaced(session, rows)
        return astray

    def look(self, session: str) -> tuple[dict[str, Stored], dict[str, FileStat], Sequence[str], int | None]:
        """Return the session's files, its links and directories, the errors of its manifest, and the permission bits of
        its directory, as the store has them.

        The journal is not used. Raises StoreError.
        """
        found = self._manifest(session)
        files = {path: stored for rows in self._listed(session, found) for path, stored in rows}
        return (files, {}, (), None) if found is None else (files, dict(found.others), found.flaws, found.mode)

    def is_stored(self, session: str) -> bool:
        """Whether the store has any object of the session. Raises StoreError."""
        return next(iter(self._store.list(session_prefix(self._prefix, session))), None) is not None

    def _lock(self, session: str) -> threading.Lock:
        return self._locks.setdefault(session, threading.Lock())

    def _learn(self, session: str) -> Astray:
        self._identity.admit()
        with self._journal.sessions.listing(session) as overtaken:
            astray = self._learn_listed(session, overtaken)
        self._identity.recognize()
        self._identity.compared(session)
        if astray.lost:
            self.lost[session] += astray.lost
            logger.warning("the store lost %d files", astray.lost, extra={"session": session})
            self._wake()
        return astray

    def _learn_listed(self, session: str, overtaken: AbstractSet[str]) -> Astray:
        sessions, residence = self._journal.sessions, self._journal.residence
        before = sessions.get(session)
        found = self._manifest(session)
        if found and before and before.directory and before.rights and not before.manifest:
            check_owner(session, before.rights.uid, found.owner, own=os.geteuid())
        past = _Past(before, found, doubted=session in self._identity.doubted)
        if past.is_news and self._identity.admit_manifest(session, older=past.is_other):
            past = _Past(before, found, doubted=True)
        unseen = residence.only_there(session)
        standing = residence.standing(session)  # before the listing: a version that is newer than this is ours
        astray = Astray(deleted=residence.here(session))
        unlisted = set[str]() if found is None else found.files.keys() - unseen.keys() - standing.keys()
        if found is not None:
            self._identity.confirmed()
            astray.others, astray.flaws = dict(found.others), found.flaws
        lately = sessions.deleted_lately(session)
        for listed in self._listed(session, found):
            if listed:
                self._identity.confirmed()
            deleted = self._gone(session, [path for path, _ in listed if path in lately])  # a listing may be delayed
            rows = [row for row in listed if row[0] not in deleted]
            other = [path for path, stored in rows if path in standing and standing[path][0] != stored.version.etag]
            if behind := residence.stored_lately(session, other, self._clock()):
                now = {path: _stored(info, found, path) for path, info in self._asked(session, behind).items()}
                rows = [(path, now.get(path, stored)) for path, stored in rows]
            for path, _ in rows:
                unseen.pop(path, None)
                unlisted.discard(path)
                astray.deleted.discard(path)
            known = [(path, *standing.pop(path), stored) for path, stored in rows if path in standing]
            replaced = residence.replaced(session, rows)
            astray.replaced |= {path: stored for path, stored in replaced.items() if path not in overtaken}
            with self.standing:
                sessions.learn(session, rows, [], overtaken=overtaken)
                self._merge_known(session, known, past, astray)
        gone = self._gone(session, [*unseen, *standing])
        hidden = self._asked(session, sorted(unlisted)[:_UNLISTED])  # else the next manifest would omit them
        unshown = [(path, _stored(info, found, path)) for path, info in hidden.items()]
        with self.standing:
            if unshown:
                sessions.learn(session, unshown, [], overtaken=overtaken)
            self._merge_gone(session, standing, past, astray, gone)
            self._merge_evicted(session, {path: unseen[path] for path in gone & unseen.keys()}, past, astray, overtaken)
            self._merge_manifest(session, None if MANIFEST in overtaken else found, past, overtaken)
        return astray

    def _merge_known(self, session: str, known: Sequence[_Listed], past: _Past, astray: Astray) -> None:
        """Merge resident files that the store has, perhaps in other versions."""
        other = [(path, etag, stored) for path, etag, _, _, stored in known if etag != stored.version.etag]
        if past.is_other:
            astray.lost += self._journal.residence.unknown(session, other, self._clock())
            astray.replaced = {}
        else:
            same = [row for row in known if row[2] and row[1] == row[4].version.etag]
            again = [(path, etag, stored) for path, etag, _, _, stored in same]
            self._journal.residence.supersede(session, [*other, *again])

    def _merge_gone(
        self, session: str, standing: Mapping[str, _Standing], past: _Past, astray: Astray, gone: AbstractSet[str]
    ) -> None:
        """Merge resident files that the store no longer has."""
        here = {path: row for path, row in standing.items() if path in gone}
        deleted = {path for path, row in here.items() if row[2] or past.deleted(path)}
        self._journal.residence.supersede(session, [(path, here[path][0], None) for path in deleted])
        if lost := [(path, row[0]) for path, row in here.items() if path not in deleted]:
            astray.lost += self._journal.residence.lost(session, lost, self._clock())
            astray.deleted -= {path for path, _ in lost}

    def _merge_evicted(
        self,
        session: str,
        gone: Mapping[str, tuple[str, bool]],
        past: _Past,
        astray: Astray,
        overtaken: AbstractSet[str],
    ) -> None:
        """Merge evicted files that the store no longer has. A file known only from a listing is another host's: it may
        disappear without a report."""
        lost = []
        for path, (etag, ours) in gone.items():
            expired = not past.is_other and path not in overtaken and self._may_have_expired(session, path)
            if expired or past.deleted(path) or not (ours or past.lists(path)):
                self.expired[session] += expired
                self._journal.sessions.forget_evicted(session, path, overtaken=overtaken)
            elif path not in overtaken:
                lost.append((path, etag))
        if lost:
            astray.lost += self._journal.residence.lost(session, lost, self._clock())

    def _may_have_expired(self, session: str, path: str) -> bool:
        """Whether a lifecycle rule for logs may have deleted the object: it is a log and older than a day."""
        entry = self._journal.entries.entry(session, path)
        return (
            attributes.is_log(path)
            and entry is not None
            and entry.stored is not None
            and self._clock() - entry.stored.stored_at >= _DAY
        )

    def _merge_manifest(
        self, session: str, found: manifest.FoundManifest | None, past: _Past, overtaken: AbstractSet[str]
    ) -> None:
        """Merge the manifest's links and directories. ``found`` is None if there is none, or if ours is newer."""
        sessions = self._journal.sessions
        row = sessions.get(session)
        merged = None if row is None else row.manifest
        if found is not None and found.version != merged:  # else links that were deleted here since would return
            self._journal.residence.supersede_others(session, dict(found.others), whole=not found.flaws)
            sessions.learn(session, [], found.others)
            if found.mode is not None:
                sessions.learn_mode(session, found.mode)
            if not found.flaws:
                sessions.forget_others(session, [path for path, _ in found.others])
        written = merged if MANIFEST in overtaken else None
        version = written if found is None else found.version
        sessions.set_learned(session, version, past.serial, now=self._clock())

    def _manifest(self, session: str) -> manifest.FoundManifest | None:
        try:
            return manifest.read(self._store, manifest_key(self._prefix, session))
        except ObjectNotFound:
            return None

    def _listed(self, session: str, found: manifest.FoundManifest | None) -> Iterator[list[tuple[str, Stored]]]:
        """List the session's files in batches."""
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
            logger.warning("%d object keys are not paths of the session", strange, extra={"session": session})

    def _gone(self, session: str, unseen: Sequence[str]) -> set[str]:
        """Return the paths that have no object."""
        return set(unseen) - self._asked(session, unseen).keys()

    def _asked(self, session: str, paths: Sequence[str]) -> dict[str, ObjectInfo]:
        """Return the objects at the paths, by path. Sends a HEAD request for each path."""
        there: dict[str, ObjectInfo] = {}

        def ask(path: str, _: threading.Event) -> None:
            with contextlib.suppress(ObjectNotFound):
                there[path] = self._store.head(session_prefix(self._prefix, session) + path)

        in_parallel(iter(paths), ask, min(_ASKING, len(paths)))
        return there


_Standing = tuple[str, bool, bool]
_Listed = tuple[str, str, bool, bool, Stored]
"""A row of residence.standing, with its path in front and the listed object at its end."""


class _Past:
    """Compares the manifest in the store with the one in the journal."""

    def __init__(self, known: Session | None, found: manifest.FoundManifest | None, *, doubted: bool) -> None:
        self._found = found
        ours = None if known is None else known.manifest
        same = found is not None and ours is not None and found.version.etag == ours.etag
        self.is_news = not same and (found is not None or ours is not None)
        """The manifest is not the one in the journal."""
        serial = None if found is None else found.serial
        older = known is not None and serial is not None and serial <= known.serial
        self.is_other = not same and (doubted or (ours is not None and (found is None or older)))
        """The store was restored to an older state, or is another store. A file that it lacks was not deleted."""
        self._tells = found is not None and not same and not self.is_other and not found.flaws
        self.serial = serial or 0

    def lists(self, path: str) -> bool:
        """Whether the manifest lists this file."""
        return self._found is not None and path in self._found.files

    def deleted(self, path: str) -> bool:
        """Whether another host deleted a file: it wrote a newer manifest that does not list the file."""
        return self._tells and not self.lists(path)


def _stored(info: ObjectInfo, found: manifest.FoundManifest | None, path: str) -> Stored:
    """Return a listed object as a Stored, with the manifest's facts if they are of the same version."""
    version = Version(info.version.etag)
    row = found.files.get(path) if found is not None else None
    if row is None or (row.etag, row.size) != (version.etag, info.size):
        return Stored(version, info.size, None, int(info.modified * 1e9), _UNKNOWN, info.modified)
    return Stored(version, info.size, row.sha256, row.mtime_ns, row.mode, info.modified)
