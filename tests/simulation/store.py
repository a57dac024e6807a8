"""The simulated store: who wrote what, faults in the middle of requests, listings of a moment ago."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from cachesync.model import Attributes, ObjectInfo
from tests.flat_store import FlatStore, Held


class SimulatedStore(FlatStore):
    """A FlatStore that knows which host is at work (``acting``), so that each object has its writer.

    ``before`` is called before a request has its effect, and ``after`` when it had it; both may raise Crash.
    """

    def __init__(self) -> None:
        super().__init__()
        self.acting = "us"
        self.before: Callable[[str, str], None] = lambda *_: None
        self.after: Callable[[], None] = lambda: None
        self.seen: Callable[[str, Held], None] = lambda *_: None
        """Called when an object was asked for, with its key and what it is."""
        self.events = 0
        """Counts what happens in the world, so that it is known what came first."""
        self.changed_at: dict[str, int] = {}
        """The event at which a key was last changed."""
        self.stale: dict[str, Held] = {}
        self.stale_left = 0
        self.was_stale = False
        """An old listing was given: what it says of versions may be listed in a manifest until the next one."""

    def tick(self) -> int:
        """Number the next event."""
        self.events += 1
        return self.events

    def head(self, key: str) -> ObjectInfo:
        info = super().head(key)
        if key in self.objects:
            self.seen(key, self.objects[key])
        return info

    def remember(self, listings: int) -> None:
        """The next ``listings`` listings tell what is there now."""
        self.stale = dict(self.objects)
        self.stale_left = listings

    def list(self, prefix: str, *, shallow: bool = False) -> Iterator[ObjectInfo]:
        if shallow or not self.stale_left:
            yield from super().list(prefix, shallow=shallow)
            return
        self.stale_left -= 1
        self.was_stale = True
        after = self._begin("list", prefix)
        after()
        for key, held in sorted(self.stale.items()):
            if key.startswith(prefix):
                yield dataclasses.replace(held.info, sha256=None, metadata={}, content_type=None)

    def versions(self, key: str) -> Sequence[bytes]:
        """The bytes of every state that a key ever had."""
        return [held.data for _, held in self.past.get(key, []) if held is not None]

    def last_writer(self, key: str) -> str | None:
        """Who made of a key what it is now."""
        held = self.objects.get(key)
        return self.deleted_by.get(key) if held is None else held.writer

    def _begin(self, verb: str, key: str) -> Callable[[], None]:
        self.before(verb, key)
        after = super()._begin(verb, key)

        def both() -> None:
            self.after()
            after()

        return both

    def _place(self, key: str, data: bytes, attributes: Attributes, writer: str, *, digest: bool = True) -> ObjectInfo:
        info = super()._place(key, data, attributes, writer, digest=digest)
        self.changed_at[key] = self.tick()
        if writer == "us":
            past_journal = attributes.metadata.get("writer", "").endswith("-direct")
            held = dataclasses.replace(self.objects[key], writer=self.acting + ", directly" * past_journal)
            self.objects[key] = held
            self.past[key][-1] = (self.past[key][-1][0], held)
        return info

    def _remove(self, key: str, who: str) -> None:
        super()._remove(key, self.acting if who == "us" else who)
        self.changed_at[key] = self.tick()
