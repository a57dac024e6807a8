"""Whether the store is the one that the journal belongs to (P17).

A store keeps a small object with a random id; the journal knows URL, endpoint and id. It is bound with the first fact
that it learns of a store, not before: a mistyped name binds nothing. Before the first write of a process the store is
asked for its id, in one request. A store that has lost it, or has another one, was emptied, restored or replaced: every
session is compared with it then, and what it does not have is stored again.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time

from cachesync.errors import ObjectNotFound, PreconditionFailed, StoreError, StorePermanent
from cachesync.files import MemoryBody
from cachesync.journal import Bound, Journal, elsewhere
from cachesync.keys import identity_key
from cachesync.model import Attributes
from cachesync.store.base import ObjectStore

logger = logging.getLogger(__name__)

FORMAT = 1
_ID = re.compile("[0-9a-f]{32}")
_LARGEST = 65536
_PAUSE = 60.0
"""Seconds after which an identity that could not be written is tried again."""


class StoreIdentity:
    """Safe to call from many threads. ``reached`` is the store as it is configured now, without an id.

    ``doubted`` are the sessions that are to be compared with the store before anything is believed of them; who waits
    for ``changed`` is told when some are added, or when ``admit`` is to be called again.
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
        self._not_before = 0.0
        self._lock = threading.Lock()
        self.doubted: set[str] = set()
        self.changed = threading.Event()
        self.checked = threading.Event()

    def open(self, *, bind: bool, unchosen: tuple[str, ...] = ()) -> None:
        """Compare the URL with the journal's. ``unchosen`` are the folders that a root is stored in while no store is
        configured: from there it moves on by itself, if nothing is only there.

        Raises ConfigError if the journal belongs to another store. Without ``bind`` nothing is written.
        """
        known = self._journal.binding.get()
        if known is None:
            if bind:  # what was learned from a store that nothing was confirmed by is true of no other
                self._journal.sessions.unlearn_all()
        elif known.store != self._reached.store:
            if not bind or known.store not in unchosen or self._journal.binding.lacks_bytes():
                raise elsewhere(known, self._reached)
            logger.warning("this root was stored in %s; from now on in %s", known.shown, self._reached.shown)
            self.rebind()
        if not bind:
            self._admitted = self._bound = self._written = True
        if self._id is None or not bind:
            self.checked.set()

    @property
    def moved(self) -> bool:
        """Whether the store is reached at another endpoint than before: only its id tells whether it is the same."""
        known = self._journal.binding.get()
        return known is not None and known.endpoint not in (None, self._reached.endpoint)

    def rebind(self) -> None:
        """Bind the journal to the store that is configured now: what stands here is to be stored there."""
        self._journal.binding.start_over(time.time())
        self._journal.binding.bind(self._reached)
        self._bound, self._id, self._written = True, None, False

    def admit(self) -> None:
        """Before a write: find out, once, whether the store is the journal's. Raises ConfigError if it is another one,
        StoreError if it cannot be asked now."""
        if self._admitted:
            return
        with self._lock:
            if not self._admitted:
                self._check()
                self._admitted = True
        self.checked.set()

    def admit_manifest(self, session: str, *, older: bool) -> bool:
        """Before a manifest is believed that this journal did not write: whether it is of another store, or of another
        life of this one. Another host may have found first that the store was emptied. ``older`` is one that is gone
        or comes before the one that is known. Raises as ``admit`` does."""
        with self._lock:
            if self.doubted or not (older or self._written):
                return session in self.doubted
            return self._check(session)

    def _check(self, session: str | None = None) -> bool:
        """Ask for the id; whether every session is doubted now. ``session`` is being compared already."""
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
            logger.info("the store's identity cannot be read: %s", error.reason)
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
            "the store %s %s: it was emptied, restored or replaced; every session is compared with it",
            known.shown, what,
        )  # fmt: skip
        self._adopted, self._written = found, False
        self._id = None  # other hosts must see that the store began anew
        self.doubted |= set(self._journal.sessions.names())
        self._journal.sessions.unlearn_all(but=session)
        self.changed.set()
        return True

    def confirmed(self) -> None:
        """Before the journal notes what the store has: bind it, unless it is."""
        if self._bound:
            return
        with self._lock:
            if not self._bound:
                self._journal.binding.bind(self._reached)
                self._bound = True

    def affirm(self) -> None:
        """The store has just shown that it is the journal's: see to it that it has an id, and that the journal knows
        it. What goes wrong is tried again later."""
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
            logger.info("the store gets no identity yet: %s", error.reason)
        finally:
            self._lock.release()

    def compared(self, session: str) -> None:
        """A session was compared with the store; after the last one the id is the store's."""
        if session in self.doubted:
            self.doubted.discard(session)
            self.affirm()

    def notes(self) -> list[str]:
        """What an operator should see."""
        if not self.doubted:
            return []
        sessions = "1 session is" if len(self.doubted) == 1 else f"{len(self.doubted)} sessions are"
        return [f"the store was emptied, restored or replaced: {sessions} being compared with it"]

    def _ask(self) -> str | None:
        """The store's id; None if it has none. Raises StoreError."""
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
            raise StorePermanent("read", self._key, "it is no identity of a store", "remove it if nothing needs it")
        return found

    def _make(self) -> str:
        """Give the store an id, the one that the journal knows if it is still that store; another host may be first.
        Raises StoreError."""
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
