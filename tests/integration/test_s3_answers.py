"""Answers that no server should give: none is taken for another, or holds anybody up; each is an error of ours."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from cachesync.model.errors import StoreTransient
from cachesync.store.s3 import client, download
from cachesync.store.s3 import wire as s3_wire
from cachesync.store.s3.client import S3Settings
from cachesync.store.s3.connection import ConnectFailed, Garbled
from cachesync.store.s3.store import S3Store
from cachesync.store.s3.wire import Wire
from tests.bodies import PLAIN, Bytes
from tests.integration.test_s3_wire import Serve, Server, always, certificate, got, request_of, talking

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def store_on(serve: Serve, where: str = "http://127.0.0.1:{port}", timeout: float = 5.0) -> Iterator[S3Store]:
    server = Server(serve)
    endpoint = where.format(port=server.port)
    settings = S3Settings("b", endpoint, "us-east-1", path_style=True, key="k", secret="s", timeout=timeout)
    with contextlib.closing(S3Store(settings)) as store:
        yield store
    server.stop()


@pytest.mark.parametrize(
    "ending",
    [
        *(CHUNKED + size + b"\r\nabc\r\n0\r\n\r\n" for size in (b"-5", b"0x3", b"+3", b"0_3")),
        b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    ],
)
def test_what_is_no_length_is_an_error(ending):
    with talking(always(OK + ending)) as (wire, _), pytest.raises(Garbled):
        got(wire)


def test_an_answer_of_two_kinds_ends_its_connection():
    answer = OK + b"Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with talking(always(answer)) as (wire, server):
        assert [got(wire), got(wire)] == [(200, b"abc")] * 2
        assert server.connections == 2


@pytest.mark.parametrize(
    ("page", "why"),
    [(b"<html><body>Please log in</body></html>", "not an S3 document"), (b"<ListBucketResult/>", "no IsTruncated")],
)
def test_a_page_that_is_no_listing_is_no_empty_one(page, why):
    answer = OK + b"Content-Length: %d\r\n\r\n" % len(page) + page
    with store_on(always(answer)) as store, pytest.raises(StoreTransient, match=why):
        list(store.list("sessions/s/"))


def test_under_tls_no_answer_is_taken_for_the_next_one(tmp_path):
    both = certificate(tmp_path)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(both)
    after = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        with contextlib.suppress(ssl.SSLError), ours.wrap_socket(connection, server_side=True) as wrapped:
            while request_of(wrapped):
                wrapped.sendall(OK + b"Content-Length: 1\r\n\r\na")
                if not number:
                    wrapped.sendall(OK + b"Content-Length: 5\r\n\r\nstale")
                    after.set()

    server = Server(serve)
    trusting = ssl.create_default_context(cafile=both)
    wire = Wire("localhost", server.port, trusting, connect_timeout=2.0, silence=5.0)
    assert got(wire) == (200, b"a")
    assert after.wait(5)
    assert [got(wire), got(wire)] == [(200, b"a")] * 2
    assert server.connections == 2
    wire.close()
    server.stop()


def test_under_tls_who_refuses_a_body_is_heard(tmp_path):
    both = certificate(tmp_path)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(both)
    heard = threading.Event()

    def serve(connection: socket.socket, _number: int) -> None:
        with contextlib.suppress(ssl.SSLError), ours.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(1000)
            wrapped.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
            heard.wait(0.3)  # it is on its way before the connection breaks

    server = Server(serve)
    trusting = ssl.create_default_context(cafile=both)
    wire = Wire("localhost", server.port, trusting, connect_timeout=2.0, silence=5.0)
    assert got(wire, "PUT", b"x" * 30_000_000) == (503, b"slow")
    wire.close()
    server.stop()


def test_connections_that_a_rush_left_behind_are_let_go(monkeypatch):
    monkeypatch.setattr(s3_wire, "KEPT", 0.2)
    here = threading.Barrier(8)

    def serve(connection: socket.socket, number: int) -> None:
        request_of(connection)
        if number < here.parties:
            here.wait(5)
        connection.sendall(EMPTY)
        always(EMPTY)(connection, number)

    with talking(serve) as (wire, server):
        rush = [threading.Thread(target=got, args=(wire,)) for _ in range(here.parties)]
        for thread in rush:
            thread.start()
        for thread in rush:
            thread.join()
        assert len(wire._idle) == here.parties
        begun = time.monotonic()
        while time.monotonic() - begun < 0.3:  # one of them is used on, the others grow old
            got(wire)
        assert len(wire._idle) == 1
        assert server.connections == here.parties


def test_a_host_of_many_addresses_that_are_all_deaf_has_one_time_to_connect(monkeypatch):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as full:
        for _ in range(4):  # what its queue does not hold is not answered
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        real, here = socket.getaddrinfo, "127.0.0.1"
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *a, **n: real(here, *a, **n) * (8 if host == "many.test" else 1)
        )
        wire = Wire("many.test", listener.getsockname()[1], None, connect_timeout=0.5, silence=5.0)
        begun = time.monotonic()
        with pytest.raises(ConnectFailed):
            got(wire)
        assert time.monotonic() - begun < 1.5


TAG = b'ETag: "x"\r\n'


@pytest.mark.parametrize(
    "head",
    [
        TAG + b"Content-Length: abc\r\n\r\n",
        TAG + b"Content-Length: 3\r\nLast-Modified: yesterday\r\n\r\nabc",
        TAG + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        TAG + b"Connection: close\r\n\r\nabc",
        TAG + b"Content-Length: 3\r\nContent-Range: bytes 0-2/*\r\n\r\nabc",
    ],
    ids=["length", "date", "chunks", "no length", "size unknown"],
)
def test_what_is_told_of_an_object_is_understood_or_an_error_of_ours(head):
    def serve(connection: socket.socket, _number: int) -> None:
        while request := request_of(connection):
            connection.sendall(OK + (head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request[:1] == b"H" else head))
            if b"close" in head:
                return

    with store_on(serve) as store:
        with pytest.raises(StoreTransient):
            store.get("k")
        if b"Content-Range" not in head:
            with pytest.raises(StoreTransient):
                store.head("k")


def test_who_takes_a_file_and_names_no_version_has_not_stored_it():
    """As the page does, with which a hotel's network answers everything."""

    def serve(connection: socket.socket, _number: int) -> None:
        while request := request_of(connection):
            refused = b"/probe " in request.partition(b"\r\n")[0]
            named = b"x-amz-request-id: 1\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(b"HTTP/1.1 412 No\r\n" + named if refused else OK + named)

    with store_on(serve) as store, pytest.raises(StoreTransient, match="no ETag"):
        store.put("k", Bytes(b"x"), PLAIN, expect=None)


def test_a_slow_line_is_no_silence(monkeypatch):
    monkeypatch.setattr(client, "ANSWER", 0.5)
    size = download.PIECE

    def serve(connection: socket.socket, _number: int) -> None:
        request_of(connection)
        connection.sendall(OK + TAG + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(16):
            time.sleep(0.1)
            connection.sendall(bytes(size // 16))

    with store_on(serve) as store:
        assert len(b"".join(store.get("k").chunks)) == size


@pytest.mark.parametrize("code", [b"AuthorizationHeaderMalformed", b"IllegalLocationConstraintException", b""])
def test_a_bucket_in_another_region_is_left_to_botocore(monkeypatch, code):
    """S3 does not redirect every request that is signed for the wrong region, and tells HEAD no reason."""
    body = b"<Error><Code>%s</Code><Region>eu-west-1</Region></Error>" % code if code else b""

    def serve(connection: socket.socket, _number: int) -> None:
        while request := request_of(connection):
            region = request.partition(b"Credential=")[2].split(b"/")[2]
            if region != b"eu-west-1":
                told = b"x-amz-bucket-region: eu-west-1\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n" + told + (b"" if request[:1] == b"H" else body))
            else:
                connection.sendall(OK + TAG + b"Content-Length: 3\r\n\r\n" + (b"" if request[:1] == b"H" else b"abc"))

    with store_on(serve) as store:
        if code:
            assert b"".join(store.get("k").chunks) == b"abc"
        else:
            assert store.head("k").size == 3


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("http://LOCALHOST:80/under/this", "localhost"),
        ("http://user:word@localhost:8333", "localhost:8333"),
        ("http://[::1]:8333", "[::1]:8333"),
    ],
)
def test_the_host_is_named_as_botocore_names_it(endpoint, host):
    settings = S3Settings("b", endpoint, "us-east-1", path_style=True, key="k", secret="s")
    with contextlib.closing(S3Store(settings)) as store:
        address = store.client.direct._found("find", "k").address
        assert address is not None
        assert address.host == host
