"""A store that sends its callers elsewhere: to another host, to another region, to another time. P16: nothing that we
hold goes where the store was not configured to be."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachesync.model.errors import CacheSyncError, StoreError, StorePermanent
from cachesync.model.values import Version
from cachesync.store.s3 import direct
from cachesync.store.s3.client import S3Settings
from cachesync.store.s3.errors import WrongRegion
from cachesync.store.s3.store import S3Store
from cachesync.store.s3.wire import Wire
from tests.bodies import PLAIN, Bytes
from tests.integration.test_s3_wire import Server, request_of
from tests.servers import SeaweedServer, by_botocore

VERBS: dict[str, Callable[[S3Store], object]] = {
    "get": lambda store: b"".join(store.get("k").chunks),
    "get a part": lambda store: b"".join(store.get("k", start=2, length=5).chunks),
    "head": lambda store: store.head("k"),
    "put": lambda store: store._put_whole("k", Bytes(b"precious"), PLAIN, Version("e")),
    "list": lambda store: list(store.list("")),
    "versions": lambda store: list(store.archive.history("")),
}
either_way = pytest.mark.parametrize("way", ["ours", "botocore"])
each_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


class Scripted:
    """A server that answers each request by ``answer(request)``; ``requests`` are those that came."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._server = Server(self._serve)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"

    def _serve(self, connection: socket.socket, _number: int) -> None:
        while request := request_of(connection):
            self.requests.append(request)
            connection.sendall(self._answer(request))

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def script() -> Iterator[Callable[..., Scripted]]:
    with contextlib.ExitStack() as stack:

        def make(answer: Callable[[bytes], bytes]) -> Scripted:
            server = Scripted(answer)
            stack.callback(server.stop)
            return server

        yield make


@contextlib.contextmanager
def opened(endpoint: str | None, way: str, patch: pytest.MonkeyPatch, **changes: Any) -> Iterator[S3Store]:
    if way == "botocore":
        by_botocore(patch)
    given: dict[str, Any] = {
        "region": "us-east-1",
        "key": "k",
        "secret": "s",
        "token": "SECRET-TOKEN",
        "path_style": True,
        "timeout": 5,
    }
    with contextlib.closing(S3Store(S3Settings("buck-et", endpoint, **(given | changes)))) as store:
        yield store


def refusal(status: int, code: str = "", *headers: str, region: str = "") -> bytes:
    named = f"<Region>{region}</Region>" if region else ""
    text = f"<Error><Code>{code}</Code><Message>m</Message>{named}</Error>" if code else ""
    lines = [f"HTTP/1.1 {status} S", "x-amz-request-id: 1", f"Content-Length: {len(text)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + text).encode()


# -- to another host ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["http", "https"])
@each_verb
@either_way
def test_p16_a_redirect_is_not_followed(script, monkeypatch, way, verb, where, status):
    """Neither with the token nor with a body; and what stands there is not taken for the artifact."""
    other = script(lambda _: b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 6\r\n\r\nstolen')
    place = other.endpoint.replace("http", where, 1) + "/b/k"
    store_server = script(lambda _: refusal(status, "", f"Location: {place}", "x-amz-bucket-region: us-east-1"))
    with opened(store_server.endpoint, way, monkeypatch) as store, pytest.raises(StoreError) as error:
        verb(store)
    assert isinstance(error.value, WrongRegion)
    assert "endpoint" in error.value.hint
    assert place not in str(error.value)
    assert other._server.connections == 0
    assert len(store_server.requests) == (2 if verb is VERBS["head"] else 1)  # a HEAD is asked again for its cause


# -- to another region -------------------------------------------------------------------------------------------------


def of_region(region: str) -> Callable[[bytes], bytes]:
    """A store that takes what is signed for ``region`` only, and says what MinIO and Ceph say to all else."""

    def answer(request: bytes) -> bytes:
        if f"/{region}/s3/".encode() not in request:
            told = refusal(400, "AuthorizationHeaderMalformed", region=region)
            return refusal(400, "", f"x-amz-bucket-region: {region}") if request.startswith(b"HEAD") else told
        size = b"0" if request.startswith(b"PUT") else b"3"
        head = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nx-amz-request-id: 1\r\nContent-Length: ' + size + b"\r\n\r\n"
        return head + (b"abc" if request.startswith(b"GET") else b"")

    return answer


@pytest.mark.parametrize("verb", ["get", "head", "put"])
@either_way
def test_another_region_of_ones_own_endpoint_is_signed_for(script, monkeypatch, caplog, way, verb):
    server = script(of_region("eu-north-1"))
    with opened(server.endpoint, way, monkeypatch) as store:
        for asked in (2, 3):  # and from then on
            VERBS[verb](store)
            assert len(server.requests) == asked
    assert "eu-north-1" in caplog.text


@each_verb
@either_way
def test_a_region_that_changes_all_the_time_is_an_error(script, monkeypatch, way, verb):
    count = iter(range(1000))
    server = script(lambda request: of_region(f"r-{next(count)}")(request))  # noqa: PLW0108 -- another one each time
    with opened(server.endpoint, way, monkeypatch) as store, pytest.raises(WrongRegion):
        verb(store)
    assert len(server.requests) <= 4


class Said:
    """An answer without a connection."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.status = status
        self.headers = {"x-amz-request-id": "1"} | {name.replace("_", "-"): value for name, value in headers.items()}
        self._body = body

    def text(self, _deadline: float, _most: int = 0) -> bytes:
        return self._body

    def read(self, size: int, _deadline: float) -> bytes:
        part, self._body = self._body[:size], self._body[size:]
        return part

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, no_aws: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """AWS, where a bucket is in ``real`` and every other region sends the caller on to ``told``; returns the hosts."""

    def begin(told: str, real: str = "eu-west-1") -> list[str]:
        asked: list[str] = []

        def ask(wire: Any, verb: str, target: str, headers: dict[str, str], *_: object) -> Said:
            asked.append(wire._host)
            assert wire._context is not None, "TLS"
            if f".{real}." in wire._host and f"/{real}/" in headers["authorization"]:
                return Said(200, b"abc", etag='"e"', content_length="3")
            return Said(307, location="http://evil.example/", x_amz_bucket_region=told)

        monkeypatch.setattr(Wire, "ask", ask)
        return asked

    return begin


@pytest.mark.parametrize("path_style", [True, False])
@pytest.mark.parametrize("region", ["us-east-1", "us-west-2", None])
def test_at_aws_the_host_is_made_of_the_region(hosts, monkeypatch, region, path_style):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    asked = hosts("eu-west-1")
    with opened(None, "ours", monkeypatch, region=region, path_style=path_style) as store:
        assert b"".join(store.get("k").chunks) == b"abc"
        assert b"".join(store.get("k").chunks) == b"abc"
    name = "s3.eu-west-1.amazonaws.com" if path_style else "buck-et.s3.eu-west-1.amazonaws.com"
    assert asked[1:] == [name, name]


@pytest.mark.parametrize(
    "told",
    ["", "evil.example", "eu-west-1.evil.example", "eu-west-1.evil.example/", "evil.example#", "x@evil", "EU-WEST-1",
     "cn-north-1", "us-gov-west-1", "us-iso-east-1", "eu-west-1\u2028", "eu_west_1", "eu-west-1\0", "a" * 64, "-", "é"],
)  # fmt: skip
def test_p16_what_is_no_region_of_aws_is_not_followed(hosts, monkeypatch, told):
    asked = hosts(told)
    with opened(None, "ours", monkeypatch, region="us-west-2") as store, pytest.raises(WrongRegion):
        store.get("k")
    assert asked == ["s3.us-west-2.amazonaws.com"]


# -- to another time ---------------------------------------------------------------------------------------------------


def clock(off: float) -> Any:
    """The time module on a machine whose clock is so many seconds off."""
    names = {name: getattr(time, name) for name in ("monotonic", "strftime", "gmtime")}
    return types.SimpleNamespace(**names, time=lambda: time.time() + off)


@pytest.mark.parametrize("off", [-86_400.0, -1_000.0, 1_000.0, 400 * 86_400.0])
@pytest.mark.parametrize("first", ["get", "head", "put", "list", "large"])
def test_a_wrong_clock_is_corrected_from_the_store_s(seaweed: SeaweedServer, bucket, monkeypatch, caplog, off, first):
    seaweed.make_bucket(bucket)
    with contextlib.closing(S3Store(seaweed.settings(bucket))) as store:
        stored = store.put("k", Bytes(b"x"), PLAIN, expect=None)
        monkeypatch.setattr(direct, "time", clock(off))
        if first == "get":
            assert b"".join(store.get("k").chunks) == b"x"
        elif first == "head":
            assert store.head("k").size == 1
        elif first == "list":
            assert [info.key for info in store.list("")] == ["k"]
        else:
            store.put("k", Bytes(b"y" * (3_000_000 if first == "large" else 1)), PLAIN, expect=stored.version)
        assert caplog.text.count("clock is") == 1
        store.head("k")
        assert caplog.text.count("clock is") == 1
        monkeypatch.setattr(direct, "time", time)
        assert store.head("k").size in (1, 3_000_000)
        assert store.client.direct._ahead == 0.0
    assert caplog.text.count("signed with the store's time") == 1


def test_p16_no_time_is_taken_from_where_others_can_change_it(seaweed: SeaweedServer, bucket, monkeypatch):
    """A signature for a later time is one that they can use then."""
    seaweed.make_bucket(bucket)
    with contextlib.closing(S3Store(seaweed.settings(bucket))) as store:
        store.check_conditional()
        monkeypatch.setattr(store.client.direct, "_signed", True)  # as for http://somewhere
        monkeypatch.setattr(direct, "time", clock(-5_000.0))
        with pytest.raises(StorePermanent, match="RequestTimeTooSkewed") as error:
            store.get("k")
    assert "clock" in error.value.hint


def test_a_refusal_at_the_right_time_is_asked_once(script, monkeypatch):
    now = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    for date in (now, "soon", "Sun, 06 Nov 99999 08:49:37 GMT"):
        server = script(lambda _, date=date: refusal(403, "AccessDenied", f"Date: {date}"))
        with opened(server.endpoint, "ours", monkeypatch) as store, pytest.raises(CacheSyncError):
            store.get("k")
        assert len(server.requests) == 1


# -- a name that is not resolved ---------------------------------------------------------------------------------------


def test_a_lookup_that_hangs_keeps_to_the_deadline(monkeypatch):
    hung, looked = threading.Event(), []
    real = socket.getaddrinfo

    def look(host: Any, *rest: Any, **named: Any) -> Any:
        looked.append(host)
        hung.wait(30)
        return real("127.0.0.1", *rest, **named)

    server = Server(lambda connection, _: connection.sendall(b"HTTP/1.1 204 No\r\n\r\n"))
    wire = Wire("store.example", server.port, None, connect_timeout=0.3, silence=5.0)
    monkeypatch.setattr(socket, "getaddrinfo", look)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            wire.ask("GET", "/", {}, b"", time.monotonic() + 5)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - begun < 5
    assert [str(error) for error in errors] == [
        f"cannot connect to store.example:{server.port}: its name was not resolved in time"
    ] * 8
    assert len(looked) == 1, "one lookup, however many wait"
    hung.set()
    monkeypatch.setattr(wire, "_connect_timeout", 5.0)
    assert wire.ask("GET", "/", {}, b"", time.monotonic() + 5).status == 204
    wire.close()
    server.stop()


def test_a_name_that_is_none_is_told_each_time(monkeypatch):
    def look(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look)
    wire = Wire("store.example", 80, None, connect_timeout=1.0, silence=5.0)
    for _ in range(2):
        with pytest.raises(OSError, match=re.escape("Name or service not known")):
            wire.ask("GET", "/", {}, b"", time.monotonic() + 5)
