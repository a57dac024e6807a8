"""A store that does not answer holds up nobody but those who wait for it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost
from tests.mount.test_away import close
from tests.promises.host import eventually
from tests.promises.line import Line

pytestmark = [pytest.mark.s3, pytest.mark.timeout(240)]

READERS = 40
_SOON = 15.0
"""Seconds, far above what work on the disk takes, and far below what the store's timeout makes of it."""

LOCAL_WORK = """
import os, sys
mnt = sys.argv[1]
file = os.open(f"{mnt}/here/file", os.O_WRONLY)
os.write(file, b"written in the outage")
os.fsync(file)
os.mkdir(f"{mnt}/new")
with open(f"{mnt}/new/made", "w") as made:
    made.write("made in the outage")
    made.flush()
    os.fsync(made.fileno())
os.rename(f"{mnt}/new/made", f"{mnt}/new/renamed")
os.listdir(mnt)
os.fsync(file)
"""


@pytest.fixture
def evicted(make_mounted: MakeMounted, line: Line) -> MountedHost:
    """A mounted host with a session of which nothing is here, and one that is."""
    host = make_mounted(env={"S3_ENDPOINT": line.endpoint}).mount()
    (host.mnt / "s").mkdir()
    for number in range(READERS):
        (host.mnt / "s" / f"f{number}").write_bytes(b"x" * 1000)
    close(host)
    assert len(os.listdir(host.mnt / "s")) == READERS
    assert (host.mnt / "s" / "f0").read_bytes() == b"x" * 1000
    (host.mnt / "here").mkdir()
    (host.mnt / "here" / "file").write_bytes(b"before")
    host.stored("here")
    return host


@contextmanager
def readers(host: MountedHost) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs that read evicted files."""
    paths = [host.mnt / "s" / f"f{number}" for number in range(1, READERS)]
    reading = [subprocess.Popen(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for path in paths]
    try:
        eventually(lambda: all(_waits(reader.pid) for reader in reading), 20, "all wait for the store")
        yield reading
    finally:
        for reader in reading:
            reader.kill()
            reader.communicate(timeout=10)


def _waits(pid: int) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text() == "request_wait_answer"


def works_here(host: MountedHost) -> None:
    subprocess.run([sys.executable, "-c", LOCAL_WORK, host.mnt], check=True, timeout=_SOON)


def test_readers_that_wait_for_the_store_hold_up_no_local_work(evicted: MountedHost, line: Line):
    line.mute()
    with readers(evicted):
        works_here(evicted)
        assert (evicted.mnt / "s" / "f0").read_bytes() == b"x" * 1000
    line.mend()
    assert (evicted.root / "new" / "renamed").read_bytes() == b"made in the outage"


def test_files_of_one_session_that_hang_hold_up_no_other_session(evicted: MountedHost, line: Line):
    (evicted.mnt / "t").mkdir()
    (evicted.mnt / "t" / "f").write_bytes(b"of another session")
    assert evicted.run("close", "t").code == 0
    line.stall = b"/sessions/s/f"
    with readers(evicted):
        done = subprocess.run(["cat", evicted.mnt / "t" / "f"], check=True, timeout=_SOON, stdout=subprocess.PIPE)
        assert done.stdout == b"of another session"
    line.stall = None


def test_a_file_is_made_in_a_session_of_which_nothing_is_here(make_mounted: MakeMounted, line: Line):
    host = make_mounted(env={"S3_ENDPOINT": line.endpoint}).mount(revalidate="100ms")
    (host.mnt / "s").mkdir()
    (host.mnt / "s" / "f").write_bytes(b"stored")
    close(host)
    assert os.listdir(host.mnt / "s") == ["f"]
    line.mute()
    make = "import sys; open(sys.argv[1], 'x').write('made in the outage')"
    subprocess.run([sys.executable, "-c", make, host.mnt / "s" / "new"], check=True, timeout=_SOON)
    assert sorted(os.listdir(host.mnt / "s")) == ["f", "new"]
    line.mend()
    host.stored("s")
    assert host.in_bucket("s") == {"f", "new"}


def test_who_is_killed_frees_its_place(evicted: MountedHost, line: Line):
    """Those that come and go do not fill the daemon's places either: 195 of them, and it has 128."""
    line.mute()
    for _ in range(5):
        with readers(evicted) as reading:
            for reader in reading:
                reader.send_signal(signal.SIGKILL)
                assert reader.wait(_SOON) == -signal.SIGKILL
    server = evicted.children()["server"]
    eventually(lambda: _waiting_threads(server) == 0, _SOON, "no thread of the server waits for a reader that is gone")
    works_here(evicted)
    line.mend()
    assert (evicted.mnt / "s" / "f5").read_bytes() == b"x" * 1000


def _waiting_threads(server: int) -> int:
    """Connections to the daemon that a thread of the server waits at: all but the one that follows changes."""
    found = subprocess.run(["ss", "-xp"], capture_output=True, text=True, check=True).stdout
    return max(0, sum(f"pid={server}," in line and " ESTAB " in line for line in found.splitlines()) - 9)


def test_an_outage_ends_for_all_who_wait_at_once(evicted: MountedHost, line: Line):
    line.mute()
    ended: list[tuple[float, int]] = []

    def read(number: int) -> None:
        try:
            (evicted.mnt / "s" / f"f{number}").read_bytes()
        except OSError as error:
            ended.append((time.monotonic(), error.errno or 0))

    threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(1, READERS)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(ended) == len(threads), 100, "all have their answer")
    assert {number for _, number in ended} == {errno.EIO}
    first, last = min(when for when, _ in ended), max(when for when, _ in ended)
    assert last - first < 10, "one timeout ends all, not one after the other"
