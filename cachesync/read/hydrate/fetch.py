"""Fetching one object's bytes into a file that is not in the tree yet: whole and verified, or an error (P5)."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from cachesync.model import attributes
from cachesync.model.errors import CacheSyncError, IntegrityError, StoreCredentials, StoreSilent, StoreTransient
from cachesync.model.policy import MIB, after_failure
from cachesync.model.values import ObjectInfo, Stored
from cachesync.root.staging import Temporary
from cachesync.store.base import ObjectStore

RANGE = 16 * MIB
"""Larger objects are fetched in ranges of this size, a few at once."""

_RANGES = 4
_AHEAD = 6
_TRIES = 6


class Fetcher:
    """Fetches objects; safe to call from many threads. ``sleep`` waits between two tries, ``clock`` gives seconds."""

    def __init__(self, store: ObjectStore, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store = store
        self._sleep = sleep
        self._ranges = ThreadPoolExecutor(_RANGES, thread_name_prefix="range")

    def close(self) -> None:
        """Let the threads go."""
        self._ranges.shutdown(wait=False, cancel_futures=True)

    def fetch(self, key: str, stored: Stored, file: Temporary) -> Stored:
        """Write the version that is ``stored`` at ``key`` into ``file``; returns what is known of it now, with its
        digest. Tries again what may work when tried again, a few times.

        Raises IntegrityError, PreconditionFailed (it is another version now), StoreError, DiskFull, FileUnwritable.
        """
        for attempt in itertools.count(1):
            try:
                return self._once(key, stored, file)
            except (IntegrityError, StoreTransient, StoreCredentials) as error:
                pause = _pause(error, attempt)
                if pause is None:
                    raise
            self._sleep(pause)
            file.clear()
        raise AssertionError

    def _once(self, key: str, stored: Stored, file: Temporary) -> Stored:
        if stored.size > RANGE:
            info, digest = self._in_ranges(key, stored, file)
        else:
            info, digest = self._whole(key, stored, file)
        for known in (stored.sha256, info.sha256):
            if known is not None and known != digest:
                raise IntegrityError("read", key, "its bytes are not the ones that the manifest and the store tell of")
        if stored.sha256 is not None:
            return stored
        told = attributes.to_stored(info)  # only a listing told of it so far
        return replace(stored, sha256=digest, mtime_ns=told.mtime_ns, mode=told.mode)

    def _whole(self, key: str, stored: Stored, file: Temporary) -> tuple[ObjectInfo, str]:
        download = self._store.get(key, version=stored.version)
        _check_size(key, stored, download.info)
        digest, size = hashlib.sha256(), 0
        for chunk in download.chunks:
            file.write(chunk, size)
            digest.update(chunk)
            size += len(chunk)
        _check_length(key, size, stored.size)
        return download.info, digest.hexdigest()

    def _in_ranges(self, key: str, stored: Stored, file: Temporary) -> tuple[ObjectInfo, str]:
        """Ranges arrive side by side and are hashed in their order, from the file. Not many are begun while others wait
        for that: where the store is near, hashing takes longer than they do, and they would hold it up."""
        starts = iter(range(0, stored.size, RANGE))
        parts = deque[tuple[int, Future[ObjectInfo]]]()
        digest = hashlib.sha256()

        def begin() -> None:
            for start in itertools.islice(starts, _AHEAD - len(parts)):
                parts.append((start, self._ranges.submit(self._range, key, stored, file, start)))

        try:
            begin()
            while parts:
                start, part = parts[0]
                info = part.result()
                end = min(start + RANGE, stored.size)
                for offset in range(start, end, MIB):
                    digest.update(file.file.read(offset, min(MIB, end - offset)))
                parts.popleft()
                begin()
            return info, digest.hexdigest()
        finally:
            for _, part in parts:
                part.cancel()
            for _, part in parts:  # none may write any more when the file is given up
                if not part.cancelled():
                    part.exception()

    def _range(self, key: str, stored: Stored, file: Temporary, start: int) -> ObjectInfo:
        length = min(RANGE, stored.size - start)
        download = self._store.get(key, version=stored.version, start=start, length=length)
        _check_size(key, stored, download.info)
        offset = start
        for chunk in download.chunks:
            file.write(chunk, offset)
            offset += len(chunk)
        _check_length(key, offset - start, length)
        file.begin_writing(start, length)
        return download.info


def _check_size(key: str, stored: Stored, info: ObjectInfo) -> None:
    if info.size != stored.size:
        raise IntegrityError("read", key, f"it has {info.size} bytes; {stored.size} were stored")


def _check_length(key: str, received: int, expected: int) -> None:
    if received != expected:
        raise StoreTransient("read", key, f"the answer has {received} bytes of {expected}")


def _pause(error: CacheSyncError, attempt: int) -> float | None:
    """How long to wait before the next try, or None if there is none."""
    if isinstance(error, StoreSilent):
        return None  # it has been waited for long enough
    if isinstance(error, IntegrityError):
        return 0.0 if attempt == 1 else None  # the first time it may have happened on the way
    verdict = after_failure(error, attempt, 0.0)
    return None if verdict.failed or attempt >= _TRIES else verdict.due_at
