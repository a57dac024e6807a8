"""diskcache's database, opened so that nothing in it can run, and what its errors mean."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any

import diskcache

from cachesync.read.cache import disk
from cachesync.read.cache.disk import BytesDisk, Damaged

NAME = "cache.db"
BUSY = 0.25
"""Seconds to wait for another process that writes: readers of this one wait behind."""

_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "disk_min_file_size": disk.INLINE,
    "disk_pickle_protocol": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 1024,
    # The other ways map memory from the files, and a file that is cut short then kills whoever looks (SIGBUS).
    "sqlite_journal_mode": "truncate",
    "sqlite_mmap_size": 0,
    # What power loss leaves of a cache is checked like any other damage.
    "sqlite_synchronous": 0,
}
_COUNTS = frozenset({"count", "size", "hits", "misses"})
_RECENCY = "CREATE INDEX IF NOT EXISTS Cache_access_time ON Cache (access_time)"
_SCHEMA = frozenset(
    {
        "Settings", "sqlite_autoindex_Settings_1", "Cache", "Cache_key_raw", "Cache_expire_time", "Cache_access_time",
        "Settings_count_insert", "Settings_count_delete", "Settings_size_insert", "Settings_size_update",
        "Settings_size_delete",
    }
)  # fmt: skip


class Database(diskcache.Cache):  # type: ignore[misc]
    """diskcache over one connection, which may move between threads: its user locks. (It would open one for each
    thread, and nobody could close those of threads that have ended.)"""

    def __init__(self, folder: Path) -> None:
        """Open or make the database. Raises Damaged, sqlite3.Error, OSError, diskcache.Timeout."""
        path = folder / NAME
        disk.create(path)
        self._connection = _connect(path)
        try:
            _check(self._connection)
            super().__init__(str(folder), timeout=BUSY, disk=BytesDisk, **_SETTINGS)
            self.execute(_RECENCY)
            found = os.stat(path, follow_symlinks=False)
        except BaseException:
            self.shut()
            raise
        self._path = path
        self._identity = (found.st_dev, found.st_ino)

    @property
    def _con(self) -> sqlite3.Connection:
        return self._connection

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        # diskcache's own goes on for a minute with each statement; SQLite itself waits for BUSY.
        return self._connection.execute

    def close(self) -> None:
        """Nothing: this is called for the thread's own connection, and there is none. ``shut`` closes."""

    def shut(self) -> None:
        """Let the file go."""
        self._connection.close()

    def in_place(self) -> bool:
        """Whether the open database is still the one in the folder."""
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """One statement of ours, inside of ``transact`` if it writes."""
        return self._connection.execute(sql, values)


def _connect(path: Path) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    """Raise Damaged unless the database is empty or has nothing but our tables and settings: diskcache does what its
    settings say, and SQLite what triggers say."""
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if not names <= _SCHEMA:
        raise Damaged("tables that are not ours")
    if "Settings" in names:
        for name, value in connection.execute("SELECT key, value FROM Settings").fetchall():
            if type(value) is not int if name in _COUNTS else _SETTINGS.get(name, Damaged) != value:
                raise Damaged("settings that are not ours")


class Fault(Enum):
    """What an error means for the cache."""

    BUSY = auto()
    """Another process writes: a miss."""
    FULL = auto()
    """The disk has no room: nothing is cached for a while."""
    UNUSABLE = auto()
    """The surroundings do not let us: there is no cache for a while, and what is in it is fine."""
    DAMAGED = auto()
    """The files are not what we wrote."""


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_ODD = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EEXIST})
_CODES = {
    sqlite3.SQLITE_BUSY: Fault.BUSY,
    sqlite3.SQLITE_LOCKED: Fault.BUSY,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_PERM: Fault.UNUSABLE,
    sqlite3.SQLITE_NOMEM: Fault.UNUSABLE,
    sqlite3.SQLITE_INTERRUPT: Fault.UNUSABLE,
    sqlite3.SQLITE_IOERR: Fault.UNUSABLE,
    sqlite3.SQLITE_CANTOPEN: Fault.UNUSABLE,
    sqlite3.SQLITE_PROTOCOL: Fault.UNUSABLE,
    sqlite3.SQLITE_MISUSE: Fault.UNUSABLE,
}
"""SQLite's primary result codes (https://sqlite.org/rescode.html)."""


def cause(error: BaseException) -> BaseException:
    """What went wrong first: two libraries stand between it and us, and say something else of it."""
    begun = isinstance(error, diskcache.Timeout)  # diskcache says so for any error at the start of a transaction
    # SQLite took the transaction back itself, so diskcache's own ROLLBACK failed.
    ended = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR
    first = error.__context__
    return first if first is not None and (begun or ended) else error


def judge(error: BaseException) -> Fault:
    """What an error means. Whatever is neither the disk's nor another process's doing is damage: there is no telling
    what a damaged database makes of SQLite and diskcache."""
    error = cause(error)
    if isinstance(error, OSError):
        return Fault.FULL if error.errno in _NO_ROOM else Fault.DAMAGED if error.errno in _ODD else Fault.UNUSABLE
    if isinstance(error, MemoryError):
        return Fault.UNUSABLE
    code = getattr(error, "sqlite_errorcode", 0)
    return Fault.DAMAGED if code == sqlite3.SQLITE_IOERR_SHORT_READ else _CODES.get(code & 0xFF, Fault.DAMAGED)
