"""What a sound journal holds, besides sound pages: nothing that runs, no name that leads out, no text of another form.

Whoever may write the state folder may write anything into it; what they wrote is not believed, as a flipped bit is not.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from cachesync.journal.schema import MIGRATIONS
from cachesync.model.keys import is_path, is_session_name

_DIRECTORIES = """WITH RECURSIVE at(dir) AS (
    SELECT min(dir) FROM entry WHERE session = ?1
    UNION ALL SELECT (SELECT min(dir) FROM entry WHERE session = ?1 AND dir > at.dir) FROM at WHERE at.dir IS NOT NULL)
    SELECT dir FROM at WHERE dir IS NOT NULL"""
"""Each directory once: SQLite's own DISTINCT would look at every row."""

_ODD = """SELECT 1 FROM entry WHERE
    instr(name, x'00') OR instr(name, x'2f') NOT IN (0, length(name))
    OR length(name) < 4 AND name IN (x'', x'2e', x'2e2e', x'2f', x'2e2f', x'2e2e2f')
    OR labels IS NOT NULL AND json_type(labels, '$.metadata') IS NOT 'object'
    OR older IS NOT NULL AND coalesce(json_type(older, '$.etag'), '') NOT IN ('text', 'null')
    OR newer IS NOT NULL AND json_type(newer) IS NOT 'null'
        AND coalesce(json_type(newer, '$.mtime_ns'), '') NOT IN ('integer', 'null')
    LIMIT 1"""


def check_contents(db: sqlite3.Connection) -> None:
    """Raise sqlite3.Error unless the journal has only what we put into one. A journal of an unknown format is passed
    over."""
    (done,) = db.execute("PRAGMA user_version").fetchone()
    if not 0 < done <= len(MIGRATIONS):
        return
    if odd := _things(db) ^ _expected(done):
        kind, name, _ = min(odd, key=repr)  # a flipped bit can turn text into bytes
        raise sqlite3.DatabaseError(f"its {kind} {name!r:.60} is not ours, or not as we made it")
    for number, session in db.execute("SELECT id, name FROM session").fetchall():
        if not is_session_name(session):
            raise sqlite3.DatabaseError(f"it names a session that is none: {session!r:.60}")
        for (directory,) in db.execute(_DIRECTORIES, (number,)):
            if directory and not is_path(os.fsdecode(directory)):
                raise sqlite3.DatabaseError(f"it names a directory that leads out: {directory!r:.60}")
    if db.execute(_ODD).fetchone():
        raise sqlite3.DatabaseError("it has a row that we would not write")


def _expected(done: int) -> set[tuple[str, str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for script in MIGRATIONS[:done]:
            db.executescript(script)
        return _things(db)


def _things(db: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """Tables with their columns, indexes, and whatever else there is; not the words that made them, where comments may
    differ."""
    columns = "(SELECT coalesce(group_concat(name || ' ' || type), '') FROM pragma_table_info(m.name))"
    return set(db.execute(f"SELECT m.type, m.name, {columns} FROM sqlite_master m"))
