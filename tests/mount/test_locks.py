"""flock(2) in a mount: as on a disk, and through evict."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]


@pytest.fixture
def path(mounted: MountedHost) -> Path:
    """A stored file."""
    (mounted.mnt / "s").mkdir()
    path = mounted.mnt / "s" / "f"
    path.write_bytes(b"content")
    mounted.stored("s")
    return path


TRY = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR if sys.argv[2] == "write" else os.O_RDONLY)
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)
"""


def is_locked(path: Path, how: str = "read") -> bool:
    done = subprocess.run([sys.executable, "-c", TRY, path, how], check=False, timeout=30)
    assert done.returncode in (0, 75)
    return done.returncode == 75


@pytest.mark.parametrize("how", ["read", "write"])
@pytest.mark.parametrize("first", ["lock", "evict"])
def test_a_lock_holds_through_evict(mounted: MountedHost, path: Path, first: str, how: str):
    with path.open("rb") as file:
        if first == "lock":
            fcntl.flock(file, fcntl.LOCK_EX)
        assert mounted.run("evict", "s").code == 0
        if first == "evict":
            fcntl.flock(file, fcntl.LOCK_EX)
        assert is_locked(path, how)
        assert mounted.run("evict", "s").code == 0
        assert is_locked(path, how)
        fcntl.flock(file, fcntl.LOCK_UN)
        assert not is_locked(path, how)
    assert not is_locked(path, how)


def test_locks_are_those_of_their_file(mounted: MountedHost, path: Path):
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        path.rename(path.with_name("moved"))
        path.write_bytes(b"another file")
        assert is_locked(path.with_name("moved"))
        assert not is_locked(path)
        path.with_name("moved").rename(path)
        assert is_locked(path)
        path.unlink()
        path.write_bytes(b"a third file")
        assert not is_locked(path)


def test_shared_and_exclusive(path: Path):
    with path.open("rb") as one, path.open("rb") as two:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(two, fcntl.LOCK_SH)
        with pytest.raises(BlockingIOError):
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)  # who fails to convert has lost its lock: flock(2)
        fcntl.flock(two, fcntl.LOCK_SH)
        fcntl.flock(one, fcntl.LOCK_SH)


def test_a_lock_is_that_of_an_open_file_and_of_its_copies(path: Path):
    file = os.open(path, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_EX)
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[file])
    os.close(file)
    assert is_locked(path)
    holder.communicate(b"\n", timeout=20)
    assert not is_locked(path)


WAIT = """
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDONLY)
signal.signal(signal.SIGUSR1, lambda *_: print("signal", flush=True))
if sys.argv[2] == "alarm":
    def give_up(*_):
        raise TimeoutError
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(1)
print("waits", flush=True)
try:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    input()
except TimeoutError:
    print("gave up", flush=True)
"""


def waiter(path: Path, how: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WAIT, str(path), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    eventually(lambda: waits(process.pid), 20, "it waits")
    return process


def waits(pid: int) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text() == "request_wait_answer"


def test_who_waits_for_a_lock_gets_it_in_turn_and_holds_up_nobody(mounted: MountedHost, path: Path):
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        fcntl.flock(file, fcntl.LOCK_EX)
        *waiting, gone = [stack.enter_context(waiter(path)) for _ in range(4)]
        for process in waiting:
            stack.callback(process.kill)
        gone.send_signal(signal.SIGKILL)
        assert gone.wait(20) == -signal.SIGKILL
        waiting[0].send_signal(signal.SIGUSR1)
        assert waiting[0].stdout is not None
        assert waiting[0].stdout.readline() == "signal\n"
        eventually(lambda: waits(waiting[0].pid), 20, "it goes on to wait")
        (mounted.mnt / "s" / "other").write_bytes(b"others work")
        fcntl.flock(file, fcntl.LOCK_UN)
        left = {process.stdout: process for process in waiting if process.stdout is not None}
        while left:  # whoever is next; the others wait
            assert is_locked(path)
            ready, _, _ = select.select(list(left), [], [], 20)
            assert len(ready) == 1
            assert ready[0].readline() == "locked\n"
            left.pop(ready[0]).communicate("\n", timeout=20)
        assert not is_locked(path)


def test_waiting_for_a_lock_can_be_given_up(path: Path):
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = waiter(path, "alarm")
        out, _ = process.communicate(timeout=20)
        assert out.splitlines()[-1] == "gave up"
