"""The cache on a disk of its own that fills up, turns read-only, breaks or goes away: what it gives is right or not
there, nobody who reads notices, and it works again when the disk does (P5, P10, P11)."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachesync.model.address import Address, Space
from cachesync.model.values import Version
from cachesync.read.cache.blob_store import PAUSE, Block
from cachesync.read.cache.blocks import BlockCache
from tests.faults.harness import Bench, Bucket, Zygote, until
from tests.faults.volume import Volume, thin

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="loop mounts"), pytest.mark.timeout(120)]

V = Version("etag", "id")
MIB = 1024 * 1024


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """32 MiB, mounted where a state folder has its cache."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    (tmp_path / "state").mkdir(mode=0o700)
    volume = Volume(tmp_path / "image", tmp_path / "state/cache", 32, make=("-N", "500"))
    volume.mount()
    yield volume
    volume.umount()
    volume.umount("-l")


@contextlib.contextmanager
def full(volume: Volume) -> Iterator[None]:
    volume.fill()
    yield
    volume.free()


@contextlib.contextmanager
def without_inodes(volume: Volume) -> Iterator[None]:
    volume.fill_inodes()
    yield
    shutil.rmtree(volume.path / "fillers")


@contextlib.contextmanager
def read_only(volume: Volume) -> Iterator[None]:
    """For whoever opens anything from now on; a file system with files open for writing is not made so by mount."""
    subprocess.run(["mount", "--bind", str(volume.path), str(volume.path)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(volume.path)], check=True, capture_output=True)
    yield
    volume.umount("-l")


@contextlib.contextmanager
def unmounted(volume: Volume) -> Iterator[None]:
    volume.umount("-l")
    yield
    volume.mount()


@contextlib.contextmanager
def emptied(volume: Volume) -> Iterator[None]:
    """Everything in it is deleted; the folder is a mount point and stays."""
    for path in list(volume.path.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield


@contextlib.contextmanager
def unreadable(volume: Volume) -> Iterator[None]:
    """Most of its values are I/O errors."""
    values = sorted(volume.path.glob("*.val"))
    os.sync()
    middle = sorted(volume.block(path) for path in values)[len(values) // 4]
    with volume.unreadable_from(middle, *values):
        assert any(not readable(path) for path in values)
        yield


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


Trouble = Callable[[Volume], contextlib.AbstractContextManager[None]]
TROUBLES: tuple[Trouble, ...] = (full, without_inodes, read_only, unmounted, emptied, unreadable)


def write_through(path: Path) -> None:
    """More than the disk below has left, down to it."""
    with open(path, "wb") as file:
        file.write(os.urandom(4 * MIB))
        file.flush()
        os.fsync(file.fileno())


def data_of(number: int) -> bytes:
    """In the database, or in a file of its own."""
    return random.Random(number).randbytes(60_000 if number % 2 else 3000)


def right(cache: BlockCache, numbers: range) -> int:
    """How many blocks are there; each is what was put there."""
    hits = 0
    for number in numbers:
        block = cache.get("key", V, number)
        assert block is None or block.data == data_of(number)
        hits += block is not None
    return hits


@pytest.mark.parametrize("trouble", TROUBLES)
def test_p11_a_cache_whose_disk_is_in_trouble(volume: Volume, trouble: Trouble) -> None:
    clock = Clock()
    cache = BlockCache(volume.path, 64 * MIB, clock=clock)
    for number in range(60):
        cache.put("key", V, number, Block(data_of(number)))
    assert right(cache, range(60)) == 60
    with trouble(volume):
        for number in range(60, 120):
            cache.put("key", V, number, Block(data_of(number)))
            assert right(cache, range(number, number + 1)) <= 1
        right(cache, range(120))
        cache.drop("key", Version("another"))
        clock.now += PAUSE + 1
        right(cache, range(120))
    clock.now += PAUSE + 1
    if trouble in (full, without_inodes, read_only):
        assert cache.damaged == 0
        assert right(cache, range(60)) == 60, "what was there is there"
    for number in range(120):
        cache.put("key", V, number, Block(data_of(number)))
    assert right(cache, range(120)) == 120, "it works again"
    cache.close()


def test_p11_a_cache_that_begins_on_a_read_only_disk(volume: Volume) -> None:
    clock = Clock()
    cache = BlockCache(volume.path, 64 * MIB, clock=clock)
    for number in range(60):
        cache.put("key", V, number, Block(data_of(number)))
    cache.close()
    volume.remount("ro")
    for _ in range(3):
        right(cache, range(60))
        cache.put("key", V, 60, Block(data_of(60)))
        cache.drop("key", Version("another"))
        clock.now += PAUSE + 1
    volume.remount("rw")
    clock.now += PAUSE + 1
    assert right(cache, range(60)) == 60, "all is still there"
    assert cache.damaged == 0
    cache.close()


def test_p11_a_cache_whose_disk_takes_no_writes(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with thin(tmp_path, 64, 12) as (volume, below):
        clock = Clock()
        cache = BlockCache(volume.path / "cache", 48 * MIB, clock=clock)
        for number in range(20):
            cache.put("key", V, number, Block(data_of(number)))
        with contextlib.suppress(OSError), open(below / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 65536)
        for turn in range(3):
            for number in range(20, 400):
                cache.put("key", V, number, Block(data_of(number)))
            os.sync()
            right(cache, range(400))
            clock.now += PAUSE + 1 + turn
        with pytest.raises(OSError, match=r"Input/output error|Read-only file system"):
            write_through(volume.path / "probe")
        cache.close()
        (below / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=150m", str(below)], check=True, capture_output=True)
        volume.mend()
        cache = BlockCache(volume.path / "cache", 48 * MIB, clock=clock)
        right(cache, range(400))
        for number in range(400):
            cache.put("key", V, number, Block(data_of(number)))
        assert right(cache, range(400)) == 400, "what was lost is made anew"
        cache.close()


@pytest.mark.parametrize("trouble", [full, read_only, unmounted, emptied])
def test_p11_who_reads_does_not_notice(
    tmp_path: Path, zygote: Zygote, objects: Bucket, volume: Volume, trouble: Trouble
) -> None:
    """Through the daemon: what is only in the store is read right, whatever its cache's disk does."""
    bench = Bench(tmp_path, zygote, objects)
    with contextlib.closing(bench):
        wanted = {f"f{number}": data_of(number) for number in range(30)}
        for path, data in wanted.items():
            bench.write("s", path, data)
        bench.start()
        assert bench.flush("s").stored
        assert bench.client.lifecycle.evict("s").evicted == 30

        def read(path: str) -> bytes:
            with bench.client.artifacts.read(Address(Space.SESSIONS, "s", path)) as reading:
                return b"".join(reading.chunks())

        for path in list(wanted)[:15]:
            assert read(path) == wanted[path]
        with trouble(volume):
            for _ in range(2):
                assert {path: read(path) for path in wanted} == wanted
            bench.write("s", "new", b"new")
            until(
                lambda: any(key.endswith("/new") for key in bench.bucket.objects(bench.bucket.prefix)), "it is stored"
            )
            assert bench.flush("s").stored
        assert {path: read(path) for path in wanted} == wanted
        assert bench.stop() == 0, bench.tail()
        assert "Traceback" not in bench.log.read_text()
