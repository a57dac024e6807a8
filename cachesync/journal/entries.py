"""The journal's entries: marking what changed, asking what is known."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from cachesync.journal.counters import Ledger
from cachesync.journal.database import Row
from cachesync.journal.rows import (
    AT_OR_BELOW,
    DOUBTED,
    ENTRY_COLUMNS,
    KNOWN_COLUMNS,
    LEAVE,
    NEVER_SEEN,
    RETURN,
    SEEN_COLUMNS,
    UNLEARN,
    UNSENT,
    Known,
    below,
    join,
    labels_text,
    split,
    to_entry,
)
from cachesync.model.errors import FileUnreadable
from cachesync.model.values import Entry, FileStat, Kind, Labels, Mark

_DOUBT = f"(SELECT CASE WHEN ?4 = 'file' THEN doubted * {DOUBTED} ELSE 0 END FROM session WHERE id = ?1)"

_IS_UNLIKE_LOST = f"""(unsettled = {DOUBTED} AND resident = 1 AND gone_at IS NULL AND kind = 'file' AND etag IS NOT NULL
    AND synced = generation AND inode <> ?9 AND (SELECT doubted FROM session WHERE id = ?1))"""
"""True if another file replaced a stored file that was not read again since a power failure. The replaced file may have
lost its bytes in the failure, so the program that created the new file may never have seen them."""

_MARK = f"""
INSERT INTO entry (session, dir, name, kind, born, generation, size, mtime_ns, ctime_ns, inode, mode, target, mount,
                   closed, due_at, created_at, dirty_since, unsettled)
VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?15, ?12, ?13, ?14, ?14, {_DOUBT})
ON CONFLICT DO
"""

_MARK_NEW = _MARK + "NOTHING"

_MARK_SEEN = (
    _MARK
    + f"""
    UPDATE SET dirty_since = CASE WHEN synced < generation THEN dirty_since ELSE ?14 END,
    etag = CASE WHEN etag IS NULL AND kind = 'file' AND ?4 <> 'file' THEN '' ELSE etag END,
    hidden = CASE WHEN hidden = 2 THEN 0 ELSE hidden OR (resident = 0 AND kind = 'file' AND etag IS NOT NULL
             AND (older IS NOT NULL OR vanished = 1
                  OR stood_in IS NOT (SELECT directory FROM session WHERE id = ?1))) OR {_IS_UNLIKE_LOST} END,
    newer = CASE WHEN kind = 'file' AND ?4 = 'file' THEN newer END, stood_in = NULL,
    kind = ?4, generation = ?5, size = ?6, mtime_ns = ?7, ctime_ns = ?8, inode = ?9, mode = ?10, target = ?11,
    mount = ?15, unsettled = max({_DOUBT}, unsettled * (?4 = 'file')), closed = ?12, due_at = ?13, resident = 1,
    vanished = 0, gone_at = NULL, attempts = 0, error = NULL, failed = 0
"""
)

_RETURNED = f"""
UPDATE entry SET vanished = 0, stood_in = NULL, {RETURN}
WHERE session = ? AND dir = ? AND name = ? AND gone_at IS NULL AND resident = 0
"""

_MARK_GONE = """
UPDATE entry SET generation = ?2, absent = ?2, due_at = ?3, gone_at = ?4, attempts = 0, failed = 0, error = NULL,
    dirty_since = CASE WHEN synced < generation THEN dirty_since ELSE ?4 END, labels = NULL
WHERE session = ?1 AND resident = 1 AND gone_at IS NULL AND
"""

_IS_EXPECTED = """
SELECT 1 FROM entry WHERE session = ?1 AND resident = 1 AND gone_at IS NULL
AND EXISTS (SELECT 1 FROM session WHERE id = ?1 AND doubted = 0) AND
"""
_AT_OR_BELOW = "((dir = ?5 AND name = ?6) OR dir = ?7 OR (dir >= ?8 AND dir < ?9))"

_DIRECTORIES = """
WITH RECURSIVE found(dir) AS (
    SELECT ?2 UNION ALL
    SELECT (SELECT dir FROM entry WHERE session = ?1 AND dir > found.dir AND dir < ?3 AND resident = 1
            AND gone_at IS NULL ORDER BY dir LIMIT 1) FROM found WHERE found.dir IS NOT NULL
) SELECT dir FROM found WHERE dir > ?2
"""
"""From one directory to the next: what a directory holds is not counted."""

_MARKS = 100
_MOST_REMEMBERED = 1024

_IS_AWAY = """
SELECT 1 FROM entry WHERE session = ? AND dir = ? AND name = ? AND (resident = 0 OR gone_at IS NOT NULL)
"""


_FINISHED = """
SELECT mtime_ns, mode, inode, mount FROM entry
WHERE session = ? AND dir = ? AND name = ? AND kind = 'dir' AND resident = 1 AND gone_at IS NULL AND synced = generation
"""


def _stands(look: Callable[[str], FileStat | None], path: str) -> bool:
    try:
        return look(path) is not None
    except FileUnreadable:
        return True  # an unreadable path must not count as deleted


def _is_finished(
    db: sqlite3.Connection, look: Callable[[str], FileStat | None], place: tuple[int, bytes, bytes]
) -> bool:
    row = db.execute(_FINISHED, place).fetchone()
    if row is None:
        return False
    try:
        stat = look(join(*place[1:]))
    except FileUnreadable:
        return False
    return stat is not None and row == (stat.mtime_ns, stat.mode, stat.inode, stat.mount)


class Entries:
    """Marks and questions. Each verb is one transaction, unless it says otherwise."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._remembered: tuple[int, dict[tuple[str, str], Entry | None]] = (-1, {})

    def mark(
        self, name: str, marks: Sequence[Mark], now: float, *, look: Callable[[str], FileStat | None] | None = None
    ) -> None:
        """Make paths dirty, 100 in each transaction and generation, because other sessions' writes wait for its end.

        A missing path counts only if it was expected on disk.

        The marks' stats are a moment old, and another thread may have changed both the disk and the journal meanwhile.
        ``look`` returns a path's stat, or None if it is missing, while nobody else writes the journal. So a mark is
        dropped if the path was missing and exists now (it was hydrated), if it existed, counts as evicted or deleted
        and is missing now (it was on its way out), or if it is a directory that equals its row now (it was finished).
        """
        for start in range(0, len(marks), _MARKS):
            self._mark(name, marks[start : start + _MARKS], now, look)

    def _mark(
        self, name: str, marks: Sequence[Mark], now: float, look: Callable[[str], FileStat | None] | None
    ) -> None:
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            generation = self._ledger.next_generation(db)
            seen, gone = [], []
            for mark in marks:
                place = (number, *split(mark.path))
                if (s := mark.stat) is not None:
                    target = None if s.target is None else os.fsencode(s.target)
                    values = (str(s.kind), generation, s.size, s.mtime_ns, s.ctime_ns, s.inode, s.mode, target)
                    seen.append((*place, *values, int(mark.closed), mark.due_at, now, s.mount))
                elif look is None or not _stands(look, mark.path):
                    gone.append((number, generation, mark.due_at, now, *place[1:]))
            db.executemany(_MARK_GONE + "dir = ?5 AND name = ?6", gone)
            if db.executemany(_MARK_NEW, seen).rowcount < len(seen):  # where all was new, that was all
                if look is not None:
                    away = partial(db.execute, _IS_AWAY)
                    seen = [row for row in seen if not away(row[:3]).fetchone() or _stands(look, join(*row[1:3]))]
                    seen = [row for row in seen if row[3] != Kind.DIRECTORY or not _is_finished(db, look, row[:3])]
                db.executemany(_MARK_SEEN, seen)
            self._ledger.revise(db, number)

    def label(self, name: str, path: str, labels: Labels | None, now: float) -> None:
        """Give a file that stands on disk other labels (None: none of its own). It is dirty until they are stored."""
        number = self._ledger.id(name)
        text = labels_text(labels)
        with self._ledger.db.write() as db:
            generation = self._ledger.next_generation(db)
            db.execute(
                "UPDATE entry SET labels = ?1, generation = ?2, due_at = ?3, attempts = 0, error = NULL, failed = 0,"
                " dirty_since = CASE WHEN synced < generation THEN dirty_since ELSE ?3 END"
                " WHERE session = ?4 AND dir = ?5 AND name = ?6 AND kind = 'file' AND gone_at IS NULL AND resident = 1"
                " AND labels IS NOT ?1",
                (text, generation, now, number, *split(path)),
            )

    def reveal(self, name: str, path: str) -> None:
        """Whoever made the file here asked to replace what the store has under its name."""
        with self._ledger.db.write() as db:
            db.execute(
                "UPDATE entry SET hidden = 0 WHERE session = ? AND dir = ? AND name = ?",
                (self._ledger.id(name), *split(path)),
            )

    def mark_tree_gone(
        self, name: str, directory: str, due_at: float, now: float, *, stands: Callable[[str], bool] | None = None
    ) -> int:
        """A directory is missing, and with it everything below that was expected on disk. Returns how much it was.

        In a session in doubt, nothing is marked: what was below may have been missing before. A whole scan decides.
        ``stands`` looks once more, while nobody else writes: the directory may exist again, with hydrated files in it.
        """
        number, place = self._ledger.id(name), (*split(directory), *below(directory))
        # Asked of each file that is gone: it may have been a directory. Mostly it was none, and nothing is written.
        if self._ledger.db.one(_IS_EXPECTED + _AT_OR_BELOW, (number, None, None, None, *place)) is None:
            return 0
        with self._ledger.db.write() as db:
            if stands is not None and stands(directory):
                return 0
            generation = self._ledger.next_generation(db)
            count = db.execute(_MARK_GONE + _AT_OR_BELOW, (number, generation, due_at, now, *place)).rowcount
            if count:
                self._ledger.revise(db, number)
        return count

    def let_go(self, name: str, path: str, *, is_dir: bool) -> None:
        """A path, and all below it if ``is_dir``, is ignored from now on: what the store has of it stays there,
        evicted, and what it never had is forgotten."""
        number = self._ledger.id(name)
        where, values = "dir = ? AND name = ?", tuple[object, ...](split(path))
        if is_dir:
            where, values = AT_OR_BELOW, (*split(path + "/"), *below(path))
        condition = f"session = ? AND resident = 1 AND {where}"
        if self._ledger.db.one(f"SELECT 1 FROM entry WHERE {condition} LIMIT 1", (number, *values)) is None:
            return
        with self._ledger.db.write() as db:
            sent = f"SELECT 1 FROM entry WHERE {condition} AND kind = 'file' AND etag IS NULL LIMIT 1"
            if db.execute(sent, (number, *values)).fetchone():
                db.execute(UNLEARN, (number,))
            db.execute(f"DELETE FROM entry WHERE {condition} AND (etag IS NULL OR newer = 'null')", (number, *values))
            db.execute(f"UPDATE entry SET {NEVER_SEEN} WHERE {condition} AND {UNSENT}", (number, *values))
            db.execute(f"UPDATE entry SET {LEAVE} WHERE {condition}", (number, *values))
            self._ledger.revise(db, number)

    def missed(self, name: str, path: str) -> None:
        """Record that a resident path is missing on disk. That alone is not evidence of a deletion."""
        with self._ledger.db.write() as db:
            db.execute(
                "UPDATE entry SET absent = generation WHERE session = ? AND dir = ? AND name = ? AND resident = 1"
                " AND gone_at IS NULL",
                (self._ledger.id(name), *split(path)),
            )

    def any_resident(self, name: str) -> bool:
        """Whether anything of the session is expected on disk."""
        row = self._ledger.db.one(
            "SELECT 1 FROM entry WHERE session = ? AND resident = 1 LIMIT 1", (self._ledger.id(name),)
        )
        return row is not None

    def any_away(self, name: str) -> bool:
        """Whether anything of the session is only in the store."""
        row = self._ledger.db.one(
            "SELECT 1 FROM entry WHERE session = ? AND resident = 0 LIMIT 1", (self._ledger.id(name),)
        )
        return row is not None

    def returned(self, name: str, paths: Iterable[str], *, stands: Callable[[str], bool] | None = None) -> None:
        """Evicted paths stand on disk again, just as they were when they were last here. If the store has another
        version by now, they are older. ``stands`` as in ``mark_tree_gone``."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            there = (path for path in paths if stands is None or stands(path))
            db.executemany(_RETURNED, ((number, *split(path)) for path in there))

    def entry(self, name: str, path: str) -> Entry | None:
        """One entry, or None."""
        number = self._ledger.number(name)
        if number is None:
            return None
        row = self._ledger.db.one(
            f"SELECT {ENTRY_COLUMNS} FROM entry WHERE session = ? AND dir = ? AND name = ?", (number, *split(path))
        )
        return None if row is None else to_entry(name, row)

    def with_learned(self, name: str, path: str) -> tuple[Entry | None, bool]:
        """One entry, and whether its session has been learned. Without an entry the second says nothing."""
        row = self._ledger.db.one(
            f"SELECT {ENTRY_COLUMNS}, (SELECT learned FROM session WHERE id = ?1) FROM entry"
            " WHERE session = ?1 AND dir = ?2 AND name = ?3",
            (self._ledger.number(name), *split(path)),
        )
        return (None, False) if row is None else (to_entry(name, row[:-1]), bool(row[-1]))

    def some(self, name: str, paths: Sequence[str]) -> list[Entry]:
        """Those of a hundred paths at most that have an entry."""
        number = self._ledger.number(name)
        if number is None or not paths:
            return []
        asked = ",".join(["(?,?)"] * len(paths))
        rows = self._ledger.db.all(
            f"WITH asked(d, n) AS (VALUES {asked}) SELECT {ENTRY_COLUMNS} FROM asked CROSS JOIN entry"
            " ON session = ? AND dir = d AND name = n",
            (*itertools.chain.from_iterable(map(split, paths)), number),
        )
        return [to_entry(name, row) for row in rows]

    def remembered(self, name: str, path: str) -> Entry | None:
        """The same, for those who ask again and again: not asked of the database while nothing in it has changed.

        Sound since only one connection of this process writes to it.
        """
        changes, place = self._ledger.db.changes, (name, path)
        at, entries = self._remembered
        if changes is not None and changes == at and place in entries:
            return entries[place]
        entry = self.entry(name, path)
        if changes is not None and changes == self._ledger.db.changes:
            if changes != at or len(entries) >= _MOST_REMEMBERED:
                self._remembered = at, entries = changes, {}
            entries[place] = entry
        return entry

    def children(self, name: str, directory: str) -> dict[bytes, Known]:
        """What is known of every path directly in ``directory`` ("" is the session's top), by name."""
        rows = self._ledger.db.all(
            f"SELECT {KNOWN_COLUMNS} FROM entry WHERE session = ? AND dir = ?",
            (self._ledger.id(name), os.fsencode(directory.rstrip("/"))),
        )
        return {row[0]: Known(*row) for row in rows}

    def seen(self, name: str, directory: str) -> dict[bytes, Row]:
        """What the journal expects directly in ``directory``, by name, as ``root.tree.Tree.listing`` takes it."""
        rows = self._ledger.db.all(
            f"SELECT {SEEN_COLUMNS} FROM entry WHERE session = ? AND dir = ? AND resident = 1 AND gone_at IS NULL",
            (self._ledger.id(name), os.fsencode(directory.rstrip("/"))),
        )
        return {row[0]: row for row in rows}

    def directories(self, name: str, directory: str) -> list[str]:
        """Every directory below one that something is expected to stand in, in order; also those of which there is no
        entry, since a hint told of what is in them and none of themselves."""
        _, start, end = below(directory)
        return [
            os.fsdecode(row[0]) + "/" for row in self._ledger.db.all(_DIRECTORIES, (self._ledger.id(name), start, end))
        ]

    def known(self, name: str, path: str) -> Known | None:
        """What is known of one path."""
        row = self._ledger.db.one(
            f"SELECT {KNOWN_COLUMNS} FROM entry WHERE session = ? AND dir = ? AND name = ?",
            (self._ledger.id(name), *split(path)),
        )
        return None if row is None else Known(*row)

    def unsettled(self, name: str) -> list[str]:
        """Clean paths whose bytes may have changed without a trace in their stat."""
        rows = self._ledger.db.all(
            "SELECT dir, name FROM entry WHERE session = ? AND unsettled > 0 AND synced = generation AND resident = 1",
            (self._ledger.id(name),),
        )
        return [join(row[0], row[1]) for row in rows]

    def walk(self, name: str) -> Iterator[Entry]:
        """Every entry of a session in path order, of one instant, as a stream."""
        rows = self._ledger.db.stream(
            f"SELECT {ENTRY_COLUMNS} FROM entry WHERE session = ? ORDER BY dir, name", (self._ledger.id(name),)
        )
        return (to_entry(name, row) for row in rows)

    def under(self, name: str, directory: str) -> Iterator[Entry]:
        """Every entry below ``directory`` ("" or ending in "/") in the order of whole paths, of one instant, as a
        stream."""
        where, values = ("", ()) if not directory else (" AND (dir = ? OR (dir >= ? AND dir < ?))", below(directory))
        rows = self._ledger.db.stream(
            f"SELECT {ENTRY_COLUMNS} FROM entry WHERE session = ?{where}"
            " ORDER BY CASE dir WHEN x'' THEN name ELSE CAST(dir || x'2f' || name AS BLOB) END",
            (self._ledger.id(name), *values),
        )
        return (to_entry(name, row) for row in rows)
