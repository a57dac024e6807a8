"""Blocks of one version, from the cache or the store: one download each, however many readers wait."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from cachesync.model.errors import CacheSyncError, IntegrityError, PreconditionFailed, StorePermanent, StoreTransient
from cachesync.model.values import ObjectInfo, Version
from cachesync.read.cache.blob_store import Block
from cachesync.read.cache.blocks import BLOCK, BlockCache
from cachesync.read.singleflight import Flight, Flights
from cachesync.store.base import Download, ObjectStore

AHEAD = 2
"""Blocks that are on their way while a reader takes one; each is in memory."""


class Got(NamedTuple):
    """A block, and whether the store was asked for it."""

    block: Block
    stored: bool


class First(NamedTuple):
    """What the store said of an object, with its bytes where they are one block and arrived whole."""

    info: ObjectInfo
    block: Block | None


Note = Callable[[ObjectInfo, Block | None], None]


class Fetcher:
    """Blocks of the newest versions of objects. Safe to call from many threads."""

    def __init__(self, store: ObjectStore, cache: BlockCache | None) -> None:
        self._store = store
        self._cache = cache
        self._flights = Flights[Got]()
        self._firsts = Flights[First]()

    def first(self, key: str, note: Note) -> First:
        """The newest version of an object of which nothing is here, by one request: it asks for the bytes at once.

        Of an object of more than one block they are let go, since nobody knows yet which of them will be read. Bytes
        that do not arrive, or are wrong, are asked for again by whoever reads them. ``note`` keeps what came,
        once for all who asked. Raises StoreError.
        """
        return self._firsts.take(key, partial(self._first, key, note))

    def _first(self, key: str, note: Note) -> First:
        block = None
        try:
            download = self._store.get(key)
        except StorePermanent:  # one that lies in an archive can be described, and not be read
            info = self._store.head(key)
        else:
            info = download.info
            if info.size > BLOCK:
                close(download)
            else:
                with contextlib.suppress(CacheSyncError):
                    block = _checked(gather(download, info.size), info)
        note(info, block)
        return First(info, block)

    def blocks(self, info: ObjectInfo, first: int, last: int) -> Iterator[Got]:
        """Blocks ``first`` to ``last`` in order. While the store is what gives them, the next are on their way.

        Raises PreconditionFailed if the object is another version now, IntegrityError, StoreError.
        """
        if first == last:
            return iter((self._cached(info, first) or self._take(None, info, first),))
        return self._in_order(info, first, last)

    def _in_order(self, info: ObjectInfo, first: int, last: int) -> Iterator[Got]:
        ahead: deque[Flight[Got] | None] = deque()
        for number in range(first, last + 1):
            yield self._next(ahead, info, number, last)

    def _next(self, ahead: deque[Flight[Got] | None], info: ObjectInfo, number: int, last: int) -> Got:
        """A block, which ``ahead`` may begin with; what comes after it is begun and added there, one block at first: a
        reader of a header reads no more. (Here, since a variable of a generator would keep a block in memory.)"""
        most = AHEAD if ahead else 1
        flight = ahead.popleft() if ahead else None
        cached = None if flight else self._cached(info, number)
        if cached is not None:
            return cached
        for following in range(number + 1 + len(ahead), min(number + most, last) + 1):
            ahead.append(self._begin(info, following))
        return self._take(flight, info, number)

    def _cached(self, info: ObjectInfo, number: int) -> Got | None:
        block = self._cache.get(info.key, info.version, number) if self._cache else None
        return None if block is None else Got(block, stored=False)

    def _begin(self, info: ObjectInfo, number: int) -> Flight[Got] | None:
        """Have a block brought by a thread of its own; None if the cache has it, and nothing needs to be done."""
        if self._cache and self._cache.has(info.key, info.version, number):
            return None
        return self._flights.begin(_name(info, number), partial(self._fetch, info, number))

    def _take(self, flight: Flight[Got] | None, info: ObjectInfo, number: int) -> Got:
        return self._flights.take(_name(info, number), partial(self._fetch, info, number), flight)

    def _fetch(self, info: ObjectInfo, number: int) -> Got:
        # Another flight may have ended between the look into the cache and this one.
        if self._cache and self._cache.has(info.key, info.version, number):
            got = self._cached(info, number)
            if got is not None:
                return got
        block = _download(self._store, info, number)
        if self._cache:
            self._cache.put(info.key, info.version, number, block)
        return Got(block, stored=True)


def _name(info: ObjectInfo, number: int) -> tuple[str, Version, int]:
    return info.key, info.version, number


def _download(store: ObjectStore, info: ObjectInfo, number: int) -> Block:
    """One block by one request, or two if the bytes of the first were wrong."""
    try:
        return _get(store, info, number)
    except IntegrityError:
        return _get(store, info, number)


def _get(store: ObjectStore, info: ObjectInfo, number: int) -> Block:
    start = number * BLOCK
    length = min(BLOCK, info.size - start)
    whole = length == info.size  # asked for without a range, the store checks its SHA-256
    if whole:
        download = store.get(info.key, version=info.version)
    else:
        download = store.get(info.key, version=info.version, start=start, length=length)
    if (download.info.version.etag, download.info.size) != (info.version.etag, info.size):
        close(download)
        raise PreconditionFailed("read", info.key, f"it is version {download.info.version.etag} now")
    block = gather(download, length)
    return _checked(block, info) if whole else block


def _checked(block: Block, info: ObjectInfo) -> Block:
    """The only block of an object. Raises IntegrityError."""
    if info.sha256 and block.sha256.hex() != info.sha256:
        raise IntegrityError("read", info.key, "its SHA-256 is not the one it was stored with")
    return block


def gather(download: Download, length: int) -> Block:
    """All of a download. Raises StoreTransient unless it is ``length`` bytes."""
    pieces, came = [], 0
    try:
        for piece in download.chunks:
            pieces.append(piece)
            came += len(piece)
            if came > length:
                break
    finally:
        close(download)
    if came != length:
        raise StoreTransient("read", download.info.key, f"{came} bytes came instead of {length}")
    return Block(b"".join(pieces))


def close(download: Download) -> None:
    """Let the connection of a download go."""
    with contextlib.suppress(AttributeError):
        download.chunks.close()  # type: ignore[attr-defined]
