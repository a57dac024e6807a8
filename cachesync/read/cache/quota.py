"""The bound of the cache: what it takes of the disk, and what goes first when there is no room."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from cachesync.read.cache import disk
from cachesync.read.cache.database import Database

PLACE = 21
"""Bytes by which the rows of one version begin alike; a version is pinned by these."""

SLACK = 96 * 1024
"""Bytes by which one insertion may make database, rollback journal and folder grow, beside the value."""

LINGER = 3600.0
"""Seconds after which a file without a row is nobody's: a process that died between the two left it."""

_ROUNDS = 8
_SWEPT = "swept"

Victims = list[tuple[int, str | None]]


class Room:
    """Keeps a folder within ``size`` bytes. Not locked: the cache's lock guards it, as it does the database.

    diskcache evicts after it has inserted, in batches that ignore sizes, and does not count what lies in the database.
    Here room is made first, and everything counts: value files in whole blocks, the database, the folder itself.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._reserved = 0
        self.unit = 4096
        """Bytes of a block of the file system."""
        self.pins: dict[bytes, int] = {}
        self.used: dict[bytes, float] = {}
        """When rows were last hit, as far as the rows do not say it yet: a hit is no transaction."""

    def need(self, length: int) -> int:
        """Bytes of the disk that a value takes, or 0 if it has no place in the cache at all."""
        need = length + length // 8 + 1 if length < disk.INLINE else -(-length // self.unit) * self.unit
        return need if length <= disk.LONGEST and need + SLACK <= self._size else 0

    def taken(self, database: Database) -> int:
        """Bytes of the disk that the folder takes."""
        return int(database.volume()) + os.stat(self._folder).st_size

    def make(self, database: Database, need: int) -> int | None:
        """Evict until ``need`` more bytes fit, and reserve them until ``give_back``. Returns how many rows went, or
        None if what must stay leaves no room."""
        if need + SLACK > self._size:
            return None
        self._sweep(database)
        evicted = 0
        for _ in range(_ROUNDS):
            excess = self.taken(database) + self._reserved + need + SLACK - self._size
            if excess <= 0:
                self._reserved += need
                return evicted
            with database.transact():
                self.write_use(database)
                victims = self._victims(database, excess)
                for rowid, _ in victims:
                    database.execute("DELETE FROM Cache WHERE rowid = ?", (rowid,))
            self.remove(database, victims)
            evicted += len(victims)
            if not victims:
                break
        return None

    def give_back(self, need: int) -> None:
        """What ``make`` reserved is in its place, or will not come."""
        self._reserved -= need

    def fitting(self, database: Database) -> int | None:
        """Bytes of the disk that the folder will take with what is reserved, or None if that does not fit any more:
        another process may have taken the room."""
        bytes_ = self.taken(database) + self._reserved
        return bytes_ if bytes_ <= self._size else None

    def write_use(self, database: Database) -> None:
        """Write the times of hits to their rows, so that other processes and the next one know them."""
        used, self.used = self.used, {}
        if used:
            with database.transact():
                for row, at in used.copy().items():  # a hit may still hold this one
                    database.execute("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", (at, row))

    def drop(self, database: Database, first: bytes, last: bytes) -> None:
        """Remove the rows from ``first`` to ``last``."""
        with database.transact():
            rows = database.execute(
                "SELECT rowid, filename FROM Cache WHERE key >= ? AND key <= ? AND raw = 1", (first, last)
            ).fetchall()
            database.execute("DELETE FROM Cache WHERE key >= ? AND key <= ? AND raw = 1", (first, last))
        self.remove(database, rows)

    @staticmethod
    def remove(database: Database, rows: Victims) -> None:
        """Remove the files of rows that are gone."""
        for _, name in rows:
            if name is not None:
                database.disk.remove(name)

    def _victims(self, database: Database, excess: int) -> Victims:
        """Rows, least recently used first, that free ``excess`` bytes: all but what is pinned."""
        victims: Victims = []
        for rowid, row, size, name, length in database.execute(
            "SELECT rowid, key, size, filename, length(value) FROM Cache ORDER BY access_time"
        ):
            if bytes(row)[:PLACE] in self.pins:
                continue
            victims.append((rowid, name))
            excess -= size if name is not None else (length or 0)
            if excess <= 0:
                break
        return victims

    def _sweep(self, database: Database) -> None:
        """Once in a while, remove files that no row names, and count anew what the rows' files take."""
        marker = self._folder / _SWEPT
        now = time.time()
        with contextlib.suppress(FileNotFoundError):
            if 0 <= now - os.stat(marker, follow_symlinks=False).st_mtime < LINGER:
                return
        disk.create(marker)
        with database.transact():
            names = {name for (name,) in database.execute("SELECT filename FROM Cache WHERE filename IS NOT NULL")}
            counted = "(SELECT coalesce(sum(size), 0) FROM Cache)"
            database.execute(f"UPDATE Settings SET value = {counted} WHERE key = 'size'")  # noqa: S608 - no value in it
        for entry in disk.value_files(self._folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.name not in names and now - entry.stat(follow_symlinks=False).st_mtime > LINGER:
                    os.unlink(entry.path)
