"""HTTP as servers speak it, well and badly, over real sockets."""

import contextlib
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cachesync.store.s3 import connection as s3_connection
from cachesync.store.s3 import wire as s3_wire
from cachesync.store.s3.connection import ConnectFailed, Garbled
from cachesync.store.s3.wire import Wire

Serve = Callable[[socket.socket, int], None]


def request_of(connection: socket.socket) -> bytes:
    """One request, with its body."""
    got = b""
    while b"\r\n\r\n" not in got:
        data = connection.recv(65536)
        if not data:
            return b""
        got += data
    head, _, body = got.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


class Server:
    """Answers with what ``serve(connection, number)`` does; ``connections`` counts them from 0."""

    def __init__(self, serve: Serve) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._serve = serve
        self.connections = 0
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                number, self.connections = self.connections, self.connections + 1
                threading.Thread(target=self._run, args=(connection, number), daemon=True).start()

    def _run(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            self._serve(connection, number)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()


@contextlib.contextmanager
def talking(serve: Serve, silence: float = 5.0) -> Iterator[tuple[Wire, Server]]:
    server = Server(serve)
    wire = Wire("127.0.0.1", server.port, None, connect_timeout=2.0, silence=silence)
    try:
        yield wire, server
    finally:
        wire.close()
        server.stop()


def always(answer: bytes) -> Serve:
    """The same answer to every request of a connection."""

    def serve(connection: socket.socket, _number: int) -> None:
        while request_of(connection):
            connection.sendall(answer)

    return serve


def soon() -> float:
    return time.monotonic() + 5.0


def got(wire: Wire, verb: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    reply = wire.ask(verb, "/k", {"host": "h"}, body, soon())
    return reply.status, reply.text(soon())


@pytest.fixture(params=[True, False], ids=["main-thread", "other-thread"])
def waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to wait: the main thread's, and that of all others."""
    monkeypatch.setattr(s3_connection, "_hears_signals", lambda: request.param)


either_way = pytest.mark.usefixtures("waits")


@either_way
def test_a_connection_is_used_again():
    with talking(always(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: x\r\n\r\nabc")) as (wire, server):
        assert [got(wire) for _ in range(5)] == [(200, b"abc")] * 5
        assert server.connections == 1


@either_way
@pytest.mark.parametrize(
    "ending", [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na", b"HTTP/1.0 200 OK\r\n\r\na"]
)
def test_a_connection_that_ends_is_not(ending):
    def serve(connection: socket.socket, _number: int) -> None:
        request_of(connection)
        connection.sendall(ending)

    with talking(serve) as (wire, server):
        assert [got(wire) for _ in range(3)] == [(200, b"a")] * 3
        assert server.connections == 3


@either_way
def test_an_answer_in_chunks():
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n"
    )
    with talking(always(answer)) as (wire, server):
        assert got(wire) == (200, b"abc0123456789")
        reply = wire.ask("GET", "/k", {"host": "h"}, b"", soon())
        assert [reply.read(4, soon()) for _ in range(5)] == [b"abc0", b"1234", b"5678", b"9", b""]
        assert server.connections == 1


@either_way
def test_answers_without_a_body():
    answers = [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n"]

    def serve(connection: socket.socket, _number: int) -> None:
        for answer in answers * 2:
            request_of(connection)
            connection.sendall(answer)

    with talking(serve) as (wire, server):
        for _ in range(2):
            assert got(wire, "DELETE") == (204, b"")
            assert got(wire, "HEAD") == (200, b"")
        assert server.connections == 1


@either_way
def test_what_comes_before_the_answer_is_passed_over():
    with talking(always(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as (wire, _):
        assert got(wire, "PUT", b"x") == (200, b"")


@either_way
def test_the_body_is_what_was_sent():
    received = []

    def serve(connection: socket.socket, _number: int) -> None:
        while request := request_of(connection):
            received.append(request)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    large = bytes(range(256)) * 20_000
    with talking(serve) as (wire, _):
        for body in (b"", b"x", large):
            wire.ask("PUT", "/a?b=1", {"host": "h", "x-amz-meta-n": "é"}, body, soon()).text(soon())
    heads = [request.partition(b"\r\n\r\n") for request in received]
    assert [body for _, _, body in heads] == [b"", b"x", large]
    assert heads[1][0].decode() == "PUT /a?b=1 HTTP/1.1\r\nhost: h\r\nx-amz-meta-n: é\r\ncontent-length: 1"


@either_way
def test_what_begins_or_ends_an_upload_is_not_sent_twice():
    def serve(connection: socket.socket, _number: int) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        request_of(connection)  # taken, and never answered

    for verb in ("POST", "PUT"):
        with talking(serve) as (wire, server):
            assert got(wire) == (200, b"")
            if verb == "POST":
                with pytest.raises(ConnectionError):
                    got(wire, verb)
            else:
                assert got(wire, verb) == (200, b"")
            assert server.connections == (1 if verb == "POST" else 2)


@either_way
def test_a_server_may_be_given_time():
    done = threading.Event()

    def serve(connection: socket.socket, _number: int) -> None:
        request_of(connection)
        done.wait(0.6)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with talking(serve, silence=0.3) as (wire, _):
        with pytest.raises(TimeoutError):
            got(wire)
        assert wire.ask("POST", "/k", {"host": "h"}, b"", soon(), 10).status == 200


@either_way
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_kept_connection_that_the_server_let_go_costs_nothing(how):
    def serve(connection: socket.socket, number: int) -> None:
        request_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        if number == 0:
            request_of(connection) if how == "reset" else None
            return
        always(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")(connection, number)

    with talking(serve) as (wire, server):
        assert got(wire)[0] == 200
        if how == "closed":
            time.sleep(0.1)  # the end has come
        assert got(wire, "PUT", b"x")[0] == 200
        assert server.connections == 2


@either_way
def test_a_new_connection_that_breaks_is_not_tried_again():
    def serve(connection: socket.socket, _number: int) -> None:
        request_of(connection)

    with talking(serve) as (wire, server):
        with pytest.raises(ConnectionResetError):
            got(wire)
        assert server.connections == 1


@either_way
def test_who_refuses_a_body_is_heard():
    def serve(connection: socket.socket, _number: int) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            time.sleep(0.3)

    # Either the answer, or that the connection broke: never a success, never a hang.
    with talking(serve) as (wire, _), contextlib.suppress(ConnectionError):
        assert got(wire, "PUT", b"x" * 30_000_000) == (503, b"slow")


@either_way
@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 0\r\n\r\n",
        b"Content-Length: 2\r\n\r\nok",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_a_yes_to_what_was_not_sent_is_none(rest):
    def serve(connection: socket.socket, _number: int) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + rest)

    with talking(serve) as (wire, _):
        with pytest.raises(ConnectionError):
            got(wire, "PUT", b"x" * 30_000_000)
        assert not wire._idle, "such a connection is not kept"


@either_way
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionResetError),
        (b"HTTP/1.1 200", ConnectionResetError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Garbled),
        (b"HTTP/1.1 abc\r\n\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", ConnectionResetError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", Garbled),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", ConnectionResetError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000, Garbled),
    ],
)
def test_what_is_no_answer_is_an_error(answer, error):
    def serve(connection: socket.socket, _number: int) -> None:
        request_of(connection)
        connection.sendall(answer)

    with talking(serve) as (wire, _), pytest.raises(error):
        got(wire)


@either_way
@pytest.mark.parametrize("part", ["head", "length", "chunks", "endless"])
def test_a_trickle_ends_at_the_deadline(part):
    heads = {
        "head": b"HTTP/1.1 200 OK\r\nX: ",
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n",
        "endless": b"HTTP/1.1 200 OK\r\n\r\n",
    }
    stop = threading.Event()

    def serve(connection: socket.socket, _number: int) -> None:
        request_of(connection)
        connection.sendall(heads[part])
        while not stop.wait(0.05):
            connection.sendall(b"x")

    with talking(serve) as (wire, _):
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.ask("GET", "/k", {}, b"", begun + 0.5).read(1000, begun + 0.5)
        assert time.monotonic() - begun < 3
        stop.set()


@either_way
@pytest.mark.parametrize(("limit", "silence"), [(0.3, 30.0), (30.0, 0.3)], ids=["deadline", "silence"])
@pytest.mark.parametrize("reads", [False, True], ids=["takes nothing", "answers nothing"])
def test_who_does_nothing_is_given_up(limit, silence, reads):
    done = threading.Event()

    def serve(connection: socket.socket, _number: int) -> None:
        if reads:
            request_of(connection)
        done.wait(10)

    with talking(serve, silence) as (wire, _):
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.ask("PUT", "/k", {}, b"x" * (1_000_000 if reads else 50_000_000), begun + limit)
        assert time.monotonic() - begun < 5
        done.set()


@pytest.mark.timeout(30)
def test_signals_of_the_main_thread_put_no_deadline_off():
    heard, over, main = [], threading.Event(), threading.get_ident()

    def disturb() -> None:
        while not over.wait(0.02):
            signal.pthread_kill(main, signal.SIGUSR1)

    def serve(_connection: socket.socket, _number: int) -> None:
        over.wait(25)

    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    disturbing = threading.Thread(target=disturb)
    try:
        with talking(serve) as (wire, _):
            disturbing.start()
            with pytest.raises(TimeoutError):
                wire.ask("GET", "/k", {}, b"", time.monotonic() + 0.5)
            over.set()
        assert len(heard) > 5
    finally:
        over.set()
        disturbing.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_connection_serves_the_main_thread_and_others_in_turn(monkeypatch):
    monkeypatch.setattr(s3_connection, "_SLICE", 0.02)

    def serve(connection: socket.socket, _number: int) -> None:
        while asked := request_of(connection):
            time.sleep(0.8 if b"/slow" in asked else 0)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

    def ask(target: str, limit: float) -> bytes:
        deadline = time.monotonic() + limit
        return wire.ask("GET", target, {}, b"", deadline).text(deadline)

    with talking(serve) as (wire, server), ThreadPoolExecutor(1) as other:
        for _ in range(2):
            assert ask("/", 0.4) == b"abc"  # what is left of this limit is none of the other thread's
            assert other.submit(ask, "/slow", 5.0).result() == b"abc"
        assert server.connections == 1


@either_way
def test_an_answer_may_take_longer_than_one_call_of_the_kernel_waits(monkeypatch):
    monkeypatch.setattr(s3_connection, "_SLICE", 0.02)

    def serve(connection: socket.socket, _number: int) -> None:
        for _ in range(2):
            request_of(connection)
            time.sleep(0.2)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
            time.sleep(0.2)
            connection.sendall(b"abc")

    with talking(serve) as (wire, server):
        assert [got(wire), got(wire, "PUT", b"x" * 5_000_000)] == [(200, b"abc")] * 2
        assert server.connections == 1


@either_way
def test_who_is_slow_is_waited_for():
    body = b"x" * 50_000_000

    def serve(connection: socket.socket, _number: int) -> None:
        left = len(b"PUT /k HTTP/1.1\r\nhost: h\r\ncontent-length: 50000000\r\n\r\n") + len(body)
        while left:
            time.sleep(0.1)  # all of them take longer than the silence that is allowed
            left -= len(connection.recv(min(left, 2_000_000), socket.MSG_WAITALL))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with talking(serve, silence=1.0) as (wire, _):
        begun = time.monotonic()
        assert got(wire, "PUT", body) == (200, b"")
        assert time.monotonic() - begun > 2.0


@either_way
def test_a_reply_that_is_not_read_to_its_end_gives_no_connection_back():
    with talking(always(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef")) as (wire, server):
        reply = wire.ask("GET", "/k", {}, b"", soon())
        assert reply.read(3, soon()) == b"abc"
        reply.close()
        assert reply.read(3, soon()) == b""
        assert got(wire) == (200, b"abcdef")
        assert server.connections == 2


@either_way
def test_bytes_that_nobody_asked_for_end_a_connection():
    def serve(connection: socket.socket, number: int) -> None:
        while request_of(connection):
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na" + (b"HTTP/1.1 200 OK" if not number else b"")
            )

    with talking(serve) as (wire, server):
        assert got(wire) == (200, b"a")
        assert got(wire) == (200, b"a")
        assert server.connections == 2


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    wire = Wire("127.0.0.1", port, None, connect_timeout=1.0, silence=5.0)
    with pytest.raises(ConnectFailed):
        got(wire)


def test_a_header_cannot_bring_another():
    with talking(always(b"")) as (wire, server):
        with pytest.raises(ValueError, match="line end"):
            wire.ask("GET", "/k", {"a": "b\r\nc: d"}, b"", soon())
        assert server.connections == 0


def certificate(folder: Path) -> Path:
    """A certificate of localhost that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return folder / "both.pem"


def test_tls(tmp_path):
    both = certificate(tmp_path)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(both)
    answer = always(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

    def serve(connection: socket.socket, number: int) -> None:
        with contextlib.suppress(ssl.SSLError), ours.wrap_socket(connection, server_side=True) as wrapped:
            answer(wrapped, number)

    server = Server(serve)
    trusting, strange = ssl.create_default_context(cafile=both), ssl.create_default_context()
    wire = Wire("localhost", server.port, trusting, connect_timeout=2.0, silence=5.0)
    assert [got(wire), got(wire, "PUT", b"x" * 3_000_000), got(wire)] == [(200, b"abc")] * 3
    assert server.connections == 1
    wire.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        got(Wire("localhost", server.port, strange, connect_timeout=2.0, silence=5.0))
    with pytest.raises(ssl.SSLCertVerificationError):
        got(Wire("127.0.0.1", server.port, trusting, connect_timeout=2.0, silence=5.0))  # another name than it is for
    server.stop()


def test_closed_while_in_use():
    with talking(always(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")) as (wire, _):
        reply = wire.ask("GET", "/k", {}, b"", soon())
        wire.close()
        assert reply.read(3, soon()) == b"abc"
        assert not wire._idle


# -- a body that the server may not want -------------------------------------------------------------------------------

LARGE = b"x" * s3_wire.LARGE
YES = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NO = b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 2\r\n\r\nno"


def head_of(connection: socket.socket) -> bytes:
    """The head of a request, and nothing more."""
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        if not (data := connection.recv(1)):
            return b""
        got += data
    return got


def body_of(connection: socket.socket, size: int = len(LARGE)) -> int:
    """How many bytes of a body come."""
    left = size
    while left and (data := connection.recv(min(left, 65536))):
        left -= len(data)
    return size - left


@either_way
@pytest.mark.parametrize("refused", [NO, NO.replace(b"Content-Length: 2", b"Connection: close")])
def test_a_large_body_that_is_refused_is_not_sent(refused):
    came: SimpleQueue[int] = SimpleQueue()

    def serve(connection: socket.socket, _number: int) -> None:
        assert b"\r\nexpect: 100-continue\r\n\r\n" in head_of(connection)
        connection.sendall(refused)
        connection.shutdown(socket.SHUT_WR)
        came.put(body_of(connection))

    with talking(serve) as (wire, server):
        assert [got(wire, "PUT", LARGE) for _ in range(2)] == [(412, b"no")] * 2
        assert server.connections == 2, "what waits for a body is no connection for another request"
        assert [came.get(timeout=10) for _ in range(2)] == [0, 0]


@either_way
@pytest.mark.parametrize(
    "before", [b"", b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]
)
def test_a_large_body_that_is_wanted_is_sent_once(before):
    came = []

    def serve(connection: socket.socket, _number: int) -> None:
        while head_of(connection):
            connection.sendall(before + b"HTTP/1.1 100 Continue\r\n\r\n")
            came.append(body_of(connection))
            connection.sendall(YES)

    with talking(serve) as (wire, server):
        assert [got(wire, "PUT", LARGE) for _ in range(3)] == [(200, b"")] * 3
        assert server.connections == 1
    assert came == [len(LARGE)] * 3


@either_way
def test_a_server_that_never_asks_for_bodies_is_waited_for_once(monkeypatch):
    monkeypatch.setattr(s3_wire, "CONTINUE_WITHIN", 0.2)
    heads = []

    def serve(connection: socket.socket, _number: int) -> None:
        while head := head_of(connection):
            heads.append(b"expect" in head)
            body_of(connection, len(LARGE) if b"PUT" in head else 0)
            connection.sendall(YES)

    with talking(serve) as (wire, _):
        assert [got(wire, "PUT", LARGE) for _ in range(3)] == [(200, b"")] * 3
    assert heads == [True, False, False]


@either_way
def test_a_server_that_is_slow_once_is_asked_again(monkeypatch):
    monkeypatch.setattr(s3_wire, "CONTINUE_WITHIN", 0.2)
    heads = []

    def serve(connection: socket.socket, _number: int) -> None:
        while head := head_of(connection):
            heads.append(b"expect" in head)
            time.sleep(0.5 if len(heads) == 2 else 0)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body_of(connection)
            connection.sendall(YES)

    with talking(serve) as (wire, _):
        assert [got(wire, "PUT", LARGE) for _ in range(3)] == [(200, b"")] * 3
    assert heads == [True, True, True]


@either_way
def test_a_server_that_knows_no_expectations_gets_none():
    heads = []

    def serve(connection: socket.socket, _number: int) -> None:
        while head := head_of(connection):
            heads.append(b"expect" in head)
            if heads[-1]:
                connection.sendall(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
                return
            body_of(connection)
            connection.sendall(YES)

    with talking(serve) as (wire, _):
        assert [got(wire, "PUT", LARGE) for _ in range(2)] == [(200, b"")] * 2
    assert heads == [True, False, False]


@either_way
def test_a_yes_before_the_body_is_none():
    def serve(connection: socket.socket, _number: int) -> None:
        head_of(connection)
        connection.sendall(YES)
        body_of(connection)

    with talking(serve) as (wire, _), pytest.raises(ConnectionError, match="without its body"):
        got(wire, "PUT", LARGE)


def test_small_bodies_are_sent_at_once():
    heads = []

    def serve(connection: socket.socket, _number: int) -> None:
        heads.append(request_of(connection))
        connection.sendall(YES)

    with talking(serve) as (wire, _):
        assert got(wire, "PUT", LARGE[1:]) == (200, b"")
    assert b"expect" not in heads[0].partition(b"\r\n\r\n")[0]


def test_under_tls_a_body_waits_too(tmp_path):
    both = certificate(tmp_path)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(both)
    heads = []

    def serve(connection: socket.socket, number: int) -> None:
        with contextlib.suppress(ssl.SSLError), ours.wrap_socket(connection, server_side=True) as wrapped:
            heads.append(head_of(wrapped))
            if number:
                time.sleep(0.3)
                wrapped.sendall(NO)
                return
            wrapped.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body_of(wrapped)
            wrapped.sendall(YES.replace(b"OK", b"OK\r\nConnection: close"))

    server = Server(serve)
    wire = Wire("localhost", server.port, ssl.create_default_context(cafile=both), connect_timeout=2.0, silence=5.0)
    assert got(wire, "PUT", LARGE) == (200, b"")
    assert got(wire, "PUT", LARGE) == (412, b"no")
    assert all(b"expect" in head for head in heads)
    wire.close()
    server.stop()
