"""The journal's queue in numbers, over all sessions: for who watches it from outside, now and then."""

from __future__ import annotations

import contextlib
import sqlite3
import time

from cachesync.journal.counters import Ledger
from cachesync.model.values import QueueCounts

_STEPS = 10_000
"""Instructions of SQLite's between two looks at the clock; less than a millisecond."""

_COUNT = """
SELECT count(*), sum(failed), min(dirty_since) FROM entry INDEXED BY dirty WHERE synced < generation AND kind <> 'dir'
"""


class Queue:
    """Counts on a connection of its own: nobody waits for it, be there a million dirty entries."""

    def __init__(self, ledger: Ledger) -> None:
        self._path = ledger.db.path

    def counts(self, limit: float) -> QueueCounts | None:
        """What is dirty, as ``Waiting.counts`` has it, but of all sessions at once; None if that cannot be counted in
        ``limit`` seconds, or the journal cannot be read now."""
        deadline = time.monotonic() + limit
        address = f"{self._path.absolute().as_uri()}?mode=ro"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(address, uri=True)) as db:
            db.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            ((dirty, failed, oldest),) = db.execute(_COUNT).fetchall()
            ((sessions, lost),) = db.execute("SELECT count(*), sum(lost > 0) FROM session").fetchall()
            return QueueCounts(dirty, failed or 0, oldest, sessions, lost or 0)
        return None
