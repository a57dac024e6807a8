"""GET /v1/events and /v1/activity, from a daemon that works and from a server alone."""

import http.client
import json
import mmap
import os
import shutil
import socket
import threading
import time
from collections import defaultdict
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cachesync.api import observe_routes
from cachesync.api.server import ControlServer
from cachesync.api.socket_address import connect
from cachesync.model.events import LISTENERS, QUEUE, Events, What
from cachesync.telemetry.activity import Activity
from tests.promises.host import eventually

pytestmark = pytest.mark.timeout(90)


class Ear:
    """Reads server-sent events from a control socket, in a thread, until the stream ends."""

    def __init__(self, path, target="/v1/events", *, read=True):
        self.socket = connect(path, 60)
        self.socket.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.answer = http.client.HTTPResponse(self.socket)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.comments: list[str] = []
        self.ended = threading.Event()
        self.thread: threading.Thread | None = None
        if read:
            self.begin()

    def begin(self):
        self.answer.begin()
        self.status = self.answer.status
        if self.status == 200:
            self.thread = threading.Thread(target=self._read, daemon=True)
            self.thread.start()
            eventually(lambda: self.comments, 10, "it listens")

    def _read(self):
        kind = ""
        try:
            while line := self.answer.readline():
                text = line.decode().rstrip("\n")
                if text.startswith(":"):
                    self.comments.append(text)
                elif text.startswith("event: "):
                    kind = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    self.events.append((kind, json.loads(text.removeprefix("data: "))))
                else:
                    assert not text, f"no line of this form is documented: {text!r}"
        finally:
            self.ended.set()

    def of(self, kind, path=None):
        return [data for name, data in list(self.events) if name == kind and path in (None, data.get("path"))]

    def close(self):
        with suppress(OSError):  # the daemon has ended it
            self.socket.shutdown(socket.SHUT_RDWR)
        if self.thread is not None:
            self.thread.join(10)
        self.answer.close()
        self.socket.close()


@pytest.fixture
def ear(host):
    """What a running daemon tells. The daemon scans every second."""
    host.start(scan_interval="1s", delete_settle="0.1s")
    ear = Ear(host.state / "control.sock")
    yield ear
    ear.close()


# -- a daemon ----------------------------------------------------------------------------------------------------------


def test_a_file_is_dirty_and_then_stored(host, ear):
    before = time.time()
    host.write("a/b.txt", "x" * 123)
    (stored,) = eventually(lambda: ear.of("stored", "a/b.txt"))
    assert {name: stored[name] for name in ("session", "path", "size", "sent")} == {
        "session": "s1", "path": "a/b.txt", "size": 123, "sent": True,
    }  # fmt: skip
    assert before <= stored["at"] <= time.time()
    assert 0 < stored["seconds"] < time.time() - before
    dirty = ear.of("dirty", "a/b.txt")
    assert dirty[-1]["size"] == 123
    assert dirty[0]["at"] <= stored["at"]
    assert not ear.of("dirty", "a/"), "a directory is nobody's upload"


def test_a_touched_file_is_found_stored_already(host, ear):
    path = host.write("a", "same")
    eventually(lambda: ear.of("stored", "a"))
    os.utime(path, (1, 1))
    eventually(lambda: len(ear.of("stored", "a")) == 2)
    assert ear.of("stored", "a")[1]["sent"] is False


def test_a_deleted_file(host, ear):
    host.write("b", "stays, so that the directory stands")
    path = host.write("a")
    eventually(lambda: ear.of("stored", "a"))
    path.unlink()
    (deleted,) = eventually(lambda: ear.of("deleted", "a"))
    assert deleted["seconds"] > 0
    assert host.object("a") is None
    assert "size" not in ear.of("dirty", "a")[-1]


def test_a_file_that_cannot_be_stored_says_why(host, ear):
    folder = os.fsencode(host.root / "s1")
    os.makedirs(folder)
    with open(folder + b"/\xff.txt", "wb") as file:
        file.write(b"x")
    failed = eventually(lambda: ear.of("failed"))
    assert failed[0]["path"] == "\\xff.txt"
    assert "UTF-8" in failed[0]["error"]
    assert failed[0]["attempts"] == 1


def test_a_conflict_names_where_the_other_bytes_are(host, ear):
    path = host.write("a", "first")
    eventually(lambda: ear.of("stored", "a"))
    host.foreign_put("a", b"theirs")
    path.write_text("second")
    (conflict,) = eventually(lambda: ear.of("conflict", "a"))
    assert host.object(conflict["kept_as"]) == b"theirs"
    eventually(lambda: len(ear.of("stored", "a")) == 2)


def test_a_flush_says_how_it_ended(host, ear):
    host.write("a", "abc")
    host.stored()
    (flushed,) = eventually(lambda: ear.of("flushed"))
    assert (flushed["session"], flushed["stored"], flushed["files"], flushed["bytes"], flushed["left"]) == (
        "s1", True, 1, 3, 0,
    )  # fmt: skip
    with open(os.fsencode(host.root / "s1") + b"/\xff", "wb"):
        pass
    assert host.flush().code == 1
    flushed = eventually(lambda: ear.of("flushed")[1:])[0]
    assert (flushed["stored"], flushed["left"]) == (False, 1)


def test_what_no_event_told_of_is_repaired(host):
    """The kernel says nothing of a write through a mapped page, as long as the file stays open."""
    host.start(scan_interval="8s")
    ear = Ear(host.state / "control.sock")
    path = host.write("mapped", b"0" * 4096)
    host.stored()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 4096) as page:
        page[:5] = b"agent"
        page.flush()
        (repaired,) = eventually(lambda: ear.of("repaired"), 30)
        assert (repaired["session"], repaired["changes"]) == ("s1", 1)
        eventually(lambda: (host.object("mapped") or b"").startswith(b"agent"))
    ear.close()


@pytest.mark.parametrize("interval", ["1s", "5s"])
def test_daily_work_is_no_repair(host, interval):
    """A scan that comes before the event does, looks again at a file that somebody had open, or finds that a directory
    has another time, has repaired nothing."""
    host.start(scan_interval=interval, log_level="debug")
    ear = Ear(host.state / "control.sock")
    with open(host.write("log.txt"), "a") as log:
        for number in range(60):
            log.write(f"{number}\n")
            log.flush()
            host.write(f"d{number}/f", str(number))
            if number % 3 == 0:
                host.path(f"d{number}/f").unlink()
            time.sleep(0.05)
    host.stored()
    scans = host.said().count("scanned (interval)")
    eventually(
        lambda: host.said().count("scanned (interval)") >= scans + 3, 30, "everything is older than hints are late"
    )
    assert len(ear.of("stored")) > 40
    assert ear.of("repaired") == []
    ear.close()


@pytest.mark.timeout(180)
def test_what_was_dropped_with_the_kernels_queue_is_repaired(host):
    """An overflow is followed by a scan at once: what that finds is no less a repair for being young."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the queue is too long to fill in a test")
    host.start()
    host.write("there")
    host.stored()
    ear = Ear(host.state / "control.sock")
    host.freeze()
    folder = os.open(host.root / "s1", os.O_RDONLY)
    for _ in range(limit // 2):
        os.close(os.open("busy", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
        os.unlink("busy", dir_fd=folder)
    os.close(folder)
    for number in range(30):
        host.write(f"late{number}")
    host.thaw()
    eventually(lambda: sum(data["changes"] for data in ear.of("repaired")) >= 30, 60)
    eventually(lambda: {f"late{number}" for number in range(30)} <= host.keys(), 30)
    ear.close()


def test_open_and_evict(host, ear):
    host.write("a", "abc")
    host.write("d/b", "defg")
    assert host.run("close", "s1").code == 0
    (evicted,) = eventually(lambda: ear.of("evicted"))
    assert (evicted["files"], evicted["bytes"]) == (2, 7)
    assert host.run("open", "s1").code == 0
    (opened,) = eventually(lambda: ear.of("opened"))
    assert (opened["files"], opened["bytes"]) == (2, 7)


def test_a_session_whose_directory_is_removed(host, ear):
    host.write("a", "abc")
    host.stored()
    shutil.rmtree(host.root / "s1")
    (evicted,) = eventually(lambda: ear.of("evicted"))
    assert (evicted["session"], evicted["files"], evicted["left"]) == ("s1", 1, 0)
    assert host.object("a") == b"abc"


def test_a_session_by_itself(host, ear):
    mine = Ear(host.state / "control.sock", "/v1/events?session=mine")
    host.write("a", session="other")
    host.write("a", session="mine")
    eventually(lambda: ear.of("stored", "a")[1:])
    eventually(lambda: mine.of("stored", "a"))
    assert {data["session"] for _, data in mine.events} == {"mine"}
    mine.close()


def test_activity_counts_what_was_stored(host, ear):
    for number in range(5):
        host.write(f"f{number}", "x" * 100)
    host.stored()
    told = get(host.state / "control.sock", "/v1/activity")
    assert told["bucket"] == 5
    assert sum(bucket["stored"] for bucket in told["buckets"]) == 5
    assert sum(bucket["bytes"] for bucket in told["buckets"]) == 500
    assert all(bucket["at"] % 5 == 0 and bucket["at"] >= told["from"] for bucket in told["buckets"])
    last = next(bucket for bucket in told["buckets"] if bucket["stored"])
    assert 0 < last["p50"] <= last["p99"] < 30


def test_listeners_do_not_hold_up_the_end(host, ear):
    host.write("a")
    host.stored()
    begun = time.monotonic()
    assert host.stop() == 0
    assert time.monotonic() - begun < 5
    assert ear.ended.wait(5)


def test_a_burst_with_listeners_that_read_and_one_that_does_not(host, ear):
    """1,500 files: each of them is told of to who reads, in its order; who does not read costs nobody anything."""
    with closing(Ear(host.state / "control.sock", read=False)) as deaf:
        for number in range(1500):
            host.write(f"d{number % 10}/{number}", "x")
        host.stored()
        eventually(lambda: len(ear.of("stored")) >= 1500)
        stored = {data["path"] for data in ear.of("stored")}
        assert len(stored) == 1500
        assert not ear.of("lost")
        by_path = defaultdict(list)
        for kind, data in list(ear.events):
            by_path[data.get("path")].append(kind)
        assert all(kinds.index("dirty") < kinds.index("stored") for path, kinds in by_path.items() if path in stored)
        deaf.begin()
        eventually(lambda: deaf.of("flushed"), what="what was not lost comes when it reads again")


# -- a server alone ----------------------------------------------------------------------------------------------------


def get(path, target):
    with connect(path, 10) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return json.loads(answer.read())


@pytest.fixture
def verbs():
    seen = SimpleNamespace(events=Events(), activity=Activity(time.time), measure=None, pending=list)
    seen.events.join(seen.activity.hear)
    return seen


@pytest.fixture
def path(tmp_path, verbs):
    path = tmp_path / "c.sock"
    server = ControlServer(verbs, path, None, ready=bool, live=bool)
    server.start()
    yield path
    server.stop()


def test_names_are_made_printable(verbs, path):
    ear = Ear(path)
    verbs.events.tell(What.STORED, "s", "\udcff\x1b[2J\n\ndata: {}", size=1)
    (stored,) = eventually(lambda: ear.of("stored"))
    assert stored["path"] == "\\xff\x1b[2J\n\ndata: {}"
    ear.close()


def test_one_that_is_too_slow_is_told_what_it_lost_and_the_engine_never_waits(verbs, path):
    ear = Ear(path, read=False)
    eventually(lambda: verbs.events.listeners == 1)
    slowest, error, sent = 0.0, "e" * 5000, 6000
    for number in range(sent):
        begun = time.perf_counter()
        verbs.events.tell(What.FAILED, "s", str(number), error=error)
        slowest = max(slowest, time.perf_counter() - begun)
    assert slowest < 0.5
    ear.begin()
    eventually(lambda: ear.of("failed", str(sent - 1)), 30)
    lost = sum(data["count"] for data in ear.of("lost"))
    assert lost > 0
    assert lost + len(ear.of("failed")) == sent
    assert verbs.events.lost == lost
    assert sent - QUEUE <= lost + len(ear.of("failed"))
    ear.close()


def test_so_many_listeners_and_the_next_one_is_refused(verbs, path):
    ears = [Ear(path) for _ in range(LISTENERS)]
    ears.append(Ear(path))
    assert ears[-1].status == 503
    ears[0].close()
    eventually(lambda: verbs.events.listeners == LISTENERS - 1, 10, "the place of who hung up is free")
    ears.append(Ear(path))
    assert ears[-1].status == 200
    for ear in ears[1:]:
        ear.close()


def test_a_silent_stream_is_kept_alive(verbs, path, monkeypatch):
    monkeypatch.setattr(observe_routes, "KEEPALIVE", 0.1)
    monkeypatch.setattr(observe_routes, "LOOK", 0.05)
    ear = Ear(path)
    eventually(lambda: len(ear.comments) >= 3)
    assert ear.events == []
    ear.close()


@pytest.mark.parametrize("target", ["?session=..%2Fx", "?session=", "?nothing=1", "?session=a&session=b"])
def test_odd_questions_are_refused(path, target):
    assert get(path, f"/v1/events{target}")["error"]["kind"] == "UsageError"
    assert get(path, f"/v1/activity{target}")["error"]["kind"] == "UsageError"


def test_verbs_of_another_process_cannot_be_watched(tmp_path):
    path = tmp_path / "c.sock"
    server = ControlServer(SimpleNamespace(), path, None, ready=bool, live=bool)
    server.start()
    try:
        for target in ("/v1/events", "/v1/activity", "/metrics"):
            assert get(path, target)["error"]["kind"] == "UsageError"
    finally:
        server.stop()


# -- log lines ---------------------------------------------------------------------------------------------------------


def lines(host, message):
    """The log's lines of one message, but for ``time`` and ``level``, which every line has."""
    told = [json.loads(line) for line in host.said().splitlines() if line.startswith("{")]
    assert all({"time", "level", "message"} <= line.keys() for line in told)
    return [line for line in told if line["message"].startswith(message)]


def test_log_lines_carry_the_facts(host):
    host.start()
    host.write("a/b.txt", "x" * 123)
    report = host.stored()
    with open(os.fsencode(host.root / "s1") + b"/\xff", "wb") as file:
        file.write(b"12345")
    assert host.flush().code == 1
    host.path("a/b.txt").unlink()
    host.flush()
    (stored,) = lines(host, "stored")
    assert (stored["session"], stored["path"], stored["size"], stored["level"]) == ("s1", "a/b.txt", 123, "info")
    assert stored["uri"] == f"s3://{host.bucket}/{host.key('a/b.txt')}"
    assert 0 <= stored["duration"] <= stored["latency"] < 30
    (flushed,) = lines(host, "flushed")
    assert (flushed["session"], flushed["files"], flushed["size"], flushed["left"]) == ("s1", 1, 123, 0)
    assert flushed["uri"] == f"s3://{host.bucket}/{report['manifest']}"
    assert flushed["duration"] == pytest.approx(report["seconds"], abs=0.01)
    unfinished = lines(host, "not flushed")[0]
    assert (unfinished["left"], "uri" in unfinished) == (1, False)
    failed = lines(host, "not stored: ")[0]
    assert (failed["session"], failed["path"], failed["size"], failed["level"]) == ("s1", "\\xff", 5, "warning")
    assert {"duration", "attempts", "again_in"} <= failed.keys()
    assert eventually(lambda: lines(host, "deleted"))[0]["path"] == "a/b.txt"


def test_an_eviction_is_logged_with_its_numbers(host):
    host.start()
    host.write("a", "abc")
    assert host.run("close", "s1").code == 0
    (evicted,) = lines(host, "evicted")
    assert (evicted["session"], evicted["files"], evicted["bytes"], evicted["kept"]) == ("s1", 1, 3, 0)


def test_a_quiet_log_has_no_line_a_file(host):
    host.start(log_level="warning")
    host.write("a", "abc")
    host.stored()
    assert not lines(host, "stored")
    assert not lines(host, "flushed")
