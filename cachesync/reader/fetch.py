"""Blocks of one version, from the cache or the store: one download each, however many readers wait."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from cachesync.cache import BLOCK, Block, BlockCache
from cachesync.errors import CacheSyncError, IntegrityError, PreconditionFailed, StoreTransient
from cachesync.model import ObjectInfo, Version
from cachesync.store.base import Download, ObjectStore

AHEAD = 2
"""Blocks that are on their way while a reader takes one; each is in memory."""


class Got(NamedTuple):
    """A block, and whether the store was asked for it."""

    block: Block
    stored: bool


class _Flight:
    """A download that any number of readers may wait for."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.got: Got | None = None
        self.error: BaseException | None = None


class Fetcher:
    """Blocks of the newest versions of objects. Safe to call from many threads."""

    def __init__(self, store: ObjectStore, cache: BlockCache | None) -> None:
        self._store = store
        self._cache = cache
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, Version, int], _Flight] = {}

    def blocks(self, info: ObjectInfo, first: int, last: int) -> Iterator[Got]:
        """Blocks ``first`` to ``last`` in order. While the store is what gives them, the next are on their way.

        Raises PreconditionFailed if the object is another version now, IntegrityError, StoreError.
        """
        ahead: deque[_Flight | None] = deque()
        for number in range(first, last + 1):
            yield self._next(ahead, info, number, last)

    def _next(self, ahead: deque[_Flight | None], info: ObjectInfo, number: int, last: int) -> Got:
        """A block, which ``ahead`` may begin with; what comes after it is begun and added there, one block at first: a
        reader of a header reads no more. (Here, since a variable of a generator would keep a block in memory.)"""
        most = AHEAD if ahead else 1
        flight = ahead.popleft() if ahead else None
        cached = None if flight else self._cached(info, number)
        if cached is not None:
            return cached
        for following in range(number + 1 + len(ahead), min(number + most, last) + 1):
            ahead.append(self._begin(info, following))
        return self._wait(flight, info, number)

    def _cached(self, info: ObjectInfo, number: int) -> Got | None:
        block = self._cache.get(info.key, info.version, number) if self._cache else None
        return None if block is None else Got(block, stored=False)

    def _begin(self, info: ObjectInfo, number: int) -> _Flight | None:
        """Have a block brought by a thread of its own; None if the cache has it, and nothing needs to be done."""
        if self._cache and self._cache.has(info.key, info.version, number):
            return None
        flight, mine = self._join(info, number)
        if mine:
            # A daemon thread: one that hangs does not hold up the end of the process.
            thread = threading.Thread(
                target=self._fly_ahead, args=(flight, info, number), name="cachesync-read-ahead", daemon=True
            )
            thread.start()
        return flight

    def _wait(self, flight: _Flight | None, info: ObjectInfo, number: int) -> Got:
        while True:
            if flight is None:
                flight, mine = self._join(info, number)
                if mine:
                    return self._fly(flight, info, number)
            flight.ended.wait()
            if flight.got is not None:
                return flight.got
            if isinstance(flight.error, CacheSyncError):
                raise copy.copy(flight.error) from flight.error
            flight = None  # whoever flew it was interrupted: that is no answer

    def _join(self, info: ObjectInfo, number: int) -> tuple[_Flight, bool]:
        """The download of a block that is under way, or a new one, which is the caller's to fly."""
        name = (info.key, info.version, number)
        with self._lock:
            flight = self._flights.get(name)
            if flight is not None:
                return flight, False
            flight = self._flights[name] = _Flight()
            return flight, True

    def _fly(self, flight: _Flight, info: ObjectInfo, number: int) -> Got:
        try:
            # Another flight may have ended between the look into the cache and this one.
            if self._cache and self._cache.has(info.key, info.version, number):
                flight.got = self._cached(info, number)
            if flight.got is None:
                block = _download(self._store, info, number)
                if self._cache:
                    self._cache.put(info.key, info.version, number, block)
                flight.got = Got(block, stored=True)
            return flight.got
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[info.key, info.version, number]
            flight.ended.set()

    def _fly_ahead(self, flight: _Flight, info: ObjectInfo, number: int) -> None:
        with contextlib.suppress(BaseException):  # raised again in those who wait for it
            self._fly(flight, info, number)


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
    if whole and info.sha256 and block.sha256.hex() != info.sha256:
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
