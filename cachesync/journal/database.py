"""The journal's SQLite file: opening, migrating, checking, setting a damaged one aside, and transactions."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cachesync.journal.integrity import check_contents
from cachesync.journal.mutex import Mutex
from cachesync.journal.reserve import Reserve
from cachesync.journal.schema import MIGRATIONS
from cachesync.model.errors import JournalDamaged, JournalUnavailable, UsageError

Row = tuple[Any, ...]

_READERS = 6
"""Connections that read. More threads wait for each other."""


class Database:
    """One connection that writes, guarded by a lock, and several that read. A read does not wait for a writer.

    WAL with ``synchronous=NORMAL``: a commit survives a killed process, and after power loss the file is sound but may
    lack its last commits. That costs nothing, since a scan finds again what a lost mark said and the store's conditions
    settle what a lost confirmation said; ``write(durable=True)`` is for the facts that nothing else could tell, and
    comes before what cannot be taken back: a file that is dropped, an object that is deleted.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises JournalDamaged if what is there is not a sound journal."""
        self.path = path
        self._lock = Mutex()
        self._writing: int | None = None
        """The thread that is in a transaction."""
        try:
            _create(path)
            self._writer = self._connect()
            self._check()
            self._migrate()
            self._readers = [self._connect() for _ in range(_READERS)]
        except OSError as error:
            raise JournalUnavailable("open the journal", str(path), error.strerror) from error
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _translate(error, "open the journal", path) from error
        stat = os.stat(path)
        self._identity = (stat.st_dev, stat.st_ino)
        self._free: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for reader in self._readers:
            self._free.put(reader)
        self.place = f"{stat.st_ino}"
        self._damaged = False
        self._reserve = Reserve(path.with_name(f"{path.name}.reserve"))

    def _connect(self) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(address, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA journal_size_limit=16777216")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        return connection

    def _check(self) -> None:
        _check_pages(self._writer)

    def _migrate(self) -> None:
        (done,) = self._writer.execute("PRAGMA user_version").fetchone()
        _check_format(self.path, done)
        for step in range(done, len(MIGRATIONS)):
            self._writer.executescript(f"BEGIN IMMEDIATE;{MIGRATIONS[step]}PRAGMA user_version={step + 1};COMMIT;")
        if not self._writer.execute("SELECT 1 FROM meta").fetchone():
            self._writer.execute("INSERT INTO meta (id, generation) VALUES (?, 0)", (secrets.token_hex(8),))

    @contextlib.contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing. ``durable`` makes it survive power loss too."""
        with self._lock, self._translated("write the journal"):
            if durable:
                self._writer.execute("PRAGMA synchronous=FULL")
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                self._writing = threading.get_ident()
                try:
                    yield self._writer
                    self._writer.execute("COMMIT")
                    self._reserve.restore()
                except BaseException:
                    if self._writer.in_transaction:
                        self._writer.execute("ROLLBACK")
                    raise
            finally:
                self._writing = None
                if durable:
                    self._writer.execute("PRAGMA synchronous=NORMAL")

    @property
    def changes(self) -> int | None:
        """A number that grows with every changed row. While it is the same, earlier reads are still valid.

        None during a transaction: its changes are not visible yet, and may be rolled back.
        """
        try:
            changes = self._writer.total_changes  # first: a transaction that begins now is seen below
        except sqlite3.ProgrammingError:  # closed: the next question says so
            return None
        return changes if self._writing is None else None

    def all(self, sql: str, values: Row = ()) -> list[Row]:
        """Return all rows of a query, as of the last commit. In a transaction, the thread sees its own changes."""
        with self._translated("read the journal"):
            if self._writing == threading.get_ident():
                return self._writer.execute(sql, values).fetchall()
            reader = self._free.get()
            try:
                return reader.execute(sql, values).fetchall()
            finally:
                self._free.put(reader)

    def one(self, sql: str, values: Row = ()) -> Row | None:
        """Return the first row of ``all``, or None."""
        rows = self.all(sql, values)
        return rows[0] if rows else None

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
                hint = "report this bug of cachesync; the journal is intact"
                raise JournalUnavailable(operation, str(self.path), error, hint) from error
            translated = _translate(error, operation, self.path)
            if getattr(error, "sqlite_errorcode", None) in _NO_ROOM:
                self._reserve.release()
            self._damaged = self._damaged or isinstance(translated, JournalDamaged)
            raise translated from error

    def stream(self, sql: str, values: Row = ()) -> Iterator[Row]:
        """The rows of one snapshot, a thousand at a time, on a connection of their own."""
        with self._translated("read the journal"), contextlib.closing(self._connect()) as connection:
            if not self.in_place():
                raise JournalUnavailable("read the journal", str(self.path), "another file has taken its place")
            cursor = connection.execute(sql, values)
            while rows := cursor.fetchmany(1000):
                yield from rows

    def in_place(self) -> bool:
        """Whether the file that is open is still the one at its path, and was sound at every use."""
        try:
            stat = os.stat(self.path)
        except OSError:
            return False
        return (stat.st_dev, stat.st_ino) == self._identity and not self._damaged

    def close(self) -> None:
        """Let the file go; the last commit stays."""
        with self._lock:
            readers = [self._free.get() for _ in range(_READERS)]
            for connection in (*readers, self._writer):
                connection.close()
            for reader in readers:
                self._free.put(reader)  # closed, so later reads raise JournalUnavailable


def _create(path: Path) -> None:
    """Make the file if there is none: for us alone, whatever the umask (SQLite gives its -wal and -shm the same)."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE}
"""A user's quota that is used up (EDQUOT) is an error of writing to SQLite."""

_SURROUNDINGS = {
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_MISUSE,
}  # fmt: skip
"""Result codes that speak of the disk or of other processes; all others speak of the file (sqlite.org/rescode.html)."""


def _translate(error: Exception, operation: str, path: Path) -> JournalDamaged | JournalUnavailable:
    closed = isinstance(error, sqlite3.ProgrammingError)
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK):
        code = sqlite3.SQLITE_CORRUPT  # the disk lets us write: it is the file's header that says no
    if code == sqlite3.SQLITE_IOERR_SHORT_READ:
        code = sqlite3.SQLITE_CORRUPT  # the disk works: another program truncated the file or its log
    if closed or (code is not None and code & 0xFF in _SURROUNDINGS):
        return JournalUnavailable(operation, str(path), error)
    return JournalDamaged(operation, str(path), error)


def _check_pages(db: sqlite3.Connection) -> None:
    findings = db.execute("PRAGMA quick_check(1)").fetchone()
    if findings != ("ok",):
        raise sqlite3.DatabaseError(" ".join(str(findings and findings[0]).split()))
    check_contents(db)


def _check_format(path: Path, done: int) -> None:
    if done < 0:
        raise JournalDamaged("open the journal", str(path), f"its format is {done}")
    if done > len(MIGRATIONS):
        cause = f"a newer cachesync wrote it (format {done})"
        raise UsageError("open the journal", str(path), cause, "update cachesync")


def check_sound(path: Path) -> None:
    """Raise what opening the journal at ``path`` for work would raise, but only read it."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as db:
            _check_pages(db)
            _check_format(path, db.execute("PRAGMA user_version").fetchone()[0])
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _translate(error, "read the journal", path) from error


def store_of(path: Path) -> str | None:
    """The store that the journal at ``path`` is bound to, without opening it for work; None if that cannot be told."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            ((store,),) = db.execute("SELECT store FROM meta").fetchall()
    except (sqlite3.Error, ValueError):
        return None
    return None if store is None else str(store)


def set_aside(path: Path, stamp: str) -> Path:
    """Rename a damaged journal and what belongs to it out of the way, keeping it. Returns the new name."""
    kept = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{kept}{suffix}")
    return kept
