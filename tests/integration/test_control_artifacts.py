"""The routes and the client of artifacts and of a session's life, over a real socket; the verbs behind are made up."""

import gc
import hashlib
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import pytest

from cachesync.api import artifact_routes, http_client, lifecycle_routes, streams
from cachesync.api.client import ControlClient
from cachesync.api.server import ControlServer
from cachesync.api.socket_address import connect
from cachesync.model.address import Address, Space, parse, parse_whole
from cachesync.model.errors import (
    ArtifactExists,
    CacheSyncError,
    DaemonUnavailable,
    FileChanging,
    IntegrityError,
    NoSuchSession,
    ObjectNotFound,
    PreconditionFailed,
    StoreTransient,
    StoreUnreachable,
    UsageError,
)
from cachesync.model.outcomes import Artifact, CloseReport, EvictReport, OpenReport, PastVersion, Progress, VerifyReport
from cachesync.model.reports import FlushReport, StatusReport
from cachesync.model.values import Skipped
from cachesync.programs.client import Client
from tests.memory_artifacts import BAD, LEFT, PIECE, MemoryArtifacts, MemoryLifecycle, MemoryOnDemand

MIB = 1024 * 1024
BIG = 64 * MIB


class FakeVerbs:
    """Only what these routes ask, and a status to see whether the daemon still answers."""

    def __init__(self) -> None:
        self.artifacts = MemoryArtifacts()
        self.lifecycle = MemoryLifecycle()
        self.ondemand = MemoryOnDemand()

    def status(self, session: str | None = None) -> StatusReport:
        return StatusReport("/r", "s3://b", None)

    def flush(
        self, session: str, *, timeout: float, confirm_deletes: bool = False, receipt: bool = False
    ) -> FlushReport:
        return FlushReport(session, stored=True)

    def explain(self, session: str, path: str) -> Any:
        raise NotImplementedError

    def retry(self, session: str | None = None) -> int:
        return 0

    def sessions(self) -> list[str]:
        return []

    def strays(self) -> list[Skipped]:
        return []


@contextmanager
def serving(verbs: FakeVerbs, path: Path) -> Iterator[ControlServer]:
    server = ControlServer(verbs, path, None, ready=bool, live=bool)
    server.start()
    try:
        yield server
    finally:
        server.stop(grace=0.1)


@pytest.fixture
def verbs() -> FakeVerbs:
    return FakeVerbs()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def server(verbs: FakeVerbs, path: Path) -> Iterator[ControlServer]:
    with serving(verbs, path) as server:
        yield server


@pytest.fixture
def client(server: ControlServer, path: Path) -> ControlClient:
    return ControlClient(path)


class Answer:
    """What came over the wire, whole or not."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def json(self) -> Any:
        assert "application/json" in self.headers["content-type"]
        return json.loads(self.body)


def ask(path: Path, method: str, target: str, headers: str = "", body: bytes | None = None) -> Answer:
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}{length}\r\n".encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(request + (body or b""))
        raw = b""
        while part := connection.recv(1 << 20):
            raw += part
    return Answer(raw)


def wait_for(condition: Any, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def pattern(size: int, start: int = 0) -> Iterator[bytes]:
    """``size`` bytes whose every mebibyte differs, from ``start``, without holding them."""
    while start < size:
        end = min(size, start - start % PIECE + PIECE)
        yield bytes([start // PIECE % 251]) * (end - start)
        start = end


class Peak:
    """The most that Python held at once while the block ran."""

    def __enter__(self) -> Self:
        tracemalloc.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_read_is_the_bytes_and_what_is_known_of_them(client: ControlClient, verbs: FakeVerbs):
    verbs.artifacts.contents["s1/a/b c.txt"] = b"0123456789"
    verbs.artifacts.source, verbs.artifacts.unverified = "cache", True
    with client.artifacts.read(parse("s1/a/b c.txt")) as reading:
        assert reading.artifact == verbs.artifacts.describe("s1/a/b c.txt")
        assert (reading.source, reading.unverified) == ("cache", True)
        assert b"".join(reading.chunks()) == b"0123456789"
        assert b"".join(reading.chunks(3, 4)) == b"3456"
        assert b"".join(reading.chunks(8)) == b"89"
        assert b"".join(reading.chunks(8, 100)) == b"89"
        assert b"".join(reading.chunks(10)) == b""
        assert b"".join(reading.chunks(0, 0)) == b""
    wait_for(lambda: all(one.closed for one in verbs.artifacts.readings))


def test_an_empty_artifact_is_empty(client: ControlClient, verbs: FakeVerbs, path: Path):
    verbs.artifacts.contents["s1/none"] = b""
    assert list(client.artifacts.read(parse("s1/none")).chunks()) == []
    answer = ask(path, "GET", "/v1/artifacts/s1/none")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")


def test_a_past_version_is_asked_for_each_time(client: ControlClient, verbs: FakeVerbs):
    verbs.artifacts.contents["templates/t"] = b"x"
    assert b"".join(client.artifacts.read(parse("templates/t"), version_id="v 7&").chunks()) == b"x"
    asked = [call for call in verbs.artifacts.calls if call[0] == "read"]
    assert asked == [("read", Address(Space.TEMPLATES, "", "t"), "v 7&")] * 2


def test_what_curl_sees(server: ControlServer, verbs: FakeVerbs, path: Path):
    verbs.artifacts.contents["projects/p/x"] = b"0123456789"
    artifact = verbs.artifacts.describe("projects/p/x")
    answer = ask(path, "GET", "/v1/artifacts/projects/p/x")
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert answer.headers["content-length"] == "10"
    assert answer.headers["etag"] == f'"{artifact.version}"'
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["x-cachesync-source"] == "store"
    assert answer.headers["x-cachesync-unverified"] == "false"
    assert json.loads(answer.headers["x-cachesync-artifact"]) == artifact.json()
    assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        ("bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=7-99999", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=a-b", 200, b"0123456789", None),
    ],
)
def test_ranges(
    server: ControlServer, verbs: FakeVerbs, path: Path, asked: str, status: int, body: bytes | None, told: str | None
):
    verbs.artifacts.contents["s1/a"] = b"0123456789"
    answer = ask(path, "GET", "/v1/artifacts/s1/a", f"Range: {asked}\r\n")
    assert answer.status == status
    assert answer.headers.get("content-range") == told
    if body is None:
        assert answer.json()["error"]["kind"] == "UsageError"
    else:
        assert answer.body == body


def test_if_match(server: ControlServer, verbs: FakeVerbs, path: Path):
    verbs.artifacts.contents["s1/a"] = b"x"
    version = verbs.artifacts.describe("s1/a").version
    for good in (f'"{version}"', "*"):
        assert ask(path, "GET", "/v1/artifacts/s1/a", f"If-Match: {good}\r\n").status == 200
    refused = ask(path, "GET", "/v1/artifacts/s1/a", 'If-Match: "other"\r\n')
    assert refused.status == 412
    assert refused.json()["error"]["kind"] == "PreconditionFailed"


def test_another_version_is_never_mixed_in(client: ControlClient, verbs: FakeVerbs):
    verbs.artifacts.contents["s1/a"] = b"old"
    reading = client.artifacts.read(parse("s1/a"))
    verbs.artifacts.contents["s1/a"] = b"new"
    with pytest.raises(PreconditionFailed):
        list(reading.chunks())


def test_a_dirty_file_is_told_apart_by_its_stat(client: ControlClient, verbs: FakeVerbs):
    verbs.artifacts.contents["s1/a"] = b"old"
    verbs.artifacts.extra["s1/a"] = {"state": "dirty", "version": "stored-before", "modified": 5.0}
    reading = client.artifacts.read(parse("s1/a"))
    assert b"".join(reading.chunks(0, 2)) == b"ol"
    verbs.artifacts.extra["s1/a"] = {"state": "dirty", "version": "stored-before", "modified": 6.0}
    with pytest.raises(PreconditionFailed):
        list(reading.chunks(0, 2))


@pytest.mark.parametrize(
    "error", [ObjectNotFound("read", "x"), NoSuchSession("read", "x"), StoreUnreachable("get", "k", "refused")]
)
def test_an_error_before_the_first_byte_is_an_answer(
    client: ControlClient, verbs: FakeVerbs, path: Path, error: CacheSyncError
):
    verbs.artifacts.error = error
    with pytest.raises(type(error)) as caught:
        client.artifacts.read(parse("s1/a"))
    assert str(caught.value) == str(error)
    assert ask(path, "GET", "/v1/artifacts/s1/a").json()["error"]["kind"] == type(error).__name__


# -- errors in the middle ----------------------------------------------------------------------------------------------


def test_an_error_in_the_middle_breaks_the_connection(server: ControlServer, verbs: FakeVerbs, path: Path):
    def pieces(start: int) -> Iterator[bytes]:
        yield from pattern(3 * MIB, start)
        raise IntegrityError("read", "s1/a", "it is damaged")

    verbs.artifacts.pieces["s1/a"] = (8 * MIB, pieces)
    answer = ask(path, "GET", "/v1/artifacts/s1/a")
    assert answer.status == 200
    assert len(answer.body) < int(answer.headers["content-length"])
    assert b"error" not in answer.body


def test_the_client_hears_what_the_error_was(client: ControlClient, verbs: FakeVerbs):
    def pieces(start: int) -> Iterator[bytes]:
        yield from pattern(3 * MIB, start)
        raise FileChanging("read", "s1/a", "it would not hold still")

    verbs.artifacts.pieces["s1/a"] = (8 * MIB, pieces)
    got: list[bytes] = []
    with pytest.raises(FileChanging, match="hold still"):
        got.extend(client.artifacts.read(parse("s1/a")).chunks())
    assert 0 < sum(map(len, got)) <= 3 * MIB


def test_an_error_after_the_last_byte_is_no_success_either(client: ControlClient, verbs: FakeVerbs, path: Path):
    def pieces(start: int) -> Iterator[bytes]:
        yield from pattern(2 * MIB, start)
        raise IntegrityError("read", "s1/a", "its SHA-256 differs")

    verbs.artifacts.pieces["s1/a"] = (2 * MIB, pieces)
    answer = ask(path, "GET", "/v1/artifacts/s1/a")
    assert len(answer.body) < 2 * MIB
    with pytest.raises(IntegrityError):
        list(client.artifacts.read(parse("s1/a")).chunks())


def test_bytes_put_together_after_a_break_are_checked_as_a_whole(client: ControlClient, verbs: FakeVerbs):
    """The daemon finds the damage only when it has read everything; a second request reads only the rest."""

    def pieces(start: int) -> Iterator[bytes]:
        yield from pattern(2 * MIB, start)
        if not start:
            raise IntegrityError("read", "s1/a", "its SHA-256 differs")

    verbs.artifacts.pieces["s1/a"] = (2 * MIB, pieces)
    described = verbs.artifacts.describe("s1/a")
    verbs.artifacts.describe = lambda address: Artifact(  # type: ignore[method-assign]
        address, "file", "stored", described.size, 1.0, version="v", sha256="00" * 32
    )
    with pytest.raises(IntegrityError):
        list(client.artifacts.read(parse("s1/a")).chunks())


@pytest.mark.parametrize("size", [2 * MIB - 1, 2 * MIB + 1, 0])
def test_another_length_than_announced_is_an_error(client: ControlClient, verbs: FakeVerbs, path: Path, size: int):
    verbs.artifacts.pieces["s1/a"] = (2 * MIB, lambda start: pattern(size, start))
    answer = ask(path, "GET", "/v1/artifacts/s1/a")
    assert answer.status >= 500 or len(answer.body) < 2 * MIB
    with pytest.raises(StoreTransient):
        list(client.artifacts.read(parse("s1/a")).chunks())


def test_a_break_is_mended_by_another_request(client: ControlClient, verbs: FakeVerbs):
    tries = []

    def pieces(start: int) -> Iterator[bytes]:
        tries.append(start)
        for number, piece in enumerate(pattern(6 * MIB, start)):
            if number == 3 and len(tries) == 1:
                raise StoreTransient("get", "k", "reset")
            yield piece

    verbs.artifacts.pieces["s1/a"] = (6 * MIB, pieces)
    digest = hashlib.sha256()
    for piece in client.artifacts.read(parse("s1/a")).chunks():
        digest.update(piece)
    assert digest.digest() == hashlib.sha256(b"".join(pattern(6 * MIB))).digest()
    assert len(tries) == 2
    assert 0 < tries[1] <= 3 * MIB


def answering(path: Path, *answers: bytes) -> threading.Thread:
    """A daemon that answers each connection with the same bytes, whatever is asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def json_answer(told: object) -> bytes:
    body = json.dumps(told).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


DESCRIBED = {
    "artifact": Artifact("s1/a", "file", "stored", 10, version="v").json(),
    "source": "store",
    "unverified": False,
    "etag": "v",
}


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n01234",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789",
        b"HTTP/1.1 200 OK\r\n\r\n0123456789",
        b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 502 No\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_an_odd_answer_is_never_short_data(path: Path, answer: bytes):
    thread = answering(path, json_answer(DESCRIBED), answer)
    reading = ControlClient(path).artifacts.read(parse("s1/a"))
    with pytest.raises(DaemonUnavailable):
        list(reading.chunks())
    thread.join()


def test_a_daemon_that_dies_in_the_middle_is_an_error(path: Path):
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234"
    thread = answering(path, json_answer(DESCRIBED), half)
    reading = ControlClient(path).artifacts.read(parse("s1/a"))
    got: list[bytes] = []
    with pytest.raises(DaemonUnavailable):
        got.extend(reading.chunks())
    assert got == [b"01234"]
    thread.join()


# -- big ones, slow ones -----------------------------------------------------------------------------------------------


def test_a_big_read_is_whole_and_flat(client: ControlClient, verbs: FakeVerbs):
    verbs.artifacts.pieces["s1/big"] = (BIG, lambda start: pattern(BIG, start))
    expected = hashlib.sha256()
    for piece in pattern(BIG):
        expected.update(piece)
    got = hashlib.sha256()
    with Peak() as peak:
        for piece in client.artifacts.read(parse("s1/big")).chunks():
            assert len(piece) <= 4 * MIB
            got.update(piece)
    assert got.digest() == expected.digest()
    assert peak.bytes < 12 * MIB


class Made(io.RawIOBase):
    """``size`` bytes of the pattern as a file."""

    def __init__(self, size: int) -> None:
        self._pieces = pattern(size)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._left:
            self._left = next(self._pieces, b"")
        taken = self._left[: len(buffer)]
        self._left = self._left[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)


def test_a_big_put_is_whole_and_flat(client: ControlClient, verbs: FakeVerbs):
    got = hashlib.sha256()

    def store(source: BinaryIO) -> bytes:
        while piece := source.read(MIB):
            got.update(piece)
        return b"stored"

    verbs.artifacts.store_put = store
    expected = hashlib.sha256()
    for piece in pattern(BIG):
        expected.update(piece)
    with Peak() as peak:
        artifact = client.artifacts.put(parse("s1/big"), io.BufferedReader(Made(BIG)))
    assert artifact.address == "s1/big"
    assert got.digest() == expected.digest()
    assert peak.bytes < 12 * MIB


@contextmanager
def slow_readers(path: Path, target: str, number: int) -> Iterator[list[socket.socket]]:
    readers = []
    try:
        for _ in range(number):
            reader = socket.socket(socket.AF_UNIX)
            reader.settimeout(20)
            reader.connect(str(path))
            reader.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            readers.append(reader)
        yield readers
    finally:
        for reader in readers:
            reader.close()


def reading_threads() -> int:
    return sum(thread.name == "control-read" for thread in threading.enumerate())


def test_slow_readers_hold_up_nobody(client: ControlClient, verbs: FakeVerbs, path: Path):
    verbs.artifacts.pieces["s1/big"] = (BIG, lambda start: pattern(BIG, start))
    verbs.artifacts.contents["s1/small"] = b"x"
    with slow_readers(path, "/v1/artifacts/s1/big", 64):
        wait_for(lambda: reading_threads() == 64)
        assert client.status().root == "/r"
        assert client.flush("demo", timeout=1).stored
        assert [found.address for found in client.artifacts.list(parse_whole("s1/small"))] == ["s1/small"]
        assert client.artifacts.put(parse("s1/new"), io.BytesIO(b"y")).size == 1
        assert client.lifecycle.evict("demo").evicted == 2
    wait_for(lambda: reading_threads() == 0)
    assert b"".join(client.artifacts.read(parse("s1/small")).chunks()) == b"x"


def test_a_reader_that_stalls_is_let_go(
    client: ControlClient, verbs: FakeVerbs, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streams, "IDLE", 0.2)
    verbs.artifacts.pieces["s1/big"] = (BIG, lambda start: pattern(BIG, start))
    with slow_readers(path, "/v1/artifacts/s1/big", 2) as readers:
        wait_for(lambda: len(verbs.artifacts.readings) == 2)
        wait_for(lambda: reading_threads() == 0 and all(one.closed for one in verbs.artifacts.readings))
        raw = b""
        while part := readers[0].recv(1 << 20):
            raw += part
        assert len(Answer(raw).body) < BIG


def test_a_client_that_pauses_longer_than_that_still_gets_it_all(
    client: ControlClient, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streams, "IDLE", 0.2)
    size = 8 * MIB
    verbs.artifacts.pieces["s1/big"] = (size, lambda start: pattern(size, start))
    pieces = client.artifacts.read(parse("s1/big")).chunks()
    got = next(pieces)
    wait_for(lambda: reading_threads() == 0)
    got += b"".join(pieces)
    assert got == b"".join(pattern(size))


def test_a_reader_too_many_is_refused(verbs: FakeVerbs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(artifact_routes, "READS", 2)
    monkeypatch.setattr(artifact_routes, "WAIT", 0.1)
    path = tmp_path / "two.sock"
    verbs.artifacts.pieces["s1/big"] = (BIG, lambda start: pattern(BIG, start))
    with serving(verbs, path), slow_readers(path, "/v1/artifacts/s1/big", 2):
        wait_for(lambda: reading_threads() == 2)
        with pytest.raises(DaemonUnavailable, match="2 others"):
            list(ControlClient(path).artifacts.read(parse("s1/big")).chunks())


def test_stop_is_bounded_while_somebody_reads(verbs: FakeVerbs, path: Path):
    verbs.artifacts.pieces["s1/big"] = (BIG, lambda start: pattern(BIG, start))
    with serving(verbs, path) as server, slow_readers(path, "/v1/artifacts/s1/big", 3):
        wait_for(lambda: reading_threads() == 3)
        began = time.monotonic()
        server.stop(grace=0.2)
        assert time.monotonic() - began < 3
    wait_for(lambda: reading_threads() == 0)


# -- storing -----------------------------------------------------------------------------------------------------------


def test_put_hands_everything_on(client: ControlClient, verbs: FakeVerbs, path: Path):
    metadata = {"artifacttype": "dashboard", "note": "a b&c=d/é"}
    stored = client.artifacts.put(parse("s1/d.yaml"), io.BytesIO(b"hello"), content_type="text/x", metadata=metadata)
    assert stored == verbs.artifacts.describe("s1/d.yaml")
    assert verbs.artifacts.contents["s1/d.yaml"] == b"hello"
    assert verbs.artifacts.calls[-1] == ("put", parse("s1/d.yaml"), "text/x", metadata)
    answer = ask(path, "PUT", "/v1/artifacts/s1/e", body=b"")
    assert (answer.status, answer.json()) == (201, verbs.artifacts.describe("s1/e").json())
    assert list(verbs.artifacts.calls[-1][2:]) == [None, {}]


def test_put_of_what_is_there_already(client: ControlClient, verbs: FakeVerbs, path: Path):
    client.artifacts.put(parse("s1/a"), io.BytesIO(b"1"), overwrite=False)
    with pytest.raises(ArtifactExists, match="s1/a"):
        client.artifacts.put(parse("s1/a"), io.BytesIO(b"2"), overwrite=False)
    assert ask(path, "PUT", "/v1/artifacts/s1/a", "If-None-Match: *\r\n", body=b"2").status == 412
    assert verbs.artifacts.contents["s1/a"] == b"1"


def test_a_list_of_one_level(client: ControlClient, verbs: FakeVerbs):
    verbs.artifacts.contents |= {"s1/a": b"1", "s1/d/a": b"2"}
    found = [(one.address, one.kind) for one in client.artifacts.list(parse_whole("s1"), shallow=True)]
    assert found == [("s1/a", "file"), ("s1/d", "dir")]


def test_put_of_no_known_length_is_taken_too(server: ControlServer, verbs: FakeVerbs, path: Path):
    request = b"PUT /v1/artifacts/s1/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(request + b"3\r\nabc\r\n")
        connection.sendall(b"2\r\nde\r\n0\r\n\r\n")
        assert Answer(connection.recv(65536)).status == 201
    assert verbs.artifacts.contents["s1/a"] == b"abcde"


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_half_a_body_is_never_stored(
    server: ControlServer, verbs: FakeVerbs, client: ControlClient, path: Path, framing: str
):
    ended: list[BaseException | bytes] = []

    def store(source: BinaryIO) -> bytes:
        try:
            ended.append(source.read())
        except BaseException as error:
            ended.append(error)
            raise
        return b"never"

    verbs.artifacts.store_put = store
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(f"PUT /v1/artifacts/s1/a HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n3\r\nabc\r\n".encode())
        wait_for(lambda: any(call[0] == "put" for call in verbs.artifacts.calls))
    wait_for(lambda: ended)
    assert isinstance(ended[0], CacheSyncError)
    assert "s1/a" not in verbs.artifacts.contents
    assert client.status()


def test_a_source_that_fails_stores_nothing(client: ControlClient, verbs: FakeVerbs):
    class Broken(io.RawIOBase):
        reads = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            self.reads += 1
            if self.reads > 3:
                raise FileChanging("read", "local", "it changed")
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    with pytest.raises(FileChanging, match="it changed"):
        client.artifacts.put(parse("s1/a"), io.BufferedReader(Broken()))
    wait_for(lambda: not any(thread.name == "control-put" for thread in threading.enumerate()))
    assert verbs.artifacts.contents == {}


def test_a_refusal_in_the_middle_of_a_put_is_heard(client: ControlClient, verbs: FakeVerbs):
    def store(source: BinaryIO) -> bytes:
        source.read(10)
        raise StoreUnreachable("put", "k", "refused")

    verbs.artifacts.store_put = store
    with pytest.raises(StoreUnreachable):
        client.artifacts.put(parse("s1/a"), io.BufferedReader(Made(BIG)))


def test_a_sender_that_stalls_is_let_go(
    server: ControlServer, verbs: FakeVerbs, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streams, "IDLE", 0.2)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(b"PUT /v1/artifacts/s1/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        answer = Answer(connection.recv(65536))
    assert answer.status == 409
    assert answer.json()["error"]["kind"] == "FileUnreadable"


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/v1/artifacts/s1/a?metadata=x", ""),
        ("/v1/artifacts/s1/a?meta-=x", ""),
        ("/v1/artifacts/s1/a?meta-a%0d%0ab=x", ""),
        ("/v1/artifacts/s1/a?meta-a=x&meta-a=y", ""),
        ("/v1/artifacts/s1/a", "Content-Range: bytes 0-1/5\r\n"),
        ("/v1/artifacts/s1/a", "Content-Encoding: gzip\r\n"),
        ("/v1/artifacts/s1/a", 'If-Match: "x"\r\n'),
        ("/v1/artifacts/s1/a", 'If-None-Match: "x"\r\n'),
        ("/v1/artifacts/s1/", ""),
        ("/v1/artifacts/s1", ""),
    ],
)
def test_what_a_put_may_not_say(server: ControlServer, verbs: FakeVerbs, path: Path, target: str, headers: str):
    answer = ask(path, "PUT", target, headers, body=b"x")
    assert answer.status == 400
    assert answer.json()["error"]["exit_code"] == 2
    assert verbs.artifacts.calls == []


# -- lists -------------------------------------------------------------------------------------------------------------


def many(number: int) -> Iterator[Artifact]:
    return (Artifact(f"s1/{at:06}\n", "file", "stored", at) for at in range(number))


def test_a_long_list_comes_in_order(client: ControlClient, verbs: FakeVerbs, path: Path):
    verbs.artifacts.lists = lambda address: many(20_000)
    assert list(client.artifacts.list(parse_whole("s1/"))) == list(many(20_000))
    answer = ask(path, "GET", "/v1/list/s1/")
    assert "ndjson" in answer.headers["content-type"]
    assert verbs.artifacts.calls[-1] == ("list", Address(Space.SESSIONS, "s1"))


@pytest.mark.parametrize("text", ["", "s1", "s1/a b/", "projects", "projects/p", "projects/p/é/", "templates"])
def test_a_list_asks_for_the_address_it_was_given(client: ControlClient, verbs: FakeVerbs, text: str):
    verbs.artifacts.lists = lambda address: many(1)
    assert list(client.artifacts.list(parse_whole(text))) == list(many(1))
    assert verbs.artifacts.calls == [("list", parse_whole(text))]


def test_a_name_that_is_not_utf8_can_be_asked_for_again(client: ControlClient, verbs: FakeVerbs):
    name = os.fsdecode(b"s1/\xff")
    verbs.artifacts.lists = lambda address: iter([Artifact(name, "file", "failed")])
    [found] = client.artifacts.list(parse_whole("s1"))
    assert found.address == name


def test_an_error_at_the_start_of_a_list_has_its_status(client: ControlClient, verbs: FakeVerbs, path: Path):
    with pytest.raises(NoSuchSession):
        list(client.artifacts.list(parse_whole("ghost")))
    assert ask(path, "GET", "/v1/list/ghost").status == 404


def test_an_error_in_the_middle_of_a_list_is_an_error(client: ControlClient, verbs: FakeVerbs, path: Path):
    def broken(address: Address) -> Iterator[Artifact]:
        yield from many(5_000)
        raise StoreUnreachable("list", "s1", "refused")

    verbs.artifacts.lists = broken
    got: list[Artifact] = []
    with pytest.raises(StoreUnreachable):
        got.extend(client.artifacts.list(parse_whole("s1")))
    assert got == list(many(5_000))[: len(got)]
    answer = ask(path, "GET", "/v1/list/s1")
    assert b'"error":{"kind":"StoreUnreachable"' in answer.body
    assert not answer.body.endswith(b"0\r\n\r\n"), "curl must not take it for a whole answer"


@pytest.mark.parametrize("target", ["GET /v1/list/s1", "GET /v1/artifacts/s1/a", "POST /v1/sessions/demo/open"])
def test_a_client_that_goes_away_before_the_answer_is_no_error(
    server: ControlServer, verbs: FakeVerbs, path: Path, target: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    asked, gone, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: object) -> Iterator[Any]:
        asked.set()
        assert gone.wait(10)
        try:
            yield from many(5_000) if "list" in target else [b"x" * 100_000] * 3
        finally:
            ended.set()

    verbs.artifacts.lists = slow
    verbs.artifacts.pieces["s1/a"] = (300_000, slow)
    verbs.lifecycle.steps = threading.Semaphore(0)
    connection = connect(path, 5)
    connection.sendall(f"{target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    if "open" in target:
        wait_for(lambda: verbs.lifecycle.calls)
    else:
        assert asked.wait(10)
    connection.close()
    time.sleep(0.3)  # the server has to hear of it; nothing tells when it has
    gone.set()
    verbs.lifecycle.steps.release(100)
    end = verbs.lifecycle.finished if "open" in target else ended

    def over() -> bool:
        gc.collect()  # what a thread was sending is dropped, not closed
        return end.is_set()

    wait_for(over)
    ControlClient(path).status()
    assert [record for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []


@pytest.mark.parametrize("body", [b"", b'1a\r\n{"address":"s1/a","kind":"f'])
def test_half_a_list_is_an_error(path: Path, body: bytes):
    thread = answering(path, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    with pytest.raises(DaemonUnavailable):
        list(ControlClient(path).artifacts.list(parse_whole("s1")))
    thread.join()


# -- the others --------------------------------------------------------------------------------------------------------


def test_the_other_verbs_of_artifacts(client: ControlClient, verbs: FakeVerbs, path: Path):
    verbs.artifacts.contents["s1/a"] = b"x"
    address = parse("s1/a")
    assert client.artifacts.url(address, expires=5, version_id="v1") == "https://bucket/s1/a?X-Amz-Expires=5"
    assert client.artifacts.history(address) == verbs.artifacts.history(address)
    assert all(isinstance(one, PastVersion) for one in client.artifacts.history(address))
    assert client.artifacts.restore(address, version_id="v0") == verbs.artifacts.describe("s1/a")
    assert verbs.artifacts.calls[-1] == ("restore", address, "v0")
    client.artifacts.remove(address)
    with pytest.raises(ObjectNotFound):
        client.artifacts.remove(address)
    assert ask(path, "POST", "/v1/url/s1/a").json() == {"url": "https://bucket/s1/a?X-Amz-Expires=3600"}
    assert len(ask(path, "GET", "/v1/history/s1/a").json()["versions"]) == 2
    assert ask(path, "DELETE", "/v1/artifacts/s1/a").status == 404


HOSTILE = [
    "..",
    "../etc/passwd",
    "%2e%2e/etc/passwd",
    "s1/..",
    "s1/../s2/a",
    "s1/%2e%2e/s2/a",
    "s1/a%2f..%2f..%2fs2",
    "s1/%2fetc/passwd",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "s1//a",
    "s1/a%00b",
    "%00/a",
    ".cachesync/journal.db",
    "s1%0a/a",
    "%ff/a",
    "projects/../x",
    "projects/%2e%2e/x",
    "projects//x",
    "templates/../x",
    "templates/%2e%2e%2fx",
    "templates//etc/passwd",
]


@pytest.mark.parametrize("address", HOSTILE)
@pytest.mark.parametrize(
    "asked", ["GET /v1/artifacts/", "PUT /v1/artifacts/", "DELETE /v1/artifacts/", "GET /v1/list/", "POST /v1/url/"]
)
def test_hostile_addresses_reach_nothing(server: ControlServer, verbs: FakeVerbs, path: Path, asked: str, address: str):
    method, target = asked.split(" ")
    answer = ask(path, method, target + address)
    assert answer.status == 400
    assert answer.json()["error"]["exit_code"] == 2
    assert verbs.artifacts.calls == []


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v1/artifacts/s1/a?versionid=1", 400),
        ("GET", "/v1/artifacts/s1/a?describe=maybe", 400),
        ("GET", "/v1/list/s1?recursive=1", 400),
        ("POST", "/v1/url/s1/a?expires=604801", 400),
        ("POST", "/v1/url/s1/a?expires=-1", 400),
        ("GET", "/v1/list/s1?shallow=perhaps", 400),
        ("POST", "/v1/url/s1/a?expires=nan", 400),
        ("GET", "/v1/history/s1/a?x=1", 400),
        ("POST", "/v1/restore/s1/a?version=1", 400),
        ("HEAD", "/v1/artifacts/s1/a", 405),
        ("POST", "/v1/artifacts/s1/a", 405),
        ("GET", "/v1/artifacts/", 404),
        ("GET", "/v1/listing", 404),
        ("POST", "/v1/sessions?name=x", 400),
        ("POST", "/v1/sessions?session=a&session=b", 400),
        ("POST", "/v1/sessions?session=..", 400),
        ("POST", "/v1/sessions/demo/open?lasy=1", 400),
        ("POST", "/v1/sessions/demo/open?into=here", 400),
        ("POST", "/v1/sessions/../open", 400),
        ("POST", "/v1/sessions/%2e%2e/evict", 400),
        ("POST", "/v1/sessions/demo/close?timeout=1h", 400),
        ("POST", "/v1/sessions/demo/evict?forced=1", 400),
        ("POST", "/v1/sessions/demo/verify?x=1", 400),
        ("GET", "/v1/sessions/demo/open", 405),
    ],
)
def test_what_is_not_known_is_refused(
    server: ControlServer, verbs: FakeVerbs, path: Path, method: str, target: str, status: int
):
    answer = ask(path, method, target)
    assert answer.status == status
    assert verbs.artifacts.calls == []
    assert verbs.lifecycle.calls == []


@pytest.mark.parametrize(
    "name",
    ["a b", "a\nb", "q?versionId=1#x", "[*]", "100%", "%2F", "é/ü", "e\u0301", os.fsdecode(b"\xff\xfe"), "a\\b", "+"],
)
def test_names_survive(client: ControlClient, verbs: FakeVerbs, name: str):
    verbs.artifacts.contents[f"s1/{name}"] = b"x"
    address = Address(Space.SESSIONS, "s1", name)
    assert b"".join(client.artifacts.read(address).chunks()) == b"x"
    assert client.artifacts.read(address).artifact.address == f"s1/{name}"
    client.artifacts.put(address, io.BytesIO(b"y"))
    client.artifacts.remove(address)
    assert {call[1] for call in verbs.artifacts.calls} == {address}


# -- a session's life --------------------------------------------------------------------------------------------------


def test_the_verbs_of_a_sessions_life(client: ControlClient, verbs: FakeVerbs, tmp_path: Path):
    lifecycle = verbs.lifecycle
    lifecycle.opened = OpenReport("demo", "/r/demo", 1, 2, failed=BAD, pending=LEFT, seconds=1.0)
    lifecycle.evicted = EvictReport("demo", 1, 2, kept=LEFT)
    lifecycle.verified = VerifyReport("demo", 3, 30, differences=BAD, pending=LEFT)
    lifecycle.closed = CloseReport(FlushReport("demo", stored=False, pending=LEFT), closed=False, evicted=None)
    assert client.lifecycle.new() == "session-1"
    assert client.lifecycle.new("a", project="p", workspace="w", templates=["t/1", "t 2"]) == "a"
    with pytest.raises(UsageError):
        client.lifecycle.new("demo")
    opened = client.lifecycle.open("demo", lazy=True, into=str(tmp_path), timeout=2.5)
    assert (opened.json(), opened.exit_code) == (lifecycle.opened.json(), 1)
    assert client.lifecycle.evict("demo") == lifecycle.evicted
    verified = client.lifecycle.verify("demo")
    assert (verified.json(), verified.exit_code) == (lifecycle.verified.json(), 1)
    closed = client.lifecycle.close("demo", keep=True, timeout=7.5, confirm_deletes=True)
    assert closed.json() == lifecycle.closed.json()
    assert closed.exit_code == 4
    assert client.lifecycle.evict("demo", force=True) == lifecycle.evicted
    assert client.lifecycle.close("demo", timeout=1.0, force=True).json() == lifecycle.closed.json()
    assert lifecycle.calls == [
        ("new", None, None, None, []),
        ("new", "a", "p", "w", ["t/1", "t 2"]),
        ("new", "demo", None, None, []),
        ("open", "demo", True, str(tmp_path), 2.5),
        ("evict", "demo"),
        ("verify", "demo"),
        ("close", "demo", True, 7.5, True),
        ("evict", "demo", "force"),
        ("close", "demo", False, 1.0, False, "force"),
    ]


def test_close_and_evict_say_their_outcome_in_the_http_status_too(server: ControlServer, verbs: FakeVerbs, path: Path):
    assert ask(path, "POST", "/v1/sessions/demo/close").status == 200
    assert ask(path, "POST", "/v1/sessions/demo/evict").status == 200
    verbs.lifecycle.evicted = EvictReport("demo", kept=LEFT)
    assert ask(path, "POST", "/v1/sessions/demo/evict").status == 504
    assert ask(path, "POST", "/v1/sessions?template=a&template=b").status == 201


def test_an_open_tells_how_far_it_is(client: ControlClient, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lifecycle_routes, "INTERVAL", 0.01)
    steps = verbs.lifecycle.steps = threading.Semaphore(0)
    seen: list[Progress] = []

    def progress(step: Progress) -> None:
        if step.files and (not seen or seen[-1] != step):
            seen.append(step)
            steps.release()

    assert client.lifecycle.open("demo", progress=progress).json() == verbs.lifecycle.opened.json()
    assert seen == verbs.lifecycle.progresses


def test_a_quick_error_has_its_status_and_a_late_one_its_line(
    client: ControlClient, verbs: FakeVerbs, path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert ask(path, "POST", "/v1/sessions/ghost/verify").status == 404
    with pytest.raises(NoSuchSession):
        client.lifecycle.verify("ghost")
    monkeypatch.setattr(lifecycle_routes, "INTERVAL", 0.01)
    verbs.lifecycle.error = StoreUnreachable("list", "demo", "refused")
    verbs.lifecycle.steps = threading.Semaphore(0)

    def progress(step: Progress) -> None:
        verbs.lifecycle.steps.release()  # type: ignore[union-attr]

    with pytest.raises(StoreUnreachable, match="refused"):
        client.lifecycle.verify("demo", progress=progress)


def test_a_client_that_goes_away_does_not_stop_an_open(
    client: ControlClient, verbs: FakeVerbs, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lifecycle_routes, "INTERVAL", 0.01)
    monkeypatch.setattr(lifecycle_routes, "HEARTBEAT", 0.02)
    verbs.lifecycle.steps = threading.Semaphore(0)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"POST /v1/sessions/demo/open HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"progress" in connection.recv(65536) + connection.recv(65536)
    time.sleep(0.1)
    assert not verbs.lifecycle.finished.is_set()
    verbs.lifecycle.steps.release(10)
    assert verbs.lifecycle.finished.wait(10)
    assert client.status()


def test_a_silent_verb_is_still_heard_of(client: ControlClient, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch):
    """The client would give up, were it not told again and again that the daemon lives."""
    monkeypatch.setattr(lifecycle_routes, "INTERVAL", 0.02)
    monkeypatch.setattr(lifecycle_routes, "HEARTBEAT", 0.05)
    monkeypatch.setattr(http_client, "READ_TIMEOUT", 0.5)
    steps = verbs.lifecycle.steps = threading.Semaphore(0)
    threading.Timer(1.0, lambda: steps.release(10)).start()
    assert client.lifecycle.open("demo").json() == verbs.lifecycle.opened.json()


def test_a_daemon_that_dies_during_an_open_is_an_error(path: Path):
    line = b'{"progress":{}}\n'
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    thread = answering(path, head + b"%x\r\n%b\r\n" % (len(line), line), head + b"0\r\n\r\n")
    for _ in range(2):
        with pytest.raises(DaemonUnavailable):
            ControlClient(path).lifecycle.open("demo")
    thread.join()


def test_waiting_opens_hold_up_no_close(client: ControlClient, verbs: FakeVerbs):
    verbs.lifecycle.steps = threading.Semaphore(0)
    with ThreadPoolExecutor(32) as pool:
        opens = [pool.submit(client.lifecycle.open, "demo") for _ in range(32)]
        wait_for(lambda: sum(call[0] == "open" for call in verbs.lifecycle.calls) == 32)
        assert client.lifecycle.close("demo", timeout=1).closed
        assert client.status()
        verbs.lifecycle.steps.release(1000)
        assert all(one.result().files == verbs.lifecycle.opened.files for one in opens)


# -- the public client -------------------------------------------------------------------------------------------------


def test_the_public_client_takes_addresses_as_text(server: ControlServer, verbs: FakeVerbs, path: Path):
    client = Client(path)
    stored = client.artifacts.put("s1/a.txt", b"hello", metadata={"artifacttype": "x"})
    assert stored.size == 5
    with client.artifacts.read("s1/a.txt") as reading:
        assert b"".join(reading.chunks()) == b"hello"
    assert [found.address for found in client.artifacts.list("s1")] == ["s1/a.txt"]
    assert client.artifacts.url("s1/a.txt", expires=60).startswith("https://")
    assert client.artifacts.history("s1/a.txt")[0].deleted
    assert client.artifacts.restore("s1/a.txt").address == "s1/a.txt"
    client.artifacts.remove("s1/a.txt")
    with pytest.raises(UsageError):
        client.artifacts.read("../etc/passwd")
    assert client.open("demo").files == 3
    assert client.close("demo").closed
    assert client.evict("demo").evicted == 2
    assert client.verify("demo").verified
    assert client.new(project="p") == "session-1"
    assert client.flush("demo").stored
    assert client.status().root == "/r"
    assert client.sessions() == []


def test_the_public_client_finds_the_socket_as_every_command_does(
    verbs: FakeVerbs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with serving(verbs, tmp_path / "root" / ".cachesync" / "control.sock"):
        assert Client(root=tmp_path / "root").status().root == "/r"
        monkeypatch.setenv("CACHESYNC_ROOT", str(tmp_path / "root"))
        assert Client().status().root == "/r"
    with pytest.raises(DaemonUnavailable):
        Client().status()


# -- what a command costs ----------------------------------------------------------------------------------------------

HEAVY = {"aiohttp", "asyncio", "s3fs", "botocore", "aiobotocore", "sqlite3", "watchdog", "diskcache", "tenacity"}
PROBE = """
import sys
from cachesync.cli import main
code = main(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words", [("ls", "s1"), ("cat", "s1/a"), ("put", "file", "s1/b"), ("url", "s1/a"), ("open", "demo")]
)
def test_a_command_through_the_daemon_imports_nothing_heavy(
    server: ControlServer, verbs: FakeVerbs, path: Path, tmp_path: Path, words: tuple[str, ...]
):
    verbs.artifacts.contents["s1/a"] = b"x"
    (tmp_path / "file").write_bytes(b"y")
    command = [sys.executable, "-c", PROBE, "--root", "root", "--socket", str(path), *words]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert not HEAVY & set(done.stderr.split())
