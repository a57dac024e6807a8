"""Local disks that fill up, turn read-only or go away, on small file systems of their own (P6, P7, P10)."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachesync.journal.journal import Journal
from cachesync.model.errors import CacheSyncError, JournalUnavailable
from cachesync.model.reports import FlushReport
from tests.faults.harness import Bench, Bucket, Zygote, digest, until
from tests.faults.volume import Volume, thin

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="loop mounts"), pytest.mark.timeout(120)]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """24 MiB, mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    volume = Volume(tmp_path / "image", tmp_path / "volume", 24)
    volume.mount()
    yield volume
    volume.umount()
    volume.umount("-l")


@pytest.fixture
def make_volume(tmp_path: Path) -> Iterator[Callable[..., Volume]]:
    """Volumes of other kinds, mounted; see Volume."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with contextlib.ExitStack() as stack:

        def make(mib: int, *words: str) -> Volume:
            volume = Volume(tmp_path / "image", tmp_path / "volume", mib, make=words)
            volume.mount()
            stack.callback(volume.umount, "-l")
            stack.callback(volume.umount)
            return volume

        yield make


def stored(bench: Bench, session: str = "s") -> set[str]:
    prefix = bench.bucket.session(session)
    return {key.removeprefix(prefix) for key in bench.bucket.objects(prefix)} - {".cachesync/manifest.json"}


def check_flushed(bench: Bench, session: str = "s") -> None:
    report = bench.flush(session, 30)
    assert report.stored, (report, bench.tail())
    assert report.conflicts == []
    assert bench.differences(session) == [], bench.tail()


def flush_is_honest(bench: Bench, session: str = "s") -> None:
    """Whatever a flush says in trouble, "stored" has to be true."""
    with contextlib.suppress(CacheSyncError):
        if bench.flush(session, 1.0).stored:
            assert bench.differences(session) == []


def what_flush_says(bench: Bench) -> str:
    """Its report or its error."""
    try:
        return str(bench.flush("s", 1.0))
    except CacheSyncError as error:
        return str(error)


@pytest.mark.parametrize("killed", [False, True], ids=["lives", "killed"])
def test_p10_root_and_state_on_a_full_disk(
    tmp_path: Path,
    zygote: Zygote,
    objects: Bucket,
    volume: Volume,
    killed: bool,  # noqa: FBT001
) -> None:
    bench = Bench(tmp_path, zygote, objects, root=volume.path / "root", state=volume.path / "state", scan_interval="2s")
    with contextlib.closing(bench):
        for number in range(40):
            bench.write("s", f"f{number}", b"%05d" % number * 200)
        bench.start()
        check_flushed(bench)
        # Far more journal than a write-ahead log has room for.
        for number in range(500):
            bench.write("s", f"many/g{number}", b"%d" % number)
        volume.fill()
        assert volume.full
        for number in range(0, 40, 2):
            with open(bench.root / f"s/f{number}", "r+b") as file:
                file.write(b"rewritten in place")
        for number in range(1, 40, 4):
            os.rename(bench.root / f"s/f{number}", bench.root / f"s/r{number}")
        flush_is_honest(bench)
        volume.fill()
        assert bench.alive(), bench.tail()
        if killed:
            bench.kill()
            assert bench.falsely_clean("s") == []
            volume.free()
            bench.start()
        else:
            volume.free()
        bench.write("s", "after", b"after")
        until(lambda: "after" in stored(bench), f"it goes on by itself: {bench.tail(5)}", within=40, pause=0.1)
        check_flushed(bench)
        bench.kill()
        assert bench.falsely_clean("s") == []


def test_p10_the_state_folder_on_a_full_disk(tmp_path: Path, zygote: Zygote, objects: Bucket, volume: Volume) -> None:
    bench = Bench(tmp_path, zygote, objects, state=volume.path / "state", scan_interval="2s")
    with contextlib.closing(bench):
        bench.write("s", "first", b"first")
        bench.start()
        check_flushed(bench)
        volume.fill()
        for number in range(600):
            bench.write("s", f"d{number % 10}/f{number}", b"%d" % number)
        flush_is_honest(bench)
        assert bench.alive(), bench.tail()
        assert bench.client.status().sessions
        volume.free()
        until(lambda: len(stored(bench)) == 601, f"all by itself: {bench.tail(5)}", within=40, pause=0.2)
        check_flushed(bench)
        bench.kill()
        assert bench.falsely_clean("s") == []


def test_a_daemon_starts_on_a_full_state_folder_or_says_why(
    tmp_path: Path, zygote: Zygote, objects: Bucket, volume: Volume
) -> None:
    bench = Bench(tmp_path, zygote, objects, state=volume.path / "state")
    with contextlib.closing(bench):
        bench.write("s", "first", b"first")
        (volume.path / "state").mkdir()
        volume.fill()
        told = bench.cli("flush", "s", "--timeout", "2")
        assert told.returncode in (2, 4), told
        assert "Traceback" not in told.stderr
        assert len(told.stderr.strip().splitlines()) == 1
        volume.free()
        bench.start()
        check_flushed(bench)


def test_the_state_folder_turns_read_only(tmp_path: Path, zygote: Zygote, objects: Bucket) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    volume = Volume(tmp_path / "image", tmp_path / "volume", 24, "loop,errors=remount-ro")
    volume.mount()
    trigger = Path(f"/sys/fs/ext4/{volume.device}/trigger_fs_error")
    if not trigger.exists():
        volume.umount()
        pytest.skip("this kernel's ext4 has no trigger_fs_error")
    bench = Bench(tmp_path, zygote, objects, state=volume.path / "state")
    with contextlib.closing(bench):
        bench.write("s", "first", b"first")
        bench.start()
        check_flushed(bench)
        trigger.write_text("1")
        for number in range(50):
            bench.write("s", f"f{number}", b"%d" % number)
        flush_is_honest(bench)
        assert bench.alive(), bench.tail()
        bench.kill()
        volume.mend()
        assert bench.falsely_clean("s") == []
        bench.start()
        check_flushed(bench)
        bench.kill()
    volume.umount()


def test_the_root_turns_read_only(tmp_path: Path, zygote: Zygote, objects: Bucket, volume: Volume) -> None:
    bench = Bench(tmp_path, zygote, objects, root=volume.path / "root")
    with contextlib.closing(bench):
        for number in range(20):
            bench.write("s", f"f{number}", b"%d" % number)
        bench.start()
        subprocess.run(["mount", "-o", "remount,ro", str(volume.path)], check=True, capture_output=True)
        check_flushed(bench)
        subprocess.run(["mount", "-o", "remount,rw", str(volume.path)], check=True, capture_output=True)
        bench.write("s", "after", b"after")
        until(lambda: "after" in stored(bench), "it goes on", within=5)
        check_flushed(bench)


@pytest.mark.parametrize("below", [True, False], ids=["root in the volume", "root is the volume"])
@pytest.mark.parametrize("looks", [1, 6], ids=["short", "long"])
def test_p07_the_root_is_unmounted_and_mounted_again(
    tmp_path: Path, zygote: Zygote, objects: Bucket, volume: Volume, *, looks: int, below: bool
) -> None:
    root = volume.path / "root" if below else volume.path
    bench = Bench(tmp_path, zygote, objects, root=root)
    with contextlib.closing(bench):
        for number in range(30):
            bench.write("s", f"d{number % 3}/f{number}", b"%d" % number)
        (root / "s/link").symlink_to("d1/f1")
        bench.start()
        check_flushed(bench)
        before = stored(bench)
        for number in range(20):
            bench.write("s", f"late/f{number}", b"late %d" % number)
        # Of files that it never saw, and that are gone, the daemon can say nothing (README, "What is not promised").
        until(lambda: bench.client.status("s").sessions[0].files == 50, "it knows of them", pause=0.001)
        volume.umount("-l")
        seen = bench.log.read_text().count("halted") + bench.log.read_text().count("look at the root")
        with contextlib.suppress(AssertionError):  # time for the daemon to look, and to begin anew where it may
            until(lambda: bench.log.read_text().count("beginning anew") > seen, within=looks)
        flush_is_honest_about_nothing(bench, {f"late/f{number}" for number in range(20)})
        assert bench.alive(), bench.tail()
        assert before <= stored(bench), "nothing is deleted"
        volume.mount()
        bench.write("s", "back", b"back")
        until(lambda: "back" in stored(bench), f"it goes on by itself: {bench.tail(8)}", within=20, pause=0.05)
        assert before <= stored(bench), "nothing is deleted"
        check_flushed(bench)
        (root / "s/d0/f0").unlink()
        until(lambda: "d0/f0" not in stored(bench), "deletes are believed again", within=5)
        check_flushed(bench)
        bench.kill()
        assert bench.falsely_clean("s") == []


def flush_is_honest_about_nothing(bench: Bench, written: set[str]) -> None:
    """While the root is away a flush may say no such session, or halted; never that it stored what it neither sees nor
    stored before."""
    try:
        report = bench.flush("s", 1.0)
    except CacheSyncError:
        return
    assert not report.stored or written <= stored(bench), report


def test_p07_a_start_without_the_volume_deletes_nothing(
    tmp_path: Path, zygote: Zygote, objects: Bucket, volume: Volume
) -> None:
    bench = Bench(tmp_path, zygote, objects, root=volume.path)
    with contextlib.closing(bench):
        for number in range(30):
            bench.write("s", f"f{number}", b"%d" % number)
        bench.start()
        check_flushed(bench)
        bench.kill()
        volume.umount()
        bench.start()
        with contextlib.suppress(CacheSyncError):
            bench.flush("s", 5)
        assert len(stored(bench)) == 30
        assert bench.stop() in (0, 4)
        volume.mount()
        bench.write("s", "f2", b"changed")
        bench.start()
        report = bench.flush("s", 20)
        assert report.stored, report
        assert report.conflicts == [], "it is the directory that left, and nobody else wrote"
        (volume.path / "s/f1").unlink()
        report = bench.flush("s", 30)
        assert report.stored, report
        assert report.conflicts == []
        assert stored(bench) == {f"f{number}" for number in range(30) if number != 1}


# -- no inodes, no blocks below, blocks that cannot be read ------------------------------------------------------------


def test_p10_no_inodes_are_left(
    tmp_path: Path, zygote: Zygote, objects: Bucket, make_volume: Callable[..., Volume]
) -> None:
    volume = make_volume(24, "-N", "200")
    root, state = volume.path / "root", volume.path / "state"
    bench = Bench(tmp_path, zygote, objects, root=root, state=state, scan_interval="2s")
    with contextlib.closing(bench):
        for number in range(40):
            bench.write("s", f"f{number}", b"%05d" % number * 200)
        bench.write("gone", "g", b"only in the store")
        bench.start()
        check_flushed(bench)
        check_flushed(bench, "gone")
        assert bench.client.lifecycle.evict("gone").evicted == 1
        volume.fill_inodes()
        assert os.statvfs(volume.path).f_favail == 0
        for number in range(0, 40, 2):
            bench.write("s", f"f{number}", b"rewritten %d" % number)
        os.rename(root / "s/f1", root / "s/r1")
        wanted = {f"f{number}": digest(b"rewritten %d" % number) for number in range(0, 40, 2)}
        prefix = bench.bucket.session("s")
        until(lambda: wanted.items() <= bench.bucket.digests(prefix).items(), bench.tail(5), within=20, pause=0.1)
        flush_is_honest(bench)
        opened = bench.cli("open", "gone")
        assert opened.returncode == 4, opened
        assert "make room on the disk" in opened.stderr
        assert "Traceback" not in opened.stderr
        bench.kill()
        for number in range(60):
            (volume.path / f"fillers/{number}").unlink()
        bench.start()
        bench.write("s", "after", b"after")
        until(lambda: "after" in stored(bench), f"it goes on by itself: {bench.tail(5)}", within=20, pause=0.1)
        check_flushed(bench)
        opened = bench.cli("open", "gone")
        assert opened.returncode == 0, opened
        assert (root / "gone/g").read_bytes() == b"only in the store"
        bench.kill()
        assert bench.falsely_clean("s", "gone") == []


@pytest.mark.parametrize("who", ["flush", "drain"])
def test_p12_a_manifest_that_finds_no_room_on_disk_ends_nothing(
    tmp_path: Path, zygote: Zygote, objects: Bucket, make_volume: Callable[..., Volume], who: str
) -> None:
    volume = make_volume(24, "-N", "100")
    with contextlib.closing(Bench(tmp_path, zygote, objects, state=volume.path / "state")) as bench:
        bench.write("s", "first", b"first")
        bench.start()
        check_flushed(bench)
        volume.fill_inodes()
        bench.write("s", "second", b"second")
        until(lambda: "second" in stored(bench), bench.tail(5))
        if who == "flush":
            assert "internal error" not in what_flush_says(bench)
        else:
            assert bench.stop() in (0, 4), bench.tail(3)


def test_p06_the_state_folders_disk_does_not_take_writes(tmp_path: Path, zygote: Zygote, objects: Bucket) -> None:
    """Writes are I/O errors, the file system gives up its own journal; then the disk is mended and checked."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with thin(tmp_path, 64, 14) as (volume, below):
        bench = Bench(tmp_path, zygote, objects, state=volume.path / "state", scan_interval="2s")
        with contextlib.closing(bench):
            bench.write("s", "first", b"first")
            bench.start()
            check_flushed(bench)
            with contextlib.suppress(OSError), open(below / "filler", "wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 65536)
            for number in range(1500):
                bench.write("s", f"d{number % 10}/f{number}", b"%d" % number)
            flush_is_honest(bench)
            os.sync()
            with pytest.raises(OSError, match=r"Input/output error|Read-only file system"):
                write_through(volume.path / "probe")
            for number in range(0, 1500, 100):
                bench.write("s", f"d{number % 10}/f{number}", b"again %d" % number)
            flush_is_honest(bench)
            assert bench.alive(), bench.tail()
            bench.kill()
            (below / "filler").unlink()
            subprocess.run(["mount", "-o", "remount,size=150m", str(below)], check=True, capture_output=True)
            volume.mend()
            assert bench.falsely_clean("s") == []
            bench.start()
            report = bench.flush("s", 60)
            assert report.stored, (report, bench.tail())
            # What the journal lost with the disk is replaced by nothing: the first bytes stay beside the second ones.
            kept = {conflict.kept_as: conflict.path for conflict in report.conflicts}
            assert bench.differences("s", besides=kept) == []
            objects_there = bench.bucket.digests(bench.bucket.session("s"))
            again = {f"d{number % 10}/f{number}": digest(b"%d" % number) for number in range(0, 1500, 100)}
            assert {(path, objects_there[name]) for name, path in kept.items()} <= again.items()
            bench.kill()
            assert bench.falsely_clean("s") == []


def test_p07_files_and_a_directory_that_cannot_be_read(
    tmp_path: Path, zygote: Zygote, objects: Bucket, make_volume: Callable[..., Volume]
) -> None:
    """I/O errors are no absence and no bytes; what can be read is stored, and all of it when the disk is well again."""
    volume = make_volume(64, "-O", "^has_journal", "-b", "4096")
    bench = Bench(tmp_path, zygote, objects, root=volume.path / "root", scan_interval="2s")
    with contextlib.closing(bench):
        for number in range(20):
            bench.write("s", f"good/f{number}", b"%d" % number * 3000)
        for number in range(200):
            bench.write(
                "s", f"dir/with a long name, for the directory to take blocks of its own {number}", b"%d" % number
            )
        bench.start()
        check_flushed(bench)
        before = stored(bench)
        # What is written last lies behind the rest; ext4 may not have chosen so: then a filler pushes it there.
        with open(volume.path / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, 8 * 1024 * 1024)
        bad = [bench.root / f"s/bad{number}" for number in range(5)]
        for path in bad:
            path.write_bytes(path.name.encode() * 5000)
        check_flushed(bench)
        os.sync()
        first = min(volume.block(path) for path in bad)
        readable = [path for path in (bench.root / "s/good").iterdir() if volume.block(path) < first]
        assert readable, "the good files lie before the bad ones"
        with volume.unreadable_from(first, *bad):
            with pytest.raises(OSError, match="Input/output"):
                bad[0].read_bytes()
            for path in bad:  # its stat says that it changed, its bytes cannot be read
                os.utime(path)
            with open(
                readable[0], "r+b"
            ) as file:  # in its place: a new block could lie, and be written, beyond the cut
                file.write(b"again")
            changed = digest(readable[0].read_bytes())
            report = bench.flush("s", 10)
            assert not report.stored
            assert {failure.path for failure in report.failed} == {path.name for path in bad}, report
            assert all("Input/output" in failure.error for failure in report.failed), report
            digests = bench.bucket.digests(bench.bucket.session("s"))
            assert digests[f"good/{readable[0].name}"] == changed, "one that cannot be read holds up no other"
            assert before <= stored(bench), "nothing is deleted"
            assert bench.client.status().sessions[0].failed == len(bad)
        report = bench.flush("s", 20)
        assert report.stored, (report, bench.tail())
        assert bench.differences("s") == []
        listed = debugfs_block(volume, "/root/s/dir")
        with volume.unreadable_from(listed, *(bench.root / "s/dir").iterdir(), *bad):
            if listable(bench.root / "s/dir"):
                pytest.skip("the kernel has the directory's block still")
            report = bench.flush("s", 10)
            assert not report.stored, report
            assert before <= stored(bench), "nothing is deleted"
        check_flushed(bench)
        assert before <= stored(bench)
        bench.kill()
        assert bench.falsely_clean("s") == []


def debugfs_block(volume: Volume, path: str) -> int:
    """Where in the image a directory's first block is, in bytes."""
    command = ["debugfs", "-R", f"bmap {path} 0", str(volume.image)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(found) * os.statvfs(volume.path).f_bsize


def listable(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except OSError:
        return False


OVER_QUOTA = """
import ctypes, os, signal, struct, sys
from pathlib import Path
done, libc = Path(sys.argv.pop(1)), ctypes.CDLL(None, use_errno=True)
def over_quota(*_):
    steps = (0x20, 0, 0, 0), (0x15, 0, 1, 18), (0x06, 0, 0, 0x50000 | 122), (0x06, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps), 8 * len(steps))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.syscall(317, 1, 1, struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))) == 0
    done.touch()
signal.signal(signal.SIGUSR1, over_quota)
from cachesync.cli import main
sys.exit(main())
"""
"""The command; from SIGUSR1 on each pwrite of its threads, which is how SQLite writes, fails with EDQUOT: seccomp."""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the system calls")
def test_p06_the_journal_is_over_its_quota(tmp_path: Path, zygote: Zygote, objects: Bucket) -> None:
    bench = Bench(tmp_path, zygote, objects, scan_interval="2s")
    for number in range(20):
        bench.write("s", f"f{number}", b"%d" % number)
    command = [sys.executable, "-c", OVER_QUOTA, str(tmp_path / "over"), "run"]
    with (
        contextlib.closing(bench),
        open(bench.log, "ab") as log,
        subprocess.Popen(command, env=os.environ | bench.environ, cwd=tmp_path, stdout=log, stderr=log) as daemon,
    ):
        try:
            until(lambda: daemon.poll() is not None or bench.client.is_serving(), bench.tail())
            check_flushed(bench)
            daemon.send_signal(signal.SIGUSR1)
            until((tmp_path / "over").exists, bench.tail())
            for number in range(50):
                bench.write("s", f"g{number}", b"%d" % number)
                bench.write("s", f"f{number % 20}", b"again %d" % number)
            (bench.root / "s/f3").unlink()
            for _ in range(3):
                flush_is_honest(bench)
                assert "internal error" not in what_flush_says(bench)
            assert daemon.poll() is None, bench.tail()
            assert bench.client.status().sessions
        finally:
            daemon.kill()
            daemon.wait(30)
        assert "over quota" in bench.log.read_text() or "disk I/O error" in bench.log.read_text()
        assert bench.falsely_clean("s") == []
        bench.start()
        check_flushed(bench)


# -- mounts that come and go -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("away", ["shortly", "long", "long, without a flush"])
def test_p07_the_state_folder_is_unmounted_and_mounted_again(
    tmp_path: Path, zygote: Zygote, objects: Bucket, volume: Volume, away: str
) -> None:
    bench = Bench(tmp_path, zygote, objects, state=volume.path / "state", scan_interval="2s")

    def begun() -> int:
        return bench.log.read_text().count("scanned (start)")

    def kept() -> set[str]:
        return {path for path in stored(bench) if ".conflict-" in path}

    with contextlib.closing(bench):
        for number in range(30):
            bench.write("s", f"f{number}", b"%d" % number)
        bench.start()
        check_flushed(bench)
        volume.umount("-l")
        bench.write("s", "away", b"away")
        bench.write("s", "f0", b"changed while it was away")
        (bench.root / "s/f1").unlink()
        if away != "shortly":  # it works with a new journal, where nothing is mounted now
            until(lambda: begun() == 2, f"it begins anew: {bench.tail()}", within=20, pause=0.1)
            until(lambda: "away" in stored(bench), bench.tail(), within=20, pause=0.1)
        if away == "long, without a flush":
            objects.put(objects.session("s") + "f0", b"another writer's")
            bench.write("s", "f0", b"changed by both")
            until(kept, f"what no manifest tells the other journal of: {bench.tail()}", within=20, pause=0.1)
        else:
            flush_is_honest(bench)
        volume.mount()
        bench.write("s", "f0", b"changed again")
        bench.write("s", "back", b"back")
        if away != "shortly":  # until then what it flushes is of the journal between
            until(lambda: begun() == 3, bench.tail(), within=20, pause=0.1)
        until(lambda: "back" in stored(bench), f"it goes on by itself: {bench.tail(5)}", within=30, pause=0.1)
        report = flush_when_ready(bench)
        assert report.stored, (report, bench.tail())
        assert len(kept()) <= 1 + (away == "long, without a flush"), "the one file that both journals have stored"
        assert bench.differences("s", besides=kept()) in ([], ["s/f1: in the store, not here"]), bench.tail()
        assert bench.alive()


def write_through(path: Path) -> None:
    """More than the disk below has left, down to it."""
    with open(path, "wb") as file:
        file.write(os.urandom(4 * 1024 * 1024))
        file.flush()
        os.fsync(file.fileno())


def flush_when_ready(bench: Bench) -> FlushReport:
    """A flush by a daemon that may be about to begin anew."""
    reports: list[FlushReport] = []

    def flushed() -> bool:
        with contextlib.suppress(CacheSyncError):
            reports.append(bench.flush("s", 20))
        return bool(reports) and reports[-1].stored

    until(flushed, bench.tail(), within=40, pause=0.2)
    return reports[-1]


def contents(bench: Bench) -> set[str]:
    """Of every object."""
    return set(bench.bucket.digests(bench.bucket.session("s")).values())


def test_p07_another_directory_is_mounted_over_the_root(
    tmp_path: Path, zygote: Zygote, objects: Bucket, volume: Volume
) -> None:
    bench = Bench(tmp_path, zygote, objects, root=volume.path / "root")
    other = tmp_path / "other"
    (other / "s").mkdir(parents=True)
    (other / "s/f0").write_bytes(b"another f0")
    (other / "s/other").write_bytes(b"of the other root")
    with contextlib.closing(bench):
        for number in range(30):
            bench.write("s", f"f{number}", b"%d" % number)
        bench.start()
        check_flushed(bench)
        before = stored(bench)
        subprocess.run(["mount", "--bind", str(other), str(bench.root)], check=True, capture_output=True)
        try:
            until(lambda: "other" in stored(bench), f"the new root is taken up: {bench.tail(5)}", within=20, pause=0.1)
            assert before <= stored(bench), "nothing is deleted"
            both = {digest(b"another f0"), digest(b"0")}
            until(lambda: both <= contents(bench), "the old bytes are kept beside the new", within=20, pause=0.1)
        finally:
            subprocess.run(["umount", "-l", str(bench.root)], check=True, capture_output=True)
        bench.write("s", "back", b"back")
        until(lambda: "back" in stored(bench), f"the old one is taken up again: {bench.tail(5)}", within=20, pause=0.1)
        assert flush_when_ready(bench).stored
        assert before <= stored(bench), "nothing is deleted"
        assert both | {digest(b"of the other root")} <= contents(bench)
        assert (bench.root / "s/f0").read_bytes() == b"0"


def test_p03_what_is_read_at_length_is_of_the_journal_that_is_open(tmp_path: Path) -> None:
    """A flush reads the manifest's lines so: in the seconds until the daemon sees that its state folder is another one,
    it wrote those of the other journal, and said that all was stored."""
    for name in ("state", "other"):
        (tmp_path / name).mkdir()
    with contextlib.closing(Journal(tmp_path / "state/journal.db")) as journal:
        journal.sessions.add("s", 1.0)
        with contextlib.closing(Journal(tmp_path / "other/journal.db")) as other:
            other.sessions.add("s", 1.0)
        (tmp_path / "state").rename(tmp_path / "away")
        (tmp_path / "other").rename(tmp_path / "state")
        with pytest.raises(JournalUnavailable):
            list(journal.entries.walk("s"))
