"""Which version of an object is the newest, as far as is known, and when the store has to be asked (P11)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from cachesync.cache import BlockCache
from cachesync.errors import ObjectNotFound, StoreTransient
from cachesync.model import ObjectInfo
from cachesync.store.base import ObjectStore

_MOST_IN_MEMORY = 4096


class Known(NamedTuple):
    """A version, and whether the store could not be asked if it is the newest."""

    info: ObjectInfo
    unverified: bool


class Versions:
    """What the store said of each key, and when: in memory, and in the cache for the next process and for an outage.

    ``revalidate`` is how many seconds an answer is believed; ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self, store: ObjectStore, cache: BlockCache | None, revalidate: float, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._cache = cache
        self._revalidate = revalidate
        self._clock = clock
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, tuple[ObjectInfo, float]] = OrderedDict()

    def newest(self, key: str, guess: ObjectInfo | None = None, *, anew: bool = False) -> Known:
        """The newest version. In an outage the last one known, or ``guess``, unverified; not so with ``anew``, which
        is for when that is known to be wrong.

        Raises ObjectNotFound if the store says so, StoreError if it cannot be asked and nothing is known.
        """
        known = None if anew else self._remembered(key)
        if known is not None and 0 <= self._clock() - known[1] < self._revalidate:
            return Known(_with_digest(known[0], guess), unverified=False)
        try:
            info = self._store.head(key)
        except ObjectNotFound:
            self.forget(key)
            raise
        except StoreTransient:
            last = known[0] if known is not None else guess
            if last is None or anew:
                raise
            return Known(last, unverified=True)
        self.note(info)
        return Known(_with_digest(info, guess), unverified=False)

    def of_ours(self, guess: ObjectInfo) -> Known:
        """A version that this daemon stored: nobody needs to be asked. With what else is known of it."""
        known = self._remembered(guess.key)
        if known is None or known[0].version != guess.version:
            return Known(guess, unverified=False)
        return Known(_with_digest(known[0], guess), unverified=False)

    def note(self, info: ObjectInfo) -> None:
        """The store has just said that this is the newest version."""
        now = self._clock()
        self._remember(info.key, (info, now))
        if self._cache:
            self._cache.note(info.key, info, now)

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


def _with_digest(info: ObjectInfo, guess: ObjectInfo | None) -> ObjectInfo:
    """What the store says, with the SHA-256 that the journal has of the same version, where the store has none."""
    if info.sha256 or guess is None or (guess.version.etag, guess.size) != (info.version.etag, info.size):
        return info
    return replace(info, sha256=guess.sha256)
