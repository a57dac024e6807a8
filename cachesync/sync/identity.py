"""Checks that the store is the one that the journal belongs to (P17).

A store has a small object with a random id. The journal records the store's URL, endpoint and id. The first fact that
the journal learns from a store binds the journal to it, so a mistyped name binds nothing. Each process reads the
store's id before its first write, with one request. A store without the id, or with another id, was emptied, restored
or replaced. Every session is then compared with the store, and files that the store lacks are stored again. So is it in
each process that does not know an id: one was never recorded, or the store refuses to keep it.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time

from cachesync.journal.binding import Bound, elsewhere
from cachesync.journal.journal import Journal
from cachesync.model.errors import ObjectNotFound, PreconditionFailed, StoreError, StorePermanent
from cachesync.model.keys import identity_key
from cachesync.model.values import Attributes
from cachesync.root.snapshot import MemoryBody
from cachesync.store.base import ObjectStore

logger = logging.getLogger(__name__)

FORMAT = 1
_ID = re.compile("[0-9a-f]{32}")
_LARGEST = 65536
_PAUSE = 60.0
"""Seconds between attempts to write the identity."""


class StoreIdentity:
    """The identity of one store. Safe to call from many threads. ``reached`` is the configured store, without an id.

    ``doubted`` are the sessions that must be compared with the store. ``changed`` is set when sessions are added to it.
    ``checked`` is set when the store's id was checked, or needs no check.
    """

    def __init__(self, journal: Journal, store: ObjectStore, prefix: str, reached: Bound) -> None:
        self._journal = journal
        self._store = store
        self._key = identity_key(prefix)
        self._reached = reached
        known = journal.binding.get()
        self._bound = known is not None
        self._id = None if known is None else known.store_id
        self._adopted: str | None = None
        self._written = False
        self._admitted = False
        self._recognized = False
        self._not_before = 0.0
        self._lock = threading.Lock()
        self.doubted: set[str] = set()
        self.changed = threading.Event()
        self.checked = threading.Event()

    def open(self, *, bind: bool, unchosen: tuple[str, ...] = ()) -> None:
        """Compare the configured URL with the journal's. Without ``bind`` nothing is written.

        ``unchosen`` are the folders that serve as the store while none is configured. A root that is stored in one of
        them moves to the configured store, unless it has evicted files.

        Raises ConfigError if the journal belongs to another store.
        """
        known = self._journal.binding.get()
        if known is not None and known.store != self._reached.store:
            if not bind or known.store not in unchosen or self._journal.binding.lacks_bytes():
                raise elsewhere(known, self._reached)
            logger.warning("this root was stored in %s; it is now stored in %s", known.shown, self._reached.shown)
            self.rebind()
        if bind and self._id is None:  # earlier listings may be of another store
            self._journal.sessions.unlearn_all()
        if not bind:
            self._admitted = self._bound = self._recognized = self._written = True
        if self._id is None or not bind:
            self.checked.set()

    @property
    def moved(self) -> bool:
        """Whether the configured endpoint is not the recorded one. Only the id shows whether the store is the same."""
        known = self._journal.binding.get()
        return known is not None and known.endpoint not in (None, self._reached.endpoint)

    def rebind(self) -> None:
        """Bind the journal to the configured store. All local files become dirty."""
        self._journal.binding.start_over(time.time())
        self._journal.binding.bind(self._reached)
        self._bound, self._id, self._written = True, None, False

    def admit(self) -> None:
        """Check once, before the first write, that the store is the journal's.

        Raises ConfigError if the store at a new endpoint lacks the journal's id. Raises StoreError if the id cannot be
        read now.
        """
        if self._admitted:
            return
        with self._lock:
            if not self._admitted:
                self._check()
                self._admitted = True
        self.checked.set()

    def admit_manifest(self, session: str, *, older: bool) -> bool:
        """Return whether the session is in doubt: its manifest may belong to another or a restored store.

        Called before a manifest is used that this journal did not write. ``older`` says that the manifest is missing,
        or older than the one in the journal. Raises as ``admit`` does.
        """
        with self._lock:
            if self.doubted or not (older or self._written):
                return session in self.doubted
            return self._check(session)

    def _check(self, session: str | None = None) -> bool:
        """Read the id and compare it. Returns whether every session is in doubt now. The caller already compares
        ``session``."""
        known = self._journal.binding.get()
        if known is None:
            return False
        if known.store_id is None and session is None:
            if self.moved:
                raise elsewhere(known, self._reached)
            return False
        try:
            found = self._ask()
        except StorePermanent as error:
            logger.info("cannot read the store's identity: %s", error.reason)
            return False
        if found is not None and found == known.store_id:
            self._written = True
            if self.moved:
                logger.warning("the store of %s is now at %s", known.shown, self._reached.endpoint)
                self._journal.binding.bind(Bound(known.store, self._reached.endpoint, found))
            return False
        if self.moved:
            raise elsewhere(known, self._reached)
        what = "has lost its identity" if found is None else "has another identity"
        logger.warning(
            "the store %s %s; it was emptied, restored or replaced; comparing every session with it",
            known.shown, what,
        )  # fmt: skip
        self._adopted, self._written = found, False
        self._id = None  # a new id shows other hosts that the store has changed
        self.doubted |= set(self._journal.sessions.names())
        self._journal.sessions.unlearn_all(but=session)
        self.changed.set()
        return True

    def confirmed(self) -> None:
        """Bind the journal to the store, if it is unbound. Called before the journal records what the store has."""
        if self._bound:
            return
        with self._lock:
            if not self._bound:
                self._journal.binding.bind(self._reached)
                self._bound = True

    def recognize(self) -> None:
        """Record the store's id once the journal has learned what the store has. A failure is logged, and not tried
        again in this process: the first write records the id, too."""
        if self._recognized or not self._bound or self._id is not None or self.doubted:
            return
        with self._lock:
            self._recognized = True
            try:
                self._id = self._ask()
            except StoreError as error:
                logger.info("cannot read the store's identity: %s", error.reason)
            if self._id is not None:
                self._journal.binding.bind(Bound(self._reached.store, self._reached.endpoint, self._id))

    def affirm(self) -> None:
        """Make sure that the store has an id and the journal records it. The caller has verified the store. A failure
        is logged, and a later call tries again."""
        if self._written or self.doubted or time.monotonic() < self._not_before:
            return
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._adopted is not None:
                self._id = self._adopted
            else:
                self._id = self._ask() or self._make()
            self._journal.binding.bind(Bound(self._reached.store, self._reached.endpoint, self._id))
            self._written, self._adopted = True, None
        except StoreError as error:
            self._not_before = time.monotonic() + _PAUSE
            logger.info("cannot write the store's identity yet: %s", error.reason)
        finally:
            self._lock.release()

    def compared(self, session: str) -> None:
        """Record that a session was compared with the store. After the last one, the store gets its id."""
        if session in self.doubted:
            self.doubted.discard(session)
            self.affirm()

    def notes(self) -> list[str]:
        """Return messages for the operator."""
        if not self.doubted:
            return []
        sessions = "1 session is" if len(self.doubted) == 1 else f"{len(self.doubted)} sessions are"
        return [f"the store was emptied, restored or replaced: {sessions} being compared with it"]

    def _ask(self) -> str | None:
        """Return the store's id, or None. Raises StoreError."""
        try:
            chunks = self._store.get(self._key).chunks
        except ObjectNotFound:
            return None
        data = b""
        for chunk in chunks:
            data += chunk
            if len(data) > _LARGEST:
                break
        try:
            found = json.loads(data)["id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            found = None
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise StorePermanent("read", self._key, "it is not a store identity", "remove it if nothing needs it")
        return found

    def _make(self) -> str:
        """Write an id to the store and return the id that the store has. Another host may write first.

        The id is the journal's, or a new one after the store changed. Raises StoreError.
        """
        made = self._id or secrets.token_hex(16)
        document = json.dumps({"format": FORMAT, "id": made}) + "\n"
        try:
            self._store.put(self._key, MemoryBody(document.encode()), Attributes("application/json"), expect=None)
        except PreconditionFailed:
            found = self._ask()
            if found is None:
                raise
            return found
        return made
