"""What the parts of the journal share: the database, the sessions' numbers, generations and revisions."""

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

from cachesync.errors import JournalDamaged, JournalUnavailable
from cachesync.journal.database import Database, Row
from cachesync.journal.rows import DOUBTED, LEAVE, NEVER_SEEN, UNLEARN, UNSENT

BOOT = Path("/proc/sys/kernel/random/boot_id")

_ENDED = "-"
"""Before the boot in which a life ended in order."""

_MOST_LIVES = 1000
"""What an older life tried, and never heard of, counts as another writer's: it is kept as a conflict copy."""

_STALE = 60.0
"""Seconds for which a listing may still show an object that was deleted: some S3 stores list with a delay."""

_LATE = 600.0
"""Seconds before the last thing that is known of a life that the power ended: what was stored in them may not have been
on the disk yet. Kernels write back after 30 s."""

_AT = "max(dirty_since, ifnull(stored_at, 0))"
_DOUBT = f"""
WITH latest(at, generation) AS (
    SELECT {_AT}, generation FROM entry WHERE kind = 'file' AND resident = 1 ORDER BY 1 DESC LIMIT 1
) UPDATE entry SET unsettled = {DOUBTED} FROM latest
WHERE entry.kind = 'file' AND entry.resident = 1
AND (synced < entry.generation OR {_AT} >= latest.at - {_LATE} OR entry.generation >= latest.generation)
"""
"""By the order of generations too: the clock may have been set back."""

MANIFEST = ""
"""Among the paths that overtook a listing: the session's manifest."""


class Ledger:
    """The open database and the counters in it."""

    def __init__(self, path: Path, *, stores: bool) -> None:
        self.db = Database(path)
        self.life = secrets.token_hex(8)
        self.ended_in_order = False
        """The machine was restarted after the life before had ended in order: of the disk something may be lost."""
        self._settle_in(stores=stores)
        ((self.journal_id, self.opened_at),) = self.db.all("SELECT id, generation FROM meta")
        lives = self.db.all("SELECT token, lead(began) OVER (ORDER BY number) FROM life")
        self.lives: dict[str, int | None] = dict(lives)
        """The token of each life, and the last generation that there was in it (None: it is not over)."""
        self._numbers: dict[str, int] = dict(self.db.all("SELECT name, id FROM session"))
        self._names = {number: name for name, number in self._numbers.items()}
        self._lock = threading.Lock()
        self._listings: list[tuple[int, set[str]]] = []
        self._deleted: deque[tuple[float, int, str]] = deque()
        self._hardened = 0

    def _settle_in(self, *, stores: bool) -> None:
        """A life begins. A journal that was copied with its root is another writer than the one it was copied from: it
        gets an id of its own, and no life of the other is one of its own. It and one that lost its last commits with
        the machine's power learn anew what the store has. They doubt the disk, too: names and bytes of the last
        seconds may be lost there; also if the life before ended in order, as each command without a daemon does: that
        syncs the journal, and none of the files."""
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
        """Let the file go, in order: nothing of it is lost any more."""
        with contextlib.suppress(JournalUnavailable, JournalDamaged), self.db.write(durable=True) as db:
            db.execute(f"UPDATE meta SET boot = '{_ENDED}' || ifnull(boot, '')")
        self.db.close()

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

    @contextlib.contextmanager
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

    def deleted(self, number: int, path: str) -> None:
        """Note, in a transaction, that this host deleted the object at a path."""
        self.overtake(number, path)
        now = time.monotonic()
        with self._lock:
            while self._deleted and self._deleted[0][0] < now - _STALE:
                self._deleted.popleft()
            self._deleted.append((now, number, path))

    def deleted_lately(self, name: str) -> set[str]:
        """Return the paths of a session whose objects this process deleted in the last minute."""
        number, since = self.id(name), time.monotonic() - _STALE
        with self._lock:
            return {path for at, session, path in self._deleted if session == number and at >= since}

    def harden(self, generation: int) -> None:
        """Let what was marked up to ``generation`` outlive a loss of power; one sync serves all that is marked by
        now."""
        if generation > self._hardened:
            with self.db.write(durable=True) as db:
                latest = self.next_generation(db)
            self._hardened = max(self._hardened, latest)

    def leave(self, db: sqlite3.Connection, number: int, where: str, values: Row, *, vanished: bool) -> tuple[int, int]:
        """In a transaction, let go of entries of a session that are not on the disk any more: what the store has is
        evicted, what it never had is forgotten. Nothing becomes a tombstone (P7). Returns how many entries were
        evicted, and how many files or changes to files went before they were stored."""
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
        if forgotten:
            db.execute(UNLEARN, (number,))
        return evicted, lost

    def revise(self, db: sqlite3.Connection, number: int) -> None:
        """Note, in a transaction, that a manifest of this session would look different now."""
        db.execute("UPDATE session SET revision = revision + 1 WHERE id = ?", (number,))


def booted_at() -> float:
    """When this boot of the kernel began, in seconds since the epoch by today's clock."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC)


def _boot() -> str | None:
    """Which boot of the kernel this is; None where it does not say."""
    try:
        return BOOT.read_text("ascii").strip()
    except OSError:
        return None
