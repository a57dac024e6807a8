"""A limit on the bytes per second of a store, shared by all threads that use it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Self

from cachesync.model.values import Attributes, Multipart, ObjectInfo, Tail, Version
from cachesync.store.base import Archive, Body, Download, ObjectStore, Resume, Traits
from cachesync.store.observed import ObservedBody

BURST = 0.25
"""Seconds of the rate that may pass at once after a pause."""


class Bucket:
    """A token bucket. Taking more than there is leaves a debt, which the taker sleeps off; so no size is too large."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._level = bytes_per_second * BURST
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Take ``count`` bytes and wait until they are paid for. Many are taken bit by bit: who wants few does not
        wait for all of them."""
        bit = max(1, int(self._rate * BURST))
        while count > 0:
            self._take(min(count, bit))
            count -= bit

    def _take(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._level = min(self._rate * BURST, self._level + (now - self._at) * self._rate) - count
            self._at = now
            debt = -self._level
        if debt > 0:
            time.sleep(debt / self._rate)


class ThrottledStore:
    """An ``ObjectStore`` whose uploads and downloads together stay under ``bytes_per_second``.

    Bytes are paid for before they are read for an upload, and after they arrive, so no request of the store below is
    kept waiting in the middle. Copies inside the store cost nothing.
    """

    def __init__(self, store: ObjectStore, bytes_per_second: float) -> None:
        self._store = store
        self._bucket = Bucket(bytes_per_second)

    @property
    def below(self) -> ObjectStore:
        """The store that does the work."""
        return self._store

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
        """That of the store below, at the rate."""
        archive = self._store.archive
        return None if archive is None else _PaidArchive(archive, self._bucket)

    def head(self, key: str) -> ObjectInfo:
        """Describe the newest version."""
        return self._store.head(key)

    def get(self, key: str, *, version: Version | None = None, start: int = 0, length: int | None = None) -> Download:
        """Read one version, at the rate."""
        download = self._store.get(key, version=version, start=start, length=length)
        return Download(download.info, _Paid(download.chunks, self._bucket))

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
        """Store ``body``, at the rate."""
        slow = ObservedBody(body, self._bucket.take)
        return self._store.put(key, slow, attributes, expect=expect, resume=resume, tail=tail)

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
        return self._store.copy(source, target, attributes, source_version=source_version, expect=expect)

    def delete(self, key: str, *, expect: Version) -> None:
        """Delete the object if it is still ``expect``."""
        self._store.delete(key, expect=expect)

    def list(self, prefix: str, *, shallow: bool = False) -> Iterator[ObjectInfo]:
        """Every object under ``prefix``."""
        return self._store.list(prefix, shallow=shallow)

    def discard(self, upload: Multipart) -> None:
        """Give up a multipart upload."""
        self._store.discard(upload)

    def close(self) -> None:
        """Close the store below."""
        self._store.close()


class _PaidArchive:
    """An archive whose reads are paid for."""

    def __init__(self, archive: Archive, bucket: Bucket) -> None:
        self._bucket = bucket
        self._read = archive.read
        self.history = archive.history
        self.revive = archive.revive
        self.url = archive.url

    def read(self, key: str, version_id: str) -> Download:
        download = self._read(key, version_id)
        return Download(download.info, _Paid(download.chunks, self._bucket))


class _Paid(Iterator[bytes]):
    """Pieces that are paid for as they arrive."""

    def __init__(self, chunks: Iterator[bytes], bucket: Bucket) -> None:
        self._chunks = chunks
        self._bucket = bucket

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self._bucket.take(len(chunk))
        return chunk

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
