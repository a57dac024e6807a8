"""The uploader's queue in the journal: the entries that are due, and the results of transfers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cachesync.journal.counters import Ledger
from cachesync.journal.database import Row
from cachesync.journal.rows import (
    ENTRY_COLUMNS,
    MOVED,
    NEVER_SEEN,
    SAME_INODE,
    SENT,
    STORED_TEXT,
    WEIGHT,
    WORK,
    join,
    labels_text,
    split,
    to_columns,
    to_entry,
)
from cachesync.model.policy import FARTHEST, SPACING, Weight
from cachesync.model.values import Entry, FileStat, Stored, Tombstones

_CONFIRM = f"""
INSERT INTO entry (session, dir, name, kind, born, generation, synced, resident, etag, version_id, stored_size,
                   stored_mtime_ns, stored_mode, sha256, stored_at, puts, created_at, dirty_since, due_at)
VALUES (?1, ?2, ?3, 'file', ?4, ?4, ?4, 0, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?11, ?11, ?11)
ON CONFLICT DO UPDATE SET
    synced = CASE WHEN ?13 THEN max(synced, ?4) ELSE synced END,
    dirty_since = CASE WHEN ?13 AND generation > ?4 THEN max(dirty_since, ?11) ELSE dirty_since END,
    due_at = CASE WHEN ?13 AND ?12 AND generation > ?4 THEN max(due_at, ?11 + ?14) ELSE due_at END,
    etag = ?5, version_id = ?6, stored_size = ?7, stored_mtime_ns = ?8, stored_mode = ?9, sha256 = ?10, stored_at = ?11,
    stored_labels = CASE WHEN ?12 THEN ?15 ELSE stored_labels END,
    puts = puts + ?12, attempts = 0, tried_at = NULL, error = NULL, failed = 0,
    hidden = hidden AND NOT (?12 OR ?13), older = NULL, stood_in = NULL,
    newer = CASE WHEN ?12 OR json_extract(newer, '$.etag') IS ?5 THEN NULL
            WHEN etag <> ?5 AND json_extract(older, '$.etag') IS ?5 THEN {STORED_TEXT} ELSE newer END
"""

_CONFIRM_DISK = """
UPDATE entry SET size = ?5, mtime_ns = ?6, ctime_ns = ?7, inode = ?8, mode = ?9, unsettled = ?10
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND generation = ?4
AND (size, mtime_ns, ctime_ns, inode, mode, unsettled) IS NOT (?5, ?6, ?7, ?8, ?9, ?10)
"""
"""Changes a row only if a value differs, because each change also rewrites the inode index."""

_OF_LANE = f"FROM entry INDEXED BY work WHERE {WORK} AND session = id AND {WEIGHT} = weight"

_HEADS = f"""
WITH RECURSIVE turn(id) AS (
    SELECT min(session) FROM entry INDEXED BY work WHERE {WORK}
    UNION ALL
    SELECT (SELECT min(session) FROM entry INDEXED BY work WHERE {WORK} AND session > id) FROM turn WHERE id IS NOT NULL
), lane(weight) AS (VALUES (0), (1), (2))
SELECT id, weight, (SELECT min(due_at) {_OF_LANE}), (SELECT min(due_at) {_OF_LANE} AND due_at > ?1),
    (SELECT max(due_at) {_OF_LANE})
FROM turn CROSS JOIN lane WHERE id IS NOT NULL
"""
"""A few steps in the index for each session, however much work it has."""

_MOST_CHANGED = 10_000


class Head(NamedTuple):
    """The work of a session and weight: whether some is due, and when the next becomes due."""

    session: str
    weight: Weight
    is_due: bool
    next_due: float | None


class Work:
    """The queue. ``confirm`` is called only after the store's response, and never clears a later mark."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def heads(self, now: float) -> list[Head]:
        """Return what work there is, for each session and weight.

        A due time more than FARTHEST in the future shows that the clock was set back. Such work is due, too.
        """
        rows = self._ledger.db.all(_HEADS, (now,))
        return [
            Head(self._ledger.name(number), Weight(weight), first <= now or last > now + FARTHEST, later)
            for number, weight, first, later, last in rows
            if first is not None
        ]

    def due(
        self, name: str, weight: Weight, now: float, limit: int, *, small_first: bool = False
    ) -> list[tuple[str, int]]:
        """Return due work of a session as ``(path, size)`` rows, the most overdue or the smallest first.

        If more than ``limit`` rows are due, the latest ones come first and take a third, so a file that was just closed
        does not wait for thousands of deletions.
        """

        def asked(sign: str, when: float, order: str, most: int) -> list[Row]:
            query = (
                f"SELECT dir, name, {SENT} FROM entry INDEXED BY work WHERE {WORK} AND session = ? AND {WEIGHT} = ?"
                f" AND due_at {sign} ? ORDER BY {order} LIMIT ?"
            )
            return self._ledger.db.all(query, (number, int(weight), when, most))

        number, order = self._ledger.id(name), SENT if small_first else "due_at"
        rows = asked("<=", now, order, limit)
        if len(rows) == limit and not small_first:
            latest = asked("<=", now, "due_at DESC", limit // 3)
            rows = list(dict.fromkeys([*latest, *rows]))[:limit]
        rows += asked(">", now + FARTHEST, order, limit)
        return [(join(row[0], row[1]), row[2]) for row in rows]

    def next_due(self, now: float) -> float | None:
        """Return when the next work after ``now`` is due, or None."""
        return min((head.next_due for head in self.heads(now) if head.next_due is not None), default=None)

    def remaining(self, name: str) -> bool:
        """Whether the session has work for the uploader."""
        return self.left(name, 1) > 0

    def left(self, name: str, most: int) -> int:
        """Count a session's entries with work for the uploader, up to ``most``."""
        ((count,),) = self._ledger.db.all(
            f"SELECT count(*) FROM (SELECT 1 FROM entry INDEXED BY dirty WHERE session = ? AND {WORK} LIMIT ?)",
            (self._ledger.id(name), most),
        )
        return int(count)

    def hurry(self, name: str) -> None:
        """Make all work of a session due."""
        with self._ledger.db.write() as db:
            db.execute(
                f"UPDATE entry INDEXED BY dirty SET due_at = 0.0 WHERE session = ? AND {WORK}",
                (self._ledger.id(name),),
            )

    def hurry_all(self) -> None:
        """Make all work of all sessions due."""
        with self._ledger.db.write() as db:
            db.execute(f"UPDATE entry INDEXED BY work SET due_at = 0.0 WHERE {WORK} AND due_at > 0.0")

    def retry(self, name: str, now: float) -> int:
        """Make the failed entries of a session due now. Returns their number."""
        with self._ledger.db.write() as db:
            return db.execute(
                "UPDATE entry INDEXED BY dirty SET due_at = ? WHERE session = ? AND synced < generation"
                " AND (failed = 1 OR attempts > 0)",
                (now, self._ledger.id(name)),
            ).rowcount

    def confirm(
        self,
        entry: Entry,
        stored: Stored,
        *,
        read: FileStat | None,
        unsettled: bool = False,
        complete: bool = True,
        put: bool = True,
    ) -> None:
        """Record that the store has the entry's generation: the entry is clean, if all of it was stored (``complete``).

        ``read`` is the stat of the bytes that were sent; None keeps the recorded stat. ``put`` says that a new version
        was stored. If the entry was removed meanwhile, it is added as an evicted one.
        """
        number = self._ledger.id(entry.session)
        where = (number, *split(entry.path), entry.generation)
        labels = labels_text(entry.labels)
        with self._ledger.db.write() as db:
            db.execute(_CONFIRM, (*where, *to_columns(stored), int(put), complete, SPACING, labels))
            self._ledger.overtake(number, entry.path)
            if read is not None:
                disk = (read.size, read.mtime_ns, read.ctime_ns, read.inode, read.mode, unsettled)
                db.execute(_CONFIRM_DISK, (*where, *disk))
            self._ledger.revise(db, number)

    def settle(self, name: str, entries: Sequence[tuple[Entry, bool]]) -> None:
        """Record that clean files were read and equal their objects.

        ``entries`` has for each file whether its bytes may still change without a change of its stat. A file that was
        marked meanwhile is not changed.
        """
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            db.executemany(
                "UPDATE entry SET unsettled = ? WHERE session = ? AND dir = ? AND name = ? AND generation = ?"
                " AND synced = generation",
                [(unsettled, number, *split(entry.path), entry.generation) for entry, unsettled in entries],
            )

    def harden(self, entry: Entry) -> None:
        """Make the entry's mark durable."""
        self._ledger.harden(entry.generation)

    def confirm_delete(self, entry: Entry) -> None:
        """Record that the store has no object at this path. A path that was marked again since stays dirty."""
        number = self._ledger.id(entry.session)
        where = (number, *split(entry.path))
        with self._ledger.db.write() as db:
            self._ledger.deleted(number, entry.path)
            db.execute(
                "DELETE FROM entry WHERE session = ? AND dir = ? AND name = ?"
                " AND gone_at IS NOT NULL AND generation = ?",
                (*where, entry.generation),
            )
            db.execute(
                "UPDATE entry SET etag = NULL, version_id = NULL, stored_size = NULL, sha256 = NULL, stored_at = NULL,"
                " stored_labels = NULL, newer = NULL, older = NULL, synced = max(synced, ?)"
                " WHERE session = ? AND dir = ? AND name = ? AND resident = 1",
                (entry.generation if entry.tombstone else 0, *where),
            )
            self._ledger.revise(db, number)

    def lose_delete(self, entry: Entry, stored: Stored) -> None:
        """Turn a tombstone into an evicted entry, because the object is a version that must be kept."""
        number = self._ledger.id(entry.session)
        values = to_columns(stored)
        with self._ledger.db.write() as db:
            db.execute(
                "UPDATE entry SET kind = 'file', resident = 0, gone_at = NULL, synced = generation, error = NULL,"
                f" failed = 0, stored_labels = NULL, newer = NULL, older = NULL, {NEVER_SEEN},"
                " etag = ?, version_id = ?, stored_size = ?, stored_mtime_ns = ?, stored_mode = ?, sha256 = ?,"
                " stored_at = ?"
                " WHERE session = ? AND dir = ? AND name = ? AND gone_at IS NOT NULL",
                (*values, number, *split(entry.path)),
            )
            self._ledger.revise(db, number)

    def postpone(self, entry: Entry, due_at: float) -> None:
        """Postpone an entry without an error. A path that was marked again meanwhile keeps its due time."""
        with self._ledger.db.write() as db:
            db.execute(
                "UPDATE entry SET due_at = ? WHERE session = ? AND dir = ? AND name = ? AND generation = ?",
                (due_at, self._ledger.id(entry.session), *split(entry.path), entry.generation),
            )

    def await_close(self, entry: Entry, due_at: float) -> None:
        """Postpone a file until its writer closes it, at most to ``due_at``."""
        with self._ledger.db.write() as db:
            db.execute(
                "UPDATE entry SET closed = 0, due_at = ? WHERE session = ? AND dir = ? AND name = ? AND generation = ?",
                (due_at, self._ledger.id(entry.session), *split(entry.path), entry.generation),
            )

    def fail(self, entry: Entry, *, tried_at: float, due_at: float, error: str, failed: bool) -> None:
        """Record a failed attempt. A path that was marked again meanwhile keeps its due time."""
        with self._ledger.db.write() as db:
            db.execute(
                "UPDATE entry SET attempts = attempts + 1, tried_at = ?, error = ?, failed = ?,"
                " due_at = CASE WHEN generation = ? THEN ? ELSE due_at END WHERE session = ? AND dir = ? AND name = ?",
                (tried_at, error, failed, entry.generation, due_at, self._ledger.id(entry.session), *split(entry.path)),
            )

    def left_behind(self, inode: int) -> list[Entry]:
        """Return stored entries with this inode that are not on disk any more: possible old names of a renamed file."""
        return self._of_inode(inode, "(gone_at IS NOT NULL OR resident = 0) AND etag IS NOT NULL")

    def moved_to(self, entry: Entry) -> list[Entry]:
        """Return the entries that may be new names of a missing file, also in other sessions.

        They are on disk, have its inode and file system, and changed after the missing file was stored.
        """
        if entry.stat is None:
            return []
        standing = f"gone_at IS NULL AND resident = 1 AND kind = 'file' AND generation > {entry.synced}"
        found = self._of_inode(entry.stat.inode, standing)
        return [other for other in found if other.stat is not None and other.stat.mount == entry.stat.mount]

    def _of_inode(self, inode: int, condition: str) -> list[Entry]:
        rows = self._ledger.db.all(
            f"SELECT session, {ENTRY_COLUMNS} FROM entry INDEXED BY inode WHERE inode = ? AND inode IS NOT NULL"
            f" AND {condition} LIMIT 8",
            (inode,),
        )
        return [to_entry(self._ledger.name(row[0]), row[1:]) for row in rows]

    def tombstones(self, name: str) -> tuple[Tombstones, list[tuple[Entry, Entry]]]:
        """Return the counts of the session's pending deletions.

        Files that were moved unchanged are not counted. Files that may have been moved and changed since are counted
        and also returned, as pairs of old and new entry, so that the caller can check them.
        """
        number = self._ledger.id(name)
        ((last, unconfirmed),) = self._ledger.db.all(
            "SELECT max(gone_at), sum(generation > (SELECT confirmed FROM session WHERE id = ?1)"
            f" AND NOT EXISTS ({MOVED}))"
            " FROM entry AS t INDEXED BY dirty"
            " WHERE session = ?1 AND synced < generation AND gone_at IS NOT NULL AND etag IS NOT NULL",
            (number,),
        )
        stored = 0
        if unconfirmed:
            ((stored,),) = self._ledger.db.all(
                "SELECT count(*) FROM entry WHERE session = ? AND etag IS NOT NULL", (number,)
            )
        return Tombstones(unconfirmed or 0, stored, last or 0.0), self._changed(name) if unconfirmed else []

    def _changed(self, name: str) -> list[tuple[Entry, Entry]]:
        rows = self._ledger.db.all(
            "SELECT t.dir, t.name, e.dir, e.name FROM entry AS t INDEXED BY dirty, entry AS e INDEXED BY inode"
            " WHERE t.session = ? AND t.synced < t.generation AND t.gone_at IS NOT NULL AND t.etag IS NOT NULL"
            " AND t.generation > (SELECT confirmed FROM session WHERE id = t.session)"
            f" AND {SAME_INODE} AND (e.size, e.mtime_ns) IS NOT (t.size, t.mtime_ns) LIMIT {_MOST_CHANGED}",
            (self._ledger.id(name),),
        )
        pairs = [(self._entry(name, join(*row[:2])), self._entry(name, join(*row[2:]))) for row in rows]
        return [(old, new) for old, new in pairs if old is not None and new is not None]

    def _entry(self, name: str, path: str) -> Entry | None:
        row = self._ledger.db.one(
            f"SELECT {ENTRY_COLUMNS} FROM entry WHERE session = ? AND dir = ? AND name = ?",
            (self._ledger.id(name), *split(path)),
        )
        return None if row is None else to_entry(name, row)
