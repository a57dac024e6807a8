"""P2: everything gets there unasked; events are only hints."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.promises.host import Host, eventually
from tests.promises.line import Line


def _same(host: Host) -> Callable[[], bool]:
    def check() -> bool:
        assert host.keys() == set(host.local())
        assert host.objects() == host.local()
        return True

    return check


def _has(host: Host, name: str, body: bytes) -> bool:
    return host.object(name) == body


def test_p02_a_closed_file_is_stored_unasked(host: Host):
    host.start()
    for number in range(5):
        name = f"f{number}.txt"
        host.write(name, f"body {number}")
        begun = time.monotonic()
        eventually(partial(_has, host, name, f"body {number}".encode()), 5)
        assert time.monotonic() - begun < 5


def test_p02_a_rewritten_file_is_stored_each_time_and_at_last(host: Host):
    host.start()
    for number in range(100):
        host.write("f.txt", f"{number}")
        time.sleep(0.005)
    eventually(lambda: host.object("f.txt") == b"99", 5)


def test_p02_a_file_held_open_and_written_is_stored_every_max_dirty_age(host: Host):
    host.start(max_dirty_age="1s")
    seen: list[float] = []
    sizes = {0}
    path = host.path("held.log")
    path.parent.mkdir()
    begun = time.monotonic()
    with open(path, "wb", buffering=0) as file:
        while time.monotonic() - begun < 5:
            file.write(b"line\n")
            body = host.object("held.log")
            if body is not None and len(body) not in sizes:
                sizes.add(len(body))
                seen.append(time.monotonic() - begun)
            time.sleep(0.02)
        assert seen, "nothing of it was stored while it was open"
        gaps = [later - earlier for earlier, later in zip([0.0, *seen], seen, strict=False)]
        assert max(gaps) < 2.5, gaps
    eventually(_same(host))


def test_p02_every_way_to_bring_files_into_a_session(host: Host):
    """By events alone: the next scan is an hour away."""
    outside = host.folder / "outside"
    for number in range(40):
        (outside / f"d{number % 5}" / "deep").mkdir(parents=True, exist_ok=True)
        (outside / f"d{number % 5}" / "deep" / f"f{number}").write_text(f"moved in {number}")
    (outside / "single").write_text("single")
    host.start()
    host.write("first", "1")
    outside.rename(host.path("moved-in"))
    temporary = host.write(".new.tmp", "by rename")
    temporary.rename(host.path("renamed"))
    for number in range(500):
        host.write(f"t/{number % 10}/{number % 50}/f{number}", f"tree {number}")
    os.link(host.path("first"), host.path("linked"))
    shutil.copytree(host.path("moved-in"), host.path("copied"))
    shutil.copytree(host.path("t"), host.root / "s2" / "t")
    eventually(_same(host), 30)
    eventually(lambda: host.keys("s2") == set(host.local("s2")), 20)
    assert "overflow" not in host.said()


def test_p02_every_way_to_move_files_about(host: Host):
    for number in range(30):
        host.write(f"a/{number % 3}/f{number}", f"{number}")
    host.start()
    eventually(_same(host))
    host.path("a").rename(host.path("b"))
    host.path("b/0").rename(host.path("zero"))
    host.path("b/1/f1").rename(host.path("b/2/f2"))
    host.path("b/1/f4").rename(host.path("swap"))
    host.path("b/2/f5").rename(host.path("b/1/f4"))
    host.path("swap").rename(host.path("b/2/f5"))
    host.path("zero").rename(host.root / "s2-is-new")
    eventually(_same(host), 20)
    eventually(lambda: host.objects("s2-is-new") == host.local("s2-is-new"))
    for number in range(20):
        host.path("b").rename(host.path(f"c{number}"))
        host.write(f"c{number}/late{number}", f"{number}")
        host.path(f"c{number}").rename(host.path("b"))
    eventually(_same(host), 20)


@pytest.mark.timeout(120)
def test_p02_a_blind_watcher_loses_nothing(host: Host):
    """The kernel's queue holds 16,384 events here: what is made after that was never told to anybody."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the queue is too long to fill in a test")
    host.start()
    host.write("there", "1")
    host.write("doomed", "1")
    eventually(lambda: host.keys() == {"there", "doomed"})
    host.freeze()
    busy = os.open(host.root / "s1", os.O_RDONLY)
    for number in range(20_000):
        name = f"t{number}"
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=busy))
        if number % 100:
            os.unlink(name, dir_fd=busy)
    os.close(busy)
    host.write("after/all/that", "2")
    host.write("there", "changed")
    host.path("doomed").unlink()
    host.thaw()
    eventually(lambda: "overflow" in host.said(), 20)
    eventually(_same(host), 60)
    assert len(host.keys()) == 202


def test_p02_a_scan_repairs_what_no_event_told_of(host: Host):
    """A hard link from outside the root changes a file that no watched directory hears of."""
    host.start(scan_interval="1s")
    path = host.write("linked", "before")
    eventually(lambda: host.object("linked") == b"before")
    outside = host.folder / "outside"
    os.link(path, outside)
    outside.write_text("after, by the other name")
    eventually(lambda: host.object("linked") == b"after, by the other name", 10)


def test_p02_a_flush_repairs_what_no_event_told_of(host: Host):
    host.start()
    path = host.write("linked", "before")
    host.stored()
    outside = host.folder / "outside"
    os.link(path, outside)
    time.sleep(0.3)
    outside.write_text("after.")
    host.stored()
    assert host.object("linked") == b"after."


def test_p02_what_was_there_before_the_daemon_is_stored(host: Host):
    for number in range(50):
        host.write(f"d{number % 4}/f{number}", f"{number}")
    host.start()
    eventually(_same(host))


def test_p02_a_directory_that_may_not_be_watched_is_polled(humble: Host):
    """Unreadable when it appears, readable later: no event tells of what was put in meanwhile."""
    humble.start()
    humble.write("a", "1")
    hidden = humble.path("hidden")
    hidden.mkdir(mode=0o000)
    time.sleep(0.2)
    for number in range(5):
        (hidden / f"f{number}").write_text("x")
    hidden.chmod(0o755)
    eventually(lambda: humble.keys() == {"a", *(f"hidden/f{number}" for number in range(5))}, 15)


def test_p02_links_and_empty_directories_reach_the_manifest_unasked(host: Host):
    """They have no object, so the next scan's manifest is what makes them durable."""
    host.start(scan_interval="1s")
    host.write("a", "1")
    eventually(lambda: host.keys() == {"a"})
    host.path("link").symlink_to("a")
    eventually(lambda: host.manifest() and "link" in host.listed(), 10)
    assert host.listed()["link"]["target"] == "a"


# What keeps the daemon from starting keeps files from the store.


@contextlib.contextmanager
def a_command_at_work(host: Host, line: Line) -> Iterator[None]:
    """A flush that waits for a store that says nothing, until ``line`` is mended."""
    host.write("a", "1")
    line.mute()
    with tempfile.TemporaryFile() as out:
        flush = host.launch(("flush", "s1", "--timeout", "60"), {}, out, out)
        try:
            lock = host.state / "lock"
            eventually(lambda: lock.exists() and "command" in lock.read_text(), 20, "it has the root")
            yield
            line.mend()
            assert flush.wait(60) == 0
        finally:
            flush.kill()


def test_p02_a_daemon_waits_for_a_command_that_has_the_root(wired: Host, line: Line):
    with a_command_at_work(wired, line):
        wired.start(wait=False)
        eventually(lambda: "waiting for the root" in wired.said(), 20)
        assert wired.daemon is not None
        assert wired.daemon.poll() is None
        assert any(notice.startswith("EXTEND_TIMEOUT_USEC=") for notice in wired.heard())
        assert "READY=1" not in wired.heard()
        second = wired.run("run")
        assert (second.code, str(wired.daemon.pid) in second.err) == (2, True), second.err
    eventually(wired._ready, 30)
    wired.write("b", "2")
    eventually(lambda: wired.keys() == {"a", "b"})


def test_p02_a_signal_ends_the_wait_for_a_command(wired: Host, line: Line):
    with a_command_at_work(wired, line):
        wired.start(wait=False)
        eventually(lambda: "waiting for the root" in wired.said(), 20)
        assert wired.stop() == 4, "nobody can say whether all is stored"


@pytest.mark.parametrize("where", ["inside", "elsewhere"])
def test_p02_who_may_only_read_the_root_cannot_keep_the_daemon_down(host: Host, where: str):
    state = host.state if where == "inside" else host.folder / "state"
    root = os.open(host.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        host.start(state=str(state))
        host.write("a", "1")
        eventually(lambda: host.keys() == {"a"})
    finally:
        os.close(root)


def test_p02_two_daemons_with_state_folders_of_their_own(host: Host):
    host.start(state=str(host.folder / "one"))
    assert host.daemon is not None
    for state in (str(host.folder / "two"), str(host.state)):
        second = host.run("run", env={"CACHESYNC_STATE": state})
        assert (second.code, str(host.daemon.pid) in second.err) == (2, True), second.err
