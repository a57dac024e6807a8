"""Waiting until the store has one path as it should be; it goes before everything else of its session."""

from __future__ import annotations

import time
from collections.abc import Callable

from cachesync.model.errors import StorePermanent, StoreTransient
from cachesync.model.record import record
from cachesync.model.values import Entry
from cachesync.sync.context import Context
from cachesync.sync.uploader import Uploader

_LOOK = 0.05


@record(frozen=True, slots=True)
class Awaiter:
    """Waits for single entries. Safe to use from many threads."""

    context: Context
    uploader: Uploader

    def stored(self, session: str, path: str, patience: float) -> None:
        """Wait until what is marked of a path by now is in the store, at most ``patience`` seconds.

        Raises StorePermanent if the store will not take it, StoreTransient if it has not by then.
        """
        entry = self.context.journal.entries.entry(session, path)
        if entry is not None:
            generation, now = entry.generation, self.context.clock()
            self.wait(session, path, lambda entry: entry is None or entry.synced >= generation, now, patience)

    def wait(
        self, session: str, path: str, done: Callable[[Entry | None], bool], started: float, patience: float
    ) -> Entry | None:
        """Wait until the entry is ``done``, which may raise; a failure counts if it was tried after ``started``.

        Raises as ``stored``.
        """
        deadline, hurried = time.monotonic() + patience, -1
        with self.uploader.urgent(session, deletes=False):
            self.uploader.resume()
            while not done(entry := self.context.journal.entries.entry(session, path)):
                assert entry is not None, "nothing is awaited of an entry that is not there"  # noqa: S101
                tried = (entry.tried_at or 0.0) >= started
                if entry.failed and tried:
                    raise StorePermanent("store", f"{session}/{path}", entry.error or "unknown")
                if time.monotonic() > deadline:
                    hint = f"done here, and in the store as soon as that can be; cachesync flush {session} waits for it"
                    reason = entry.error or "the store has not answered"
                    raise StoreTransient("store", f"{session}/{path}", reason, hint)
                if not tried and hurried != entry.generation and entry.due_at > self.context.clock():
                    hurried = entry.generation  # once: what postpones it again has a reason
                    self.context.journal.work.postpone(entry, self.context.clock())
                    self.uploader.wake()
                self.uploader.wait_for_progress(_LOOK)
        return entry
