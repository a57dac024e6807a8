"""The machine loses its power: the disk is as it was at that instant, and nothing that ran goes on (P6).

The root and the state folder are on an ext4 or btrfs whose device is a file on an XFS. A cut stops all that runs,
clones the file (FICLONE: all at one instant), kills, and goes on with the clone, whose journal has to be replayed: what
was only in the page cache is gone. What a program had fsynced has to be there and has to get to the store; what a flush
had confirmed has to be in the store, whatever the disk has lost of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import REPOSITORY, Bench, Bucket, Zygote
from tests.faults.test_crash import SESSIONS, final_state
from tests.faults.volume import Volume

CUTS = int(os.environ.get("CACHESYNC_POWER_CUTS", "6"))
FICLONE = 0x40049409

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="loop mounts"),
    pytest.mark.timeout(90 + 10 * CUTS),
]


class Machine:
    """A disk, a daemon and a program on it. ``log`` is kept elsewhere: it is what the program was told is on disk."""

    def __init__(self, bench: Bench, disk: Volume, log: Path) -> None:
        self.bench = bench
        self.disk = disk
        self.log = log
        self.writer: subprocess.Popen[bytes] | None = None
        self._clones = 0
        self.came_back = 0

    def start(self, seed: int) -> None:
        self.bench.start()
        self.writer = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.writing", str(self.bench.root), str(self.log), str(seed), *SESSIONS],
            stdin=subprocess.PIPE, cwd=REPOSITORY,
        )  # fmt: skip

    def cut(self) -> None:
        """Lose the power and get it back."""
        assert self.bench.pid is not None
        running = [self.bench.pid] if self.writer is None else [self.writer.pid, self.bench.pid]
        for pid in running:
            os.kill(pid, signal.SIGSTOP)
        self._clones += 1
        clone = self.disk.image.with_name(f"clone{self._clones}")
        with open(self.disk.image, "rb") as source, open(clone, "wb") as target:
            fcntl.ioctl(target, FICLONE, source.fileno())
        Path(self.bench.boot or "").write_text(f"{self._clones}")
        self.bench.kill()
        self._end_writer()
        self.disk.umount()
        self.disk.image.unlink()
        self.disk.image = clone
        self.disk.mount()

    def _end_writer(self) -> None:
        if self.writer is not None:
            self.writer.kill()
            self.writer.communicate()
            self.writer = None

    def only_in_store(self, session: str) -> set[str]:
        """Names that a file once had, and that the store still has: the journal may have lost that it is gone. Or that
        of the change that the program was at, when it was stored before it was fsynced."""
        rows = map(json.loads, self.log.read_text("utf-8").splitlines())
        once = {row["path"] for row in rows if row["session"] == session}
        stored = self.bench.bucket.digests(self.bench.bucket.session(session)).keys() - {".cachesync/manifest.json"}
        found = {path for path in stored - self.bench.local(session).keys() if ".conflict-" not in path}
        assert len(found - once) <= self._clones, f"{found - once} never were"
        return found

    def kept_aside(self, session: str) -> set[str]:
        """Conflict copies in the store: of what was confirmed last before a cut, and is other bytes on the disk."""
        return {path for path in self.bench.bucket.digests(self.bench.bucket.session(session)) if ".conflict-" in path}

    def stop(self) -> None:
        self._end_writer()
        self.bench.close()

    def lost(self) -> list[str]:
        """What was fsynced and is not there. The change that the program was at may be there or not: it is told of
        one path, or of two if it was a rename; what was removed without an fsync may be back. What is found is from
        now on what the program knows."""
        said = final_state(self.log)
        rows = map(json.loads, self.log.read_text("utf-8").splitlines())
        once = {(row["session"], row["path"], row["sha256"]) for row in rows}
        found: list[str] = []
        for session in SESSIONS:
            local, known = self.bench.local(session), said.get(session, {})
            others = sorted(path for path in local.keys() | known.keys() if local.get(path) != known.get(path))
            others = [path for path in others if not path.endswith(".tmp")]
            back = [path for path in others if path not in known and (session, path, local[path]) in once]
            self.came_back += len(back)
            others = [path for path in others if path not in back]
            if len(others) > 2:
                found += [f"{session}/{path}" for path in others]
            now = (
                {"session": session, "path": path, "sha256": local.get(path)} for path in local.keys() | known.keys()
            )
            with open(self.log, "a", encoding="utf-8") as log:
                log.writelines(json.dumps(row) + "\n" for row in now)
        return found


@pytest.fixture(params=["ext4"])
def machine(tmp_path: Path, zygote: Zygote, objects: Bucket, request: pytest.FixtureRequest) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    outer = Volume(tmp_path / "outer.img", tmp_path / "outer", 512, kind="xfs")
    outer.mount()
    disk = Volume(
        outer.path / "disk.img", tmp_path / "disk", 96 if request.param == "ext4" else 256, kind=request.param
    )
    disk.mount()
    bench = Bench(tmp_path, zygote, objects, root=disk.path / "root", state=disk.path / "state")
    machine = Machine(bench, disk, tmp_path / "writer.log")
    machine.log.touch()
    bench.boot = str(tmp_path / "boot")
    Path(bench.boot).write_text("first")
    yield machine
    machine.stop()
    for volume in (disk, outer):
        volume.umount()
        volume.umount("-l")


def test_p06_what_was_fsynced_outlives_a_power_cut_and_gets_to_the_store(machine: Machine) -> None:
    bench = machine.bench
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")  # noqa: T201 -- pytest shows it when the test fails
    chance = random.Random(seed)
    for number in range(CUTS):
        machine.start(seed + number)
        time.sleep(chance.uniform(0.2, 2.5))
        machine.cut()
        assert machine.lost() == []
        bench.start()
        for session in filter(lambda name: (bench.root / name).exists(), SESSIONS):
            report = bench.flush(session)
            assert report.stored, bench.tail()
            gone = machine.only_in_store(session) | machine.kept_aside(session)
            assert bench.differences(session, besides=gone) == [], bench.tail()
        bench.stop()
    assert machine.log.read_text().count("\n") > 20 * CUTS, "the program had the time to do something"


@pytest.mark.parametrize("machine", ["ext4", "btrfs"], indirect=True)
def test_p06_what_a_flush_has_confirmed_is_in_the_store_whatever_the_disk_lost_of_it(machine: Machine) -> None:
    """ext4 keeps the new times of what is written in place, and not the bytes; of a new file it keeps the name and
    nothing else. btrfs keeps the older file. The journal is newer than that: a deletion has hardened it."""
    bench, session = machine.bench, SESSIONS[0]
    folder = bench.root / session
    lost = []
    for number in range(CUTS):
        second = f"new {number}" if machine.disk.kind == "ext4" else "rewritten"
        bench.start()
        folder.mkdir(exist_ok=True)
        for name in ("in place", "rewritten", "to go"):
            (folder / name).write_bytes(os.urandom(40_000))
        os.sync()
        assert bench.flush(session).stored, bench.tail()
        with open(folder / "in place", "r+b") as file:
            file.write(os.urandom(40_000))
        (folder / second).write_bytes(os.urandom(50_000))
        assert bench.flush(session).stored, bench.tail()
        confirmed = bench.local(session)
        (folder / "to go").unlink()
        assert bench.flush(session).stored, bench.tail()
        del confirmed["to go"]
        machine.cut()
        found = bench.local(session)
        lost += [name for name, digest in confirmed.items() if found.get(name) != digest]
        bench.start()
        report = bench.flush(session)
        assert report.stored, bench.tail()
        there = bench.bucket.digests(bench.bucket.session(session))
        assert {*confirmed.values()} <= {*there.values()}, bench.tail()
        assert bench.differences(session, besides=machine.kept_aside(session)) == [], bench.tail()
        bench.stop()
    assert "in place" in lost, "the disk has lost what was flushed, or this shows nothing"
    assert {*lost} - {"in place"}, "the disk has lost what was flushed, or this shows nothing"
