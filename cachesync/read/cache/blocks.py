"""Blocks of objects by key and version, and what is known of each key's newest version."""

from __future__ import annotations

import hashlib
import threading
from functools import lru_cache
from typing import Self

from cachesync.model.values import ObjectInfo, Version
from cachesync.read.cache import disk, record
from cachesync.read.cache.blob_store import Block, Shelf
from cachesync.read.cache.quota import PLACE

BLOCK = disk.LONGEST
"""Bytes of a block; the last one of an object is shorter."""


class Pin:
    """Keeps what is in use from being evicted, until it is closed. Also a context manager."""

    def __init__(self, lock: threading.RLock, pins: dict[bytes, int], place: bytes) -> None:
        self._lock = lock
        self._pins = pins
        self._place: bytes | None = place
        with lock:
            pins[place] = pins.get(place, 0) + 1

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            if self._place is not None:
                left = self._pins.pop(self._place) - 1
                if left:
                    self._pins[self._place] = left
                self._place = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlockCache(Shelf):
    """Blocks by (key, version, number), and a record of each key's version as last known. See Shelf for what it does
    with its folder, and when."""

    # -- blocks --------------------------------------------------------------------------------------------------------

    def get(self, key: str, version: Version, number: int) -> Block | None:
        """A block, checked; or None."""
        block = self.take(_row(key, version, number))
        if block is not None:
            self.touch(_place_of_record(key))  # of no use to anybody without its record
        return block

    def put(self, key: str, version: Version, number: int, block: Block) -> None:
        """Keep a block, if there is room for it or can be made."""
        self.keep((_row(key, version, number), block))

    def has(self, key: str, version: Version, number: int) -> bool:
        """Whether a block is there, by its row alone."""
        return self.holds(_row(key, version, number))

    def drop(self, key: str, version: Version) -> None:
        """Forget every block of a version: its bytes were wrong."""
        place = _place(key, version.etag, version.version_id)
        self.drop_rows(place, place + b"\xff" * 5)

    def pin(self, key: str, version: Version) -> Pin:
        """Until this is closed, this process evicts no block of the version."""
        return Pin(self._lock, self._room.pins, _place(key, version.etag, version.version_id))

    # -- records -------------------------------------------------------------------------------------------------------

    def describe(self, key: str) -> tuple[ObjectInfo, float] | None:
        """The version of a key as last known, and when the store was asked; or None."""
        row = _place_of_record(key)
        found = self.take(row)
        if found is None:
            return None
        known = record.decode(key, found.data)
        if known is None:
            self.refuse(row)
        return known

    def note(self, key: str, info: ObjectInfo, checked_at: float, block: Block | None = None) -> None:
        """Remember what the store said of a key, and with it the only block that the object has, if it came along."""
        data = record.encode(key, info, checked_at)
        if len(data) > record.LONGEST:
            return
        rows = [(_place_of_record(key), Block(data))]
        if block is not None and block.data:
            rows.append((_row(key, info.version, 0), block))
        self.keep(*rows)

    def forget(self, key: str) -> None:
        """The store has no such object any more."""
        row = _place_of_record(key)
        self.drop_rows(row, row)


def _row(key: str, version: Version, number: int) -> bytes:
    return _place(key, version.etag, version.version_id) + number.to_bytes(4, "big")


@lru_cache(4096)
def _place(key: str, etag: str, version_id: str | None) -> bytes:
    """How the rows of a version's blocks begin: a digest, so that all are short and alike."""
    return b"b" + _digest("\0".join((key, etag, version_id or "")))


@lru_cache(4096)
def _place_of_record(key: str) -> bytes:
    return b"r" + _digest(key)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[: PLACE - 1]
