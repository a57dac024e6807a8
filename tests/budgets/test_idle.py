"""A daemon in which nothing happens, for three seconds: that is the measure itself, not a wait for something."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.budgets.kernel import Traced, traced
from tests.conftest import MakeHost
from tests.faults.proxy import Proxy
from tests.promises.host import Host, eventually

pytestmark = pytest.mark.s3

IDLE = 3.0
FILES = 40

THREADS = 8
"""The main one; the watcher's, hints, scan, dispatch, one transfer; the control socket's loop, the credentials' end."""

TICK = {
    "newfstatat": 4,  # the root, twice: the tree's and the watcher's; the journal; the control socket
    "openat": 1,  # the canary
    "close": 1,
}
ROUND = Counter(fcntl=6)
"""Three questions of the dispatching thread, with the journal's lock taken and given back for each."""


@pytest.fixture
def idle(make_host: MakeHost, proxy: Proxy) -> Host:
    """A daemon that has stored what there was and asked what it asks once."""
    host = make_host(env={"S3_ENDPOINT": proxy.endpoint}).start(transfers="1")
    work(host)
    eventually(lambda: proxy.count("GetBucketVersioning"), 20, "it has asked for the bucket's versions")
    with contextlib.suppress(AssertionError):  # that is a test of its own
        eventually(lambda: len(threads(host)) <= THREADS, 10)
    return host


def work(host: Host, folder: str = "d") -> None:
    for number in range(FILES):
        host.write(f"{folder}{number % 4}/f{number}")
    host.stored()


def threads(host: Host) -> list[str]:
    assert host.daemon is not None
    return os.listdir(f"/proc/{host.daemon.pid}/task")


def test_it_asks_the_store_nothing_and_writes_nothing(idle: Host, proxy: Proxy):
    wal = idle.state / "journal.db-wal"
    with contextlib.closing(sqlite3.connect(f"{(idle.state / 'journal.db').as_uri()}?mode=ro", uri=True)) as journal:
        before = journal.execute("PRAGMA data_version").fetchone(), os.stat(wal).st_mtime_ns, len(proxy.records)
        time.sleep(IDLE)
        after = journal.execute("PRAGMA data_version").fetchone(), os.stat(wal).st_mtime_ns, len(proxy.records)
    assert after == before, [f"{r.operation} {r.key}" for r in proxy.records[before[2] :]]


def test_it_has_8_threads_and_work_leaves_no_more(idle: Host):
    for folder in ("d", "again", "once more"):
        work(idle, folder)
        eventually(lambda: len(threads(idle)) <= THREADS, 10, f"no more than {THREADS} threads are left")


def test_it_looks_around_in_6_calls_a_second_and_all_but_3_threads_sleep(idle: Host, tmp_path: Path):
    assert idle.daemon is not None
    with traced(tmp_path, pid=idle.daemon.pid, threads=True) as done:
        time.sleep(IDLE)
    awake = done.threads()
    main = awake.pop(str(idle.daemon.pid))
    ticks, per_tick = _ticks(main)
    assert per_tick == TICK, str(main)
    assert ticks <= IDLE + 2, str(main)  # as many as there are ends of seconds in it, and in strace's coming and going

    heard = [number for number, calls in awake.items() if calls.on("inotify").calls["read"]]
    for number in heard:
        calls = awake.pop(number).calls
        assert calls["read"] <= main.calls["openat"] + 1, str(done)
        assert calls["poll"] <= calls["read"] + 1, str(done)
        assert calls.keys() <= {"read", "poll", "restart_syscall"}, str(done)
    assert len(heard) == 1, str(done)

    asked = [number for number, calls in awake.items() if calls.on("/journal.db").lines]
    assert len(asked) <= 1, str(done)  # it looks every five seconds
    for number in asked:
        calls = awake.pop(number).calls
        del calls["restart_syscall"]
        assert calls <= ROUND, str(done)

    # A thread that sleeps shows one line, of the call that strace found it in.
    assert [number for number, calls in awake.items() if len(calls.lines) > 1] == [], str(done)


def _ticks(main: Traced) -> tuple[int, dict[str, float]]:
    """How often the main thread looked around, and what one look was: from one at the control socket to the next."""
    marks = [number for number, line in enumerate(main.lines) if "/control.sock" in line]
    assert len(marks) > 1, str(main)
    calls = Traced(main.lines[marks[0] : marks[-1]]).calls
    return len(marks), {name: count / (len(marks) - 1) for name, count in calls.items()}
