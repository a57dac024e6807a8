"""Reads are whole and current: local file, cache, store (P5, P11, P16)."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cachesync.model.address import Address, Space, parse, parse_whole
from cachesync.model.errors import (
    FileChanging,
    IntegrityError,
    ObjectNotFound,
    PreconditionFailed,
    RootHalted,
    StorePermanent,
    StoreTransient,
    UsageError,
)
from cachesync.model.values import Version
from cachesync.read.cache.blob_store import Block
from cachesync.read.cache.blocks import BLOCK, BlockCache
from cachesync.read.local import Local
from cachesync.read.reader import Reader
from cachesync.root.open_file import OpenFile
from cachesync.root.tree import Tree
from cachesync.store.base import Download
from cachesync.store.fsspec_store import FsspecStore
from tests.bodies import PLAIN, Bytes
from tests.driving import Driven
from tests.flat_store import Fault, FlatStore

KIB = 1024
MIB = KIB * KIB
SMALL = b"the bytes"
LARGE = random.Random(1).randbytes(2 * BLOCK + 1000)
WHOLE = parse("s/a")


class Store(FlatStore):
    """Counts requests by verb, and may spoil, hold or follow each GET. ``spoil`` gets key, start and bytes."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.at_once = self.most_at_once = 0
        self.before_get = lambda key, start: None
        self.spoil = lambda key, start, data: data

    def _begin(self, verb, key):
        self.asked.append(verb)
        return super()._begin(verb, key)

    def get(self, key, *, version=None, start=0, length=None):
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.before_get(key, start)
            download = super().get(key, version=version, start=start, length=length)
            data = self.spoil(key, start, b"".join(download.chunks))
            return Download(download.info, (data[at : at + MIB] for at in range(0, len(data), MIB)))
        finally:
            with self._lock:
                self.at_once -= 1

    def take_asked(self):
        asked, self.asked = sorted(self.asked), []
        return asked


class Clock:
    now = 1.0e9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def flat():
    return Store()


@pytest.fixture
def cache(tmp_path):
    cache = BlockCache(tmp_path / "cache", 256 * MIB)
    yield cache
    assert cache.damaged == 0
    assert not cache._room.pins
    cache.close()


@pytest.fixture
def reader(flat, cache, clock):
    return Reader(flat, prefix="", cache=cache, local=None, revalidate=10, clock=clock)


@pytest.fixture
def bare(flat, clock):
    """One without a cache."""
    return Reader(flat, prefix="", cache=None, local=None, revalidate=10, clock=clock)


def place(flat, data, key="sessions/s/a", **options):
    flat.foreign_put(key, data, **options)
    return flat.objects[key].info


def read(reader, address=WHOLE, start=0, length=None, **options):
    with reader.read(address, **options) as reading:
        return b"".join(reading.chunks(start, length))


# -- cache and store ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", SMALL, LARGE, LARGE[: 2 * BLOCK]], ids=len)
def test_a_second_read_asks_nobody(flat, reader, clock, data):
    info = place(flat, data)
    with reader.read(WHOLE) as reading:
        assert reading.source == ("store" if data else "cache")
        pieces = list(reading.chunks())
        assert reading.source == ("store" if data else "cache")
        assert not reading.unverified
        artifact = reading.artifact
    assert b"".join(pieces) == data
    assert all(len(piece) <= BLOCK for piece in pieces)
    assert (artifact.address, artifact.size, artifact.state) == ("s/a", len(data), "stored")
    assert (artifact.version, artifact.sha256, artifact.key) == (info.version.etag, info.sha256, info.key)
    blocks = -(-len(data) // BLOCK)
    assert flat.take_asked() == ["get"] * (blocks + 1 if blocks > 1 else 1), "the first GET tells the size"
    clock.now += 9.9
    with reader.read(WHOLE) as reading:
        assert reading.source == "cache"
        assert b"".join(reading.chunks()) == data
        assert b"".join(reading.chunks(1, 3)) == data[1:4]
        assert reading.source == "cache"
    assert flat.take_asked() == []


def test_after_a_while_the_store_is_asked_whether_it_is_still_the_newest(flat, reader, clock):
    place(flat, SMALL)
    assert read(reader) == SMALL
    flat.take_asked()
    clock.now += 10
    assert read(reader) == SMALL
    assert flat.take_asked() == ["head"]
    assert read(reader) == SMALL
    assert flat.take_asked() == []
    place(flat, b"newer")
    assert read(reader) == SMALL, "within the time that it is believed"
    clock.now += 10
    assert read(reader) == b"newer"
    clock.now -= 100
    place(flat, b"newest")
    assert read(reader) == b"newest", "a clock that was set back is no reason to believe it longer"


def test_what_this_process_stores_and_removes_is_seen_at_once(flat, reader):
    place(flat, SMALL)
    assert read(reader) == SMALL
    reader.note(place(flat, b"newer"))
    assert read(reader) == b"newer"
    flat.foreign_delete("sessions/s/a")
    reader.forget("sessions/s/a")
    with pytest.raises(ObjectNotFound):
        reader.read(WHOLE)


def test_without_a_cache_every_read_downloads(flat, bare):
    place(flat, LARGE)
    assert read(bare) == LARGE
    assert read(bare) == LARGE
    assert flat.take_asked() == ["get"] * 7


@pytest.mark.parametrize("start", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, len(LARGE) - 1, len(LARGE), 10**12])
@pytest.mark.parametrize("length", [None, 0, 1, BLOCK, BLOCK + 1, 10**12])
def test_any_range(flat, reader, start, length):
    place(flat, LARGE)
    reader.find(WHOLE)
    expected = LARGE[start:] if length is None else LARGE[start : start + length]
    for _ in range(2):
        assert read(reader, start=start, length=length) == expected
    blocks = {at // BLOCK for at in (start, start + len(expected) - 1)} if expected else set()
    asked = flat.take_asked()
    assert asked.count("get") == (max(blocks) - min(blocks) + 1 if blocks else 0)


def test_projects_and_templates(flat, reader):
    place(flat, b"p", "projects/p/x/y")
    place(flat, b"t", "templates/t")
    assert read(reader, parse("projects/p/x/y")) == b"p"
    assert read(reader, parse("templates/t")) == b"t"
    assert reader.find(parse("templates/t")).size == 1


@pytest.mark.parametrize("text", ["", "s", "s/", "s/d/", "projects", "templates"])
def test_what_names_many_is_a_directory(reader, text):
    with pytest.raises(ObjectNotFound, match="directory"):
        reader.read(parse_whole(text))


def test_a_directory_in_the_store_is_called_one(flat, reader):
    place(flat, SMALL, "sessions/s/d/x")
    with pytest.raises(ObjectNotFound, match="directory"):
        reader.read(parse("s/d"))
    with pytest.raises(ObjectNotFound, match="no such object"):
        reader.read(parse("s/dx"))


@pytest.mark.parametrize("path", [".cachesync/manifest.json", "n" * 1100, "\udcff"])
def test_what_no_store_can_have_is_not_found(flat, reader, path):
    with pytest.raises(ObjectNotFound):
        reader.read(Address(Space.SESSIONS, "s", path))
    assert flat.take_asked() == []


# -- many readers ------------------------------------------------------------------------------------------------------


def test_sixteen_readers_are_one_download_a_block(flat, reader):
    place(flat, LARGE)
    reader.find(WHOLE)
    started, all_started = [], threading.Event()

    def before_get(key, start):
        all_started.wait(10)
        time.sleep(0.05)

    flat.before_get = before_get

    def work(_):
        with reader.read(WHOLE) as reading:
            started.append(1)
            if len(started) == 16:
                all_started.set()
            return b"".join(reading.chunks())

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [LARGE] * 16
    assert flat.asked.count("get") == 3


def test_a_download_that_ended_just_now_is_not_made_again(flat, reader, cache, monkeypatch):
    """Between the look into the cache and the download, another reader brings the block."""
    place(flat, SMALL)
    real, others = cache.get, [lambda: read(reader)]

    def get(*where):
        found = real(*where)
        if others:
            assert others.pop()() == SMALL
        return found

    monkeypatch.setattr(cache, "get", get)
    assert read(reader) == SMALL
    assert flat.asked.count("get") == 1


def test_a_download_that_failed_is_tried_anew_by_the_next(flat, reader):
    place(flat, SMALL)
    reader.find(WHOLE)
    waiting = threading.Event()

    def before_get(key, start):
        waiting.wait(10)
        time.sleep(0.05)

    flat.before_get = before_get
    flat.faults["get"] = Fault.REFUSED

    def work(_):
        with reader.read(WHOLE) as reading:
            try:
                waiting.set()
                return b"".join(reading.chunks())
            except StoreTransient as error:
                return error

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, range(4)))
    assert any(isinstance(answer, StoreTransient) for answer in answers)
    assert {answer for answer in answers if not isinstance(answer, StoreTransient)} <= {SMALL}
    assert read(reader) == SMALL


def test_a_download_that_hangs_holds_up_nobody_else(flat, reader):
    place(flat, LARGE)
    place(flat, SMALL, "sessions/s/b")
    hanging, go = threading.Event(), threading.Event()

    def before_get(key, start):
        if key == "sessions/s/a" and start == 0:
            hanging.set()
            go.wait(20)

    flat.before_get = before_get
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(read, reader, WHOLE, 0, 10)
        assert hanging.wait(10)
        assert read(reader, parse("s/b")) == SMALL
        assert read(reader, start=BLOCK + 5, length=10) == LARGE[BLOCK + 5 : BLOCK + 15]
        assert not first.done()
        go.set()
        assert first.result(10) == LARGE[:10]


def test_a_long_read_has_the_next_blocks_on_their_way(flat, bare):
    data = random.Random(2).randbytes(8 * BLOCK)
    place(flat, data)
    bare.find(WHOLE)
    three = threading.Event()

    def before_get(key, start):
        if flat.at_once == 3:
            three.set()
        if start:
            assert three.wait(10)

    flat.before_get = before_get
    assert read(bare) == data
    assert flat.most_at_once == 3
    assert flat.asked.count("get") == 8


def test_a_reader_that_stops_leaves_no_trace(flat, reader):
    place(flat, LARGE)
    with reader.read(WHOLE) as reading:
        chunks = reading.chunks()
        assert next(chunks) == LARGE[:BLOCK]
        chunks.close()
    assert read(reader) == LARGE


MEMORY = """
import hashlib, sys
from pathlib import Path
from cachesync.model.address import parse
from cachesync.read.cache.blocks import BlockCache
from cachesync.model.values import ObjectInfo, Version
from cachesync.read.reader import Reader
from cachesync.store.base import Download
MIB = 2**20
size = 256 * MIB
piece = bytes(range(256)) * 4096
digest = hashlib.sha256()
for _ in range(size // MIB):
    digest.update(piece)
info = ObjectInfo("sessions/s/a", size, Version("e"), 1.0, digest.hexdigest())

class Store:
    def head(self, key):
        return info
    def get(self, key, *, version=None, start=0, length=None):
        return Download(info, (bytes(bytearray(piece)) for _ in range((length or size) // MIB)))

def high():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

cache = BlockCache(Path(sys.argv[1]), 2**30) if sys.argv[2] == "cache" else None
reader = Reader(Store(), prefix="", cache=cache, local=None, revalidate=10, clock=lambda: 1.0)
before = high()
for _ in range(2):
    with reader.read(parse("s/a")) as reading:
        assert sum(len(piece) for piece in reading.chunks()) == size
print(high() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks the kernel of Linux")
@pytest.mark.parametrize("kept", ["cache", "none"])
def test_memory_does_not_grow_with_the_object(tmp_path, kept):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "cache"), kept]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 64 * KIB, "KiB"


# -- bytes that are wrong ----------------------------------------------------------------------------------------------


def flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


class Spoiler:
    """Spoils the first ``times`` answers from ``start``."""

    def __init__(self, start, times):
        self.start = start
        self.left = times

    def __call__(self, key, start, data):
        if start == self.start and self.left:
            self.left -= 1
            return flip(data)
        return data


def test_of_what_is_not_here_one_request_tells_all(flat, reader, cache, clock):
    """The bytes come with the version, be it unknown or an old one whose bytes were evicted; not where they are here,
    and not of what is known to be large."""
    info = place(flat, SMALL)
    assert read(reader) == SMALL
    assert flat.take_asked() == ["get"]
    clock.now += 11
    cache.drop(info.key, info.version)
    place(flat, b"newer")
    assert read(reader) == b"newer"
    assert flat.take_asked() == ["get"]
    clock.now += 11
    assert read(reader) == b"newer"
    assert flat.take_asked() == ["head"]
    place(flat, LARGE)
    assert reader.find(WHOLE).size == 5
    clock.now += 11
    assert reader.find(WHOLE).size == len(LARGE)
    assert flat.take_asked() == ["head"]
    clock.now += 11
    with reader.read(WHOLE) as reading:
        assert reading.source == "store"
    assert flat.take_asked() == ["head"]


def test_sixteen_readers_of_what_is_not_here_are_one_request(flat, reader):
    place(flat, SMALL)
    asked, waiting = [], threading.Event()

    def before_get(key, start):
        assert waiting.wait(10)
        time.sleep(0.05)

    flat.before_get = before_get

    def work(_):
        asked.append(1)
        if len(asked) == 16:
            waiting.set()
        return read(reader)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [SMALL] * 16
    assert flat.take_asked() == ["get"]


def test_what_can_be_described_and_not_be_read_is_described(flat, reader):
    """As S3 has what its lifecycle moved to GLACIER."""
    place(flat, SMALL)

    def before_get(key, start):
        raise StorePermanent("read", key, "InvalidObjectState")

    flat.before_get = before_get
    with reader.read(WHOLE) as reading:
        assert reading.artifact.size == len(SMALL)
        with pytest.raises(StorePermanent):
            list(reading.chunks())
    with pytest.raises(ObjectNotFound):
        reader.read(parse("s/b"))


@pytest.mark.parametrize("kept", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize("spoiled", [flip, lambda data: data[:-1]], ids=["wrong", "short"])
def test_a_first_answer_whose_bytes_are_no_good_still_tells_the_version(flat, reader, bare, kept, spoiled):
    place(flat, SMALL)
    answers = [spoiled]
    flat.spoil = lambda key, start, data: answers.pop()(data) if answers else data
    with (reader if kept else bare).read(WHOLE) as reading:
        assert reading.artifact.size == len(SMALL)
        assert b"".join(reading.chunks()) == SMALL
    assert flat.take_asked() == ["get", "get"]


@pytest.mark.parametrize("kept", [True, False], ids=["cache", "no cache"])
@pytest.mark.parametrize(("data", "start"), [(SMALL, 0), (LARGE, 2 * BLOCK)], ids=["one block", "the last of three"])
def test_wrong_bytes_are_asked_for_once_more(flat, reader, bare, kept, data, start):
    place(flat, data)
    flat.spoil = Spoiler(start, 1)
    assert read(reader if kept else bare) == data
    assert read(reader if kept else bare) == data
    assert flat.spoil.left == 0


@pytest.mark.parametrize(("data", "start"), [(SMALL, 0), (LARGE, 2 * BLOCK)], ids=["one block", "the last of three"])
def test_bytes_that_stay_wrong_are_an_error(flat, reader, data, start):
    place(flat, data)
    flat.spoil = Spoiler(start, 10**9)
    for _ in range(2):
        with reader.read(WHOLE) as reading:
            got = []
            with pytest.raises(IntegrityError):
                got.extend(reading.chunks())
            assert b"".join(got) == data[:start], "all of a wrong object"
    flat.spoil = lambda key, start, data: data
    assert read(reader) == data


def test_wrong_bytes_that_were_handed_out_are_an_error_and_not_kept(flat, reader):
    place(flat, LARGE)
    reader.find(WHOLE)
    flat.spoil = Spoiler(0, 1)
    with pytest.raises(IntegrityError):
        read(reader)
    assert read(reader) == LARGE


def test_right_blocks_of_the_wrong_object_are_found_out(flat, reader, cache):
    """A cache whose blocks are sound, each by itself."""
    info = place(flat, LARGE)
    assert read(reader) == LARGE
    cache.put(info.key, info.version, 2, Block(flip(LARGE[2 * BLOCK :])))
    assert read(reader) == LARGE
    cache.put(info.key, info.version, 0, Block(flip(LARGE[:BLOCK])))
    with pytest.raises(IntegrityError):
        read(reader)
    assert read(reader) == LARGE


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=len)
@pytest.mark.parametrize("change", [-1, 1], ids=["short", "long"])
def test_an_answer_of_another_length_is_no_answer(flat, reader, data, change):
    place(flat, data, digest=False)
    flat.spoil = lambda key, start, got: got[:-1] if change < 0 else got + b"x"
    with pytest.raises(StoreTransient):
        read(reader)
    for thread in threading.enumerate():
        if thread.name == "cachesync-read-ahead":  # a block that is still on its way is spoiled, too
            thread.join()
    flat.spoil = lambda key, start, got: got
    assert read(reader) == data


def test_a_store_that_ignores_the_condition_gives_no_mixture(flat, reader):
    info = place(flat, LARGE)
    with reader.read(WHOLE) as reading:
        chunks = reading.chunks()
        assert next(chunks) == LARGE[:BLOCK]
        real = type(flat).get
        flat.get = lambda key, version=None, **options: real(flat, key, **options)
        place(flat, LARGE[::-1])
        with pytest.raises(PreconditionFailed):
            list(chunks)
    assert info.version != flat.objects[info.key].info.version


# -- another version meanwhile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=len)
def test_a_version_that_was_replaced_before_the_first_piece_gives_way(flat, reader, data):
    place(flat, data)
    reader.find(WHOLE)
    with reader.read(WHOLE) as reading:
        newer = place(flat, b"newer" * 1000)
        assert b"".join(reading.chunks()) == b"newer" * 1000
        assert (reading.artifact.size, reading.artifact.version) == (5000, newer.version.etag)
    assert read(reader) == b"newer" * 1000


def test_a_version_that_was_replaced_in_the_middle_is_an_error(flat, bare):
    place(flat, LARGE * 3)
    with bare.read(WHOLE) as reading:
        chunks = reading.chunks()
        next(chunks)
        place(flat, b"newer")
        with pytest.raises(PreconditionFailed):
            list(chunks)
        with pytest.raises(PreconditionFailed):
            list(reading.chunks())


def test_a_version_that_is_replaced_again_and_again(flat, reader):
    place(flat, SMALL)
    reader.find(WHOLE)
    flat.before_get = lambda key, start: place(flat, os.urandom(10))
    with pytest.raises(PreconditionFailed):
        read(reader)


def test_an_object_that_is_gone_before_the_first_piece(flat, reader):
    place(flat, SMALL)
    reader.find(WHOLE)
    with reader.read(WHOLE) as reading:
        flat.foreign_delete("sessions/s/a")
        with pytest.raises(ObjectNotFound):
            list(reading.chunks())
    flat.down = True
    with pytest.raises(StoreTransient):
        reader.read(WHOLE)


# -- an outage ---------------------------------------------------------------------------------------------------------


def test_in_an_outage_what_is_cached_is_served_and_flagged(flat, reader, cache, clock):
    place(flat, LARGE)
    assert read(reader) == LARGE
    flat.down = True
    with reader.read(WHOLE) as reading:
        assert not reading.unverified
    clock.now += 11
    later = Reader(flat, prefix="", cache=cache, local=None, revalidate=10, clock=clock)
    for one in (reader, later):
        with one.read(WHOLE) as reading:
            assert reading.unverified
            assert b"".join(reading.chunks()) == LARGE
            assert reading.source == "cache"
        assert one.find(WHOLE).size == len(LARGE)
    flat.down = False
    with later.read(WHOLE) as reading:
        assert not reading.unverified


def test_in_an_outage_what_is_not_cached_is_not_missing(flat, reader, clock):
    place(flat, LARGE)
    assert read(reader, length=10) == LARGE[:10]
    flat.down = True
    clock.now += 11
    with reader.read(WHOLE) as reading:
        assert b"".join(reading.chunks(0, BLOCK)) == LARGE[:BLOCK]
        with pytest.raises(StoreTransient):
            list(reading.chunks(BLOCK, 10))
    for address in (parse("s/other"), parse("other/a"), parse("projects/p/a")):
        with pytest.raises(StoreTransient):
            reader.read(address)
        with pytest.raises(StoreTransient):
            reader.find(address)


def test_what_the_store_says_is_gone_is_not_served_in_the_next_outage(flat, reader, clock):
    place(flat, SMALL)
    assert read(reader) == SMALL
    flat.foreign_delete("sessions/s/a")
    clock.now += 11
    with pytest.raises(ObjectNotFound):
        reader.read(WHOLE)
    flat.down = True
    with pytest.raises(StoreTransient):
        reader.read(WHOLE)


# -- past versions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=len)
def test_a_past_version_is_read_once_and_then_from_the_cache(flat, reader, clock, data):
    old = place(flat, data).version.etag
    place(flat, b"newer")
    flat.take_asked()
    with reader.read(WHOLE, version_id=old) as reading:
        assert (reading.artifact.size, reading.artifact.version_id) == (len(data), old)
        assert b"".join(reading.chunks()) == data
    assert flat.take_asked() == ["read"]
    clock.now += 10**6
    assert read(reader, version_id=old) == data
    assert flat.take_asked() == []
    assert read(reader) == b"newer"


@pytest.mark.parametrize("kept", [True, False], ids=["cache", "no cache"])
def test_ranges_of_a_past_version(flat, reader, bare, kept):
    old = place(flat, LARGE).version.etag
    place(flat, b"newer")
    with (reader if kept else bare).read(WHOLE, version_id=old) as reading:
        for start, length in [(BLOCK + 7, 10), (0, 10), (5, None), (BLOCK - 5, 10), (len(LARGE), 5), (3, 0)]:
            expected = LARGE[start:] if length is None else LARGE[start : start + length]
            assert b"".join(reading.chunks(start, length)) == expected


def test_a_version_that_never_was(flat, reader):
    place(flat, SMALL)
    with pytest.raises(ObjectNotFound):
        reader.read(WHOLE, version_id="nonsense")
    with pytest.raises(ObjectNotFound):
        reader.read(parse_whole("s/d/"), version_id="v1")


def test_a_store_without_past_versions_says_so(tmp_path, clock):
    store = FsspecStore(f"file://{tmp_path}/store")
    reader = Reader(store, prefix="", cache=None, local=None, revalidate=10, clock=clock)
    with pytest.raises(UsageError):
        reader.read(WHOLE, version_id="1")


# -- the local root ----------------------------------------------------------------------------------------------------


class Here:
    """A root with its engine, and a reader over both."""

    def __init__(self, root, flat, cache, clock):
        self.root = root
        self.flat = flat
        (root / "s").mkdir(parents=True)
        self.driven = Driven(root, flat, settle="0s", delete_settle="0s")
        engine = self.driven.engine
        local = Local(engine.tree, engine.journal)
        self.reader = Reader(flat, prefix="", cache=cache, local=local, revalidate=10, clock=clock)

    def write(self, path, data):
        (self.root / "s" / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / "s" / path).write_bytes(data)

    def flush(self):
        assert self.driven.flush("s").stored
        self.flat.take_asked()

    def evict(self):
        """As a removed session directory does (P7)."""
        shutil.rmtree(self.root / "s")
        self.driven.scan("s")


@pytest.fixture
def here(tmp_path, flat, cache, clock):
    here = Here(tmp_path / "root", flat, cache, clock)
    yield here
    here.driven.close()


def test_a_file_that_stands_here_comes_first(flat, here):
    here.write("a", b"stored")
    here.flush()
    with here.reader.read(WHOLE) as reading:
        assert (reading.source, reading.unverified, reading.artifact.state) == ("local", False, "clean")
        assert reading.artifact.sha256 == flat.objects["sessions/s/a"].info.sha256
        assert b"".join(reading.chunks()) == b"stored"
    here.write("a", b"changed")
    flat.down = True
    with here.reader.read(WHOLE) as reading:
        assert (reading.artifact.state, reading.artifact.sha256, reading.artifact.size) == ("dirty", None, 7)
        assert b"".join(reading.chunks()) == b"changed"
    here.write("unseen", b"")
    assert read(here.reader, parse("s/unseen")) == b""
    assert flat.take_asked() == []


def test_an_evicted_entry_of_ours_is_checked_as_another_hosts(flat, here, clock):
    """Whoever evicted it no longer owns it: another host may open the session and go on."""
    here.write("a", LARGE)
    here.flush()
    here.evict()
    for _ in range(2):
        with here.reader.read(WHOLE) as reading:
            assert (reading.artifact.state, reading.artifact.size) == ("evicted", len(LARGE))
            assert b"".join(reading.chunks()) == LARGE
        clock.now += 11
    assert flat.take_asked() == ["get", "get", "get", "head", "head"]
    flat.down = True
    with here.reader.read(WHOLE) as reading:
        assert reading.unverified
        assert b"".join(reading.chunks()) == LARGE


def test_what_another_stored_of_an_evicted_entry_of_ours_is_read(flat, here, clock):
    here.write("a", SMALL)
    here.flush()
    here.evict()
    assert read(here.reader) == SMALL
    place(flat, b"another's")
    clock.now += 11
    assert read(here.reader) == b"another's"
    flat.foreign_delete("sessions/s/a")
    clock.now += 11
    with pytest.raises(ObjectNotFound):
        read(here.reader)


def test_the_journal_knows_a_digest_where_the_store_tells_none(flat, here, clock):
    here.write("a", LARGE)
    here.flush()
    held = flat.objects["sessions/s/a"]
    flat.objects["sessions/s/a"] = replace(held, info=replace(held.info, sha256=None))
    here.evict()
    here.reader.note(flat.objects["sessions/s/a"].info)
    flat.spoil = Spoiler(2 * BLOCK, 10**9)
    with pytest.raises(IntegrityError):
        read(here.reader)


def test_an_entry_that_was_only_learned_is_checked(flat, here, clock):
    place(flat, SMALL)
    here.write("b", b"")
    here.flush()
    assert read(here.reader) == SMALL
    assert flat.take_asked() == ["get"]
    clock.now += 11
    assert read(here.reader) == SMALL
    assert flat.take_asked() == ["head"]
    clock.now += 11
    flat.down = True
    with here.reader.read(WHOLE) as reading:
        assert reading.unverified
        assert b"".join(reading.chunks()) == SMALL


def test_an_entry_that_was_only_learned_is_no_secret_in_an_outage(flat, here):
    place(flat, SMALL)
    here.write("b", b"")
    here.flush()
    flat.down = True
    with here.reader.read(WHOLE) as reading:
        assert reading.unverified
        with pytest.raises(StoreTransient):
            list(reading.chunks())


@pytest.mark.parametrize("scanned", [True, False])
def test_what_was_deleted_here_is_not_found_though_the_store_has_it(flat, here, scanned):
    here.write("a", SMALL)
    here.flush()
    (here.root / "s/a").unlink()
    if scanned:
        here.driven.scan("s")
    with pytest.raises(ObjectNotFound, match="deleted"):
        here.reader.read(WHOLE)
    with pytest.raises(ObjectNotFound, match="deleted"):
        here.reader.find(WHOLE)
    assert flat.take_asked() == []


def test_what_is_evicted_between_the_looks_into_journal_and_root_is_not_deleted(flat, here, monkeypatch):
    here.write("a", SMALL)
    here.flush()
    here.write("b", b"not stored, so the directory stays")
    real, evicted = Tree.look, list[int]()

    def look(tree, session, path):
        if not evicted:
            evicted.append(here.driven.engine.lifecycle.evict("s").evicted)
        return real(tree, session, path)

    monkeypatch.setattr(Tree, "look", look)
    assert read(here.reader) == SMALL
    assert evicted == [1]


def test_a_session_directory_that_is_gone_deletes_nothing(flat, here):
    here.write("a", SMALL)
    here.flush()
    shutil.rmtree(here.root / "s")
    assert read(here.reader) == SMALL
    (here.root / "s").mkdir()
    assert read(here.reader) == SMALL, "another directory in its place"


def test_a_root_that_is_gone_says_nothing_of_what_is_missing(flat, here):
    here.write("a", SMALL)
    here.flush()
    (here.root / "s/a").unlink()
    here.root.rename(here.root.with_name("elsewhere"))
    with pytest.raises(RootHalted):
        here.reader.read(WHOLE)


def test_the_newest_in_the_store_of_a_file_that_stands_here(flat, here):
    here.write("a", b"stored")
    here.flush()
    here.write("a", b"changed since")
    assert here.reader.find(WHOLE).size == 6


def test_a_session_that_is_not_here(flat, here):
    place(flat, SMALL, "sessions/other/a")
    assert read(here.reader, parse("other/a")) == SMALL
    with pytest.raises(ObjectNotFound):
        here.reader.read(parse("nowhere/a"))


def test_links_directories_and_pipes_are_no_files(tmp_path, flat, here):
    (tmp_path / "secret").write_text("secret")
    (here.root / "s/link").symlink_to(tmp_path / "secret")
    (here.root / "s/folder").mkdir()
    os.mkfifo(here.root / "s/pipe")
    for path, cause in [("link", "a symbolic link to .*secret"), ("folder", "directory"), ("pipe", "pipe")]:
        with pytest.raises(ObjectNotFound, match=cause):
            here.reader.read(Address(Space.SESSIONS, "s", path))
    here.driven.flush("s")
    here.evict()
    for path, cause in [("link", "a symbolic link to .*secret"), ("folder", "directory")]:
        with pytest.raises(ObjectNotFound, match=cause):
            here.reader.read(Address(Space.SESSIONS, "s", path))


def test_nothing_is_read_through_a_link(tmp_path, flat, here):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (here.root / "s/way").symlink_to(outside)
    (here.root / "session").symlink_to(outside)
    (here.root / "s/up").symlink_to("..")
    for address in [
        Address(Space.SESSIONS, "s", "way/secret"),
        Address(Space.SESSIONS, "session", "secret"),
        Address(Space.SESSIONS, "s", "up/session/secret"),
    ]:
        with pytest.raises(ObjectNotFound):
            here.reader.read(address)
    for path in ("../../outside/secret", "/etc/passwd", "a//b", "a/../b"):
        with pytest.raises(UsageError):
            here.reader.read(Address(Space.SESSIONS, "s", path))


@pytest.mark.parametrize("start", [0, 3, BLOCK, 10**12])
@pytest.mark.parametrize("length", [None, 0, 4, BLOCK + 1])
def test_any_range_of_a_local_file(here, start, length):
    here.write("a", LARGE)
    with here.reader.read(WHOLE) as reading:
        pieces = list(reading.chunks(start, length))
    assert b"".join(pieces) == (LARGE[start:] if length is None else LARGE[start : start + length])
    assert all(len(piece) <= BLOCK for piece in pieces)


@contextlib.contextmanager
def after_each_read(monkeypatch, action):
    real = OpenFile.read

    def read(self, offset, length):
        data = real(self, offset, length)
        action()
        return data

    with monkeypatch.context() as patch:
        patch.setattr(OpenFile, "read", read)
        yield


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=len)
def test_a_file_that_grows_is_read_up_to_the_size_it_had(here, monkeypatch, data):
    here.write("a", data)
    with (
        here.reader.read(WHOLE) as reading,
        after_each_read(monkeypatch, lambda: append(here.root / "s/a", b"more")),
    ):
        assert b"".join(reading.chunks()) == data
        assert reading.artifact.size == len(data)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=len)
def test_a_file_that_never_holds_still_is_an_error(here, monkeypatch, data):
    here.write("a", data)
    path = here.root / "s/a"

    def rewrite():
        with path.open("r+b") as file:
            file.write(os.urandom(4))

    with here.reader.read(WHOLE) as reading, after_each_read(monkeypatch, rewrite), pytest.raises(FileChanging):
        list(reading.chunks())


@pytest.mark.parametrize("length", [5, 5000])
def test_a_file_that_was_rewritten_once_is_read_as_it_is_then(here, monkeypatch, length):
    here.write("a", b"old bytes")
    rewrites = [b"n" * length]

    def rewrite():
        if rewrites:
            here.write("a", rewrites.pop())

    with here.reader.read(WHOLE) as reading, after_each_read(monkeypatch, rewrite):
        assert b"".join(reading.chunks()) == b"n" * length
        assert reading.artifact.size == length


def test_a_rewritten_file_that_also_grew_is_no_mixture(here, monkeypatch):
    here.write("a", LARGE)
    calls = []

    def rewrite():
        calls.append(1)
        if len(calls) == 1:
            here.write("a", LARGE[::-1] + b"more")

    with here.reader.read(WHOLE) as reading, after_each_read(monkeypatch, rewrite), pytest.raises(FileChanging):
        list(reading.chunks())


@pytest.mark.parametrize("how", ["replaced", "removed", "renamed", "linked", "chmod"])
def test_a_file_that_leaves_its_path_stays_the_one_that_was_opened(here, how):
    here.write("a", LARGE)
    path, other = here.root / "s/a", here.root / "s/other"
    with here.reader.read(WHOLE) as reading:
        chunks = reading.chunks()
        first = next(chunks)
        if how == "replaced":
            here.write("other", b"x" * 10)
            other.rename(path)
        elif how == "removed":
            path.unlink()
        elif how == "renamed":
            path.rename(other)
        elif how == "linked":
            os.link(path, other)
        else:
            path.chmod(0o600)
        assert first + b"".join(chunks) == LARGE


def test_a_rewritten_file_that_hides_it_is_no_mixture(here):
    """As rsync --times does in place: the same size, and the old time put back."""
    here.write("a", LARGE)
    path = here.root / "s/a"
    before = path.stat()
    with here.reader.read(WHOLE) as reading:
        chunks = reading.chunks()
        next(chunks)
        path.write_bytes(LARGE[::-1])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(FileChanging):
            list(chunks)


# -- real stores -------------------------------------------------------------------------------------------------------


def test_it_reads_from_every_store(store, cache, clock):
    for name, data in [("a", SMALL), ("large", LARGE), ("d/.gitkeep", b"")]:
        store.put(f"p/sessions/s/{name}", Bytes(data), PLAIN, expect=None)
    reader = Reader(store, prefix="p", cache=cache, local=None, revalidate=10, clock=clock)
    for _ in range(2):
        assert read(reader) == SMALL
        assert read(reader, parse("s/large")) == LARGE
        assert read(reader, parse("s/large"), BLOCK - 3, 6) == LARGE[BLOCK - 3 : BLOCK + 3]
        assert read(reader, parse("s/large"), 2 * BLOCK + 999) == LARGE[-1:]
        assert read(reader, parse("s/d/.gitkeep")) == b""
    with pytest.raises(ObjectNotFound, match="directory"):
        reader.read(parse("s/d"))
    with pytest.raises(ObjectNotFound):
        reader.read(parse("s/b"))
    clock.now += 11
    version = reader.find(WHOLE).version
    with reader.read(WHOLE) as reading:
        assert b"".join(reading.chunks()) == SMALL
    store.put("p/sessions/s/a", Bytes(b"newer"), PLAIN, expect=version)
    clock.now += 11
    assert read(reader) == b"newer"


def test_a_replaced_object_of_every_store_is_one_version_or_an_error(store, clock):
    info = store.put("sessions/s/a", Bytes(LARGE), PLAIN, expect=None)
    reader = Reader(store, prefix="", cache=None, local=None, revalidate=10, clock=clock)
    with reader.read(WHOLE) as reading:
        newer = store.put("sessions/s/a", Bytes(LARGE[::-1]), PLAIN, expect=info.version)
        assert b"".join(reading.chunks()) == LARGE[::-1]
    with reader.read(WHOLE) as reading:
        chunks = reading.chunks(0, BLOCK)
        first = next(chunks)
        store.put("sessions/s/a", Bytes(LARGE), PLAIN, expect=newer.version)
        with pytest.raises(PreconditionFailed):
            list(reading.chunks(BLOCK))
    assert first == LARGE[::-1][:BLOCK]


@pytest.mark.parametrize("kind", ["seaweed"], indirect=True)
def test_past_versions_of_a_bucket(store, kind, server, bucket, cache, clock):
    with contextlib.closing(server.client()) as s3:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = store.put("sessions/s/a", Bytes(LARGE), PLAIN, expect=None)
    store.put("sessions/s/a", Bytes(b"newer"), PLAIN, expect=first.version)
    reader = Reader(store, prefix="", cache=cache, local=None, revalidate=10, clock=clock)
    past = first.version.version_id
    assert read(reader, start=BLOCK, length=10, version_id=past) == LARGE[BLOCK : BLOCK + 10]
    assert read(reader, version_id=past) == LARGE
    assert read(reader) == b"newer"
    with pytest.raises(ObjectNotFound):
        reader.read(WHOLE, version_id="0" * len(past))


def test_version_ids_and_etags_are_both_told_apart(flat, reader, cache):
    """Same bytes, same ETag, another version of a bucket: not the same blocks."""
    info = place(flat, SMALL)
    cache.put(info.key, replace(info.version, version_id="other"), 0, Block(b"not these"))
    cache.put(info.key, Version("other"), 0, Block(b"nor these"))
    assert read(reader) == SMALL
