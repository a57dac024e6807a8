"""A reader behind a network that flips, cuts, delays and refuses: right bytes or an error (P5, P11)."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from pathlib import Path

import pytest

from cachesync.model.address import parse
from cachesync.model.errors import CacheSyncError, IntegrityError, ObjectNotFound, StoreTransient
from cachesync.read.cache.blocks import BLOCK, BlockCache
from cachesync.read.reader import Reader
from cachesync.store.s3.store import S3Store
from tests.bodies import PLAIN, Bytes
from tests.faults import proxy as faults
from tests.faults.proxy import Chance, Proxy, flip

SMALL = random.Random(1).randbytes(50 * 1024)
LARGE = random.Random(2).randbytes(2 * BLOCK + 77)
BODIES = {"small": SMALL, "large": LARGE}
GET = "GetObject"


class Far:
    """A store behind the proxy, with both bodies in it, and a reader of it."""

    def __init__(self, store: S3Store, proxy: Proxy, prefix: str, folder: Path) -> None:
        self.store = store
        self.proxy = proxy
        self.prefix = prefix
        self.cache = BlockCache(folder, 64 * 2**20)
        self.now = 1.0e9
        self.reader = self.another(self.cache)

    def another(self, cache: BlockCache | None) -> Reader:
        return Reader(self.store, prefix=self.prefix, cache=cache, local=None, revalidate=10, clock=lambda: self.now)


@pytest.fixture
def far(seaweed, warm_bucket, proxy, tmp_path):
    prefix = uuid.uuid4().hex[:8]
    direct = S3Store(seaweed.settings(warm_bucket))
    for name, data in BODIES.items():
        direct.put(f"{prefix}/sessions/s/{name}", Bytes(data), PLAIN, expect=None)
    direct.close()
    store = S3Store(seaweed.settings(warm_bucket, endpoint=proxy.endpoint, timeout=2.0))
    far = Far(store, proxy, prefix, tmp_path / "cache")
    yield far
    far.cache.close()
    store.close()


def read(reader: Reader, name: str, start: int = 0, length: int | None = None) -> bytes:
    with reader.read(parse(f"s/{name}")) as reading:
        return b"".join(reading.chunks(start, length))


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", BODIES)
def test_flipped_answers_never_become_data(far, name, at):
    far.proxy.add(flip(at), GET)
    for _ in range(2):
        with pytest.raises((IntegrityError, StoreTransient)):
            read(far.reader, name)
    assert far.proxy.count(GET) > 1
    far.proxy.clear()
    assert read(far.reader, name) == BODIES[name]
    assert read(far.another(far.cache), name) == BODIES[name]


@pytest.mark.parametrize(
    "action",
    [
        faults.truncate,
        faults.INTERNAL_ERROR,
        faults.SLOW_DOWN,
        faults.stall(5),
        faults.stall_in_answer(5),
    ],
    ids=["truncated", "500", "slow down", "stalled", "stalled in the answer"],
)
@pytest.mark.parametrize("name", BODIES)
def test_an_answer_that_does_not_come_whole_is_tried_again_by_the_next(far, name, action):
    far.reader.find(parse(f"s/{name}"))
    far.proxy.add(action, GET, times=1)
    with pytest.raises(StoreTransient):
        read(far.reader, name)
    assert read(far.reader, name) == BODIES[name]


def test_an_outage_is_flagged_and_nothing_is_missing(far):
    assert read(far.reader, "small") == SMALL
    assert read(far.reader, "large", 0, 10) == LARGE[:10]
    far.proxy.refuse()
    far.now += 11
    for reader in (far.reader, far.another(far.cache)):
        with reader.read(parse("s/small")) as reading:
            assert reading.unverified
            assert b"".join(reading.chunks()) == SMALL
        with pytest.raises(StoreTransient):
            read(reader, "large", BLOCK, 10)
        with pytest.raises(StoreTransient):
            reader.read(parse("s/unknown"))
    far.proxy.accept()
    assert read(far.reader, "large") == LARGE
    with pytest.raises(ObjectNotFound):
        far.reader.read(parse("s/unknown"))


@pytest.mark.parametrize("kept", [True, False], ids=["cache", "no cache"])
def test_any_faults_give_right_bytes_or_an_error(far, kept):
    """Each request is hit with a chance of nearly a half; each read is whole, as P5 promises it for."""
    actions = [flip(0.1), flip(0.7), flip(1.0), faults.truncate, faults.reset, faults.INTERNAL_ERROR, faults.SLOW_DOWN]
    far.proxy.chance = Chance(5, 0.45, actions)
    outcomes: Counter[str] = Counter()
    for number in range(40):
        far.now += 11
        name = "large" if number % 4 == 0 else "small"
        if kept and number % 3 == 0:
            far.cache.drop(f"{far.prefix}/sessions/s/{name}", version(far, name))
        try:
            assert read(far.another(far.cache if kept else None), name) == BODIES[name]
            outcomes["right"] += 1
        except CacheSyncError as error:
            outcomes[type(error).__name__] += 1
    assert outcomes.keys() <= {"right", "IntegrityError", "StoreTransient", "StoreSlowDown", "StoreUnreachable"}
    assert outcomes["right"] > 5
    assert outcomes.total() - outcomes["right"] > 5


def version(far, name):
    """The version, past the proxy's faults."""
    chance, far.proxy.chance = far.proxy.chance, None
    try:
        return far.reader.find(parse(f"s/{name}")).version
    finally:
        far.proxy.chance = chance
