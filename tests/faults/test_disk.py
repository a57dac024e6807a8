"""Local disks that fill up, turn read-only or go away, on small file systems of their own (P6, P7, P10)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachesync.errors import CacheSyncError
from tests.faults.harness import Bench, Bucket, Zygote, until

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="loop mounts"), pytest.mark.timeout(120)]


class Volume:
    """An ext4 file system in a file."""

    def __init__(self, image: Path, mount: Path, mib: int, options: str = "loop") -> None:
        self.image = image
        self.path = mount
        self._options = options
        mount.mkdir()
        with open(image, "wb") as file:
            file.truncate(mib * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", str(image)], check=True, capture_output=True)

    def mount(self) -> None:
        done = subprocess.run(
            ["mount", "-o", self._options, str(self.image), str(self.path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"loop mounts are not permitted here: {done.stderr.strip()}")

    def umount(self, *options: str) -> None:
        subprocess.run(["umount", *options, str(self.path)], check=False, capture_output=True)

    @property
    def device(self) -> str:
        """The loop device's name, while it is mounted."""
        found = subprocess.run(["findmnt", "-no", "SOURCE", str(self.path)], capture_output=True, text=True, check=True)
        return Path(found.stdout.strip()).name

    def fill(self) -> None:
        """Take every last block, for a file that is no session's."""
        with open(self.path / "filler", "ab", buffering=0) as file:
            for size in (1024 * 1024, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    @property
    def full(self) -> bool:
        return os.statvfs(self.path).f_bavail == 0

    def free(self) -> None:
        (self.path / "filler").unlink()


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
        volume.umount()
        subprocess.run(["fsck.ext4", "-fy", str(volume.image)], check=False, capture_output=True)
        volume.mount()
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
