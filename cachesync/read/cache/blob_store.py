"""Rows of bytes on disk, within a bound, that are right or not there."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cachesync.read.cache import disk
from cachesync.read.cache.database import Database, Fault, cause, judge
from cachesync.read.cache.disk import ValueFile
from cachesync.read.cache.quota import Room

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE = 30.0
"""Seconds without caching after the disk was full, or the folder could not be used."""

_MOST_IN_MEMORY = 4096
"""Rows of which memory holds where their bytes are, and hits of which it holds the time."""


class Block:
    """A block's bytes."""

    __slots__ = ("_sha256", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._sha256: bytes | None = None

    @property
    def sha256(self) -> bytes:
        """Their SHA-256, taken once and not before somebody asks."""
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self.data).digest()
        return self._sha256


class Shelf:
    """Rows by their keys, in ``folder``; least recently used first out.

    Safe to call from many threads, and from several processes on one folder. No method raises for what the disk does:
    what cannot be read is a miss, what cannot be written is not kept, and what is damaged is thrown away. ``size``
    bounds all bytes that the folder takes of the disk; 0 keeps nothing. ``clock`` gives seconds that only grow.

    ``hits``, ``misses`` and ``evictions`` count rows; ``damaged`` is how often something was wrong and dropped;
    ``bytes`` is what the folder takes with the last insertion, at most.
    """

    def __init__(self, folder: Path, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._size = size
        self._clock = clock
        self._lock = threading.RLock()
        self._database: Database | None = None
        self._room = Room(folder, size)
        self._files: dict[bytes, tuple[str, bytes]] = {}
        self._off_until = float("-inf")
        self._full_until = float("-inf")
        self.hits = 0
        self.misses = 0
        self.bytes = 0
        self.evictions = 0
        self.damaged = 0

    # -- rows ----------------------------------------------------------------------------------------------------------

    def take(self, row: bytes) -> Block | None:
        """What a row holds, checked; or None."""
        block = self._read_again(row) or self._look_up(row)
        if block is None:
            self.misses += 1
            self._check_place()
            return None
        self.hits += 1
        self.touch(row)
        if len(self._room.used) > _MOST_IN_MEMORY:
            self._run(self._room.write_use, None)
        return block

    def _look_up(self, row: bytes) -> Block | None:
        empty: tuple[bytes | ValueFile | None, Any] = (None, None)
        found, seal = self._run(lambda database: database.get(row, None, tag=True), empty)
        if found is None:
            return None
        try:
            data = disk.read_value(self._folder, found.name) if isinstance(found, ValueFile) else found
        except OSError:  # removed since, by us or by another process
            self.drop_rows(row, row)
            return None
        block = Block(data)
        if seal != _seal(row, block.sha256):
            self.refuse(row)
            return None
        if isinstance(found, ValueFile):
            if len(self._files) >= _MOST_IN_MEMORY:
                self._files = {}
            self._files[row] = (found.name, seal)
        return block

    def _read_again(self, row: bytes) -> Block | None:
        """A block whose file memory knows: without the database, if that file is still what was put there."""
        known = self._files.get(row)
        if known is None:
            return None
        name, seal = known
        try:
            block = Block(disk.read_value(self._folder, name))
        except OSError:
            block = None
        if block is not None and seal == _seal(row, block.sha256):
            return block
        self._files.pop(row, None)
        return None

    def holds(self, row: bytes) -> bool:
        """Whether there is such a row; its bytes are not looked at."""
        return self._run(lambda database: row in database, False)

    def touch(self, row: bytes) -> None:
        """Count a row as used just now."""
        self._room.used[row] = time.time()

    def keep(self, *rows: tuple[bytes, Block]) -> None:
        """Fill rows, all in one transaction, if there is room for them or can be made. One that is too long for that is
        left out."""
        fitting = [(row, block, need) for row, block in rows if (need := self._room.need(len(block.data)))]
        need = sum(need for _, _, need in fitting)
        if not need or self._clock() < self._full_until or not disk.has_room(self._folder, need):
            return
        self._check_place()
        evicted = self._run(lambda database: self._room.make(database, need), None)
        if evicted is None:
            return
        self.evictions += evicted
        filled: list[tuple[bytes, bytes | ValueFile, bytes]] = []
        kept = False
        try:
            for row, block, length in fitting:
                inline = len(block.data) < disk.INLINE
                value = block.data if inline else disk.write_value(self._folder, block.data, length)
                filled.append((row, value, _seal(row, block.sha256)))
            kept = self._run(lambda database: self._insert(database, filled), False, tries=1)
        except OSError as error:
            self._failed(error)
        finally:
            if not kept:
                for _, value, _ in filled:
                    if isinstance(value, ValueFile):
                        disk.remove_value(self._folder, value.name)
            with self._lock:
                self._room.give_back(need)

    def _insert(self, database: Database, filled: list[tuple[bytes, bytes | ValueFile, bytes]]) -> bool:
        with database.transact():
            taken = self._room.fitting(database)
            if taken is None:
                return False
            for row, value, seal in filled:
                database.set(row, value, tag=seal)
                self._room.used.pop(row, None)
                self._files.pop(row, None)
            self.bytes = taken
        return True

    def drop_rows(self, first: bytes, last: bytes) -> None:
        """Empty the rows from ``first`` to ``last``."""
        self._run(lambda database: self._room.drop(database, first, last), None)

    def refuse(self, row: bytes) -> None:
        """What a row holds is not what was put there."""
        self.damaged += 1
        self.drop_rows(row, row)

    def close(self) -> None:
        """Write down what was used when, and let the files go. A later call opens them again."""
        with self._lock:
            if self._database is not None:
                self._run(self._room.write_use, None)
            self._shut()

    # -- the database --------------------------------------------------------------------------------------------------

    def _run(self, work: Callable[[Database], T], default: T, *, tries: int = 2) -> T:
        """Do ``work`` on the database, or on the one that is made anew because of it; ``default`` if that fails."""
        with self._lock:
            for _ in range(tries):
                try:
                    database = self._open()
                    return default if database is None else work(database)
                except Exception as error:  # noqa: BLE001 - see judge
                    if not self._failed(error):
                        break
            return default

    def _open(self) -> Database | None:
        if self._database is None and self._size > 0 and self._clock() >= self._off_until:
            disk.prepare(self._folder)
            self._room.unit = max(os.statvfs(self._folder).f_frsize, 512)
            self._database = Database(self._folder)
        return self._database

    def _failed(self, error: Exception) -> bool:
        """Do what an error asks for. Returns whether there is another database now."""
        fault, why = judge(error), cause(error)
        if fault is Fault.BUSY:
            return False
        if fault is Fault.FULL:
            self._full_until = self._clock() + PAUSE
            logger.warning("the disk is full, nothing is cached for %g s: %s", PAUSE, self._folder)
            return False
        with self._lock:
            lost = self._database is not None and not self._database.in_place()
            self._shut()
            if lost:  # removed, or made anew by another process
                return True
            if fault is Fault.DAMAGED:
                self.damaged += 1
                logger.warning("the cache is damaged and made anew: %s (%s)", self._folder, why)
                try:
                    disk.throw_away(self._folder)
                    return self._open() is not None
                except Exception as again:  # noqa: BLE001 - as above
                    why = cause(again)
            self._off_until = self._clock() + PAUSE
            logger.warning("there is no cache for %g s: %s (%s)", PAUSE, self._folder, why)
            return False

    def _check_place(self) -> None:
        """Let go of a database that was removed or replaced: another process may have made the cache anew."""
        with self._lock:
            if self._database is not None and not self._database.in_place():
                self._shut()

    def _shut(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.shut()


def _seal(row: bytes, sha256: bytes) -> bytes:
    """What is kept beside a value: whose it is as well as what it is, for a damaged row may hold another's bytes."""
    return hashlib.sha256(row + sha256).digest()
