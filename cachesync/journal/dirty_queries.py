"""What is dirty, for who waits for it or reports it. (What is taken up next, and what came of it, is work.py's.)"""

from __future__ import annotations

from collections.abc import Iterator

from cachesync.journal.counters import Ledger
from cachesync.journal.rows import DELETED_ELSEWHERE, ENTRY_COLUMNS, WORK, join, split, to_entry
from cachesync.model.values import Barrier, Counts, Entry

_PAGE = 256


class Waiting:
    """Questions about what is dirty. None changes anything."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def barrier(self, name: str) -> Barrier:
        """Return what is dirty at this instant, except directories. A link that replaced a stored file is a deletion,
        too."""
        standing: dict[str, int] = {}
        gone: dict[str, int] = {}
        for parent, base, generation, missing, deletion in self._ledger.db.all(
            "SELECT dir, name, generation, gone_at IS NOT NULL, kind = 'link' AND etag IS NOT NULL"
            " FROM entry INDEXED BY dirty WHERE session = ? AND synced < generation AND kind <> 'dir'",
            (self._ledger.id(name),),
        ):
            (gone if missing or deletion else standing)[join(parent, base)] = generation
        return Barrier(standing, gone)

    def old_names(self, name: str) -> list[Entry]:
        """Return the tombstones of moved files' old names. The store has their objects, or may get them from a running
        upload."""
        rows = self._ledger.db.all(
            f"SELECT {ENTRY_COLUMNS} FROM entry AS t INDEXED BY dirty WHERE session = ?1 AND synced < generation"
            " AND gone_at IS NOT NULL AND EXISTS (SELECT 1 FROM entry AS e INDEXED BY inode"
            " WHERE e.inode = t.inode AND e.inode IS NOT NULL AND e.session = ?1 AND e.gone_at IS NULL"
            " AND e.resident = 1 AND e.kind = 'file')",
            (self._ledger.id(name),),
        )
        return [to_entry(name, row) for row in rows]

    def unmet(self, name: str, barrier: Barrier, *, due_after: float = -1.0) -> Iterator[Entry]:
        """The entries that the barrier still waits for, or those of them that are due after a time; asked for as they
        are taken. A link waits for the manifest, not for the uploader."""
        after = (b"", b"")
        while True:
            rows = self._ledger.db.all(
                f"SELECT {ENTRY_COLUMNS} FROM entry INDEXED BY dirty WHERE session = ? AND {WORK} AND due_at > ?"
                " AND (dir, name) > (?, ?) ORDER BY dir, name LIMIT ?",
                (self._ledger.id(name), due_after, *after, _PAGE),
            )
            for row in rows:
                if not barrier.is_met(entry := to_entry(name, row)):
                    yield entry
            if len(rows) < _PAGE:
                return
            after = rows[-1][:2]

    def since(self, name: str, generation: int) -> Iterator[Entry]:
        """Yield dirty files and links whose generation is above ``generation``."""
        rows = self._ledger.db.all(
            f"SELECT {ENTRY_COLUMNS} FROM entry INDEXED BY dirty WHERE session = ? AND synced < generation"
            " AND kind <> 'dir' AND generation > ?",
            (self._ledger.id(name), generation),
        )
        return (to_entry(name, row) for row in rows)

    def summary(self) -> dict[str, tuple[bool, bool]]:
        """Return, for each session, whether the uploader has work for it and whether its manifest is out of date."""
        dirty = "SELECT 1 FROM entry INDEXED BY dirty WHERE session = s.id AND"
        rows = self._ledger.db.all(
            f"SELECT name, EXISTS ({dirty} {WORK}),"
            f" revision <> manifest_revision OR EXISTS ({dirty} synced < generation) FROM session AS s"
        )
        return {name: (bool(work), bool(lacks)) for name, work, lacks in rows}

    def counts(self, name: str) -> Counts:
        """Return the counts of a session's entries."""
        number = self._ledger.id(name)
        files = self._ledger.db.all(
            f"SELECT count(*), sum(CASE WHEN {DELETED_ELSEWHERE} THEN 0 WHEN resident THEN size ELSE stored_size END),"
            " sum(resident = 0), sum(vanished), max(CASE WHEN resident THEN mtime_ns ELSE stored_mtime_ns END),"
            f" sum({DELETED_ELSEWHERE}) FROM entry WHERE session = ? AND kind = 'file' AND gone_at IS NULL",
            (number,),
        )[0]
        dirty = self._ledger.db.all(
            "SELECT count(*), sum(CASE WHEN gone_at IS NULL AND resident THEN size END), min(dirty_since), sum(failed)"
            " FROM entry WHERE session = ? AND synced < generation AND kind <> 'dir'",
            (number,),
        )[0]
        newest = None if files[4] is None else files[4] / 1e9
        return Counts(
            files=files[0] - (files[5] or 0),
            bytes=files[1] or 0,
            dirty=dirty[0],
            dirty_bytes=dirty[1] or 0,
            failed=dirty[3] or 0,
            evicted=files[2] or 0,
            oldest_dirty=dirty[2],
            newest=newest,
            vanished=files[3] or 0,
            deleted_elsewhere=files[5] or 0,
        )

    def any_dirty_link(self, name: str) -> bool:
        """Whether a link waits for the manifest."""
        row = self._ledger.db.one(
            "SELECT 1 FROM entry INDEXED BY dirty WHERE session = ? AND synced < generation AND kind = 'link' LIMIT 1",
            (self._ledger.id(name),),
        )
        return row is not None

    def failures(self, name: str, limit: int) -> list[Entry]:
        """Entries that will not work until somebody changes something."""
        rows = self._ledger.db.all(
            f"SELECT {ENTRY_COLUMNS} FROM entry INDEXED BY dirty"
            " WHERE session = ? AND synced < generation AND failed = 1 LIMIT ?",
            (self._ledger.id(name), limit),
        )
        return [to_entry(name, row) for row in rows]

    def pending(self, name: str, *, failed: bool | None, after: str, limit: int) -> list[Entry]:
        """Dirty entries but for directories, by parent path and name, from the one after ``after`` ("": the first) on.

        ``failed`` picks those that failed, or those that did not.
        """
        which = "" if failed is None else f" AND failed = {int(failed)}"
        rows = self._ledger.db.all(
            f"SELECT {ENTRY_COLUMNS} FROM entry INDEXED BY dirty WHERE session = ? AND synced < generation"
            f" AND kind <> 'dir'{which} AND (dir, name) > (?, ?) ORDER BY dir, name LIMIT ?",
            (self._ledger.id(name), *split(after), limit),
        )
        return [to_entry(name, row) for row in rows]
