"""The simulated store: who wrote what, faults in the middle of requests, listings of a moment ago."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cachesync.model.errors import PreconditionFailed, StoreTransient
from cachesync.model.values import Attributes, ObjectInfo
from cachesync.store.base import Body
from tests.flat_store import Crash, FlatStore, Held

STRAGGLES = 3.0
"""Virtual seconds that a request is on its way whose process has died."""


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
        self.clock: Callable[[], float] = lambda: 0.0
        self.stood: dict[str, list[tuple[float, bytes | None]]] = {}
        """When each key became what, for who reads it: None is no object."""
        self.gone_at: dict[str, int] = {}
        """By key: the event at which an object went with the whole store."""
        self.portal = False
        """Requests are answered by a page of somebody else's."""
        self.straggling = False
        self.stragglers: list[tuple[float, Callable[[], None]]] = []
        self.now: Callable[[], float] = lambda: 0.0
        self.landed: set[str] = set()
        """Keys that a process wrote after it had died."""
        self._kept: dict[str, Held] = {}
        self.stale: dict[str, Held] = {}
        self.stale_left = 0
        self.was_stale = False
        """An old listing was given: what it says of versions may be listed in a manifest until the next one."""

    @property
    def is_away(self) -> bool:
        """Whether nobody, or somebody else, answers at its address."""
        return self.down or self.portal

    def tick(self) -> int:
        """Number the next event."""
        self.events += 1
        return self.events

    def head(self, key: str) -> ObjectInfo:
        info = super().head(key)
        if key in self.objects:
            self.seen(key, self.objects[key])
        return info

    # -- other stores at its address -----------------------------------------------------------------------------------

    def keep(self) -> None:
        """Take a backup."""
        self._kept = dict(self.objects)

    def is_kept(self, key: str) -> bool:
        """Whether the backup has an object as it is now."""
        return key in self._kept and self._kept[key] == self.objects.get(key)

    def reset(self, what: str) -> None:
        """All objects go ("emptied"), or another store stands at its address ("another"), or an earlier state of it was
        restored ("older")."""
        kept = self._kept if what == "older" else {}
        self.stale_left = 0
        for key in sorted(self.objects.keys() - kept.keys()):
            self._remove(key, "another")
            self.gone_at[key] = self.events
        for key, held in kept.items():
            if self.objects.get(key) != held:
                self._put_back(key, held)
        if what == "another":
            self.past.clear()

    def _put_back(self, key: str, held: Held) -> None:
        held = dataclasses.replace(held, writer="another")
        self.objects[key] = held
        self.past.setdefault(key, []).append((f"{held.info.version.etag} again {self.tick()}", held))
        self.deleted_by.pop(key, None)
        self._note(key, held.data)

    # -- what comes late -----------------------------------------------------------------------------------------------

    def put(self, key: str, body: Body, attributes: Attributes, **options: Any) -> ObjectInfo:
        """A put that is ``straggling`` takes effect some seconds after its process has died."""
        if not self.straggling or key.endswith("manifest.json"):
            return super().put(key, body, attributes, **options)
        self.straggling = False
        self._begin("put", key)
        data, acting, expect = body.read(0, body.size), self.acting, options["expect"]

        def land() -> None:
            before, self.acting = self.acting, acting
            with contextlib.suppress(PreconditionFailed):
                self._expect("put", key, expect)
                self._place(key, data, attributes, "us")
                self.landed.add(key)
            self.acting = before

        self.stragglers.append((self.now() + STRAGGLES, land))
        raise Crash

    def land(self, *, now: bool = False) -> None:
        """What is on its way to the store arrives: what is due by now, or all of it ``now``."""
        while self.stragglers and (now or self.stragglers[0][0] <= self.now()):
            self.stragglers.pop(0)[1]()

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
        return [data for _, data in self.stood.get(key, []) if data is not None]

    def last_writer(self, key: str) -> str | None:
        """Who made of a key what it is now."""
        held = self.objects.get(key)
        return self.deleted_by.get(key) if held is None else held.writer

    def _begin(self, verb: str, key: str) -> Callable[[], None]:
        self.land()
        self.before(verb, key)
        after = super()._begin(verb, key)
        if self.portal:
            raise StoreTransient(verb, key, "the answer is none of S3's")

        def both() -> None:
            self.after()
            after()

        return both

    def _place(self, key: str, data: bytes, attributes: Attributes, writer: str, *, digest: bool = True) -> ObjectInfo:
        info = super()._place(key, data, attributes, writer, digest=digest)
        self._note(key, data)
        if writer == "us":
            past_journal = attributes.metadata.get("writer", "").endswith("-direct")
            held = dataclasses.replace(self.objects[key], writer=self.acting + ", directly" * past_journal)
            self.objects[key] = held
            self.past[key][-1] = (self.past[key][-1][0], held)
        return info

    def _remove(self, key: str, who: str) -> None:
        super()._remove(key, self.acting if who == "us" else who)
        self._note(key, None)

    def _note(self, key: str, data: bytes | None) -> None:
        self.changed_at[key] = self.tick()
        self.stood.setdefault(key, []).append((self.clock(), data))
        if data is not None:
            self.gone_at.pop(key, None)

    def lately(self, key: str, seconds: float) -> set[bytes | None]:
        """What a key was at any time of the last ``seconds``."""
        found, since = set[bytes | None](), self.clock() - seconds
        for at, data in reversed(self.stood.get(key, [])):
            found.add(data)
            if at < since:
                return found
        return found | {None}
