"""Asking the daemon, as a file system has to: errors are errnos, and what nobody waits for is told in batches."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Protocol

from cachesync.fuse import Unreachable
from cachesync.model.address import Address, Space
from cachesync.model.errors import (
    CacheSyncError,
    DiskFull,
    NoSuchSession,
    ObjectNotFound,
    StoreError,
    StoreUnreachable,
    Unstorable,
    UsageError,
)
from cachesync.model.verbs import Artifacts, Lifecycle, OnDemand
from cachesync.mount.remote import RemoteFile
from cachesync.read.singleflight import Flights

logger = logging.getLogger(__name__)

_GATHER = 0.5
"""Seconds between two notices to the daemon. Whoever tells of each change tells most of the time, and answers late."""

_MEANINGS: tuple[tuple[type[CacheSyncError], int], ...] = (
    (NoSuchSession, errno.ENOENT),
    (ObjectNotFound, errno.ENOENT),
    (DiskFull, errno.ENOSPC),
    (Unstorable, errno.EINVAL),
    (UsageError, errno.EINVAL),
    (StoreError, errno.EIO),
)


def meaning(error: CacheSyncError) -> int:
    """The errno that a program gets."""
    return next((number for kind, number in _MEANINGS if isinstance(error, kind)), errno.EIO)


@contextlib.contextmanager
def _as_errno() -> Iterator[None]:
    try:
        yield
    except CacheSyncError as error:
        number = meaning(error)
        if number != errno.ENOENT:
            logger.warning("%s: a program gets %s", error, errno.errorcode[number])
        kind = Unreachable if isinstance(error, StoreUnreachable) else OSError
        raise kind(number, os.strerror(number)) from error


class Client(Protocol):
    """What is asked of the daemon; see api.client.ControlClient."""

    @property
    def artifacts(self) -> Artifacts: ...  # noqa: D102
    @property
    def lifecycle(self) -> Lifecycle: ...  # noqa: D102
    @property
    def ondemand(self) -> OnDemand: ...  # noqa: D102
    def break_off(self, thread: int) -> None: ...  # noqa: D102


class Keeper:
    """The daemon, for paths as the mount has them: a session and the bytes of a path in it, a directory's without "/".

    Each verb blocks, is safe to call from many threads, and raises OSError. ``patience`` is how many seconds are waited
    for one file to be stored.
    """

    def __init__(self, client: Client, patience: float) -> None:
        self._artifacts = client.artifacts
        self._lifecycle = client.lifecycle
        self._ondemand = client.ondemand
        self.break_off = client.break_off
        """Given the number of a thread that waits for the daemon: it waits no longer, and gets InterruptedError."""
        self._patience = patience
        self._learning: Flights[bool] = Flights()
        self._listing: Flights[set[bytes]] = Flights()
        self.unlearned: set[bytes] = set()
        """Sessions that could not be learned when this was last tried."""
        self._hints: dict[bytes, int] = {}
        self._hints_lock = threading.Lock()
        self._hinted = threading.Event()
        threading.Thread(target=self._tell, name="notices", daemon=True).start()

    def bring(self, session: bytes, path: bytes, *, directory: bool) -> None:
        """Let what is only in the store stand in the root, whole."""
        with _as_errno():
            self._ondemand.bring(os.fsdecode(session), _told(path, directory=directory))

    def make_empty(self, session: bytes, path: bytes) -> None:
        """Let an empty file stand in the place of one that is only in the store, and that it replaces."""
        with _as_errno():
            self._ondemand.make_empty(os.fsdecode(session), os.fsdecode(path))

    def foresee(self, session: bytes, path: bytes) -> None:
        """A file that is only in the store is about to be replaced by one that is put in its place."""
        with _as_errno():
            self._ondemand.foresee(os.fsdecode(session), os.fsdecode(path))

    def remove(self, session: bytes, path: bytes, *, directory: bool) -> None:
        """Remove what is only in the store, without bringing it."""
        with _as_errno():
            self._ondemand.remove(os.fsdecode(session), _told(path, directory=directory))

    def move(self, old: tuple[bytes, bytes], new: tuple[bytes, bytes], *, directory: bool) -> None:
        """Rename what is only in the store, without bringing it; of a directory, all below it."""
        with _as_errno():
            self._ondemand.move(
                os.fsdecode(old[0]), _told(old[1], directory=directory),
                os.fsdecode(new[0]), _told(new[1], directory=directory),
            )  # fmt: skip

    def store(self, session: bytes, path: bytes) -> None:
        """Wait until what a file holds now is stored."""
        with _as_errno():
            self._ondemand.store(os.fsdecode(session), os.fsdecode(path), timeout=self._patience)

    def learn(self, session: bytes) -> None:
        """Let the journal know what the store has of a session. However many ask at once, the store is asked once."""
        with _as_errno():
            self._learning.take(session, partial(self._learn, session))

    def learn_within(self, session: bytes, seconds: float) -> None:
        """The same, for ``seconds`` at most, and without an error: it goes on, and what is known counts until then."""
        if not self._learning.begin(session, partial(self._learn, session)).ended.wait(seconds):
            self.unlearned.add(session)

    def learn_soon(self, session: bytes) -> None:
        """The same, and nobody waits for it."""
        self._learning.begin(session, partial(self._learn, session))

    def _learn(self, session: bytes) -> bool:
        try:
            self._lifecycle.open(os.fsdecode(session), lazy=True)
        except CacheSyncError:
            self.unlearned.add(session)
            raise
        self.unlearned.discard(session)
        return True

    def sessions(self) -> set[bytes]:
        """The sessions that there are, here or in the store, as far as the store says so at once."""
        with _as_errno():
            return self._listing.take(b"", lambda: {os.fsencode(name) for name in self._ondemand.sessions()})

    def read(self, session: bytes, path: bytes) -> RemoteFile:
        """Open what is only in the store for reading, without bringing it."""
        with _as_errno():
            address = Address(Space.SESSIONS, os.fsdecode(session), os.fsdecode(path))
            return RemoteFile(self._artifacts.read(address), _as_errno)

    def changes(self) -> Iterator[tuple[bytes, bytes]]:
        """Session and path of what the daemon changes in the root by itself; the session "" is all of them.

        It ends when the daemon does.
        """
        with contextlib.suppress(CacheSyncError):
            for told in self._ondemand.changes():
                for session, paths in told.items():
                    for path in paths or [""]:
                        yield os.fsencode(session), os.fsencode(path.rstrip("/"))

    # -- what nobody waits for -----------------------------------------------------------------------------------------

    def hint(self, place: bytes, hint: int) -> None:
        """Let the daemon look at a place, session and path in one, soon. It would see the change by itself, unless it
        is not watched."""
        with self._hints_lock:
            self._hints[place] = self._hints.get(place, 0) | hint
        if not self._hinted.is_set():  # setting it anew would take a lock each time
            self._hinted.set()

    def _tell(self) -> None:
        while True:
            self._hinted.wait()
            time.sleep(_GATHER)
            self._hinted.clear()
            with self._hints_lock:
                hints, self._hints = self._hints, {}
            told = defaultdict[str, dict[str, int]](dict)
            for place, hint in hints.items():
                session, _, path = os.fsdecode(place).partition("/")
                if path:
                    told[session][path] = hint
            try:
                self._ondemand.notice(told)
            except CacheSyncError as error:
                logger.debug("a notice was not taken: %s", error)  # its watcher and its scans see what it was about


def _told(path: bytes, *, directory: bool) -> str:
    return os.fsdecode(path) + "/" if directory and path else os.fsdecode(path)
