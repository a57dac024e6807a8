"""A store that notes what is sent to it."""

from __future__ import annotations

import threading

from cachesync.model.keys import identity_key
from cachesync.model.values import Attributes, ObjectInfo, Tail, Version
from cachesync.ops.migrate.tally import put_requests
from cachesync.store.base import Archive, Body, ObjectStore, Resume, Traits
from cachesync.store.observed import ObservedBody


class Meter:
    """The store below, and which objects it took since. ``files`` and ``bytes`` of what was sent are for the eye: bytes
    count as they are read, and again when they are sent again."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.head = store.head
        self.get = store.get
        self.list = store.list
        self.delete = store.delete
        self.discard = store.discard
        self.close = store.close
        self.files = 0
        self.bytes = 0
        self.requests = 0
        self.moved = 0
        """Grows with whatever the store confirms, parts of big files too."""
        self._sent: set[int] = set()
        self._lock = threading.Lock()

    @property
    def traits(self) -> Traits:
        """Those of the store below."""
        return self._store.traits

    @property
    def largest(self) -> int | None:
        """See ObjectStore."""
        return self._store.largest

    @property
    def silent_for(self) -> float | None:
        """As the store below."""
        return self._store.silent_for

    @property
    def archive(self) -> Archive | None:
        """That of the store below."""
        return self._store.archive

    def was_sent(self, key: str) -> bool:
        """Whether an object was stored or copied to ``key``."""
        return hash(key) in self._sent

    def put(
        self,
        key: str,
        body: Body,
        attributes: Attributes,
        *,
        expect: Version | None,
        resume: Resume | None = None,
        tail: Tail | None = None,
    ) -> ObjectInfo:
        """Store ``body``."""
        noted = None if resume is None else _Noted(resume, self)
        info = self._store.put(key, ObservedBody(body, self.read), attributes, expect=expect, resume=noted, tail=tail)
        if not key.endswith(identity_key("")):  # written once for each store, and not part of the source
            self._note(key, put_requests(body.size))
        return info

    def copy(
        self,
        source: str,
        target: str,
        attributes: Attributes | None = None,
        *,
        source_version: Version,
        expect: Version | None,
    ) -> ObjectInfo:
        """Copy inside the store."""
        info = self._store.copy(source, target, attributes, source_version=source_version, expect=expect)
        self._note(target, 1)
        return info

    def _note(self, key: str, requests: int) -> None:
        with self._lock:
            self.requests += requests
            self.moved += 1
            self.files += hash(key) not in self._sent
            self._sent.add(hash(key))  # a number instead of the key: there may be millions

    def read(self, count: int) -> None:
        """Bytes are on their way."""
        with self._lock:
            self.bytes += count

    def confirmed(self) -> None:
        """A part is there."""
        with self._lock:
            self.moved += 1


class _Noted:
    """An upload's memory that tells when a part is through."""

    def __init__(self, resume: Resume, meter: Meter) -> None:
        self._resume = resume
        self._meter = meter
        self.session = resume.session
        self.load = resume.load
        self.started = resume.started
        self.finished = resume.finished

    def part(self, number: int, etag: str) -> None:
        self._resume.part(number, etag)
        self._meter.confirmed()
