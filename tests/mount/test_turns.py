"""Programs at the mount while the daemon brings and drops files: each has its turn, and nobody who writes is missed."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cachesync.journal.session_lock import Turns
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]


@pytest.fixture
def turns(mounted: MountedHost) -> Turns:
    """The daemon's side."""
    return Turns(mounted.root / ".cachesync" / "journal.db")


def test_names_change_in_turns(mounted: MountedHost, turns: Turns) -> None:
    for session in ("s", "t"):
        (mounted.mnt / session).mkdir()
        (mounted.mnt / session / "f").write_text("f")
    s, t = mounted.mnt / "s", mounted.mnt / "t"
    changes: list[Callable[[], object]] = [
        (s / "made").mkdir,
        lambda: (s / "f").rename(s / "g"),
        lambda: (t / "f").rename(s / "h"),
        lambda: (s / "new").write_text("new"),
    ]
    with turns.alone("s"):
        waiting = [threading.Thread(target=change, daemon=True) for change in changes]
        for thread in waiting:
            thread.start()
        (t / "made").mkdir()
        assert (s / "f").read_text() == "f"  # who only looks at one name waits for nobody
        assert sorted(os.listdir(mounted.root / "s")) == ["f"]
        assert all(thread.is_alive() for thread in waiting)
    for thread in waiting:
        thread.join(30)
    assert sorted(os.listdir(s)) == sorted(os.listdir(mounted.root / "s")) == ["g", "h", "made", "new"]


def test_a_killed_program_holds_no_turn(mounted: MountedHost, turns: Turns) -> None:
    (mounted.mnt / "s").mkdir()
    (mounted.mnt / "s" / "f").write_text("f")
    with turns.alone("s"):
        program = subprocess.Popen(["mkdir", mounted.mnt / "s" / "made"])
        stat = Path(f"/proc/{program.pid}/wchan")
        eventually(lambda: "fuse" in stat.read_text() or "request" in stat.read_text(), 10, "it waits for the mount")
        program.kill()
        program.wait(30)
    with turns.alone("s"):
        assert not (mounted.root / "s" / "made").exists()
    (mounted.mnt / "s" / "made").mkdir()


def test_who_has_a_file_open_for_writing_is_known(mounted: MountedHost, turns: Turns) -> None:
    path = mounted.mnt / "s" / "f"
    path.parent.mkdir()
    path.write_text("f")
    inode = (mounted.root / "s" / "f").stat().st_ino

    def is_written() -> bool:
        with turns.alone("s") as turn:
            return turn.is_written(inode)

    with path.open():
        assert not is_written()
        with path.open("a"), path.open("a"):
            assert is_written()
        eventually(lambda: not is_written(), 10, "the kernel tells of a close a moment later")


def test_nothing_that_is_written_is_lost_to_an_eviction(mounted: MountedHost) -> None:
    path = mounted.mnt / "s" / "f"
    path.parent.mkdir()
    path.write_text("")
    mounted.stored("s")
    done = threading.Event()

    def write() -> None:
        for number in range(600):
            with path.open("a") as file:
                file.write(f"{number}\n")
            if number % 20 == 19:
                done.wait(0.15)  # so that it is stored, and may be evicted

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert mounted.run("flush", "s", "--timeout", "2").code in (0, 1, 4)
        mounted.run("evict", "s")
    writer.join()
    assert path.read_text() == "".join(f"{number}\n" for number in range(600))
