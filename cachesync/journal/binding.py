"""Which store a journal belongs to: what it knows of versions is true of that one only."""

from __future__ import annotations

import os
from pathlib import Path

from cachesync.errors import ConfigError
from cachesync.journal.ledger import Ledger
from cachesync.record import record


@record(frozen=True, slots=True)
class Bound:
    """A store: its URL as people see it, where it is reached (None: not known, "" where there is no choice), and the id
    that it keeps (None: not known)."""

    store: str
    endpoint: str | None
    store_id: str | None

    @property
    def shown(self) -> str:
        """For people."""
        return f"{self.store} at {self.endpoint}" if self.endpoint else self.store


class Binding:
    """Each verb is one transaction, durable when it returns."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self) -> Bound | None:
        """The store that the journal is bound to, if it is."""
        ((store, endpoint, store_id),) = self._ledger.db.all("SELECT store, endpoint, store_id FROM meta")
        return None if store is None else Bound(store, endpoint, store_id)

    def bind(self, bound: Bound) -> None:
        """Bind the journal, or change what it is bound to."""
        with self._ledger.db.write(durable=True) as db:
            values = (bound.store, bound.endpoint, bound.store_id)
            db.execute("UPDATE meta SET store = ?, endpoint = ?, store_id = ?", values)

    def lacks_bytes(self) -> bool:
        """Whether there are files of which only the store has the bytes."""
        row = self._ledger.db.one("SELECT 1 FROM entry INDEXED BY evicted WHERE resident = 0 AND kind = 'file' LIMIT 1")
        return row is not None

    def keep(self, path: Path) -> None:
        """Write a copy of the whole journal to a new file, for us alone."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self._ledger.db.all("VACUUM INTO ?", (str(path),))

    def start_over(self, now: float) -> None:
        """Forget what the store had, to learn another one: every file that stands here is dirty, and tells of no
        version; what was deleted here is forgotten, and so are uploads under way. Files, links and directories that
        are not here stay as they are known."""
        with self._ledger.db.write(durable=True) as db:
            generation = self._ledger.next_generation(db)
            db.execute("DELETE FROM entry WHERE gone_at IS NOT NULL")
            db.execute("DELETE FROM part")
            db.execute("DELETE FROM upload")
            db.execute(
                "UPDATE entry SET etag = NULL, version_id = NULL, stored_size = NULL, stored_mtime_ns = NULL,"
                " stored_mode = NULL, sha256 = NULL, stored_at = NULL, stored_labels = NULL, newer = NULL,"
                " older = NULL, attempts = 0, failed = 0, error = NULL, due_at = ?1,"
                " dirty_since = CASE WHEN synced < generation THEN dirty_since ELSE ?1 END, generation = ?2"
                " WHERE resident = 1 AND kind <> 'dir'",
                (now, generation),
            )
            db.execute(
                "UPDATE session SET learned = 0, manifest_etag = NULL, manifest_version_id = NULL,"
                " manifest_revision = -1, manifest_serial = 0, revision = revision + 1"
            )


def elsewhere(known: Bound, reached: Bound) -> ConfigError:
    """The journal belongs to another store than the one that is configured."""
    hint = "set store and endpoint to that one again, or let cachesync rebind store this root in the new one"
    return ConfigError("use the store", reached.shown, f"this root is stored in {known.shown}", hint)
