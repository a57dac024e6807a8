"""The control socket, both ends, over a real socket; the verbs behind it are made up."""

import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cachesync.api import http_client, routes, socket_address, wire
from cachesync.api.client import ControlClient
from cachesync.api.server import ControlServer
from cachesync.model import errors
from cachesync.model.errors import (
    CacheSyncError,
    ConfigError,
    DaemonUnavailable,
    ExitCode,
    NoSuchSession,
    ObjectNotFound,
    RootHalted,
    StoreDenied,
    StoreUnreachable,
    UsageError,
)
from cachesync.model.reports import (
    DaemonStatus,
    Failure,
    FlushReport,
    Pending,
    ReceiptLine,
    SessionStatus,
    StatusReport,
    Story,
)
from cachesync.model.values import Conflict, Skipped
from tests.memory_artifacts import MemoryArtifacts, MemoryLifecycle, MemoryOnDemand

STORED = FlushReport(
    "demo",
    stored=True,
    files=2,
    bytes=10,
    uploaded=1,
    conflicts=[Conflict("a", "a.conflict-x")],
    skipped=[Skipped("pipe", "a pipe")],
    manifest="sessions/demo/.cachesync/manifest.json",
    seconds=0.25,
)
RECEIPT = [ReceiptLine("a", "sessions/demo/a", 10, "ab" * 32, '"etag"', None)]
FAILED = FlushReport("bad", stored=False, failed=[Failure("x", "denied")], pending=[Pending("y", "in flight")])
LATE = FlushReport("late", stored=False, pending=[Pending("y", "in flight")])
DEMO = SessionStatus("demo", "open", 2, 10, 1, 5, 1, 1, 0, 0, 1.5, [Failure("x", "denied")])


class FakeVerbs:
    """Remembers what it was asked; flushes of the session "slow" wait for ``release``."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.release = threading.Event()
        self.under_way = 0
        self.finished = 0
        self.lock = threading.Lock()
        self.error: Exception | None = None
        self.artifacts = MemoryArtifacts()
        self.lifecycle = MemoryLifecycle()
        self.ondemand = MemoryOnDemand()

    def flush(
        self, session: str, *, timeout: float, confirm_deletes: bool = False, receipt: bool = False
    ) -> FlushReport:
        self._ask("flush", session, timeout, confirm_deletes, receipt)
        if session == "slow":
            with self.lock:
                self.under_way += 1
            self.release.wait(timeout)
            with self.lock:
                self.finished += 1
        answers = {"bad": FAILED, "late": LATE}
        entries = RECEIPT if receipt else None
        return answers.get(session) or FlushReport(**{**_fields(STORED), "session": session, "entries": entries})

    def status(self, session: str | None = None) -> StatusReport:
        self._ask("status", session)
        return StatusReport("/r", "s3://b", DaemonStatus(7, "0.1.0", 3.0), [DEMO], ["no versioning"], 1000.0)

    def explain(self, session: str, path: str) -> Story:
        self._ask("explain", session, path)
        return Story(session, path, "file", "dirty", 3, 2, 5, 1.0, 2.0, 1, 1.5, "denied", None, None, None, None, None)

    def retry(self, session: str | None = None) -> int:
        self._ask("retry", session)
        return 4

    def sessions(self) -> list[str]:
        self._ask("sessions")
        return ["demo", "other"]

    def strays(self) -> list[Skipped]:
        self._ask("strays")
        return [Skipped("my session", "not a session name")]

    def _ask(self, *words: Any) -> None:
        with self.lock:
            self.asked.append(words)
        if self.error is not None:
            raise self.error


def _fields(report: FlushReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__slots__}


@contextmanager
def serving(verbs: FakeVerbs, path: Path, group: str | None = None) -> Iterator[ControlServer]:
    server = ControlServer(verbs, path, group, ready=lambda: False, live=lambda: True)
    server.start()
    try:
        yield server
    finally:
        verbs.release.set()
        server.stop()


@pytest.fixture
def verbs() -> FakeVerbs:
    return FakeVerbs()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "control.sock"


@pytest.fixture
def server(verbs: FakeVerbs, path: Path) -> Iterator[ControlServer]:
    with serving(verbs, path) as server:
        yield server


@pytest.fixture
def client(server: ControlServer, path: Path) -> ControlClient:
    return ControlClient(path)


def raw(path: Path, request: bytes, timeout: float = 10) -> tuple[int, str, bytes]:
    """Send bytes as they are; the answer's status, content type and body."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    kind = next(line for line in head.decode().lower().splitlines() if line.startswith("content-type"))
    return int(head.split()[1]), kind, body


def get(path: Path, target: str, method: str = "GET", body: bytes = b"") -> tuple[int, Any]:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n".encode() + body
    status, kind, answer = raw(path, request)
    assert "application/json" in kind
    return status, json.loads(answer)


def wait_for(condition: Any, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# The client is the verbs


def test_every_verb_comes_back_as_it_was(client: ControlClient, verbs: FakeVerbs):
    assert client.is_serving()
    assert client.flush("demo", timeout=7.5, confirm_deletes=True, receipt=True).json() == (
        STORED.json() | {"entries": [_line()]}
    )
    assert client.status().json() == verbs.status().json()
    assert client.explain("demo", "a/b.txt") == verbs.explain("demo", "a/b.txt")
    assert client.retry() == 4
    assert client.sessions() == ["demo", "other"]
    assert client.strays() == [Skipped("my session", "not a session name")]
    client.status("demo")
    client.retry("demo")
    assert ("flush", "demo", 7.5, True, True) in verbs.asked
    assert ("status", "demo") in verbs.asked
    assert ("retry", "demo") in verbs.asked
    assert ("retry", None) in verbs.asked


def _line() -> dict[str, Any]:
    return {name: getattr(RECEIPT[0], name) for name in RECEIPT[0].__slots__}


@pytest.mark.parametrize(
    "name",
    ["a b", "a\nb", "q?versionId=1#x", "[*]", "100%", "%2F", "é/ü", "e\u0301", os.fsdecode(b"\xff\xfe"), "a\\b", "d/"],
)
def test_names_survive(client: ControlClient, verbs: FakeVerbs, name: str):
    client.explain("demo", name)
    assert verbs.asked == [("explain", "demo", name)]


def test_the_longest_path_survives(client: ControlClient, verbs: FakeVerbs):
    name = os.fsdecode(b"\xff" * 4000)
    client.explain("demo", name)
    assert verbs.asked == [("explain", "demo", name)]


@pytest.mark.parametrize(
    "error",
    [
        NoSuchSession("flush", "demo", "there is none"),
        RootHalted("flush", "/r", "it is gone"),
        StoreDenied("put", "k", "no", "ask the admin"),
        StoreUnreachable("put", os.fsdecode(b"\xff"), "refused"),
        ObjectNotFound("explain", "a\nb"),
    ],
)
def test_an_error_comes_back_as_its_kind(client: ControlClient, verbs: FakeVerbs, error: CacheSyncError):
    verbs.error = error
    with pytest.raises(type(error)) as caught:
        client.flush("demo", timeout=1)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert caught.value.exit_code == error.exit_code


def test_an_error_of_a_newer_daemon_keeps_its_exit_code():
    told = {"kind": "Tomorrow", "operation": "do", "path": "", "cause": "x", "hint": "", "exit_code": 4}
    error = wire.to_error(told)
    assert type(error) is CacheSyncError
    assert error.exit_code is ExitCode.UNFINISHED


def test_a_report_that_is_not_finished_is_an_answer(client: ControlClient, path: Path):
    assert client.flush("bad", timeout=1).json() == FAILED.json()
    assert client.flush("late", timeout=1).exit_code is ExitCode.UNFINISHED


def test_absent_and_refused_are_unavailable(tmp_path: Path):
    for path in (tmp_path / "none.sock", tmp_path / "no" / "such" / "folder.sock", stale(tmp_path / "stale.sock")):
        client = ControlClient(path)
        assert not client.is_serving()
        with pytest.raises(DaemonUnavailable, match=str(path)):
            client.status()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b'HTTP/1.1 500 X\r\nContent-Length: 12\r\n\r\n{"error":{}}',
        b'HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n{"session":"demo","stored":"true","failed":[]}',
    ],
)
def test_an_odd_answer_is_an_error_and_never_stored(tmp_path: Path, answer: bytes):
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(CacheSyncError):
            ControlClient(path).flush("demo", timeout=1)
        thread.join()


def test_a_silent_daemon_is_unavailable_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_client, "READ_TIMEOUT", 0.2)
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(DaemonUnavailable, match="no answer within"):
            ControlClient(path).flush("demo", timeout=0.1)


def test_a_full_queue_of_connections_is_unavailable_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket_address, "CONNECT_TIMEOUT", 0.2)
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            with pytest.raises(DaemonUnavailable):
                ControlClient(path).is_serving()


# The routes, as curl sees them


def test_flush_says_its_outcome_in_the_http_status_too(server: ControlServer, verbs: FakeVerbs, path: Path):
    assert get(path, "/v1/sessions/demo/flush", "POST") == (200, STORED.json())
    assert get(path, "/v1/sessions/bad/flush?timeout=1", "POST") == (409, FAILED.json())
    assert get(path, "/v1/sessions/late/flush?timeout=1&receipt=true", "POST") == (504, LATE.json())
    assert verbs.asked[0] == ("flush", "demo", 300.0, False, False)
    assert verbs.asked[2] == ("flush", "late", 1.0, False, True)


def test_the_other_routes(server: ControlServer, verbs: FakeVerbs, path: Path):
    assert get(path, "/v1/status") == (200, verbs.status().json())
    assert get(path, "/v1/status?session=demo") == (200, verbs.status().json())
    strays = [{"path": "my session", "reason": "not a session name"}]
    assert get(path, "/v1/sessions") == (200, {"sessions": ["demo", "other"], "strays": strays})
    assert get(path, "/v1/sessions/demo") == (200, DEMO.json())
    assert get(path, "/v1/explain/demo/a%20b") == (200, verbs.explain("demo", "a b").json())
    assert get(path, "/v1/retry", "POST") == (200, {"retried": 4})
    assert get(path, "/v1/retry?session=demo", "POST") == (200, {"retried": 4})
    assert get(path, "/healthz") == (200, {"live": True})
    assert get(path, "/readyz") == (503, {"ready": False})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x"), 400),
        (errors.RootLocked("x"), 409),
        (NoSuchSession("x"), 404),
        (RootHalted("x"), 503),
        (StoreUnreachable("x"), 504),
        (errors.StoreSlowDown("x"), 503),
        (StoreDenied("x"), 502),
        (errors.JournalDamaged("x"), 500),
    ],
)
def test_errors_have_a_sensible_status(
    server: ControlServer, verbs: FakeVerbs, path: Path, error: CacheSyncError, status: int
):
    verbs.error = error
    assert get(path, "/v1/status") == (status, wire.error_json(error))


def test_a_defect_is_told_without_its_insides(
    server: ControlServer, verbs: FakeVerbs, path: Path, caplog: pytest.LogCaptureFixture
):
    verbs.error = RuntimeError("password=hunter2")
    with caplog.at_level(logging.CRITICAL):
        status, told = get(path, "/v1/status")
    assert status == 500
    assert told["error"]["exit_code"] == 1
    assert "hunter2" not in json.dumps(told)
    assert "Traceback" not in json.dumps(told)


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("POST", "/v1/sessions/demo/flush?timeout=86401", 400),
        ("POST", "/v1/sessions/demo/flush?timeout=-1", 400),
        ("POST", "/v1/sessions/demo/flush?timeout=nan", 400),
        ("POST", "/v1/sessions/demo/flush?timeout=inf", 400),
        ("POST", "/v1/sessions/demo/flush?timeout=5m", 400),
        ("POST", "/v1/sessions/demo/flush?timeout=1&timeout=2", 400),
        ("POST", "/v1/sessions/demo/flush?confirm_delets=1", 400),
        ("POST", "/v1/sessions/demo/flush?receipt=maybe", 400),
        ("POST", "/v1/sessions/..%2f..%2fetc/flush", 400),
        ("POST", "/v1/sessions/%00/flush", 400),
        ("POST", "/v1/sessions/.cachesync/flush", 400),
        ("POST", "/v1/sessions/demo%0a/flush", 400),
        ("POST", "/v1/sessions//flush", 404),
        ("GET", "/v1/sessions/demo/flush", 405),
        ("GET", "/v1/sessions/ghost", 404),
        ("GET", "/v1/sessions/%FF", 400),
        ("GET", "/v1/status?session=../x", 400),
        ("GET", "/v1/status?session=", 400),
        ("GET", "/v1/status?x=1", 400),
        ("GET", "/v1/explain/demo/a/../../b", 400),
        ("GET", "/v1/explain/demo/a%2f..%2f..%2fb", 400),
        ("GET", "/v1/explain/demo//etc/passwd", 400),
        ("GET", "/v1/explain/demo/a%00b", 400),
        ("GET", "/v1/explain/demo/", 404),
        ("GET", "/v1/explain/demo", 404),
        ("GET", "/", 404),
        ("DELETE", "/v1/status", 405),
        ("PUT", "/v1/retry", 405),
    ],
)
def test_what_is_not_allowed_is_refused(
    server: ControlServer, verbs: FakeVerbs, path: Path, method: str, target: str, status: int
):
    got, told = get(path, target, method)
    assert got == status
    assert set(told["error"]) == {"kind", "operation", "path", "cause", "hint", "exit_code"}
    assert all(words[0] == "status" for words in verbs.asked)


def test_a_body_is_refused(server: ControlServer, verbs: FakeVerbs, path: Path):
    assert get(path, "/v1/sessions/demo/flush", "POST", b'{"timeout": 5}')[0] == 400
    assert get(path, "/v1/sessions/demo/flush", "POST", b"x" * (routes.MAX_BODY + 1))[0] == 400
    assert verbs.asked == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(10_000)) + b"\r\n",
        b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    ],
)
def test_malformed_http_is_a_400_and_serving_goes_on(
    server: ControlServer, path: Path, client: ControlClient, request_bytes: bytes
):
    try:
        status, _, body = raw(path, request_bytes)
    except ConnectionError:
        pass  # it may stop listening to us before we have said it all
    else:
        assert status == 400
        assert b"Traceback" not in body
    assert client.sessions() == ["demo", "other"]


# Who may open it


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def stale(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
    return path


def test_only_the_owner_may_open_it(server: ControlServer, path: Path):
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700


def test_a_group_may_open_it(verbs: FakeVerbs, path: Path):
    gid = (os.getgroups() or [os.getgid()])[-1]
    with serving(verbs, path, str(gid)):
        assert mode(path) == 0o660
        assert path.lstat().st_gid == gid


def test_an_unknown_group_is_a_usage_error(verbs: FakeVerbs, path: Path):
    with pytest.raises(ConfigError, match="no-such-group"):
        ControlServer(verbs, path, "no-such-group", ready=bool, live=bool).start()
    assert not path.exists()


def test_the_umask_is_given_back_and_does_not_matter(verbs: FakeVerbs, path: Path):
    before = os.umask(0)
    try:
        with serving(verbs, path):
            assert mode(path) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_the_socket_is_never_wider_even_for_a_moment(verbs: FakeVerbs, path: Path, monkeypatch: pytest.MonkeyPatch):
    modes = []
    real = os.chown

    def chown(name: Any, uid: int, gid: int) -> None:
        if path.exists():
            modes.append(mode(path))
        real(name, uid, gid)

    monkeypatch.setattr(os, "chown", chown)
    with serving(verbs, path, str(os.getgid())):
        assert modes == [0o600]


def test_a_directory_that_is_made_for_the_socket_lets_its_group_in(verbs: FakeVerbs, tmp_path: Path):
    with serving(verbs, tmp_path / "for the group" / "s", str(os.getgid())):
        made = (tmp_path / "for the group").stat()
        assert (stat.S_IMODE(made.st_mode), made.st_gid) == (0o750, os.getgid())
    with serving(verbs, tmp_path / "for the owner" / "s"):
        assert mode(tmp_path / "for the owner") == 0o700


# What stands at its path


def test_a_stale_socket_is_replaced(verbs: FakeVerbs, path: Path):
    path.parent.mkdir()
    stale(path)
    with serving(verbs, path):
        assert ControlClient(path).sessions()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe"])
def test_what_is_not_a_socket_is_left_alone(verbs: FakeVerbs, path: Path, tmp_path: Path, kind: str):
    path.parent.mkdir()
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(stale(tmp_path / "elsewhere.sock"))
    else:
        os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(ConfigError, match="not a socket"):
        ControlServer(verbs, path, None, ready=bool, live=bool).start()
    assert path.lstat().st_ino == before.st_ino


def test_a_socket_that_is_served_is_left_alone(server: ControlServer, verbs: FakeVerbs, path: Path):
    with pytest.raises(ConfigError, match="another process"):
        ControlServer(verbs, path, None, ready=bool, live=bool).start()
    assert ControlClient(path).sessions()


def test_stop_leaves_a_successors_socket_alone(verbs: FakeVerbs, path: Path):
    with serving(verbs, path) as first:
        path.unlink()
        with serving(verbs, path):
            first.stop()
            assert ControlClient(path).sessions()


def test_a_path_longer_than_an_address_works_on_both_sides(verbs: FakeVerbs, tmp_path: Path):
    path = tmp_path / ("d" * 120) / ("e" * 120) / "control.sock"
    with serving(verbs, path, str(os.getgid())):
        client = ControlClient(path)
        assert client.is_serving()
        assert client.sessions() == ["demo", "other"]
        assert mode(path) == 0o660
    assert not path.exists()
    assert not ControlClient(path).is_serving()


def test_a_folder_that_cannot_be_made_is_a_usage_error(verbs: FakeVerbs, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        ControlServer(verbs, tmp_path / "file" / "x" / "c.sock", None, ready=bool, live=bool).start()


# Many at once, and the end


def test_waiting_flushes_do_not_hold_up_a_status(client: ControlClient, verbs: FakeVerbs):
    with ThreadPoolExecutor(100) as pool:
        flushes = [pool.submit(client.flush, "slow", timeout=30) for _ in range(100)]
        wait_for(lambda: verbs.under_way == 100)
        began = time.monotonic()
        for _ in range(10):
            client.status()
        took = (time.monotonic() - began) / 10
        verbs.release.set()
        assert all(flush.result().stored for flush in flushes)
    assert took < 0.25


def test_a_flush_too_many_is_refused(
    client: ControlClient, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(routes, "FLUSHES", 2)
    path = tmp_path / "two.sock"
    with serving(verbs, path), ThreadPoolExecutor(2) as pool:
        flushes = [pool.submit(ControlClient(path).flush, "slow", timeout=30) for _ in range(2)]
        wait_for(lambda: verbs.under_way == 2)
        with pytest.raises(DaemonUnavailable, match="2 others"):
            ControlClient(path).flush("demo", timeout=1)
        verbs.release.set()
        assert all(flush.result().stored for flush in flushes)
        assert ControlClient(path).flush("demo", timeout=1).stored


def test_a_client_that_goes_away_does_not_end_the_flush(client: ControlClient, verbs: FakeVerbs, path: Path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"POST /v1/sessions/slow/flush?timeout=30 HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: verbs.under_way == 1)
    time.sleep(0.05)
    assert verbs.finished == 0
    verbs.release.set()
    wait_for(lambda: verbs.finished == 1)
    assert client.sessions()


def test_stop_is_bounded_while_a_flush_waits(verbs: FakeVerbs, path: Path):
    with serving(verbs, path) as server, ThreadPoolExecutor(1) as pool:
        flush = pool.submit(ControlClient(path).flush, "slow", timeout=600)
        wait_for(lambda: verbs.under_way == 1)
        began = time.monotonic()
        server.stop(grace=0.2)
        assert time.monotonic() - began < 2
        with pytest.raises(DaemonUnavailable, match="stops"):
            flush.result(timeout=5)
        assert not path.exists()
        server.stop()


def test_stop_lets_a_flush_end_that_is_about_to(verbs: FakeVerbs, path: Path):
    with serving(verbs, path) as server, ThreadPoolExecutor(1) as pool:
        flush = pool.submit(ControlClient(path).flush, "slow", timeout=600)
        wait_for(lambda: verbs.under_way == 1)
        threading.Timer(0.2, verbs.release.set).start()
        server.stop(grace=5)
        assert flush.result(timeout=5).stored


def test_stop_with_idle_connections_is_quick(verbs: FakeVerbs, path: Path):
    with serving(verbs, path) as server, socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as half:
        idle.connect(str(path))
        half.connect(str(path))
        half.sendall(b"POST /v1/sessions/demo/flush HTTP/1.1\r\nContent-Length: 50\r\n\r\n")
        assert ControlClient(path).sessions()
        began = time.monotonic()
        server.stop(grace=0.2)
        assert time.monotonic() - began < 2


def test_a_process_ends_while_a_flush_waits(tmp_path: Path):
    script = """
import sys, threading, time
from pathlib import Path
from cachesync.api.server import ControlServer
from cachesync.api.client import ControlClient
class Verbs:
    def flush(self, session, **words): began.set(); time.sleep(60)
began = threading.Event()
server = ControlServer(Verbs(), Path(sys.argv[1]), None, ready=bool, live=bool)
server.start()
threading.Thread(target=lambda: ControlClient(Path(sys.argv[1])).flush("demo", timeout=60), daemon=True).start()
assert began.wait(10)
server.stop(grace=0.1)
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "c.sock")], check=True, timeout=30)
    assert time.monotonic() - began < 15


# What a command costs

HEAVY = {"aiohttp", "asyncio", "s3fs", "botocore", "aiobotocore", "sqlite3", "watchdog", "diskcache", "tenacity"}
PROBE = """
import sys
from cachesync.cli import main
code = main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


def modules_of(*words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROBE, *words], check=True, capture_output=True, text=True)
    return set(done.stderr.split())


def test_help_imports_nothing_heavy():
    assert not HEAVY & modules_of("--help")


def test_a_flush_through_the_daemon_imports_nothing_heavy(server: ControlServer, path: Path, tmp_path: Path):
    words = ("--root", str(tmp_path / "root"), "--socket", str(path), "flush", "demo")
    assert not HEAVY & modules_of(*words)
