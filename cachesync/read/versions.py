"""Which version of an object is the newest, as far as is known, and when the store has to be asked (P11)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from cachesync.model.errors import ObjectNotFound, StoreTransient
from cachesync.model.values import ObjectInfo
from cachesync.read.cache.blob_store import Block
from cachesync.read.cache.blocks import BLOCK, BlockCache
from cachesync.read.fetch import First, Note
from cachesync.store.base import ObjectStore

_MOST_IN_MEMORY = 4096


class Known(NamedTuple):
    """A version, and whether the store could not be asked if it is the newest; ``block`` are its bytes, if the answer
    brought them."""

    info: ObjectInfo
    unverified: bool
    block: Block | None = None


Guess = Callable[[], ObjectInfo | None]
"""What the journal knows of an object: only made when it is needed."""


def no_guess() -> None:
    """The journal knows nothing."""


class Versions:
    """What the store said of each key, and when: in memory, and in the cache for the next process and for an outage.

    ``revalidate`` is how many seconds an answer is believed; ``clock`` gives seconds since the epoch; ``first`` asks
    for an object and its bytes at once.
    """

    def __init__(
        self,
        store: ObjectStore,
        cache: BlockCache | None,
        revalidate: float,
        clock: Callable[[], float],
        first: Callable[[str, Note], First],
    ) -> None:
        self._store = store
        self._cache = cache
        self._revalidate = revalidate
        self._clock = clock
        self._first = first
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, tuple[ObjectInfo, float]] = OrderedDict()

    def newest(self, key: str, guess: Guess = no_guess, *, anew: bool = False, read: bool = False) -> Known:
        """The newest version. In an outage the last one known, or ``guess``, unverified; not so with ``anew``, which
        is for when that is known to be wrong. ``read`` says that its bytes are wanted next.

        Raises ObjectNotFound if the store says so, StoreError if it cannot be asked and nothing is known.
        """
        known = None if anew else self._remembered(key)
        if known is not None and 0 <= self._clock() - known[1] < self._revalidate:
            return Known(_with_digest(known[0], guess), unverified=False)
        last = known[0] if known is not None else guess()
        try:
            if read and self._is_news(last):
                info, block = self._first(key, self.note)
            else:
                info, block = self._store.head(key), None
                self.note(info)
        except ObjectNotFound:
            self.forget(key)
            raise
        except StoreTransient:
            if last is None or anew:
                raise
            return Known(last, unverified=True)
        return Known(_with_digest(info, guess), unverified=False, block=block)

    def _is_news(self, last: ObjectInfo | None) -> bool:
        """Whether nothing is here of an object: then its bytes are as soon asked for as its version. Not if it is known
        to be large: of that a reader may want any part."""
        if last is None:
            return True
        return last.size <= BLOCK and not (self._cache and self._cache.has(last.key, last.version, 0))

    def note(self, info: ObjectInfo, block: Block | None = None) -> None:
        """The store has just said that this is the newest version, and perhaps given the only block that it has."""
        now = self._clock()
        self._remember(info.key, (info, now))
        if self._cache:
            self._cache.note(info.key, info, now, block)

    def forget(self, key: str) -> None:
        """The store has just said that there is no such object."""
        with self._lock:
            self._memory.pop(key, None)
        if self._cache:
            self._cache.forget(key)

    def _remembered(self, key: str) -> tuple[ObjectInfo, float] | None:
        known = self._memory.get(key)
        if known is not None and 0 <= self._clock() - known[1] < self._revalidate:
            return known
        kept = self._cache.describe(key) if self._cache else None  # another process may have asked since
        if kept is not None and (known is None or kept[1] > known[1]):
            known = kept
            self._remember(key, known)
        return known

    def _remember(self, key: str, known: tuple[ObjectInfo, float]) -> None:
        with self._lock:
            self._memory[key] = known
            self._memory.move_to_end(key)
            if len(self._memory) > _MOST_IN_MEMORY:
                self._memory.popitem(last=False)


def _with_digest(info: ObjectInfo, guess: Guess) -> ObjectInfo:
    """What the store says, with the SHA-256 that the journal has of the same version, where the store has none."""
    if info.sha256 or (guessed := guess()) is None:
        return info
    if (guessed.version.etag, guessed.size) != (info.version.etag, info.size):
        return info
    return replace(info, sha256=guessed.sha256)
