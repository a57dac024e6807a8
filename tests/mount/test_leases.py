"""A file that a program holds a lease of, or that is a FIFO by now, holds up nobody but those who open it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.mounted import MountedHost
from tests.mount.test_stalls import works_here
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]

SESSIONS, EACH = 5, 8
AGENT = 12001
_SOON = 20.0
"""Seconds, far below the 45 after which the kernel ends a lease."""

HOLD = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
kind = fcntl.F_RDLCK if sys.argv[1] == "read" else fcntl.F_WRLCK
for path in sys.argv[2:]:
    file = os.open(path, os.O_RDONLY)
    while True:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, kind)
            break
        except BlockingIOError:  # the daemon reads it
            time.sleep(0.05)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def leases(paths: list[Path], kind: str = "write") -> Iterator[Callable[[], object]]:
    """A program that holds a lease of each file; what is yielded lets it give them up."""
    command = [sys.executable, "-c", HOLD, kind, *map(str, paths)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield lambda: holder.communicate(timeout=_SOON)
    finally:
        holder.kill()
        holder.wait(_SOON)
        for pipe in filter(None, (holder.stdin, holder.stdout)):
            pipe.close()


def begin(*works: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def end(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(_SOON)
    assert not any(thread.is_alive() for thread in threads)


@pytest.fixture
def host(mounted: MountedHost) -> MountedHost:
    """A mounted host with sessions of two users."""
    (mounted.root / "here").mkdir()
    (mounted.root / "here" / "file").write_bytes(b"before")
    make(mounted, "s0")
    return mounted


def make(host: MountedHost, session: str) -> None:
    top = host.root / session
    top.mkdir()
    for name in range(EACH):
        (top / f"f{name}").write_bytes(b"content")
        os.chown(top / f"f{name}", AGENT, AGENT)
    os.chown(top, AGENT, AGENT)
    host.stored(session)


def files(top: Path) -> list[Path]:
    return [top / f"s{number}" / f"f{name}" for number in range(SESSIONS) for name in range(EACH)]


def test_files_with_leases_hold_up_nobody_else(host: MountedHost):
    for number in range(1, SESSIONS):
        make(host, f"s{number}")
    read_by: list[bytes] = []
    opened, cut = files(host.mnt)[::2], files(host.mnt)[1::2]
    with leases(files(host.root)) as give_up:
        waiting = begin(*(lambda path=path: read_by.append(path.read_bytes()) for path in opened))
        waiting += begin(*(lambda path=path: os.truncate(path, 3) for path in cut))
        works_here(host)
        with leases([host.root / "here" / "file"]) as give_up_here:
            other = begin((host.mnt / "here" / "file").read_bytes)
            works_here_again(host)
            give_up_here()
            end(other)
        assert all(thread.is_alive() for thread in waiting)
        give_up()
        end(waiting)
    assert read_by == [b"content"] * len(opened)
    assert [path.read_bytes() for path in cut] == [b"con"] * len(cut)


def works_here_again(host: MountedHost) -> None:
    script = "import os, sys; file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); os.fsync(file)"
    subprocess.run([sys.executable, "-c", script, host.mnt / "here" / "more"], check=True, timeout=_SOON)


OPENS: dict[str, Callable[[Path], object]] = {
    "read": lambda path: path.read_bytes(),
    "write": lambda path: path.open("r+b").close(),
    "empty": lambda path: path.write_bytes(b""),
    "append": lambda path: path.open("ab").close(),
    "truncate": lambda path: os.truncate(path, 3),
}


@pytest.mark.parametrize("how", OPENS)
@pytest.mark.parametrize("mode", [0o644, 0o4755])
def test_each_way_in_waits_for_the_lease(host: MountedHost, how: str, mode: int):
    path, root = host.mnt / "s0" / "f0", host.root / "s0" / "f0"
    root.chmod(mode)
    with leases([root]) as give_up:
        waiting = begin(lambda: OPENS[how](path))
        works_here(host)
        assert waiting[0].is_alive()
        give_up()
        end(waiting)
    assert path.read_bytes() == {"truncate": b"con", "empty": b""}.get(how, b"content")


@pytest.mark.parametrize("mode", [0o644, 0o4755])
def test_who_writes_to_what_others_have_leased_for_reading_waits_alone(host: MountedHost, mode: int):
    path, root = host.mnt / "s0" / "f0", host.root / "s0" / "f0"
    root.chmod(mode)
    with path.open("rb"), leases([root], "read") as give_up:
        waiting = begin(lambda: path.write_bytes(b"written"))
        works_here(host)
        assert waiting[0].is_alive()
        give_up()
        end(waiting)
    assert path.read_bytes() == b"written"


ASKED = [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC]


def test_who_asks_not_to_wait_does_not(host: MountedHost):
    with leases([host.root / "s0" / "f0"]) as give_up, leases([host.root / "s0" / "f1"], "read") as give_up_too:
        for flags in ASKED:
            with pytest.raises(BlockingIOError):
                os.open(host.mnt / "s0" / "f0", flags | os.O_NONBLOCK)
        for flags in ASKED[1:]:
            with pytest.raises(BlockingIOError):
                os.open(host.mnt / "s0" / "f1", flags | os.O_NONBLOCK)
        give_up()
        give_up_too()
    for flags in ASKED:
        os.close(os.open(host.mnt / "s0" / "f0", flags | os.O_NONBLOCK))


def test_a_fifo_that_took_the_place_of_a_file_holds_up_nobody(host: MountedHost):
    path, root = host.mnt / "s0" / "f0", host.root / "s0" / "f0"
    new, new_root = host.mnt / "s0" / "new", host.root / "s0" / "new"

    def replaced() -> None:
        os.stat(path)
        root.unlink()
        os.mkfifo(root)
        assert stat.S_ISFIFO(os.fstat(os.open(path, os.O_RDONLY)).st_mode)

    def made() -> None:
        assert not new.exists()
        os.mkfifo(new_root)
        assert stat.S_ISFIFO(os.fstat(os.open(new, os.O_WRONLY | os.O_CREAT)).st_mode)

    waiting = begin(replaced, made)
    eventually(lambda: new_root.exists() and root.is_fifo(), 20, "both are there")
    works_here(host)
    ends = [os.open(path, os.O_WRONLY), os.open(new, os.O_RDONLY)]
    end(waiting)
    for file in ends:
        os.close(file)
