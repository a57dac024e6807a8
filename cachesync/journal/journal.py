"""The journal: the only durable state. One row a path; facts only (see schema.py).

A thousand changes of one path are one row with a higher generation, so a restart is "open, scan": there is no recovery
code. Dirty is derived from two integers and stored nowhere else.
"""

from __future__ import annotations

from pathlib import Path

from cachesync.journal import counters
from cachesync.journal.binding import Binding, Bound, elsewhere
from cachesync.journal.counters import Ledger
from cachesync.journal.database import store_of
from cachesync.journal.devices import Devices
from cachesync.journal.dirty_queries import Waiting
from cachesync.journal.entries import Entries
from cachesync.journal.lives import Lives
from cachesync.journal.placement import Residence
from cachesync.journal.queue import Queue
from cachesync.journal.session_lock import Turns
from cachesync.journal.sessions import Sessions
from cachesync.journal.uploads import Uploads
from cachesync.journal.work import Work

__all__ = ["Journal", "check_store"]


class Journal:
    """Every entry under one root. Safe to call from many threads; each verb is one transaction.

    Opening raises JournalDamaged where the file cannot be trusted (``set_aside`` keeps it), JournalUnavailable where it
    cannot be opened or written now. ``stores`` is False for commands that store nothing.
    """

    def __init__(self, path: Path, *, stores: bool = True) -> None:
        self._ledger = Ledger(path, stores=stores)
        self.id: str = self._ledger.journal_id
        self.opened_at: int = self._ledger.opened_at
        self.binding = Binding(self._ledger)
        self.sessions = Sessions(self._ledger)
        self.entries = Entries(self._ledger)
        self.waiting = Waiting(self._ledger)
        self.work = Work(self._ledger)
        self.uploads = Uploads(self._ledger)
        self.lives = Lives(self._ledger)
        self.residence = Residence(self._ledger)
        self.queue = Queue(self._ledger)
        self.devices = Devices(self._ledger)
        self.turns = Turns(path)

    @staticmethod
    def booted_at() -> float:
        """Return the time of the kernel's boot, in seconds since the epoch."""
        return counters.booted_at()

    @property
    def reverted_until(self) -> float:
        """A power failure may have reverted a doubted file that was written before this time.

        That is the time of the boot, or 0 if the journal ended in order: it then knows when each stored file was
        written, and a later write is a program's own.
        """
        return 0.0 if self._ledger.ended_in_order else self.booted_at()

    def pulse(self) -> int:
        """Return the counter that a file in the root holds too (see pulse.py)."""
        ((number,),) = self._ledger.db.all("SELECT pulse FROM meta")
        return int(number)

    def next_pulse(self) -> None:
        """Increment the counter."""
        with self._ledger.db.write() as db:
            db.execute("UPDATE meta SET pulse = pulse + 1")

    def close(self) -> None:
        """Let the file go."""
        self._ledger.close()

    def in_place(self) -> bool:
        """Whether the open file is still the one at its path (a state folder may be deleted under us)."""
        return self._ledger.db.in_place()

    def generation(self) -> int:
        """The last generation given out."""
        return self._ledger.generation()


def check_store(path: Path, store: str) -> None:
    """Raise ConfigError if the journal at ``path``, if there is one, is bound to another store."""
    known = store_of(path)
    if known not in (None, store):
        raise elsewhere(Bound(known, None, None), Bound(store, None, None))
