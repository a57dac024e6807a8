"""Stores the measured capabilities of the root's file systems, so that the next start need not measure again."""

from __future__ import annotations

from cachesync.journal.counters import Ledger
from cachesync.model.values import LONGEST_TICK, Capabilities, Device, Leases


class Devices:
    """The capabilities in the journal, one row for each file system."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, device: Device) -> Capabilities | None:
        """Return the stored capabilities of a device; None if there are none or they are not valid."""
        row = self._ledger.db.one("SELECT kind, tick, births, leases FROM device WHERE id = ?", (device.id,))
        if row is None:
            return None
        kind, tick, births, leases = row
        if kind != device.kind or leases not in list(Leases) or not 0 <= tick <= LONGEST_TICK:
            return None
        return Capabilities(device, tick, births=bool(births), leases=Leases(leases))

    def put(self, found: Capabilities) -> None:
        """Store measured capabilities."""
        row = (found.device.id, found.device.kind, found.tick, found.births, found.leases)
        with self._ledger.db.write() as db:
            db.execute("INSERT OR REPLACE INTO device (id, kind, tick, births, leases) VALUES (?, ?, ?, ?, ?)", row)
