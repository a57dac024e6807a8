"""The store that a journal belongs to. The versions in the journal are valid for that store only."""

from __future__ import annotations

import os
from pathlib import Path

from cachesync.journal.counters import Ledger
from cachesync.model.errors import ConfigError
from cachesync.model.record import record


@record(frozen=True, slots=True)
class Bound:
    """A store: its URL as displayed, its endpoint (None: unknown, "": the default), and the id that it keeps (None:
    unknown)."""

    store: str
    endpoint: str | None
    store_id: str | None

    @property
    def shown(self) -> str:
        """The URL and the endpoint, for messages."""
        return f"{self.store} at {self.endpoint}" if self.endpoint else self.store


class Binding:
    """The binding of one journal. Each method is one transaction, durable when it returns."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self) -> Bound | None:
        """Return the store that the journal is bound to; None if it is bound to none."""
        ((store, endpoint, store_id),) = self._ledger.db.all("SELECT store, endpoint, store_id FROM meta")
        return None if store is None else Bound(store, endpoint, store_id)

    def bind(self, bound: Bound) -> None:
        """Bind the journal to a store, or change its binding."""
        with self._ledger.db.write(durable=True) as db:
            values = (bound.store, bound.endpoint, bound.store_id)
            db.execute("UPDATE meta SET store = ?, endpoint = ?, store_id = ?", values)

    def lacks_bytes(self) -> bool:
        """Whether the journal has evicted files."""
        row = self._ledger.db.one("SELECT 1 FROM entry INDEXED BY evicted WHERE resident = 0 AND kind = 'file' LIMIT 1")
        return row is not None

    def keep(self, path: Path) -> None:
        """Write a private copy of the whole journal to a new file."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        self._ledger.db.all("VACUUM INTO ?", (str(path),))

    def start_over(self, now: float) -> None:
        """Forget what the old store had, before another store is learned.

        Resident files become dirty and lose their stored version. Tombstones and running uploads are removed. Evicted
        entries stay unchanged.
        """
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
    """Return the error for a journal that belongs to another store than the configured one."""
    hint = "set store and endpoint back, or run cachesync rebind to store this root in the new store"
    return ConfigError("use the store", reached.shown, f"this root is stored in {known.shown}", hint)
