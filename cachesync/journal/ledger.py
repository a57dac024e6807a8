"""What the parts of the journal share: the database, the sessions' numbers, generations and revisions."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from cachesync.journal.database import Database

MANIFEST = ""
"""Among the paths that overtook a listing: the session's manifest."""


class Ledger:
    """The open database and the counters in it."""

    def __init__(self, path: Path) -> None:
        self.db = Database(path)
        self._settle_in()
        ((self.journal_id, self.opened_at),) = self.db.all("SELECT id, generation FROM meta")
        self._numbers: dict[str, int] = dict(self.db.all("SELECT name, id FROM session"))
        self._names = {number: name for name, number in self._numbers.items()}
        self._lock = threading.Lock()
        self._listings: list[tuple[int, set[str]]] = []

    def _settle_in(self) -> None:
        """A journal that was copied with its root is another writer than the one it was copied from: it gets an id of
        its own, and learns anew what the store has."""
        ((place,),) = self.db.all("SELECT place FROM meta")
        if place == self.db.place:
            return
        with self.db.write(durable=True) as db:
            db.execute("UPDATE meta SET place = ?", (self.db.place,))
            if place is not None:
                db.execute("UPDATE meta SET id = ?", (secrets.token_hex(8),))
                db.execute("UPDATE session SET learned = 0")

    def names(self) -> list[str]:
        """All known sessions, sorted."""
        with self._lock:
            return sorted(self._numbers)

    def number(self, name: str) -> int | None:
        """A session's number, or None if it is not known."""
        return self._numbers.get(name)

    def id(self, name: str) -> int:
        """The number of a session that is known."""
        return self._numbers[name]

    def name(self, number: int) -> str:
        """The name of a session by its number."""
        return self._names[number]

    def add(self, name: str, now: float) -> None:
        """Make a session known; nothing happens if it is."""
        with self._lock:
            if name in self._numbers:
                return
            with self.db.write() as db:
                db.execute("INSERT OR IGNORE INTO session (name, added_at) VALUES (?, ?)", (name, now))
                ((number,),) = db.execute("SELECT id FROM session WHERE name = ?", (name,)).fetchall()
            self._names[number] = name
            self._numbers[name] = number

    def generation(self) -> int:
        """The last generation given out."""
        ((generation,),) = self.db.all("SELECT generation FROM meta")
        return int(generation)

    def next_generation(self, db: sqlite3.Connection) -> int:
        """Give out a generation, in a transaction. Many paths may share one: it only has to grow for each of them."""
        ((generation,),) = db.execute("UPDATE meta SET generation = generation + 1 RETURNING generation").fetchall()
        return int(generation)

    @contextmanager
    def listing(self, name: str) -> Iterator[AbstractSet[str]]:
        """While it is open, a listing of the session in the store may be older than the journal: the paths of which it
        is, as they become known. Read in a transaction it is exact."""
        listing = self.id(name), set[str]()
        with self._lock:
            self._listings = [*self._listings, listing]
        try:
            yield listing[1]
        finally:
            with self._lock:
                self._listings = [other for other in self._listings if other is not listing]

    def overtake(self, number: int, path: str) -> None:
        """Note, in a transaction, that what the store has at a path was changed by this host."""
        for session, paths in self._listings:
            if session == number:
                paths.add(path)

    def revise(self, db: sqlite3.Connection, number: int) -> None:
        """Note, in a transaction, that a manifest of this session would look different now."""
        db.execute("UPDATE session SET revision = revision + 1 WHERE id = ?", (number,))
