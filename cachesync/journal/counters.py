"""Shared by the parts of the journal: the database, the sessions' numbers, generations and revisions."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

from cachesync.journal.database import Database, Row
from cachesync.journal.rows import DOUBTED, LEAVE, NEVER_SEEN, UNLEARN, UNSENT
from cachesync.model.errors import JournalDamaged, JournalUnavailable

BOOT = Path("/proc/sys/kernel/random/boot_id")

_ENDED = "-"
"""The prefix of the recorded boot id after an orderly shutdown of the journal."""

_MOST_LIVES = 1000
"""Lives that are remembered. Unconfirmed puts of older lives count as another writer's: they are kept as conflict
copies."""

STALE = 60.0
"""Seconds for which a listing may still show a deleted object, because some S3 stores list with a delay."""

_LATE = 600.0
"""Seconds before a life's last recorded change. After a power failure, files that were stored in this period may not
have been written back to disk. Kernels write back after 30 s."""

_AT = "max(dirty_since, ifnull(stored_at, 0))"
_DOUBT = f"""
WITH latest(at, generation) AS (
    SELECT {_AT}, generation FROM entry WHERE kind = 'file' ORDER BY 1 DESC LIMIT 1
) UPDATE entry SET unsettled = {DOUBTED} FROM latest
WHERE entry.kind = 'file'
AND (synced < entry.generation OR {_AT} >= latest.at - {_LATE} OR entry.generation >= latest.generation)
"""
"""Marks files as doubted that changed shortly before a power failure, also evicted ones: an ignored file, or one in a
directory that was moved away, may come back. It also compares generations, because the clock may have been set back."""

MANIFEST = ""
"""Stands for the session's manifest among the paths that overtook a listing."""


class Ledger:
    """The open database and the counters in it."""

    def __init__(self, path: Path, *, stores: bool) -> None:
        self.db = Database(path)
        self.life = secrets.token_hex(8)
        self.ended_in_order = False
        """The previous life closed the journal, and the machine restarted since. Files may still have lost their last
        bytes."""
        self._settle_in(stores=stores)
        ((self.journal_id, self.opened_at),) = self.db.all("SELECT id, generation FROM meta")
        lives = self.db.all("SELECT token, lead(began) OVER (ORDER BY number) FROM life")
        self.lives: dict[str, int | None] = dict(lives)
        """The last generation of each life, by token (None: the latest life)."""
        self._numbers: dict[str, int] = dict(self.db.all("SELECT name, id FROM session"))
        self._names = {number: name for name, number in self._numbers.items()}
        self._adding = threading.Lock()
        self._lock = threading.Lock()
        """Transactions take it, so a thread must not begin a transaction while it holds it."""
        self._listings: list[tuple[int, set[str]]] = []
        self._deleted: deque[tuple[float, int, str]] = deque()
        self._hardened = 0

    def _settle_in(self, *, stores: bool) -> None:
        """Begin a life, and detect a copied journal or a restart of the machine.

        A copied journal is another writer than its original: it gets a new id and no earlier lives. A copied journal,
        and one that may have lost commits in a power failure, learns again what the store has.

        Both a copy and a restart put the disk in doubt: its last names and bytes may be lost. That is so even after an
        orderly end, which syncs the journal and not the files.
        """
        ((place, boot),) = self.db.all("SELECT place, boot FROM meta")
        now, ended = _boot(), boot is not None and boot.startswith(_ENDED)
        copied = place not in (None, self.db.place)
        cut = boot is not None and boot.removeprefix(_ENDED) != (now or "")
        if (place, boot) == (self.db.place, now) and not stores:
            return
        with self.db.write(durable=True) as db:
            db.execute("UPDATE meta SET place = ?, boot = ?", (self.db.place, now))
            if copied:
                db.execute("UPDATE meta SET id = ?", (secrets.token_hex(8),))
                db.execute("DELETE FROM life")
            if copied or (cut and not ended):
                db.execute("UPDATE session SET learned = 0")
            if copied or cut:
                db.execute("UPDATE session SET doubted = 1")
            if cut:
                ((before,),) = db.execute(f"SELECT EXISTS (SELECT 1 FROM entry WHERE unsettled = {DOUBTED})").fetchall()
                self.ended_in_order = ended and not before
                db.execute(_DOUBT)
            if stores:
                db.execute("INSERT INTO life (token, began) SELECT ?, generation FROM meta", (self.life,))
                db.execute("DELETE FROM life WHERE number <= (SELECT max(number) FROM life) - ?", (_MOST_LIVES,))

    def close(self) -> None:
        """Close the database and record the orderly end, durably."""
        with contextlib.suppress(JournalUnavailable, JournalDamaged), self.db.write(durable=True) as db:
            db.execute(f"UPDATE meta SET boot = '{_ENDED}' || ifnull(boot, '')")
        self.db.close()

    def names(self) -> list[str]:
        """Return the names of all known sessions, sorted."""
        with self._lock:
            return sorted(self._numbers)

    def number(self, name: str) -> int | None:
        """Return a session's number, or None if it is unknown."""
        return self._numbers.get(name)

    def id(self, name: str) -> int:
        """Return the number of a known session. Raises KeyError."""
        return self._numbers[name]

    def name(self, number: int) -> str:
        """Return the name of a session."""
        return self._names[number]

    def add(self, name: str, now: float) -> None:
        """Add a session, if it is unknown."""
        with self._adding:
            if name in self._numbers:
                return
            with self.db.write() as db:
                db.execute("INSERT OR IGNORE INTO session (name, added_at) VALUES (?, ?)", (name, now))
                ((number,),) = db.execute("SELECT id FROM session WHERE name = ?", (name,)).fetchall()
            with self._lock:
                self._names[number] = name
                self._numbers[name] = number

    def generation(self) -> int:
        """Return the latest generation."""
        ((generation,),) = self.db.all("SELECT generation FROM meta")
        return int(generation)

    def next_generation(self, db: sqlite3.Connection) -> int:
        """Return a new generation, in a transaction. Many paths may share it: it only has to grow for each path."""
        ((generation,),) = db.execute("UPDATE meta SET generation = generation + 1 RETURNING generation").fetchall()
        return int(generation)

    @contextlib.contextmanager
    def listing(self, name: str) -> Iterator[AbstractSet[str]]:
        """Collect the paths whose objects this host changes while the context is open. The yielded set grows. A listing
        that was read meanwhile may be outdated for these paths. Inside a transaction, the set is exact.
        """
        listing = self.id(name), set[str]()
        with self._lock:
            self._listings = [*self._listings, listing]
        try:
            yield listing[1]
        finally:
            with self._lock:
                self._listings = [other for other in self._listings if other is not listing]

    def overtake(self, number: int, path: str) -> None:
        """Record, in a transaction, that this host changed the object at a path."""
        for session, paths in self._listings:
            if session == number:
                paths.add(path)

    def deleted(self, number: int, path: str) -> None:
        """Record, in a transaction, that this host deleted the object at a path."""
        self.overtake(number, path)
        now = time.monotonic()
        with self._lock:
            while self._deleted and self._deleted[0][0] < now - STALE:
                self._deleted.popleft()
            self._deleted.append((now, number, path))

    def deleted_lately(self, name: str) -> set[str]:
        """Return the paths of a session whose objects this process deleted in the last minute."""
        number, since = self.id(name), time.monotonic() - STALE
        with self._lock:
            return {path for at, session, path in self._deleted if session == number and at >= since}

    def harden(self, generation: int) -> None:
        """Make all marks up to ``generation`` durable. One sync covers all marks made so far."""
        if generation > self._hardened:
            with self.db.write(durable=True) as db:
                latest = self.next_generation(db)
            self._hardened = max(self._hardened, latest)

    def leave(self, db: sqlite3.Connection, number: int, where: str, values: Row, *, vanished: bool) -> tuple[int, int]:
        """Evict entries of a session that are not on disk any more, in a transaction.

        Entries that the store never had are removed. No entry becomes a tombstone (P7). Returns the number of evicted
        entries, and the number of files or changes that were not stored.
        """
        forgotten = db.execute(
            f"DELETE FROM entry WHERE {where} AND resident = 1 AND kind = 'file' AND etag IS NULL", values
        ).rowcount
        changed = f"SELECT count(*) FROM entry WHERE {where} AND {UNSENT} AND gone_at IS NULL"
        lost = forgotten + db.execute(changed, values).fetchone()[0]
        db.execute(f"UPDATE entry SET {NEVER_SEEN} WHERE {where} AND {UNSENT}", values)
        never_listed = "(kind <> 'file' AND etag IS NULL AND synced = 0)"
        db.execute(f"DELETE FROM entry WHERE {where} AND resident = 1 AND (newer = 'null' OR {never_listed})", values)
        evicted = db.execute(
            f"UPDATE entry SET {LEAVE}, vanished = {int(vanished)} WHERE {where} AND resident = 1", values
        ).rowcount
        self.revise(db, number)
        if lost:
            db.execute(UNLEARN, (number,))
        return evicted, lost

    def revise(self, db: sqlite3.Connection, number: int) -> None:
        """Record, in a transaction, that the session's manifest is outdated."""
        db.execute("UPDATE session SET revision = revision + 1 WHERE id = ?", (number,))


def booted_at() -> float:
    """Return when this boot of the kernel began, in seconds since the epoch by the current clock."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC)


def _boot() -> str | None:
    """Return the kernel's boot id, or None if the system has none."""
    try:
        return BOOT.read_text("ascii").strip()
    except OSError:
        return None
