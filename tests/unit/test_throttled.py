"""The rate limit of a store."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from cachesync.store.fsspec_store import FsspecStore
from cachesync.store.throttled import Bucket, ThrottledStore
from tests.bodies import PLAIN, Bytes


def test_the_rate_holds_over_all_threads() -> None:
    bucket = Bucket(1_000_000)
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bucket.take, [50_000] * 16))
    assert 0.45 < time.monotonic() - start < 1.5  # 0.8 s of bytes, less a burst of 0.25 s


def test_who_wants_few_does_not_wait_for_who_wants_many() -> None:
    bucket = Bucket(1_000_000)
    with ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        many = pool.submit(bucket.take, 2_000_000)
        while bucket._level > 0:
            time.sleep(0.001)
        bucket.take(1)
        assert time.monotonic() - start < 1
        many.result()
        assert time.monotonic() - start > 1.5


def test_uploads_and_downloads_pay() -> None:
    store = ThrottledStore(FsspecStore("memory://throttled"), 2_000_000)
    data = bytes(500_000)
    start = time.monotonic()
    stored = store.put("k", Bytes(data), PLAIN, expect=None)
    assert b"".join(store.get("k", version=stored.version).chunks) == data
    assert 0.2 < time.monotonic() - start < 1.5
