"""Between the journal's rows and the model's values: paths to (dir, name) bytes, columns to Entry."""

from __future__ import annotations

import os
from typing import NamedTuple

from cachesync.journal.database import Row
from cachesync.model import Entry, FileStat, Kind, Stored, Version

ENTRY_COLUMNS = """dir, name, kind, generation, synced, resident, size, mtime_ns, ctime_ns, inode, mode, target,
    gone_at, closed, unsettled, etag, version_id, stored_size, stored_mtime_ns, stored_mode, sha256, stored_at, puts,
    created_at, dirty_since, due_at, attempts, tried_at, error, failed"""

KNOWN_COLUMNS = """name, kind, size, mtime_ns, ctime_ns, inode, mode, target, resident, gone_at, unsettled,
    synced < generation, dirty_since, stored_at"""

WORK = "synced < generation AND (kind = 'file' OR etag IS NOT NULL)"
"""The uploader's part of what is dirty. Spelled as the index ``work`` is, or SQLite would not use that."""


def split(path: str) -> tuple[bytes, bytes]:
    """``"a/b/c"`` to ``(b"a/b", b"c")``; a directory's ``"a/b/"`` to ``(b"a", b"b/")``."""
    raw = os.fsencode(path)
    cut = raw.rfind(b"/", 0, len(raw) - 1)
    return (b"", raw) if cut < 0 else (raw[:cut], raw[cut + 1 :])


def join(parent: bytes, name: bytes) -> str:
    """The inverse of ``split``."""
    return os.fsdecode(parent + b"/" + name if parent else name)


def below(directory: str) -> tuple[bytes, bytes, bytes]:
    """Bounds for ``dir = ? OR (dir >= ? AND dir < ?)``: everything under ``directory`` ("" is all of the session)."""
    raw = os.fsencode(directory.rstrip("/"))
    return (raw, raw + b"/", raw + b"0") if raw else (raw, b"", b"\xff")


def to_stat(kind: str, size: int, mtime: int, ctime: int, inode: int, mode: int, target: bytes | None) -> FileStat:
    """The disk's columns as a FileStat."""
    return FileStat(Kind(kind), size, mtime, ctime, inode, mode, None if target is None else os.fsdecode(target))


class Known(NamedTuple):
    """A row as a scan compares it with the disk: plain columns, since a scan makes a million of them."""

    name: bytes
    kind: str
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    inode: int | None
    mode: int | None
    target: bytes | None
    resident: int
    gone_at: float | None
    unsettled: int
    dirty: int
    dirty_since: float
    stored_at: float | None


def to_entry(session: str, row: Row) -> Entry:
    """A row of ENTRY_COLUMNS as an Entry."""
    stat = None if row[7] is None else to_stat(row[2], *row[6:12])
    stored = None
    if row[15] is not None:
        stored = Stored(Version(row[15], row[16]), row[17], row[20], row[18], row[19], row[21])
    return Entry(
        session=session,
        path=join(row[0], row[1]),
        kind=Kind(row[2]),
        generation=row[3],
        synced=row[4],
        resident=bool(row[5]),
        stat=stat,
        gone_at=row[12],
        closed=bool(row[13]),
        unsettled=bool(row[14]),
        stored=stored,
        puts=row[22],
        created_at=row[23],
        dirty_since=row[24],
        due_at=row[25],
        attempts=row[26],
        tried_at=row[27],
        error=row[28],
        failed=bool(row[29]),
    )


def to_columns(stored: Stored) -> Row:
    """A Stored as the columns etag to stored_at."""
    v = stored.version
    return (v.etag, v.version_id, stored.size, stored.mtime_ns, stored.mode, stored.sha256, stored.stored_at)
