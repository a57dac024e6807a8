"""Reading artifacts: the local file, else the cache, else the store (SPEC section 8)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cachesync.model.address import Address
from cachesync.model.errors import ObjectNotFound, StoreError, Unstorable, UsageError
from cachesync.model.keys import check_path, is_reserved
from cachesync.model.values import Entry, ObjectInfo
from cachesync.model.verbs import Reading
from cachesync.read import describing
from cachesync.read.cache.blocks import BlockCache
from cachesync.read.fetch import Fetcher
from cachesync.read.local import Local, LocalReading, look
from cachesync.read.past import Past
from cachesync.read.stored import StoredReading
from cachesync.read.versions import Guess, Known, Versions, no_guess
from cachesync.store.base import ObjectStore

__all__ = ["Local", "Reader"]


class Reader:
    """Opens artifacts. Safe to call from many threads.

    ``prefix`` is the store's own, without slashes at its ends; ``local`` the root that this process owns, if it owns
    one; ``revalidate`` how many seconds it is believed what the store said of an object of which other writers may
    store a newer version; ``clock`` gives seconds since the epoch; ``url`` is what a key is appended to for people.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        prefix: str,
        cache: BlockCache | None,
        local: Local | None,
        revalidate: float,
        clock: Callable[[], float],
        url: str | None = None,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._cache = cache
        self._local = local
        self._clock = clock
        self._url = url
        self._fetcher = Fetcher(store, cache)
        self._versions = Versions(store, cache, revalidate, clock, self._fetcher.first)

    def read(self, address: Address, *, version_id: str | None = None) -> Reading:
        """Open one artifact: the newest version, or a past one, as the store has it.

        Raises ObjectNotFound, UsageError (the store keeps no past versions), FileUnreadable, RootHalted, and StoreError
        where the store must be asked and cannot be.
        """
        if version_id is not None:
            return self._read_past(address, version_id)
        seen = self._look(address)
        if isinstance(seen, LocalReading):
            return seen
        key = self._key(address)
        return StoredReading(
            address,
            self._newest(address, key, seen, read=True),
            self._cache,
            self._fetcher.blocks,
            partial(self._versions.newest, key, anew=True),
            state="stored" if seen is None else "evicted",
            url=self._url,
        )

    def find(self, address: Address) -> ObjectInfo:
        """The newest version that the store has of an artifact, as far as is known: in an outage, the last one known.

        What stands here does not count, but for a deletion. Raises like ``read``.
        """
        seen = self._look(address)
        key = self._key(address)
        if isinstance(seen, LocalReading):
            seen.close()
            return self._versions.newest(key).info
        return self._newest(address, key, seen, read=False).info

    def note(self, info: ObjectInfo) -> None:
        """An object was just stored by this process, past the journal: the next read must see it."""
        self._versions.note(info)

    def forget(self, key: str) -> None:
        """An object was just removed by this process, past the journal."""
        self._versions.forget(key)

    def _look(self, address: Address) -> LocalReading | Entry | None:
        """What the root and its journal say. Raises ObjectNotFound for what is no file in any case."""
        _check(address)
        return None if self._local is None or address.session is None else look(self._local, address)

    def _newest(self, address: Address, key: str, entry: Entry | None, *, read: bool) -> Known:
        stored = None if entry is None else entry.stored
        if entry is None or stored is None or not stored.version.etag:  # never stored, or the answer to that was lost
            guess: Guess = no_guess
        else:
            guess = partial(describing.of_stored, entry, stored, key)
        try:
            return self._versions.newest(key, guess, read=read)
        except ObjectNotFound as error:
            if self._is_directory(key):
                raise ObjectNotFound("read", str(address), "it is a directory") from error
            raise

    def _is_directory(self, key: str) -> bool:
        try:
            return next(iter(self._store.list(f"{key}/", shallow=True)), None) is not None
        except StoreError:
            return False

    def _read_past(self, address: Address, version_id: str) -> Reading:
        archive = self._store.archive
        if archive is None:
            hint = "a bucket with versioning does"
            raise UsageError("read a past version of", str(address), "this store keeps none", hint)
        _check(address)
        past = Past(archive, self._cache, self._key(address), version_id)
        known = Known(past.find(self._clock()), unverified=False)
        return StoredReading(
            address, known, self._cache, past.blocks, None, state="stored", url=self._url, let_go=past.close
        )

    def _key(self, address: Address) -> str:
        try:
            return address.key(self._prefix)
        except Unstorable as error:
            raise ObjectNotFound("read", str(address), f"no store has it: {error.reason}") from error


def _check(address: Address) -> None:
    """Raise ObjectNotFound for an address that no artifact has, UsageError for a path that could lead elsewhere."""
    if address.whole:
        raise ObjectNotFound("read", str(address) or "/", "it is a directory")
    if is_reserved(check_path(address.path)) and address.session is not None:
        raise ObjectNotFound("read", str(address), "it is cachesync's own")
