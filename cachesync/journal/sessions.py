"""The journal's sessions: the state of each session as a whole, and its conflicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager

from cachesync.journal.counters import MANIFEST, Ledger
from cachesync.journal.database import Row
from cachesync.journal.placement import REMOVED
from cachesync.journal.rows import DOUBTED, STORED_TEXT, UNLEARN, join, rights_text, split, to_columns, to_rights
from cachesync.journal.vanishing import vanish
from cachesync.model.values import Conflict, Entry, FileStat, Kind, Rights, Session, Stored, Version

_KEPT = "(older IS NOT NULL OR (stood_in IS NOT NULL AND mtime_ns IS NOT NULL AND sha256 IS NOT NULL))"
"""Whether an evicted file's local version is known, from when its session's directory was removed."""

_LEARN = f"""
INSERT INTO entry (session, dir, name, kind, born, generation, synced, resident, etag, version_id, stored_size,
                   stored_mtime_ns, stored_mode, sha256, stored_at, created_at, dirty_since, due_at)
VALUES (?1, ?2, ?3, 'file', ?4, ?4, ?4, 0, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?11, ?11)
ON CONFLICT DO UPDATE SET
    kind = CASE WHEN resident THEN kind ELSE 'file' END, target = CASE WHEN resident THEN target END,
    stood_in = CASE WHEN resident OR (kind = 'file' AND (etag = ?5 OR {_KEPT})) THEN stood_in END,
    etag = ?5, version_id = ?6, stored_size = ?7,
    stored_mtime_ns = CASE WHEN resident = 0 AND etag = ?5 AND ?10 IS NULL THEN stored_mtime_ns ELSE ?8 END,
    stored_mode = CASE WHEN resident = 0 AND etag = ?5 AND ?10 IS NULL THEN stored_mode ELSE ?9 END,
    sha256 = CASE WHEN resident THEN NULL WHEN etag = ?5 THEN coalesce(?10, sha256) ELSE ?10 END, stored_at = ?11,
    mtime_ns = CASE WHEN resident OR etag = ?5 OR {_KEPT} THEN mtime_ns END,
    older = CASE WHEN resident OR etag = ?5 OR older IS NOT NULL OR NOT {_KEPT} THEN older ELSE {STORED_TEXT} END,
    labels = CASE WHEN resident OR etag = ?5 THEN labels END,
    stored_labels = CASE WHEN resident OR etag = ?5 THEN stored_labels END
WHERE etag IS NULL OR resident = 0
"""

_LEARN_UNSTORED = """
INSERT INTO entry (session, dir, name, kind, born, generation, synced, resident, size, mtime_ns, ctime_ns, inode, mode,
                   target, created_at, dirty_since, due_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?5, 0, 0, ?6, 0, 0, ?7, ?8, ?9, ?9, ?9)
ON CONFLICT DO UPDATE SET kind = ?4, size = 0, mtime_ns = ?6, ctime_ns = 0, inode = 0, mode = ?7, target = ?8
WHERE resident = 0 AND etag IS NULL AND kind <> 'file' AND (kind, mtime_ns, mode, target) IS NOT (?4, ?6, ?7, ?8)
"""


_VANISHED = """SELECT count(*) FROM entry INDEXED BY vanished WHERE entry.session = session.id AND vanished = 1
    AND kind = 'file'"""

_ONE = "session = ? AND dir = ? AND name = ?"


class _Otherwise(Exception):
    """Aborts a transaction because an entry is not as expected."""


class Sessions:
    """The state of whole sessions. Each method is one transaction."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def names(self) -> list[str]:
        """Return the names of all known sessions, sorted."""
        return self._ledger.names()

    def add(self, name: str, now: float) -> None:
        """Add a session, if it is unknown."""
        self._ledger.add(name, now)

    def get(self, name: str) -> Session | None:
        """Return a session's row, or None if the session is unknown or is still being added."""
        row = self._ledger.db.one(
            "SELECT state, directory, learned, revision, manifest_revision, manifest_etag, manifest_version_id,"
            f" confirmed, lost, manifest_serial, listed_at, doubted, ({_VANISHED}), mode, rights FROM session"
            " WHERE id = ?",
            (self._ledger.number(name),),
        )
        if row is None:
            return None
        (state, directory, learned, revision, shown, etag, version_id, confirmed, lost) = row[:9]
        serial, listed_at, doubted, vanished, mode, rights = row[9:]
        return Session(
            name=name,
            state=state,
            directory=directory,
            learned=bool(learned),
            revision=revision,
            manifest_revision=shown,
            manifest=None if etag is None else Version(etag, version_id),
            confirmed=confirmed,
            lost=lost,
            serial=serial,
            listed_at=listed_at,
            doubted=bool(doubted),
            vanished=vanished,
            mode=mode,
            rights=to_rights(rights),
        )

    def set_directory(self, name: str, directory: str) -> None:
        """Record the identity of the session's directory."""
        with self._ledger.db.write() as db:
            db.execute("UPDATE session SET directory = ?, lost = 0 WHERE id = ?", (directory, self._ledger.id(name)))

    def set_rights(self, name: str, mode: int, rights: Rights) -> None:
        """Record the permission bits and rights of the session's directory."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            if db.execute("SELECT 1 FROM session WHERE id = ? AND mode IS NOT ?", (number, mode)).fetchone():
                self._ledger.revise(db, number)
            db.execute("UPDATE session SET mode = ?, rights = ? WHERE id = ?", (mode, rights_text(rights), number))

    def trust(self, name: str) -> None:
        """Record that a whole scan has finished. A file that is missing from now on existed after the crash."""
        with self._ledger.db.write() as db:
            db.execute("UPDATE session SET doubted = 0 WHERE id = ?", (self._ledger.id(name),))

    def doubt_all(self) -> None:
        """Record that the disk may be older than the journal. Missing files then do not count as deleted, and resident
        files are read again. Durable when it returns."""
        with self._ledger.db.write(durable=True) as db:
            db.execute("UPDATE session SET doubted = 1, learned = 0")
            db.execute(f"UPDATE entry SET unsettled = {DOUBTED} WHERE kind = 'file' AND resident = 1")

    def removed(self, name: str) -> tuple[int, int]:
        """Evict all entries of a session whose directory was removed.

        Entries that the store never had are removed. No entry becomes a tombstone (P7). Returns the number of evicted
        entries, and the number of files or changes that were not stored. Durable when it returns.
        """
        number = self._ledger.id(name)
        with self._ledger.db.write(durable=True) as db:
            evicted, lost = self._ledger.leave(db, number, "session = ?", (number,), vanished=False)
            db.execute("UPDATE entry SET vanished = 0 WHERE session = ? AND vanished = 1", (number,))
            db.execute("UPDATE session SET lost = lost + ? WHERE id = ?", (lost, number))
        return evicted, lost

    def vanished(
        self,
        name: str,
        paths: Iterable[str],
        due_at: float,
        now: float,
        *,
        stands: Callable[[str], bool],
        volumes: Mapping[str, str | None] | None = None,
    ) -> tuple[int, int]:
        """Evict paths that are missing without evidence of a deletion, and count them as vanished.

        A file that exists under another name was moved: its old name becomes a tombstone. If the new name is missing
        too and was not stored, the old name is evicted, because only its object has the bytes.

        A path that ends in "/" is a directory with all below it. ``stands`` is as in ``Entries.mark_tree_gone``.
        ``volumes`` are the current file systems of the paths. With it, only files that were on another file system are
        evicted.

        Returns the number of evicted entries, and the number of files or changes that were not stored. Durable when it
        returns.
        """
        return vanish(self._ledger, name, paths, due_at, now, stands=stands, volumes=volumes)

    def has_mounts(self, name: str) -> bool:
        """Whether a file or directory of the session was last seen on a file system other than the root's."""
        sql = "SELECT 1 FROM entry INDEXED BY mounted WHERE session = ? AND mount IS NOT NULL LIMIT 1"
        return self._ledger.db.one(sql, (self._ledger.id(name),)) is not None

    def confirm_deletes(self, name: str) -> None:
        """Confirm all current tombstones of the session. Durable when it returns."""
        with self._ledger.db.write(durable=True) as db:
            db.execute(
                "UPDATE session SET confirmed = (SELECT generation FROM meta) WHERE id = ?", (self._ledger.id(name),)
            )

    def listing(self, name: str) -> AbstractContextManager[AbstractSet[str]]:
        """Collect the paths whose objects this host changes while the context is open.

        The caller keeps it open from before its listing until ``learn`` returns. For these paths, the listing may be
        older than the journal.
        """
        return self._ledger.listing(name)

    def deleted_lately(self, name: str) -> set[str]:
        """Return the paths whose objects this process deleted recently. A listing may still show them."""
        return self._ledger.deleted_lately(name)

    def learn(
        self,
        name: str,
        objects: Sequence[tuple[str, Stored]],
        others: Sequence[tuple[str, FileStat]],
        *,
        overtaken: AbstractSet[str] = frozenset(),
    ) -> None:
        """Merge what the store has: ``objects`` are its files, ``others`` the links and directories of its manifest.

        An unknown path becomes an evicted entry. An evicted entry gets the listed version. A resident entry that was
        never stored gets the version that it would replace, without a digest; the uploader reads that from the store. A
        resident file that was stored is not changed. No entry is removed. Objects at the paths ``overtaken`` (see
        ``listing``) are ignored.
        """
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            generation = self._ledger.next_generation(db)
            rows = [(path, stored) for path, stored in objects if path not in overtaken]
            db.executemany(_LEARN, [_learned(number, path, generation, stored) for path, stored in rows])
            db.executemany(
                _LEARN_UNSTORED,
                [_told(number, path, generation, s) for path, s in others],
            )
            self._ledger.revise(db, number)

    def renamed(self, entry: Entry, name: str, path: str, stored: Stored | None, now: float) -> bool:
        """Move an evicted entry to ``path`` in the session ``name``. The old path becomes a tombstone.

        A file is ``stored`` at the new path already. A link or directory is dirty until a manifest has its new name. A
        tombstone at the new path is replaced; a resident directory there stays unchanged.

        Returns False, and changes nothing, if the entry is not as before or another entry has the new path.
        """
        old, new = (self._ledger.id(entry.session), *split(entry.path)), (self._ledger.id(name), *split(path))
        try:
            with self._ledger.db.write() as db:
                generation = self._ledger.next_generation(db)
                if entry.stored is None or stored is None:
                    went = db.execute(f"{REMOVED} AND etag IS NULL", (*old, generation, now, now))
                    db.execute(f"DELETE FROM entry WHERE {_ONE} AND gone_at IS NOT NULL AND etag IS NULL", new)
                    if (s := entry.stat) is not None:
                        db.execute(_LEARN_UNSTORED, _told(new[0], path, generation, s))
                        db.execute(f"UPDATE entry SET synced = 0 WHERE {_ONE} AND resident = 0 AND etag IS NULL", new)
                else:
                    values = (*old, generation, now, now, entry.stored.version.etag)
                    went = db.execute(f"{REMOVED} AND etag = ?7", values)
                    db.execute(f"DELETE FROM entry WHERE {_ONE} AND gone_at IS NOT NULL", new)
                    db.execute(_LEARN, _learned(new[0], path, generation, stored))
                db.execute(
                    f"UPDATE entry SET rights = ? WHERE {_ONE} AND resident = 0", (rights_text(entry.rights), *new)
                )
                came = db.execute(f"SELECT resident, kind FROM entry WHERE {_ONE}", new).fetchall()
                if not went.rowcount or (came != [(0, entry.kind)] and entry.kind is not Kind.DIRECTORY):
                    raise _Otherwise
                self._ledger.overtake(new[0], path)
                self._ledger.revise(db, old[0])
                self._ledger.revise(db, new[0])
        except _Otherwise:
            return False
        return True

    def forget_others(self, name: str, listed: Sequence[str]) -> None:
        """Remove the entries of evicted links and directories that are not ``listed`` in the store's manifest, because
        another host deleted them."""
        number = self._ledger.id(name)
        rows = self._ledger.db.all(
            "SELECT dir, name FROM entry WHERE session = ? AND resident = 0 AND kind <> 'file' AND etag IS NULL"
            " AND synced = generation",
            (number,),
        )
        gone = {join(row[0], row[1]) for row in rows} - set(listed)
        with self._ledger.db.write() as db:
            db.executemany(
                "DELETE FROM entry WHERE session = ? AND dir = ? AND name = ? AND resident = 0",
                [(number, *split(path)) for path in gone],
            )

    def set_learned(self, name: str, manifest: Version | None, serial: int = 0, *, now: float | None = None) -> None:
        """Record that the store's state at ``now`` is merged. ``manifest`` is the version of its manifest, ``serial``
        its number."""
        with self._ledger.db.write() as db:
            db.execute(
                "UPDATE session SET learned = 1, manifest_etag = ?, manifest_version_id = ?, manifest_revision = -1,"
                " manifest_serial = max(manifest_serial, ?), listed_at = ? WHERE id = ?",
                (manifest and manifest.etag, manifest and manifest.version_id, serial, now, self._ledger.id(name)),
            )

    def learn_mode(self, name: str, mode: int) -> None:
        """Merge the permission bits of the session's directory on another host. Nothing changes if it is here."""
        is_here = "EXISTS (SELECT 1 FROM entry WHERE session = ?2 AND resident = 1)"
        with self._ledger.db.write() as db:
            db.execute(f"UPDATE session SET mode = ?1 WHERE id = ?2 AND NOT {is_here}", (mode, self._ledger.id(name)))

    def relist(self, name: str) -> None:
        """Make the next commit write the manifest again, because the one in the store is wrong."""
        with self._ledger.db.write() as db:
            self._ledger.revise(db, self._ledger.id(name))

    def set_listed(self, name: str, now: float) -> None:
        """Record that the store's listing agreed with the entries at ``now``."""
        with self._ledger.db.write() as db:
            db.execute("UPDATE session SET listed_at = ? WHERE id = ?", (now, self._ledger.id(name)))

    def unlearn(self, name: str) -> None:
        """Make the next use of the session list the store again. Durable when it returns.

        The caller is about to change the store. If the process dies before the journal records that change, the listing
        finds it.
        """
        if (row := self.get(name)) is not None and row.learned:
            with self._ledger.db.write(durable=True) as db:
                db.execute(UNLEARN, (self._ledger.id(name),))

    def unlearn_all(self, *, but: str | None = None) -> None:
        """Make the next use of each session list the store again, because the journal may be out of date."""
        with self._ledger.db.write() as db:
            db.execute("UPDATE session SET learned = 0 WHERE learned = 1 AND name IS NOT ?", (but,))

    def forget_evicted(self, name: str, path: str, *, overtaken: AbstractSet[str] = frozenset()) -> None:
        """Remove an evicted entry whose object no longer exists. ``overtaken`` is as in ``learn``."""
        number = self._ledger.id(name)
        with self._ledger.db.write() as db:
            if path in overtaken:
                return
            db.execute(f"DELETE FROM entry WHERE {_ONE} AND resident = 0", (number, *split(path)))
            self._ledger.revise(db, number)

    def changed(self, name: str, path: str, stored: Stored | None) -> bool:
        """Record that this host changed an object without a local file (None: deleted it).

        An evicted entry gets that state. Returns whether the object of a deleted entry had been lost.
        """
        number, lost = self._ledger.id(name), False
        with self._ledger.db.write() as db:
            self._ledger.overtake(number, path)
            if stored is None:
                deleted = f"DELETE FROM entry WHERE {_ONE} AND resident = 0 RETURNING synced < generation"
                lost = any(row[0] for row in db.execute(deleted, (number, *split(path))).fetchall())
            else:
                db.execute(_LEARN, _learned(number, path, self._ledger.next_generation(db), stored))
            self._ledger.revise(db, number)
        return lost

    def manifest_written(
        self, name: str, *, generation: int, revision: int, manifest: Version, state: str = "open", serial: int = 0
    ) -> None:
        """Record that a manifest with everything up to ``generation`` is stored: links and directories are clean.

        Increments the counter of pulse.py in the same transaction.
        """
        number = self._ledger.id(name)
        listed = "session = ? AND kind <> 'file' AND etag IS NULL AND generation <= ?"
        with self._ledger.db.write() as db:
            self._ledger.overtake(number, MANIFEST)
            db.execute(f"DELETE FROM entry WHERE {listed} AND gone_at IS NOT NULL", (number, generation))
            db.execute(
                f"UPDATE entry SET synced = generation, newer = NULL WHERE {listed} AND synced < generation",
                (number, generation),
            )
            db.execute(
                "UPDATE session SET state = ?, manifest_revision = ?, manifest_etag = ?, manifest_version_id = ?,"
                " manifest_serial = ? WHERE id = ?",
                (state, revision, manifest.etag, manifest.version_id, serial, number),
            )
            db.execute("UPDATE conflict SET reported = 1 WHERE session = ?", (number,))
            db.execute("UPDATE meta SET pulse = pulse + 1")

    def add_conflict(self, name: str, conflict: Conflict, kept: Stored | None, now: float) -> None:
        """Record a conflict. ``kept`` is the object at the conflict name (None: the other bytes keep their own name).

        Durable when it returns.
        """
        number = self._ledger.id(name)
        with self._ledger.db.write(durable=True) as db:
            self._ledger.overtake(number, conflict.kept_as)
            if kept is not None:
                generation = self._ledger.next_generation(db)
                db.execute(_LEARN, _learned(number, conflict.kept_as, generation, kept))
            db.execute(
                "INSERT INTO conflict (session, path, kept_as, seen_at) VALUES (?, ?, ?, ?)",
                (number, os.fsencode(conflict.path), os.fsencode(conflict.kept_as), now),
            )
            self._ledger.revise(db, number)

    def set_reported(self, name: str) -> None:
        """Record that a flush reported the session's conflicts."""
        with self._ledger.db.write() as db:
            db.execute("UPDATE conflict SET reported = 1 WHERE session = ?", (self._ledger.id(name),))

    def conflict_count(self, name: str) -> int:
        """Count all conflicts of the session so far."""
        ((count,),) = self._ledger.db.all("SELECT count(*) FROM conflict WHERE session = ?", (self._ledger.id(name),))
        return int(count)

    def conflicts(self, name: str) -> list[Conflict]:
        """Return the conflicts that no successful flush has reported yet."""
        rows = self._ledger.db.all(
            "SELECT path, kept_as FROM conflict WHERE session = ? AND reported = 0", (self._ledger.id(name),)
        )
        return [Conflict(os.fsdecode(row[0]), os.fsdecode(row[1])) for row in rows]


def _learned(number: int, path: str, generation: int, stored: Stored) -> Row:
    return (number, *split(path), generation, *to_columns(stored))


def _told(number: int, path: str, generation: int, s: FileStat) -> Row:
    return (number, *split(path), s.kind, generation, s.mtime_ns, s.mode, _bytes(s.target), s.mtime_ns / 1e9)


def _bytes(target: str | None) -> bytes | None:
    return None if target is None else os.fsencode(target)
