"""The journal's side of bringing bytes here and dropping them: what is expected on disk, and what is not any more.

Dropping is written first and bringing last: whatever a process dies between, a file that is missing is never taken for
deleted, and one that stands is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from cachesync.journal.counters import STALE, Ledger
from cachesync.journal.rows import (
    AS_THERE,
    DELETED_ELSEWHERE,
    RETURN,
    join,
    rights_text,
    split,
    superseded_text,
    to_columns,
)
from cachesync.model.values import Entry, FileStat, Kind, Rights, Stored, Superseded

_STANDS = "EXISTS (SELECT 1 FROM session WHERE id = ?1 AND directory = ?4)"
_AS_SEEN = "size IS ?6 AND mtime_ns IS ?7 AND ctime_ns IS ?8 AND inode IS ?9 AND mode IS ?10"
_IDLE = "vanished = 0, gone_at = NULL, unsettled = 0, closed = 0, attempts = 0, error = NULL, failed = 0"
_DISK = "size = ?6, mtime_ns = ?7, ctime_ns = ?8, inode = ?9, mode = ?10"

_PLACED = f"""
UPDATE entry SET resident = 1, target = NULL, synced = generation, {_IDLE}, {_DISK}, newer = NULL, older = NULL,
    stood_in = NULL, stored_mtime_ns = ?12, stored_mode = ?13, sha256 = ?14
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND kind = 'file' AND gone_at IS NULL AND etag = ?5
AND (resident = 0 OR ({_AS_SEEN} AND labels IS stored_labels)) AND {_STANDS} AND ?11 IS NULL
"""

_SHOWN = """
UPDATE entry SET hidden = 0, sha256 = ? WHERE session = ? AND dir = ? AND name = ? AND kind = 'file' AND etag = ?
AND hidden = 1
"""
"""It was seen, perhaps changed, before it was written down that it is here: by somebody who saw what it held."""

_PLACED_OTHER = f"""
UPDATE entry SET resident = 1, {_IDLE}, {_DISK},
    synced = CASE WHEN resident THEN generation ELSE synced END, newer = CASE WHEN resident THEN newer END
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND kind = ?5 AND gone_at IS NULL
AND (resident = 0 OR kind = 'dir' OR ({_AS_SEEN})) AND target IS ?11 AND {_STANDS}
"""

_RENEWED = f"""
UPDATE entry SET {_DISK}, target = ?11, unsettled = 0, etag = ?12, version_id = ?13, stored_size = ?14,
    stored_mtime_ns = ?15, stored_mode = ?16, sha256 = ?17, stored_at = ?18, synced = generation, labels = NULL,
    stored_labels = NULL, newer = CASE WHEN json_extract(newer, '$.etag') IS NOT ?12 THEN newer END
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND kind = 'file' AND gone_at IS NULL AND resident = 1
AND (generation = ?5 OR ({_AS_SEEN})) AND labels IS stored_labels AND {_STANDS}
"""

_DIRTY = """
    generation = ?4, due_at = ?5, dirty_since = CASE WHEN synced < generation THEN dirty_since ELSE ?5 END,
    attempts = 0, failed = 0, error = NULL
"""

_LOST = f"""
UPDATE entry SET {_DIRTY}, etag = NULL, version_id = NULL, stored_size = NULL, stored_mtime_ns = NULL,
    stored_mode = NULL, sha256 = NULL, stored_at = NULL, stored_labels = NULL, newer = NULL, older = NULL
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND kind = 'file' AND resident = 1 AND gone_at IS NULL AND etag = ?6
"""

_LOST_EVICTED = f"""
UPDATE entry SET {_DIRTY}
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND kind = 'file' AND resident = 0 AND etag = ?6
"""

_UNKNOWN = f"""
UPDATE entry SET {_DIRTY}, etag = ?7, version_id = ?8, stored_size = ?9, stored_mtime_ns = ?10, stored_mode = ?11,
    sha256 = NULL, stored_at = ?13, stored_labels = NULL, newer = NULL, older = NULL
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND kind = 'file' AND resident = 1 AND gone_at IS NULL AND etag = ?6
"""

_EVICTED = f"""
UPDATE entry SET resident = 0, {AS_THERE}, rights = ?
WHERE session = ? AND dir = ? AND name = ? AND generation = ? AND synced = generation
AND resident = 1 AND gone_at IS NULL AND unsettled = 0 AND (newer IS NOT 'null' OR kind <> 'file')
"""

_NOT_EVICTED = f"""
UPDATE entry SET hidden = 0, {RETURN}
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND (generation = ?4 OR hidden = 1)
AND (etag IS ?5 OR json_extract(older, '$.etag') = ?5)
"""

_EVICTED_DIRECTORY = """
UPDATE entry SET resident = 0, synced = generation, mtime_ns = ?, mode = ?, newer = NULL, rights = ?
WHERE session = ? AND dir = ? AND name = ? AND kind = 'dir' AND inode = ? AND mode = ? AND resident = 1
AND gone_at IS NULL
"""

REMOVED = """
UPDATE entry SET resident = 1, generation = ?4, absent = ?4, due_at = ?5, gone_at = ?6, dirty_since = ?6, attempts = 0,
    failed = 0, error = NULL, labels = NULL, newer = NULL, older = NULL, stood_in = NULL
WHERE session = ?1 AND dir = ?2 AND name = ?3 AND resident = 0
"""


class Residence:
    """Each verb is one transaction. ``directory`` is the word for the session's directory that the bytes went into:
    nothing is written of another one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def placed(
        self,
        name: str,
        directory: str,
        files: Sequence[tuple[str, FileStat, Stored]],
        others: Iterable[tuple[str, FileStat]] = (),
    ) -> None:
        """Files that were brought here: they are clean, if the journal still knows the version they were made from,
        and nobody has seen anything else at their path. And ``others``: links and directories that were made here as
        the manifest has them."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            db.executemany(
                _PLACED,
                [
                    (number, *split(path), directory, s.version.etag, *_disk(stat), s.mtime_ns, s.mode, s.sha256)
                    for path, stat, s in files
                ],
            )
            db.executemany(_SHOWN, [(s.sha256, number, *split(path), s.version.etag) for path, _, s in files])
            db.executemany(
                _PLACED_OTHER,
                [(number, *split(path), directory, stat.kind, *_disk(stat)) for path, stat in others],
            )
            self._ledger.revise(db, number)

    def renewed(self, entry: Entry, directory: str, stat: FileStat, stored: Stored) -> None:
        """A clean file was replaced by the version that another host stored."""
        number = self._ledger.id(entry.session)
        where = (number, *split(entry.path), directory, entry.generation)
        with self._ledger.db.write() as db:
            db.execute(_RENEWED, (*where, *_disk(stat), *to_columns(stored)))
            self._ledger.revise(db, number)

    def evicted(self, name: str, entries: Sequence[tuple[Entry, Rights | None]]) -> list[Entry]:
        """Record that files and links are about to be dropped, and their rights. Returns those that are still clean.
        What another host has replaced is that host's version then. Durable when it returns."""
        number = self._ledger.id(name)
        with self._ledger.db.write(durable=True) as db:
            return [
                entry
                for entry, rights in entries
                if db.execute(_EVICTED, (rights_text(rights), number, *split(entry.path), entry.generation)).rowcount
            ]

    def not_evicted(self, name: str, entries: Sequence[Entry]) -> None:
        """Files and links that were to be dropped, and were not: they are expected on disk, and what was made of them
        meanwhile was made by somebody who saw them."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            for entry in entries:
                etag = entry.stored and entry.stored.version.etag
                db.execute(_NOT_EVICTED, (number, *split(entry.path), entry.generation, etag))

    def evicted_directories(self, name: str, directories: Sequence[tuple[Entry, Rights | None]]) -> list[Entry]:
        """Directories that are to be removed, now that they are empty: as they were before they were emptied. Returns
        those that nobody changed. Durable when it returns."""
        number = self._ledger.id(name)
        gone = []
        with self._ledger.db.write(durable=True) as db:
            for entry, rights in directories:
                if (s := entry.stat) is None:
                    continue
                told = s if entry.superseded is None or entry.superseded.other is None else entry.superseded.other
                values = (told.mtime_ns, told.mode, rights_text(rights), number, *split(entry.path), s.inode, s.mode)
                if db.execute(_EVICTED_DIRECTORY, values).rowcount:
                    gone.append(entry)
        return gone

    def while_evicted(self, name: str, paths: Iterable[str], work: Callable[[str], None]) -> list[str]:
        """Call ``work`` for each path that is evicted, while no scan can record it as resident again. Returns the other
        paths."""
        number, others = self._ledger.id(name), list[str]()
        sql = "SELECT 1 FROM entry WHERE session = ? AND dir = ? AND name = ? AND resident = 0"
        with self._ledger.db.write() as db:
            for path in paths:
                if db.execute(sql, (number, *split(path))).fetchone():
                    work(path)
                else:
                    others.append(path)
        return others

    def foresee(self, name: str, path: str) -> None:
        """Whoever makes a file of an evicted one's name next has seen that there is one."""
        with self._ledger.db.write() as db:
            db.execute(
                "UPDATE entry SET hidden = 2 WHERE session = ? AND dir = ? AND name = ? AND resident = 0",
                (self._ledger.id(name), *split(path)),
            )

    def removed(self, name: str, path: str, due_at: float, now: float) -> bool:
        """Something that is only in the store is removed here: a tombstone, as if it had stood. Whether it was so."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            values = (number, *split(path), self._ledger.next_generation(db), due_at, now)
            gone = bool(db.execute(REMOVED, values).rowcount)
            if gone:
                self._ledger.revise(db, number)
        return gone

    def here(self, name: str) -> set[str]:
        """The clean files that are expected on disk."""
        rows = self._ledger.db.all(
            "SELECT dir, name FROM entry WHERE session = ? AND resident = 1 AND kind = 'file' AND etag IS NOT NULL"
            " AND synced = generation AND gone_at IS NULL",
            (self._ledger.id(name),),
        )
        return {join(row[0], row[1]) for row in rows}

    def replaced(self, name: str, listed: Sequence[tuple[str, Stored]]) -> dict[str, Stored]:
        """Of what a listing shows, the clean files that stand here as another version."""
        number, replaced = self._ledger.id(name), {}
        for path, stored in listed:
            row = self._ledger.db.one(
                "SELECT 1 FROM entry WHERE session = ? AND dir = ? AND name = ? AND resident = 1 AND kind = 'file'"
                " AND synced = generation AND gone_at IS NULL AND etag <> ?",
                (number, *split(path), stored.version.etag),
            )
            if row is not None:
                replaced[path] = stored
        return replaced

    def standing(self, name: str) -> dict[str, tuple[str, bool, bool]]:
        """Return, for each resident file that was stored: its version, whether another host's version is known, and
        whether another host removed it."""
        rows = self._ledger.db.all(
            "SELECT dir, name, etag, newer IS NOT NULL, newer IS 'null' FROM entry WHERE session = ? AND resident = 1"
            " AND kind = 'file' AND etag IS NOT NULL AND gone_at IS NULL",
            (self._ledger.id(name),),
        )
        return {join(row[0], row[1]): (row[2], bool(row[3]), bool(row[4])) for row in rows}

    def deleted_elsewhere(self, name: str) -> list[str]:
        """Return the files that are here and that another host deleted in the store."""
        sql = f"SELECT dir, name FROM entry WHERE session = ? AND kind = 'file' AND {DELETED_ELSEWHERE}"
        return [join(*row) for row in self._ledger.db.all(sql, (self._ledger.id(name),))]

    def stored_lately(self, name: str, paths: Iterable[str], now: float) -> list[str]:
        """Return those of the paths that were stored in the last minute. A listing may still show an older version."""
        number = self._ledger.id(name)
        sql = f"SELECT 1 FROM entry WHERE session = ? AND dir = ? AND name = ? AND abs(? - stored_at) < {STALE}"
        return [path for path in paths if self._ledger.db.one(sql, (number, *split(path), now))]

    def only_there(self, name: str) -> dict[str, tuple[str, bool]]:
        """Return, for each evicted file: its version, and whether this host stored it or knows its digest.

        A file that is known only from a listing is another host's, which may remove it without a report here.
        """
        rows = self._ledger.db.all(
            "SELECT dir, name, ifnull(etag, ''), puts > 0 OR sha256 IS NOT NULL FROM entry"
            " WHERE session = ? AND resident = 0 AND kind = 'file'",
            (self._ledger.id(name),),
        )
        return {join(row[0], row[1]): (row[2], bool(row[3])) for row in rows}

    def lost(self, name: str, paths: Iterable[tuple[str, str]], now: float) -> int:
        """Mark files as dirty that the store lost although no host deleted them. ``paths`` are (path, version) pairs.

        A resident file is stored again as a new object. An evicted file stays dirty until the store has it again.
        Returns the number of changed entries.
        """
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            generation = self._ledger.next_generation(db)
            rows = [(number, *split(path), generation, now, etag) for path, etag in paths]
            count = sum(db.execute(_LOST, row).rowcount + db.execute(_LOST_EVICTED, row).rowcount for row in rows)
            self._ledger.revise(db, number)
        return count

    def damaged(self, name: str, entry: Entry, now: float) -> None:
        """Mark a clean resident file as dirty because its object is damaged. The upload replaces that version."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            db.execute(
                f"UPDATE entry SET {_DIRTY}, sha256 = ?7 WHERE session = ?1 AND dir = ?2 AND name = ?3"
                " AND generation = ?6 AND kind = 'file' AND resident = 1 AND gone_at IS NULL AND synced = generation",
                (number, *split(entry.path), self._ledger.next_generation(db), now, entry.generation, "0" * 64),
            )
            self._ledger.revise(db, number)

    def unknown(self, name: str, found: Iterable[tuple[str, str, Stored]], now: float) -> int:
        """Mark resident files as dirty whose objects have other versions, in a store that was restored or replaced. The
        upload compares the bytes first. Returns the number of changed entries."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            generation = self._ledger.next_generation(db)
            rows = [(number, *split(path), generation, now, etag, *to_columns(s)) for path, etag, s in found]
            return sum(db.execute(_UNKNOWN, row).rowcount for row in rows)

    def supersede(self, name: str, found: Iterable[tuple[str, str, Stored | None]]) -> None:
        """Record what the store has for resident files (None: no object). ``found`` has (path, version, object) rows.

        The version is the one in the journal before the store was asked. A file that this host stored since then has
        another version and is not changed.
        """
        number = self._ledger.id(name)
        rows = [
            (None if stored and stored.version.etag == etag else superseded_text(Superseded(stored)), path, etag)
            for path, etag, stored in found
        ]
        if not rows:
            return
        with self._ledger.db.write() as db:
            db.executemany(
                "UPDATE entry SET newer = ? WHERE session = ? AND dir = ? AND name = ? AND kind = 'file'"
                " AND resident = 1 AND etag = ?",
                [(text, number, *split(path), etag) for text, path, etag in rows],
            )
            self._ledger.revise(db, number)

    def supersede_others(self, name: str, listed: Mapping[str, FileStat], *, whole: bool) -> None:
        """Record how another host's manifest lists the resident links and directories.

        An entry that changed here since this host's last manifest stays unchanged. So does an entry that is missing in
        a manifest that is not ``whole``.
        """
        number, changed = self._ledger.id(name), []
        rows = self._ledger.db.all(
            "SELECT dir, name, generation, kind, mtime_ns, mode, target, newer FROM entry WHERE session = ?"
            " AND kind <> 'file' AND resident = 1 AND synced = generation AND gone_at IS NULL AND etag IS NULL",
            (number,),
        )
        for above, base, generation, kind, mtime_ns, mode, target, newer in rows:
            told = listed.get(join(above, base))
            if told is None and not whole:
                continue
            as_told = told and (told.mtime_ns, told.mode if kind == Kind.DIRECTORY else mode, _target(told))
            text = None if as_told == (mtime_ns, mode, target) else superseded_text(Superseded(other=told))
            if text != newer:
                changed.append((text, number, above, base, generation))
        if changed:
            with self._ledger.db.write() as db:
                db.executemany(
                    "UPDATE entry SET newer = ? WHERE session = ? AND dir = ? AND name = ? AND kind <> 'file'"
                    " AND resident = 1 AND generation = ? AND synced = generation",
                    changed,
                )
                self._ledger.revise(db, number)

    def opening(self, name: str) -> bool:
        """Note that the session is being brought here; whether that was so before: it was not brought to its end."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            ((before,),) = db.execute("SELECT opening FROM session WHERE id = ?", (number,)).fetchall()
            db.execute("UPDATE session SET opening = 1 WHERE id = ?", (number,))
        return bool(before)

    def opened(self, name: str) -> None:
        """All of the session is here, and it is open."""
        with self._ledger.db.write() as db:
            db.execute("UPDATE session SET opening = 0, state = 'open' WHERE id = ?", (self._ledger.id(name),))


def _disk(s: FileStat) -> tuple[object, ...]:
    return (s.size, s.mtime_ns, s.ctime_ns, s.inode, s.mode, _target(s))


def _target(s: FileStat) -> bytes | None:
    return None if s.target is None else os.fsencode(s.target)
