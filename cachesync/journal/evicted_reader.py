"""What is known of names that are only in the store: the journal as another process reads it (the mount's server).

It only reads, and sees each commit at once. What is dropped here is written down first and then goes, what is brought
here comes first and is then written down: who finds nothing on the disk, then asks here, and is told that it should
stand there, has to look at the disk once more.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import sqlite3
from pathlib import Path

from cachesync.journal.database import Row
from cachesync.journal.rows import to_rights
from cachesync.journal.session_lock import SharedTurns
from cachesync.model.errors import JournalUnavailable
from cachesync.model.record import record
from cachesync.model.values import FileStat, Kind, Rights

_BELOW = "(dir = ?2 OR (dir >= ?3 AND dir < ?4))"
_GONE = "SELECT {} FROM entry WHERE session = ?1 AND resident = 0 AND (kind <> 'file' OR etag IS NOT NULL)"
_ANY = "SELECT 1 FROM entry WHERE session = ? AND resident = 0 LIMIT 1"
"""Asked first: of a session that stands here whole, nothing else has to be."""

_INDEX = 48
"""Bytes that begin the write-ahead log's index, which lies in shared memory and is another one after each commit
(sqlite.org/walformat.html, section 2.1): reading them tells a hundred times faster than a question that nothing has
changed since the last one."""

_COLUMNS = """name, kind, coalesce(stored_size, 0), coalesce(stored_mtime_ns, mtime_ns, 0), coalesce(stored_mode, mode),
    target, hidden, rights"""


@record(frozen=True, slots=True)
class Absent:
    """Something that is not here. ``mode`` are permission bits or None where nobody wrote them down, ``mtime_ns`` is 0
    there; ``foreseen`` says that a file made in its place replaces it knowingly. ``rights`` are those that it had when
    it was last here."""

    kind: Kind
    size: int
    mtime_ns: int
    mode: int | None
    target: bytes | None
    foreseen: bool
    rights: Rights | None = None


UNTOLD = Absent(Kind.DIRECTORY, 0, 0, None, None, foreseen=False)
"""A directory that only the paths of what is below it tell of."""


@record(frozen=True, slots=True)
class Known:
    """A path's row: what its file was when it was last seen, and how it stands with the store."""

    stat: FileStat | None
    resident: bool
    dirty: bool
    failed: bool
    gone: bool
    etag: str | None
    version_id: str | None

    def is_clean(self, found: os.stat_result) -> bool:
        """Whether what stands at the path is what the journal last saw there, and the store has it."""
        if self.stat is None or not self.resident or self.dirty or self.gone:
            return False
        return (self.stat.inode, self.stat.ctime_ns) == (found.st_ino, found.st_ctime_ns)


class AbsentNames:
    """Reads the journal at ``path``, whichever file that is now. Not for more than one thread at once.

    Each verb raises JournalUnavailable where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.turns = SharedTurns(path)
        self._db: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._numbers: dict[bytes, int] = {}
        self._index_file: io.FileIO | None = None
        self._index: mmap.mmap | None = None
        self._version_then = b""
        self._whole: set[int] = set()
        """Sessions of which nothing was in the store only when the version was ``_version_then``."""
        self._owners: dict[bytes, int | None] = {}
        """Of sessions' directories, at that version."""

    def refresh(self) -> None:
        """Let go of a journal that is not at its path any more; the next question opens the one that is."""
        self.turns.refresh()
        if _identity(self._path) != self._identity:
            self._forget()

    def close(self) -> None:
        """Let the file go."""
        self.turns.close()
        self._forget()

    def _forget(self) -> None:
        if self._db is not None:
            self._db.close()
        # Not before: who closes a file ends all locks that the process has on it (fcntl(2)), SQLite's too, and without
        # them whoever opens the journal next cuts the index short under us.
        if self._index is not None:
            self._index.close()
        if self._index_file is not None:
            self._index_file.close()
        self._db = self._index = self._index_file = None
        self._version_then = b""
        self._owners.clear()
        self._numbers.clear()

    def version(self) -> bytes:
        """Another one after each change of the journal."""
        if self._index is not None:
            return self._index[:_INDEX]
        ((number,),) = self._all("PRAGMA data_version", ())
        return b"%d" % number if self._index is None else self._index[:_INDEX]

    def sessions(self) -> dict[bytes, Absent]:
        """The sessions of which something is only in the store: their directories, by name."""
        sql = (
            "SELECT name, mode, rights FROM session"
            " WHERE EXISTS (SELECT 1 FROM entry WHERE session = session.id AND resident = 0)"
        )
        return {os.fsencode(name): _directory(mode, rights) for name, mode, rights in self._all(sql, ())}

    def names(self) -> set[bytes]:
        """The sessions that the journal has ever met."""
        return {os.fsencode(name) for (name,) in self._all("SELECT name FROM session", ())}

    def knows(self, session: bytes) -> bool:
        """Whether the journal has ever met a session."""
        return self._number(session) is not None

    def owner(self, session: bytes) -> int | None:
        """The user of a session's directory when it was last here; None if that is unknown."""
        self._look_at_version()
        if session not in self._owners:
            rows = self._all("SELECT rights FROM session WHERE name = ?", (os.fsdecode(session),))
            rights = to_rights(rows[0][0]) if rows else None
            self._owners[session] = None if rights is None else rights.uid
        return self._owners[session]

    def find(self, session: bytes, path: bytes) -> Absent | None:
        """What is only in the store at ``path``, "" being the session's directory; None if nothing is."""
        number = self._number(session)
        if number is None or self._is_whole(number):
            return None
        if path:
            parent, _, name = path.rpartition(b"/")
            sql = f"{_GONE} AND dir = ?2 AND name IN (?3, ?4)".format(_COLUMNS)
            for row in self._all(sql, (number, parent, name, name + b"/")):
                return _absent(row)
        if not self._any_below(number, path):
            return None
        return UNTOLD if path else _directory(*self._all("SELECT mode, rights FROM session WHERE id = ?", (number,))[0])

    def any_below(self, session: bytes, directory: bytes) -> bool:
        """Whether anything below a directory, "" being the session's, is only in the store."""
        number = self._number(session)
        return number is not None and not self._is_whole(number) and self._any_below(number, directory)

    def children(self, session: bytes, directory: bytes) -> dict[bytes, Absent]:
        """What is directly in a directory and only in the store, by name; also directories that only the paths of what
        is below them tell of."""
        number = self._number(session)
        if number is None or self._is_whole(number):
            return {}
        sql = f"{_GONE} AND dir = ?2".format(_COLUMNS)
        found = {row[0].rstrip(b"/"): _absent(row) for row in self._all(sql, (number, directory))}
        above = directory + b"/" if directory else b""
        start, end, seen = above, directory + b"0" if directory else b"\xff", set[bytes]()
        sql = f"{_GONE} AND dir >= ?2 AND dir < ?3 AND dir <> x'' ORDER BY dir LIMIT 1".format("dir")
        while rows := self._all(sql, (number, start, end)):
            name = rows[0][0][len(above) :].partition(b"/")[0]
            # "x-y" comes between "x" and "x/y": what is below a name is jumped over when it is met the second time.
            start = above + name + (b"0" if name in seen else b"\0")
            seen.add(name)
            found.setdefault(name, UNTOLD)
        return found

    def known(self, session: bytes, path: bytes) -> Known | None:
        """The row of a file, or None."""
        number = self._number(session)
        if number is None:
            return None
        parent, _, name = path.rpartition(b"/")
        sql = (
            "SELECT kind, size, mtime_ns, ctime_ns, inode, mode, resident, synced < generation, failed,"
            " gone_at IS NOT NULL, etag, version_id FROM entry WHERE session = ? AND dir = ? AND name = ?"
        )
        for row in self._all(sql, (number, parent, name)):
            kind, size, mtime_ns, ctime_ns, inode, mode, resident, dirty, failed, gone, etag, version_id = row
            stat = None if mtime_ns is None else FileStat(Kind(kind), size, mtime_ns, ctime_ns, inode, mode)
            return Known(stat, bool(resident), bool(dirty), bool(failed), bool(gone), etag or None, version_id)
        return None

    def _is_whole(self, number: int) -> bool:
        """Whether nothing of a session is in the store only."""
        self._look_at_version()
        if number not in self._whole:
            if self._all(_ANY, (number,)):
                return False
            self._whole.add(number)
        return True

    def _look_at_version(self) -> None:
        """Forget what was true of another version of the journal."""
        # As it is before the question: what is committed while it is asked makes it another one.
        if (version := self.version()) != self._version_then:
            self._whole.clear()
            self._owners.clear()
            self._version_then = version

    def _any_below(self, number: int, directory: bytes) -> bool:
        bounds = (directory, directory + b"/", directory + b"0") if directory else (b"", b"", b"\xff")
        return bool(self._all(f"{_GONE} AND {_BELOW} LIMIT 1".format("1"), (number, *bounds)))

    def _number(self, session: bytes) -> int | None:
        number = self._numbers.get(session)
        if number is None:
            rows = self._all("SELECT id FROM session WHERE name = ?", (os.fsdecode(session),))
            if not rows:
                return None
            number = self._numbers[session] = rows[0][0]
        return number

    def _all(self, sql: str, values: Row) -> list[Row]:
        try:
            return self._connection().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            self._forget()
            raise JournalUnavailable("read the journal", str(self._path), error) from error

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            address = f"{self._path.absolute().as_uri()}?mode=ro"
            self._identity = _identity(self._path)  # another one that comes now is seen by refresh()
            self._db = sqlite3.connect(address, uri=True, timeout=5, isolation_level=None, check_same_thread=False)
            self._db.execute("SELECT 1 FROM session LIMIT 1").fetchall()  # from now on the index stays where it is
            with contextlib.suppress(OSError, ValueError):  # it has one, and it can be read, or all is asked for
                self._index_file = io.FileIO(f"{self._path}-shm")
                self._index = mmap.mmap(self._index_file.fileno(), _INDEX, prot=mmap.PROT_READ)
        return self._db


def _identity(path: Path) -> tuple[int, int]:
    """Which file a path is; (0, 0) where there is none."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return 0, 0


def _absent(row: Row) -> Absent:
    _, kind, size, mtime_ns, mode, target, hidden, rights = row
    return Absent(Kind(kind), size, mtime_ns, mode, target, foreseen=hidden == FORESEEN, rights=to_rights(rights))


def _directory(mode: int | None, rights: str | None) -> Absent:
    """A session's directory."""
    return Absent(Kind.DIRECTORY, 0, 0, mode, None, foreseen=False, rights=to_rights(rights))


FORESEEN = 2
"""Of ``entry.hidden``: see schema.py."""
