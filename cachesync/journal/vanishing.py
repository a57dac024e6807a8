"""Evicts paths that are missing without evidence that a program deleted them (P7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cachesync.journal.counters import Ledger
from cachesync.journal.rows import AT_OR_BELOW, MOVED, SAME_INODE, below, split

_OLD_NAME = """
UPDATE entry AS t SET generation = ?1, absent = ?1, due_at = ?2, gone_at = ?3, attempts = 0, failed = 0, error = NULL,
    dirty_since = CASE WHEN synced < generation THEN dirty_since ELSE ?3 END, labels = NULL
"""
_STANDS, _MISSING = "e.absent < e.generation", "e.absent = e.generation"
"""Whether the entry e, a possible new name of a missing file, exists on disk or is missing too."""

_IS_OLD_NAME = f"""
resident = 1 AND gone_at IS NULL AND kind = 'file' AND etag IS NOT NULL AND EXISTS ({MOVED} AND {_STANDS})
"""
_NEW_NAME = f"SELECT 1 FROM entry AS e INDEXED BY inode WHERE {SAME_INODE}"
_WAIT_FOR_MISSING = f"""
SELECT t.session, t.dir, t.name FROM entry AS t INDEXED BY dirty
WHERE t.session = ? AND t.synced < t.generation AND t.gone_at IS NOT NULL AND t.etag IS NOT NULL
AND EXISTS ({_NEW_NAME} AND {_MISSING} AND e.synced < e.generation) AND NOT EXISTS ({_NEW_NAME} AND {_STANDS})
"""
"""Selects old names of moved files whose new name is missing too and was not stored."""

_ONE = "session = ? AND dir = ? AND name = ?"


def vanish(
    ledger: Ledger,
    name: str,
    paths: Iterable[str],
    due_at: float,
    now: float,
    *,
    stands: Callable[[str], bool],
    volumes: Mapping[str, str | None] | None,
) -> tuple[int, int]:
    """Evict the paths of a session. See ``Sessions.vanished``."""
    number, evicted, lost = ledger.id(name), 0, 0
    missing = list[tuple[str, tuple[object, ...]]]()
    with ledger.db.write(durable=True) as db:
        generation = ledger.next_generation(db)
        for path in paths:
            if stands(path):
                continue
            where, values = f"{_ONE} AND gone_at IS NULL", tuple[object, ...]((number, *split(path)))
            if path.endswith("/"):
                where = f"session = ? AND {AT_OR_BELOW} AND gone_at IS NULL"
                values = (*values, *below(path))
            if volumes is not None:
                where, values = f"{where} AND kind <> 'dir' AND mount IS NOT ?", (*values, volumes[path])
            missing.append((where, values))
            # Record all missing paths first: a missing path cannot be the new name of another.
            db.execute(f"UPDATE entry SET absent = generation WHERE {where} AND resident = 1", values)
        waiting = db.execute(_WAIT_FOR_MISSING, (number,)).fetchall() if missing else []
        missing += [(f"{_ONE} AND gone_at IS NOT NULL", row) for row in waiting]
        for where, values in missing:
            db.execute(f"{_OLD_NAME} WHERE {where} AND {_IS_OLD_NAME}", (generation, due_at, now, *values))
            went, unsent = ledger.leave(db, number, where, values, vanished=True)
            evicted, lost = evicted + went, lost + unsent
    return evicted, lost
