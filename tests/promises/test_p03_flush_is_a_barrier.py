"""P3: flush exits 0 if and only if everything that was there when it began is stored, and ends by its timeout."""

from __future__ import annotations

import mmap
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.promises.host import Host, eventually
from tests.promises.line import Line
from tests.warm import COMMAND


@contextmanager
def _rewriting(paths: list[Path], *, rename: bool) -> Iterator[dict[Path, int]]:
    """A thread that writes growing numbers to ``paths``; the map has the number that each holds completely."""
    done = dict.fromkeys(paths, 0)
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for path in paths:
                if rename:
                    temporary = path.with_name(path.name + ".tmp")
                    temporary.write_text(f"{number:08}")
                    temporary.replace(path)
                else:
                    with open(path, "r+b", buffering=0) as file:
                        file.write(f"{number:08}".encode())
                done[path] = number
            time.sleep(0.002)

    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("00000000")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def test_p03_what_was_written_before_is_stored_when_flush_says_so(host: Host):
    host.start()
    for round_ in range(4):
        for number in range(60):
            host.write(f"d{number % 3}/f{number}", f"round {round_} file {number}")
        told = host.stored()
        assert host.objects() == host.local()
        assert set(host.listed()) == set(host.local()) | {"d0", "d1", "d2"}
        assert told["files"] == 60
        assert told["bytes"] == sum(map(len, host.local().values()))
        assert told["failed"] == told["pending"] == told["conflicts"] == told["skipped"] == []


@pytest.mark.parametrize("rename", [False, True], ids=["in-place", "renamed"])
def test_p03_a_flush_under_a_busy_writer_stores_what_was_there_or_newer(host: Host, rename: bool):  # noqa: FBT001
    host.start()
    paths = [host.path(f"hot{number}.txt") for number in range(10)]
    with _rewriting(paths, rename=rename) as done:
        for _ in range(5):
            before = dict(done)
            told = host.stored()
            assert told["seconds"] < 5, "a busy writer must not hold it up"
            for path, number in before.items():
                assert int(host.object(path.name) or b"-1") >= number, path.name
    host.stored()
    assert host.objects() == host.local()


@pytest.mark.parametrize("outage", ["cut", "mute"])
@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
def test_p03_flush_ends_by_its_timeout_and_lists_what_is_left(wired: Host, line: Line, outage: str, daemon: bool):  # noqa: FBT001
    if daemon:
        wired.start()
    wired.write("stored.txt")
    wired.stored()
    wired.write("new.txt")
    wired.write("dir/new too.txt")
    getattr(line, outage)()
    timeout = 1.5 if daemon else 4
    done = wired.flush(timeout=timeout)
    assert done.code == 4
    assert done.json["stored"] is False
    assert {item["path"] for item in done.json["pending"]} >= {"new.txt", "dir/new too.txt"}
    assert all(item["reason"] for item in done.json["pending"])
    assert "stored.txt" not in {item["path"] for item in done.json["pending"]}
    assert done.json["seconds"] < timeout + 1
    assert done.seconds < timeout + (2 if daemon else 4), "the command itself, which has to start on a busy machine"
    line.mend()
    wired.stored()
    assert wired.objects() == wired.local()


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
def test_p03_flush_ends_by_its_timeout_when_only_the_manifest_is_left(wired: Host, line: Line, daemon: bool):  # noqa: FBT001
    """Every file is stored; a new link needs a new manifest; the store takes the connection and says nothing."""
    if daemon:
        wired.start()
    wired.write("a.txt")
    wired.stored()
    wired.path("link").symlink_to("a.txt")
    line.mute()
    done = wired.flush(timeout=1.5)
    assert done.code == 4
    assert done.json["pending"], "what is left must be said"
    assert done.seconds < (3.5 if daemon else 6)
    line.mend()
    wired.stored()
    assert "link" in wired.listed()


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
def test_p03_flush_does_not_call_stored_what_it_cannot_check(wired: Host, line: Line, daemon: bool):  # noqa: FBT001
    """Nothing changed since the last flush, and the store is down: then nobody knows whether the manifest stands."""
    if daemon:
        wired.start()
    wired.write("a.txt")
    wired.stored()
    line.cut()
    done = wired.flush(timeout=1)
    assert done.code in (0, 4)
    assert done.seconds < 5


def test_p03_timeout_zero_is_an_answer_at_once(wired: Host, line: Line):
    wired.start()
    wired.write("a.txt")
    wired.stored()
    line.cut()
    wired.write("b.txt")
    done = wired.flush(timeout=0)
    assert done.code == 4
    assert done.json["pending"]
    assert done.seconds < 3
    line.mend()
    eventually(lambda: wired.keys() == {"a.txt", "b.txt"})
    done = wired.flush(timeout=0)
    assert done.code in (0, 4)
    assert (done.code == 0) == done.json["stored"]


def test_p03_a_frozen_daemon_does_not_hold_a_flush_beyond_its_timeout(host: Host):
    host.start()
    host.write("a.txt")
    host.stored()
    host.freeze()
    host.write("b.txt")
    try:
        done = host.flush(timeout=1)
    finally:
        host.thaw()
    assert done.code == 4
    assert done.seconds < 10


def test_p03_names_that_are_no_session(host: Host):
    host.start()
    host.write("a.txt")
    assert host.flush("unknown").code == 3
    for name in ("..", ".hidden", "a/b", "ä", "x" * 129, "a b"):
        done = host.flush(name)
        assert done.code == 2, name
        assert len(done.err.strip().splitlines()) == 1
    assert host.flush("x" * 128).code == 3
    assert host.run("flush").code == 2
    assert host.run("flush", "s1", "--timeout", "-1").code == 2
    assert host.run("flush", "s1", "--timeout", "soon").code == 2
    assert host.run("flush", "s1", "--all").code == 2
    assert host.run("flush", "s1", "unknown").code == 3
    host.stop()
    assert host.flush("unknown").code == 3


def test_p03_many_flushes_at_once(host: Host):
    host.start()
    for number in range(150):
        host.write(f"f{number}", f"{number}")
    with ThreadPoolExecutor(6) as pool:
        reports = list(pool.map(lambda _: host.flush(), range(6)))
    assert [report.code for report in reports] == [0] * 6
    assert host.objects() == host.local()
    assert set(host.listed()) == set(host.local())
    assert not [report.json["conflicts"] for report in reports if report.json["conflicts"]]


def test_p03_two_flushes_at_once_without_a_daemon(host: Host):
    for number in range(50):
        host.write(f"f{number}", f"{number}")
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: host.flush(), range(2)))
    assert [report.code for report in reports] == [0, 0], [report.err for report in reports]
    assert host.objects() == host.local()


def test_p03_all_sessions(host: Host):
    host.start()
    for number in range(8):
        host.write("f", f"{number}", f"s{number}")
    done = host.run("flush", "--all", "--json")
    assert done.code == 0
    assert sorted(report["session"] for report in done.json) == [f"s{number}" for number in range(8)]
    for number in range(8):
        assert host.objects(f"s{number}") == {"f": f"{number}".encode()}
        assert host.manifest(f"s{number}")
    done = host.run("flush", "s1", "s2", "--json")
    assert done.code == 0
    assert [report["session"] for report in done.json] == ["s1", "s2"]


def test_p03_flush_works_without_a_daemon(host: Host):
    host.write("d/a.txt", "1")
    done = host.flush("s1", "--receipt")
    assert done.code == 0
    assert done.err == "", "nothing is wrong, so nothing is said"
    assert host.objects() == {"d/a.txt": b"1"}
    (entry,) = done.json["entries"]
    assert entry["path"] == "d/a.txt"
    assert entry["version"] == host.head("d/a.txt")["ETag"].strip('"')
    host.write("d/a.txt", "2")
    assert host.run("status", "s1").code == 4
    assert host.flush().code == 0
    assert host.run("status", "s1").code == 0
    assert host.object("d/a.txt") == b"2"
    assert host.run("explain", "s1/d/a.txt").code == 0


def test_p03_flush_stores_a_file_that_a_writer_has_open(host: Host):
    host.start(max_dirty_age="1h")
    path = host.write("open.txt", "")
    with open(path, "wb", buffering=0) as file:
        file.write(b"half a li")
        told = host.stored(timeout=10)
        assert told["seconds"] < 5
        assert host.object("open.txt") == b"half a li"
        file.write(b"ne")
        host.stored(timeout=10)
        assert host.object("open.txt") == b"half a line"


def test_p03_flush_sees_a_mapped_page_that_changed_without_a_trace(host: Host):
    """The kernel updates a file's times at the first store to a mapped page only, until it was written back."""
    host.start(max_dirty_age="0.2s")
    path = host.write("mapped.bin", b"A" * 4096)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as page:
        page[:] = b"B" * 4096
        host.stored()
        assert host.object("mapped.bin") == b"B" * 4096
        page[:] = b"C" * 4096
        host.stored()
        assert host.object("mapped.bin") == b"C" * 4096
    host.stored()
    assert host.object("mapped.bin") == b"C" * 4096


def test_p03_flush_sees_a_mapped_page_though_another_writer_closed_the_file(host: Host):
    """One writer's close says nothing of the others."""
    host.start()
    path = host.write("mapped.bin", b"A" * 8192)
    host.stored()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as page:
        page[:] = b"B" * 4096
        with open(path, "r+b") as other:
            other.seek(4096)
            other.write(b"b")
        host.stored()
        assert host.object("mapped.bin") == b"B" * 4096 + b"b" + b"A" * 4095
        page[:] = b"C" * 4096
        host.stored()
        assert host.object("mapped.bin") == b"C" * 4096 + b"b" + b"A" * 4095


def test_p03_flush_sees_a_mapped_page_whose_descriptor_is_closed(host: Host):
    host.start()
    path = host.write("mapped.bin", b"A" * 4096)
    host.stored()
    with open(path, "r+b") as file:
        page = mmap.mmap(file.fileno(), 4096)
    page[:] = b"B" * 4096
    host.stored()
    page[:] = b"C" * 4096
    host.stored()
    assert host.object("mapped.bin") == b"C" * 4096
    page.close()


def test_p03_flush_sees_a_change_that_hides_its_time_and_size(host: Host):
    host.start()
    path = host.write("sly.txt", "one")
    host.stored()
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    host.stored()
    assert host.object("sly.txt") == b"two"
    other = host.write("other.txt", "six")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)
    host.stored()
    assert host.objects() == {"sly.txt": b"six"}


def test_p03_a_flush_whose_daemon_is_killed_does_not_say_stored(wired: Host, line: Line):
    wired.start()
    line.mute()
    wired.write("a.txt")
    flush = subprocess.Popen(
        [*COMMAND, "flush", "s1", "--timeout", "20", "--json"],
        env=wired.env,
        cwd=wired.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(1)
    wired.kill()
    out, err = flush.communicate(timeout=30)
    assert flush.returncode != 0
    assert b'"stored": true' not in out
    assert b"Traceback" not in out + err
    line.mend()


def test_p03_the_manifest_is_written_again_if_somebody_removed_it(host: Host):
    host.start()
    host.write("a.txt")
    host.stored()
    host.foreign_delete(".cachesync/manifest.json")
    assert host.manifest() is None
    host.stored()
    assert set(host.listed()) == {"a.txt"}


def test_p03_status_is_safe_to_kill_only_when_all_is_stored(wired: Host, line: Line):
    wired.start()
    wired.write("a.txt")
    wired.stored()
    assert wired.run("status", "s1").code == 0
    line.cut()
    wired.write("b.txt")
    done = wired.run("status", "s1", "--json")
    assert done.code == 4
    assert done.json["sessions"][0]["safe_to_kill"] is False
    assert wired.run("status", "unknown").code == 3
