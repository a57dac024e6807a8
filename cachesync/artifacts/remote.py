"""Changing objects in the store itself, where no local directory stands for them.

The caller asked for this change by name, so the last writer wins, on purpose: what is replaced or deleted is whatever
stands there now. It is replaced all the same on the condition that it is what we looked at, so a version number is
never given twice, and in a bucket with versioning every state that was replaced can be restored.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cachesync.artifacts.spool import filed
from cachesync.model import attributes
from cachesync.model.address import Address, Space
from cachesync.model.errors import ArtifactExists, ObjectNotFound, PreconditionFailed, StoreTransient, StoreUnreachable
from cachesync.model.keys import manifest_key
from cachesync.model.policy import after_failure
from cachesync.model.values import Attributes, Labels, ObjectInfo, Stored
from cachesync.store.base import Archive, Body, ObjectStore
from cachesync.sync import manifest
from cachesync.sync.parallel import in_parallel

_TRIES = 8
_ASKING = 8

T = TypeVar("T")


class Remote:
    """Writes to a store by address. ``writer`` goes into the metadata of what is stored; ``scratch`` is where large
    bodies wait (None: where temporary files go). A store that hiccups, or another writer, is met with a few tries."""

    def __init__(
        self, store: ObjectStore, *, prefix: str, writer: str, scratch: Path | None, clock: Callable[[], float]
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.scratch = scratch
        self._writer = writer
        self._clock = clock
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._stale: dict[str, set[str]] = {}
        """Paths by session of which the manifest does not tell yet what the store has."""
        self._blocks = 0

    def find(self, address: Address) -> ObjectInfo | None:
        """The newest version of an object, or None if the store says that there is none."""
        try:
            return self.store.head(address.key(self.prefix))
        except ObjectNotFound:
            return None

    def put(self, address: Address, body: Body, labels: Labels, *, overwrite: bool) -> ObjectInfo:
        """Store ``body`` in place of what is there; without ``overwrite`` only where nothing is.

        Raises Unstorable, ArtifactExists, PreconditionFailed, StoreError.
        """
        key = address.key(self.prefix)
        attempt = secrets.token_hex(16)

        def once(_: int) -> ObjectInfo:
            replaced = self.find(address)
            if replaced is not None and _is(replaced, attempt, body.sha256):
                return replaced  # the response to an earlier attempt was lost
            if replaced is not None and not overwrite:
                raise ArtifactExists("put", str(address), "it is there already")
            carried = attributes.for_put(
                address, body.sha256, self._writer, attempt, now=self._clock(), replaced=replaced, labels=labels
            )
            return self.store.put(key, body, carried, expect=None if replaced is None else replaced.version)

        info = persist(once)
        self._relist(address)
        return info

    def remove(self, address: Address, *, listed: bool, stands: Callable[[], bool]) -> bool:
        """Delete what is there, and the manifest's row if ``listed``; whether there was any. Raises StoreError.

        Not if a file ``stands`` for it: asked after each look at the object, so what is deleted is none that a file
        which was made meanwhile has been stored as.
        """
        seen = False  # at any try: the answer to one that deleted it may be lost

        def once(_: int) -> bool:
            nonlocal seen
            if (found := self.find(address)) is not None:
                seen = True
                if not stands():
                    self.store.delete(found.key, expect=found.version)
            return seen

        removed = persist(once)
        if removed or address.session is None:
            if listed:
                self._relist(address)
            return removed
        with self._lock(address.session):
            return listed and self._amend(address.session, {address.path})

    def revive(self, archive: Archive, address: Address, version_id: str) -> ObjectInfo:
        """Make a past version the newest. Raises ObjectNotFound, StoreError."""
        key = address.key(self.prefix)

        def once(_: int) -> ObjectInfo:
            found = self.find(address)
            expect = None if found is None else found.version
            return archive.revive(key, version_id, expect=expect, without=attributes.OF_THE_WRITER)

        info = persist(once)
        self._relist(address)
        return info

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write each manifest once, at the end of the block, instead of after each change. Raises StoreError there."""
        with self._guard:
            self._blocks += 1
        try:
            yield
        finally:
            with self._guard:
                self._blocks -= 1
                sessions = [] if self._blocks else list(self._stale)
            for session in sessions:
                self._catch_up(session)

    def _relist(self, address: Address) -> None:
        """Let the session's manifest, if there is one, list what the store has at an address now, so that ``open`` and
        ``verify`` on any host find it so."""
        if address.session is None:
            return
        with self._guard:
            self._stale.setdefault(address.session, set()).add(address.path)
            waits = self._blocks > 0
        if not waits:
            self._catch_up(address.session)

    def _catch_up(self, session: str) -> None:
        """Write what is stale: of threads that wait here for each other, one does it for all."""
        with self._lock(session):
            with self._guard:
                paths = self._stale.pop(session, set())
            try:
                if paths:
                    self._amend(session, paths)
            except BaseException:
                with self._guard:
                    self._stale.setdefault(session, set()).update(paths)
                raise

    def _lock(self, session: str) -> threading.Lock:
        """Threads of ours need not meet in the store."""
        return self._locks.setdefault(session, threading.Lock())

    def _amend(self, session: str, paths: set[str]) -> bool:
        """Whether the manifest told something else."""
        key, changed = manifest_key(self.prefix, session), False

        def once(_: int) -> None:
            nonlocal changed
            with contextlib.suppress(ObjectNotFound), tempfile.TemporaryFile(dir=self.scratch) as out:
                listed = self.store.get(key)
                changes: dict[str, Stored | None] = {}

                def ask(path: str, _: threading.Event) -> None:
                    found = self.find(Address(Space.SESSIONS, session, path))
                    changes[path] = None if found is None else attributes.to_stored(found)

                # After that: of two who are at it, the later one lists the later version.
                in_parallel(iter(sorted(paths)), ask, min(_ASKING, len(paths)))
                if manifest.amend(listed.chunks, out, changes):
                    changed = True
                    with filed(out) as body:
                        metadata = {"sha256": body.sha256, "writer": self._writer}
                        carried = Attributes("application/json", metadata)
                        self.store.put(key, body, carried, expect=listed.info.version)

        persist(once)
        return changed


def _is(info: ObjectInfo, attempt: str, sha256: str) -> bool:
    return info.sha256 == sha256 and info.metadata.get(attributes.ATTEMPT) == attempt


def persist(call: Callable[[int], T]) -> T:
    """What ``call`` returns; it is told how often it failed before, in a way that time may mend.

    Eight tries take two seconds on average, five at most; a store where nobody answers is not asked twice.
    """
    for attempt in range(1, _TRIES):
        try:
            return call(attempt - 1)
        except StoreUnreachable:
            raise
        except (PreconditionFailed, StoreTransient) as error:
            time.sleep(random.random() * min(1.0, after_failure(error, attempt, 0.0).due_at))  # noqa: S311 -- no secret
    return call(_TRIES - 1)
