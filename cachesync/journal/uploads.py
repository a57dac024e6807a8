"""The journal's memory of multipart uploads: enough to go on with one after a restart."""

from __future__ import annotations

import os

from cachesync.journal.counters import Ledger
from cachesync.journal.rows import split
from cachesync.model.values import Multipart


class Uploads:
    """At most one upload a path."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open = {(row[0], row[1]) for row in ledger.db.all("SELECT session, path FROM upload")}

    def load(self, name: str, path: str) -> Multipart | None:
        """The upload under way for a path."""
        where = (self._ledger.id(name), os.fsencode(path))
        if where not in self._open:
            return None
        row = self._ledger.db.one(
            "SELECT key, upload_id, sha256, part_size FROM upload WHERE session = ? AND path = ?", where
        )
        if row is None:
            return None
        parts = self._ledger.db.all("SELECT number, etag FROM part WHERE session = ? AND path = ?", where)
        key, upload_id, sha256, size = row
        return Multipart(key, upload_id, sha256, size, dict(parts))

    def save(self, name: str, path: str, upload: Multipart) -> None:
        """Remember an upload that was just begun."""
        where = (self._ledger.id(name), os.fsencode(path))
        with self._ledger.db.write() as db:
            db.execute("DELETE FROM part WHERE session = ? AND path = ?", where)
            db.execute(
                "INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?, ?, ?)",
                (*where, upload.key, upload.upload_id, upload.sha256, upload.part_size),
            )
        self._open.add(where)

    def add_part(self, name: str, path: str, number: int, etag: str) -> None:
        """Remember a part that the store confirmed."""
        with self._ledger.db.write() as db:
            where = (self._ledger.id(name), os.fsencode(path))
            db.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?)", (*where, number, etag))

    def drop(self, name: str, path: str) -> None:
        """Forget an upload that is complete or was given up."""
        where = (self._ledger.id(name), os.fsencode(path))
        with self._ledger.db.write() as db:
            db.execute("DELETE FROM part WHERE session = ? AND path = ?", where)
            db.execute("DELETE FROM upload WHERE session = ? AND path = ?", where)
        self._open.discard(where)

    def orphans(self) -> list[tuple[str, str, Multipart]]:
        """Uploads of paths that are no files with work to do any more: nobody will go on with them."""
        found = []
        for number, raw in sorted(self._open):
            name, path = self._ledger.name(number), os.fsdecode(raw)
            row = self._ledger.db.one(
                "SELECT 1 FROM entry WHERE session = ? AND dir = ? AND name = ? AND synced < generation",
                (number, *split(path)),
            )
            upload = self.load(name, path)
            if row is None and upload is not None:
                found.append((name, path, upload))
        return found
