"""The cache on a real disk: bounded, right or not there, and never in the reader's way (P5, P10, P16)."""

import contextlib
import errno
import os
import pickle
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachesync.model.values import ObjectInfo, Version
from cachesync.read.cache import quota
from cachesync.read.cache.blob_store import PAUSE, Block
from cachesync.read.cache.blocks import BLOCK, BlockCache

V = Version("etag", "id")
KIB = 1024
MIB = KIB * KIB
INLINE, FILE = b"inline" * 100, os.urandom(50 * KIB)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state" / "cache"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(folder, clock):
    cache = BlockCache(folder, 64 * MIB, clock=clock)
    yield cache
    cache.close()


def put(cache, key, data, number=0):
    cache.put(key, V, number, Block(data))


def get(cache, key, number=0):
    block = cache.get(key, V, number)
    return None if block is None else block.data


def taken(folder):
    """Bytes of the disk under a folder, as du counts them."""
    total = 0
    for path in [folder, *folder.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            total += os.lstat(path).st_blocks * 512
    return total


def database(folder):
    return sqlite3.connect(folder / "cache.db", isolation_level=None)


# -- what it is for ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x", INLINE, FILE, os.urandom(BLOCK)], ids=len)
def test_a_block_comes_back_also_to_the_next_process(folder, cache, data):
    assert get(cache, "k") is None
    put(cache, "k", data)
    assert get(cache, "k") == data
    assert get(cache, "k") == data
    assert (cache.hits, cache.misses, cache.damaged) == (2, 1, 0)
    cache.close()
    other = BlockCache(folder, 64 * MIB)
    assert get(other, "k") == data
    other.close()


def test_blocks_are_told_apart_by_key_version_and_number(cache):
    names = [("k", Version("e"), 0), ("k", Version("e"), 1), ("k", Version("e", "i"), 0), ("k", Version("f"), 0)]
    names += [("l", Version("e"), 0), ("ke", Version(""), 0), ("k\udcff", Version("e"), 0)]
    for number, name in enumerate(names):
        cache.put(*name, Block(b"%d" % number))
    assert [cache.get(*name).data for name in names] == [b"%d" % number for number in range(len(names))]
    assert cache.get("k", Version("e"), 2) is None


def test_a_version_is_dropped_whole_and_alone(folder, cache):
    for number in range(3):
        put(cache, "k", FILE, number)
        cache.put("k", Version("other"), number, Block(FILE))
    cache.drop("k", V)
    assert [get(cache, "k", number) for number in range(3)] == [None] * 3
    assert all(cache.get("k", Version("other"), number) for number in range(3))
    assert len(list(folder.glob("*.val"))) == 3


def test_what_is_known_of_a_key_is_remembered_and_forgotten(cache):
    info = ObjectInfo("k", 5, V, 1.5, "ab" * 32, {"mtime": "1"}, "text/plain")
    assert cache.describe("k") is None
    cache.note("k", info, 7.5)
    assert cache.describe("k") == (info, 7.5)
    cache.note("k", info, 8.5)
    assert cache.describe("k") == (info, 8.5)
    cache.forget("k")
    assert cache.describe("k") is None


def test_everything_is_for_us_alone_whatever_the_umask(folder, cache):
    before = os.umask(0)
    try:
        put(cache, "k", FILE)
        put(cache, "i", INLINE)
    finally:
        assert os.umask(before) == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_size_of_nothing_caches_nothing(folder):
    cache = BlockCache(folder, 0)
    put(cache, "k", b"x")
    assert get(cache, "k") is None
    assert not folder.exists()


# -- the bound ---------------------------------------------------------------------------------------------------------


def test_the_bound_holds_at_every_step(folder):
    size = 6 * MIB
    cache = BlockCache(folder, size)
    random_ = random.Random(4)
    kept = {}
    for number in range(700):
        length = random_.choice([0, 10, 900, 5_000, 16_383, 16_384, 50_000, 300_000, 1_500_000, BLOCK])
        data = random_.randbytes(random_.randint(length // 2, length))
        put(cache, "k", data, number)
        kept[number] = data
        assert taken(folder) <= size, f"after {number} insertions"
    assert cache.evictions > 400
    found = [number for number in kept if get(cache, "k", number) is not None]
    assert all(get(cache, "k", number) == kept[number] for number in found)
    assert sum(len(kept[number]) for number in found) > size / 4, "it does not hold much"
    assert cache.damaged == 0
    cache.close()


def test_many_small_values_stay_within_the_bound(folder):
    size = 2 * MIB
    cache = BlockCache(folder, size)
    for number in range(4000):
        put(cache, "k", b"x" * 900, number)
    assert taken(folder) <= size
    assert sum(cache.has("k", V, number) for number in range(4000)) > 800
    cache.close()


def test_a_value_larger_than_the_bound_pushes_nothing_out(folder):
    cache = BlockCache(folder, MIB)
    put(cache, "small", INLINE)
    put(cache, "large", b"x" * (2 * MIB))
    assert get(cache, "large") is None
    assert get(cache, "small") == INLINE
    assert not list(folder.glob("*.val"))
    cache.close()


def test_what_was_used_last_goes_last_also_in_the_next_process(folder):
    cache = BlockCache(folder, 4 * MIB)
    for number in range(3):
        put(cache, "k", b"x" * MIB, number)
    assert get(cache, "k", 0)
    cache.close()
    cache = BlockCache(folder, 4 * MIB)
    put(cache, "new", b"x" * MIB)
    assert [get(cache, "k", number) is not None for number in range(3)] == [True, False, True]
    assert get(cache, "new")
    cache.close()


def test_a_hit_writes_nothing(folder, cache):
    put(cache, "k", FILE)
    put(cache, "i", INLINE)
    before = (folder / "cache.db").stat()
    for _ in range(100):
        assert get(cache, "k")
        assert get(cache, "i")
    after = (folder / "cache.db").stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)


def test_what_is_pinned_stays_and_then_may_go(folder):
    cache = BlockCache(folder, 4 * MIB)
    for number in range(2):
        put(cache, "pinned", b"p" * MIB, number)
    with cache.pin("pinned", V), cache.pin("pinned", V):
        for number in range(20):
            put(cache, "k", b"x" * MIB, number)
        assert get(cache, "pinned", 0) == get(cache, "pinned", 1) == b"p" * MIB
        assert taken(folder) <= 4 * MIB
    for number in range(20, 40):
        put(cache, "k", b"x" * MIB, number)
    assert get(cache, "pinned", 0) is None
    cache.close()


def test_where_all_is_pinned_nothing_more_is_cached(folder):
    cache = BlockCache(folder, 3 * MIB)
    with cache.pin("pinned", V):
        for number in range(2):
            put(cache, "pinned", b"p" * MIB, number)
        put(cache, "k", b"x" * MIB)
        assert get(cache, "k") is None
        assert get(cache, "pinned", 0)
        assert get(cache, "pinned", 1)
    cache.close()


def test_threads_share_it(folder):
    cache = BlockCache(folder, 4 * MIB)
    bodies = [bytes([number]) * (number * 9_000) for number in range(40)]
    wrong, peaks = [], []

    def work(seed):
        random_ = random.Random(seed)
        for _ in range(150):
            number = random_.randrange(40)
            found = get(cache, "k", number)
            if found is None:
                put(cache, "k", bodies[number], number)
            elif found != bodies[number]:
                wrong.append(number)
        peaks.append(taken(folder))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert wrong == []
    assert max(peaks) <= 4 * MIB
    assert cache.damaged == 0
    assert cache._room._reserved == 0
    cache.close()


WORKER = """
import random, sys
from pathlib import Path
from cachesync.read.cache.blob_store import Block
from cachesync.read.cache.blocks import BlockCache
from cachesync.model.values import Version
cache, random_ = BlockCache(Path(sys.argv[1]), 4 * 2**20), random.Random(int(sys.argv[2]))
for _ in range(400):
    number = random_.randrange(40)
    found = cache.get("k", Version("e"), number)
    if found is None:
        cache.put("k", Version("e"), number, Block(bytes([number]) * (number * 9_000)))
    else:
        assert found.data == bytes([number]) * (number * 9_000)
cache.close()
print(cache.damaged, cache.hits > 0)
"""


def test_processes_share_it(folder):
    command = [sys.executable, "-c", WORKER, str(folder)]
    workers = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(3)]
    assert [worker.communicate(timeout=60)[0].strip() for worker in workers] == ["0 True"] * 3
    assert taken(folder) <= 4 * MIB


def test_what_a_killed_process_left_is_swept(folder, cache):
    put(cache, "k", FILE)
    orphan, fresh = folder / f"{'a' * 32}.val", folder / f"{'b' * 32}.val"
    for path in (orphan, fresh, folder / "not ours.val"):
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    os.utime(fresh)
    os.utime(folder / "swept", (1, 1))
    with database(folder) as db:
        db.execute("UPDATE Settings SET value = 10000000000 WHERE key = 'size'")
    put(cache, "l", FILE)
    assert not orphan.exists()
    assert fresh.exists()
    assert (folder / "not ours.val").exists()
    assert get(cache, "k") == get(cache, "l") == FILE


# -- damage ------------------------------------------------------------------------------------------------------------


def fill(cache):
    for number in range(4):
        put(cache, "f", FILE, number)
        put(cache, "i", INLINE, number)


def check(cache):
    """Nothing is wrong, and it can be filled again."""
    for number in range(4):
        assert get(cache, "f", number) in (FILE, None)
        assert get(cache, "i", number) in (INLINE, None)
    put(cache, "f", FILE)
    put(cache, "i", INLINE)
    put(cache, "new", INLINE)
    assert get(cache, "f") == FILE
    assert get(cache, "i") == INLINE
    assert get(cache, "new") == INLINE


def garbage(folder):
    (folder / "cache.db").write_bytes(os.urandom(20_000))


def empty(folder):
    os.truncate(folder / "cache.db", 0)


def half(folder):
    os.truncate(folder / "cache.db", (folder / "cache.db").stat().st_size // 2)


def no_database(folder):
    (folder / "cache.db").unlink()


def no_folder(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def a_link(folder):
    (folder / "cache.db").unlink()
    (folder / "cache.db").symlink_to("/etc/passwd")


def a_pipe(folder):
    (folder / "cache.db").unlink()
    os.mkfifo(folder / "cache.db")


def no_table(folder):
    with database(folder) as db:
        db.execute("DROP TABLE Cache")


def a_trigger(folder):
    with database(folder) as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END")


def a_setting(folder):
    with database(folder) as db:
        db.execute("INSERT INTO Settings VALUES ('disk_fetch', 1)")


def a_pragma(folder):
    with database(folder) as db:
        db.execute("INSERT INTO Settings VALUES ('sqlite_secure_delete', 1)")


def a_policy(folder):
    with database(folder) as db:
        db.execute("UPDATE Settings SET value = 'nonsense' WHERE key = 'eviction_policy'")


def text_keys(folder):
    with database(folder) as db:
        db.execute("UPDATE Cache SET key = 'k' || rowid, tag = 5, mode = 'x'")


def garbage_journal(folder):
    (folder / "cache.db-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + os.urandom(9000))


DAMAGES = [
    garbage, empty, half, no_database, no_folder, a_link, a_pipe, no_table, a_trigger, a_setting, a_pragma, a_policy,
    text_keys, garbage_journal,
]  # fmt: skip


@pytest.mark.parametrize("opened", [True, False], ids=["while it is open", "before it is opened"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_cache_is_made_anew(folder, cache, damage, opened):
    fill(cache)
    if not opened:
        cache.close()
    damage(folder)
    if not (opened and damage is a_trigger):  # what an open database has is not looked through again
        check(cache)
    cache.close()
    check(cache)
    assert stat.S_ISREG((folder / "cache.db").lstat().st_mode)
    with database(folder) as db:
        assert not db.execute("SELECT 1 FROM Settings WHERE key IN ('disk_fetch', 'sqlite_secure_delete')").fetchall()


@pytest.mark.parametrize("how", ["flipped", "cut", "longer", "huge", "missing", "a link", "a pipe", "a folder"])
def test_a_damaged_value_is_a_miss(folder, cache, how, tmp_path):
    fill(cache)
    assert get(cache, "f") == FILE  # memory knows it now
    for path in folder.glob("*.val"):
        if how == "flipped":
            path.write_bytes(FILE[:-1] + bytes([FILE[-1] ^ 1]))
        elif how in ("cut", "longer"):
            os.truncate(path, len(FILE) + (-1 if how == "cut" else 1))
        elif how == "huge":
            os.truncate(path, 2**40)
        else:
            path.unlink()
        if how == "a link":
            (tmp_path / "same").write_bytes(FILE)
            path.symlink_to(tmp_path / "same")
        elif how == "a pipe":
            os.mkfifo(path)
        elif how == "a folder":
            path.mkdir()
    for number in range(4):
        assert get(cache, "f", number) is None
        assert get(cache, "i", number) == INLINE
    put(cache, "f", FILE)
    assert get(cache, "f") == FILE
    if how in ("flipped", "cut", "longer", "huge"):
        assert cache.damaged == 4


def test_rows_that_changed_places_are_misses(folder, cache):
    """Right bytes with a right digest, at the wrong place."""
    put(cache, "k", b"a" * 50_000, 0)
    put(cache, "k", b"b" * 50_000, 1)
    cache.close()
    with database(folder) as db:
        (first, key), (second, other) = db.execute("SELECT rowid, key FROM Cache WHERE mode = 2").fetchall()
        db.execute("UPDATE Cache SET key = x'00' WHERE rowid = ?", (first,))
        db.execute("UPDATE Cache SET key = ? WHERE rowid = ?", (key, second))
        db.execute("UPDATE Cache SET key = ? WHERE rowid = ?", (other, first))
    assert get(cache, "k", 0) is None
    assert get(cache, "k", 1) is None


def test_every_byte_of_every_file_may_flip(folder):
    """Each file of the cache, at many places, while it is open and being read."""
    random_ = random.Random(11)
    cache = BlockCache(folder, 64 * MIB)
    fill(cache)
    served = 0
    for _ in range(250):
        for path in list(folder.iterdir()):
            data = bytearray(path.read_bytes())
            if data:
                # Most of the interesting bytes of a database are at the beginning of a page.
                at = random_.randrange(len(data)) if random_.random() < 0.5 else random_.randrange(0, len(data), 4096)
                data[min(at + random_.randrange(120), len(data) - 1)] ^= 1 << random_.randrange(8)
                path.write_bytes(data)
        if random_.random() < 0.5:
            cache.close()
        for number in range(4):
            for key, right in (("f", FILE), ("i", INLINE)):
                found = get(cache, key, number)
                assert found in (right, None)
                served += found is not None
                if found is None:
                    put(cache, key, right, number)
    assert served > 300
    assert cache.damaged > 50
    cache.close()


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("where", ["value", "file", "key", "text file"])
def test_a_pickle_that_was_planted_is_never_run(folder, cache, tmp_path, where):
    mark = tmp_path / "executed"
    planted = pickle.dumps(Evil(mark))
    fill(cache)
    cache.close()
    with database(folder) as db:
        if where == "value":
            db.execute("UPDATE Cache SET mode = 4, value = ?, filename = NULL", (planted,))
        elif where == "key":
            db.execute("UPDATE Cache SET raw = 0, key = ? WHERE rowid = 1", (planted,))
        else:
            db.execute("UPDATE Cache SET mode = ? WHERE mode = 2", (4 if where == "file" else 3,))
            for path in folder.glob("*.val"):
                path.write_bytes(planted)
    check(cache)
    assert not mark.exists()
    pickle.loads(planted)
    assert mark.exists(), "the pickle would not have worked anyway"


@pytest.mark.parametrize("name", ["{outside}", "../../victim", "/etc/passwd", "", "cache.db", "x.val", b"bytes", 5])
def test_a_row_that_names_another_file_neither_reads_nor_removes_it(folder, cache, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_bytes(FILE)
    fill(cache)
    cache.close()
    with database(folder) as db:
        name = str(victim) if name == "{outside}" else name
        db.execute("UPDATE Cache SET filename = ? WHERE mode = 2", (name,))
    for number in range(4):
        assert get(cache, "f", number) is None
    cache.drop("f", V)
    check(cache)
    assert victim.read_bytes() == FILE


def test_a_folder_that_is_a_link_is_not_used(folder, tmp_path, clock):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "cache.db").write_text("precious")
    folder.parent.mkdir()
    folder.symlink_to(elsewhere)
    cache = BlockCache(folder, MIB, clock=clock)
    put(cache, "k", FILE)
    assert get(cache, "k") is None
    assert [path.name for path in elsewhere.iterdir()] == ["cache.db"]
    assert (elsewhere / "cache.db").read_text() == "precious"
    folder.unlink()
    clock.now += PAUSE
    put(cache, "k", FILE)
    assert get(cache, "k") == FILE
    cache.close()


def test_a_cache_that_another_process_made_anew_is_taken_up(folder, cache):
    fill(cache)
    no_folder(folder)
    other = BlockCache(folder, 64 * MIB)
    put(other, "f", FILE)
    other.close()
    assert get(cache, "f", 1) is None
    assert get(cache, "f") == FILE
    assert cache.damaged == 0


# -- a disk that has no room, a database that is busy ------------------------------------------------------------------


def test_a_full_disk_stops_caching_for_a_while(folder, cache, clock, monkeypatch):
    """A write that ends half-way: os.write is where the kernel says so."""
    put(cache, "before", FILE)
    real, full = os.write, True

    def write(descriptor, data):
        if not full:
            return real(descriptor, data)
        if len(data) == len(FILE):
            return real(descriptor, data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    put(cache, "k", FILE)
    assert len(list(folder.glob("*.val"))) == 1, "the partial file is still there"
    full = False
    put(cache, "k", FILE)
    assert get(cache, "k") is None
    assert get(cache, "before") == FILE
    clock.now += PAUSE
    put(cache, "k", FILE)
    assert get(cache, "k") == FILE
    assert cache.damaged == 0
    assert cache._room._reserved == 0


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", mount], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.parametrize("length", [50 * KIB, 8 * KIB], ids=["files", "inline"])
def test_a_disk_that_fills_up(small_disk, clock, length, monkeypatch):
    """All the same: others may write between the look at what is free and our writing."""
    monkeypatch.setattr("cachesync.read.cache.disk.has_room", lambda *_: True)
    cache = BlockCache(small_disk / "cache", 64 * MIB, clock=clock)
    put(cache, "first", b"f" * length)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 1_500_000)
    for number in range(200):
        put(cache, "k", b"x" * length, number)
    assert get(cache, "first") == b"f" * length
    assert cache.damaged == 0
    assert cache._full_until > clock.now
    filler.unlink()
    put(cache, "late", b"l" * length)
    assert get(cache, "late") is None
    clock.now += PAUSE
    put(cache, "late", b"l" * length)
    assert get(cache, "late") == b"l" * length
    cache.close()


def test_the_last_of_a_disk_is_left_to_those_who_write_files(small_disk, clock):
    whole = os.statvfs(small_disk)
    cache = BlockCache(small_disk / "cache", 64 * MIB, clock=clock)
    for number in range(200):
        put(cache, "k", b"x" * 50 * KIB, number)
    assert get(cache, "k", 0) is not None
    left = os.statvfs(small_disk)
    assert left.f_bavail * left.f_frsize > whole.f_blocks * whole.f_frsize // 5
    (small_disk / "an agent's").write_bytes(b"x" * (whole.f_blocks * whole.f_frsize // 5))
    cache.close()


def test_a_database_that_somebody_holds_is_a_miss(folder, cache):
    fill(cache)
    cache.close()
    with database(folder) as db:
        db.execute("BEGIN EXCLUSIVE")
        assert get(cache, "f") is None
        put(cache, "new", FILE)
        db.execute("ROLLBACK")
    assert get(cache, "f") == FILE
    assert get(cache, "new") is None
    assert cache.damaged == 0
    assert len(list(folder.glob("*.val"))) == 4


def test_running_out_of_descriptors_does_not_cost_the_cache(folder, cache, clock, monkeypatch):
    fill(cache)
    cache.close()

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        assert get(cache, "f") is None
    clock.now += PAUSE
    assert get(cache, "f") == FILE
    assert cache.damaged == 0


def spoil(folder, random_):
    for path in list(folder.glob("*")):
        luck = random_.random()
        with contextlib.suppress(FileNotFoundError):
            if luck < 0.3:
                path.unlink()
            elif luck < 0.6:
                os.truncate(path, path.stat().st_size // 2)
            elif luck < 0.7:
                path.write_bytes(os.urandom(5000))


def test_readers_go_on_while_the_folder_is_destroyed(folder, clock):
    cache = BlockCache(folder, 8 * MIB, clock=clock)
    stop, wrong = threading.Event(), []

    def read():
        while not stop.is_set():
            for number in range(6):
                found = get(cache, "k", number)
                if found is None:
                    put(cache, "k", bytes([number]) * 50_000, number)
                elif found != bytes([number]) * 50_000:
                    wrong.append(number)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    random_ = random.Random(2)
    for _ in range(40):
        time.sleep(0.02)
        spoil(folder, random_)
        clock.now += PAUSE
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert wrong == []
    clock.now += PAUSE
    put(cache, "k", FILE, 9)
    assert get(cache, "k", 9) == FILE
    cache.close()


def test_slack_is_enough_for_what_an_insertion_adds(folder):
    """The least that a cache may be still holds its bound."""
    size = quota.SLACK + 64 * KIB
    cache = BlockCache(folder, size)
    for number in range(300):
        data = os.urandom(4000 if number % 2 else 20_000)
        if number % 3:
            put(cache, "k", data, number)
        else:
            key = f"{number}"
            cache.note(key, ObjectInfo(key, len(data), V, 1.5, "ab" * 32), 7.5, Block(data))
            assert cache.describe(key) is not None
            assert get(cache, key) == data
        assert taken(folder) <= size
    cache.close()
