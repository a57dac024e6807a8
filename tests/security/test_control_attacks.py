"""P16: who may speak to the daemon, and what nobody can make it do by speaking badly."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachesync.api.client import ControlClient
from cachesync.api.server import ControlServer
from cachesync.model.errors import CacheSyncError, DaemonUnavailable
from tests.promises.host import Host, eventually


def connected(host: Host) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(15)
    connection.connect(str(host.state / "control.sock"))
    return connection


def said(host: Host, request: bytes, *, more: bool = False) -> bytes:
    """The whole answer to raw bytes; ``more`` leaves our end open, as a client that goes on would."""
    with connected(host) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
            if not more:
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def still_answers(host: Host) -> None:
    answer = said(host, b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", more=True)
    assert statuses(answer) == [200], answer
    assert b'"s1"' in answer


# -- who may -----------------------------------------------------------------------------------------------------------

_AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for what in sys.argv[1:]:
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(what)
        print("connected")
    except OSError as error:
        print(type(error).__name__)
    try:
        print(os.listdir(os.path.dirname(what)))
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_p16_another_user_is_refused(served: Host):
    """By the folder, and by the socket itself where the folder stands open."""
    path = served.state / "control.sock"
    assert stat.S_IMODE(served.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    above = [one for one in served.state.parents if one.owner() == "root" and one != Path("/tmp")]
    before = {one: one.stat().st_mode for one in above if not one.stat().st_mode & 0o001}
    try:
        for one, bits in before.items():
            one.chmod(stat.S_IMODE(bits) | 0o055)
        for mode, expected in ((0o700, ["PermissionError", "PermissionError"]), (0o755, ["PermissionError"])):
            served.state.chmod(mode)
            done = subprocess.run(
                [sys.executable, "-c", _AS_NOBODY, str(path)], capture_output=True, text=True, check=True, timeout=30
            )
            assert done.stdout.split("\n")[: len(expected)] == expected
    finally:
        served.state.chmod(0o700)
        for one, bits in before.items():
            one.chmod(stat.S_IMODE(bits))
    still_answers(served)


def test_p16_nothing_listens_on_tcp(served: Host):
    """No port where none is set (else see test_http_attacks): so no web page can reach the daemon, by whatever name."""
    assert served.daemon is not None
    inodes = set()
    for table in ("tcp", "tcp6"):
        rows = Path(f"/proc/{served.daemon.pid}/net/{table}").read_text().splitlines()[1:]
        inodes |= {row.split()[9] for row in rows if row.split()[3] == "0A"}  # LISTEN
    held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{served.daemon.pid}/fd") if os.path.islink(entry)}
    assert not {f"socket:[{inode}]" for inode in inodes} & held


# -- what nobody can make it do ----------------------------------------------------------------------------------------

GET = b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\n"
FLUSH = b"POST /v1/sessions/s2/evict HTTP/1.1\r\nHost: x\r\n\r\n"
"""What a smuggled request would do: it changes something that the test sees."""

SMUGGLING = {
    "two lengths": GET + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(FLUSH) + FLUSH,
    "a list of lengths": GET + b"Content-Length: 0, %d\r\n\r\n" % len(FLUSH) + FLUSH,
    "length and chunked": GET
    + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % len(FLUSH)
    + FLUSH,
    "chunked and length": GET + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + FLUSH,
    "chunked, twice": GET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + FLUSH,
    "an odd coding": GET + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + FLUSH,
    "a space before the colon": GET + b"Content-Length : %d\r\n\r\n" % len(FLUSH) + FLUSH,
    "a folded line": GET + b"X: a\r\n Content-Length: %d\r\n\r\n" % len(FLUSH) + FLUSH,
    "a plus": GET + b"Content-Length: +%d\r\n\r\n" % len(FLUSH) + FLUSH,
    "hexadecimal": GET + b"Content-Length: 0x10\r\n\r\n" + FLUSH,
    "an underscore": GET + b"Content-Length: 1_0\r\n\r\n" + FLUSH,
    "a negative chunk": GET + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + FLUSH,
    "a huge chunk": GET + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + FLUSH,
    "a bare line feed in a header": b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\nX: a\n\n" + FLUSH,
    "a carriage return in a name": b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\nX\r: a\r\n\r\n" + FLUSH,
    "a NUL in a header": b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n" + FLUSH,
}


@pytest.mark.parametrize("request_bytes", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_p16_no_request_is_smuggled_in(served: Host, request_bytes: bytes):
    """What is ambiguous is refused, and what follows it on the connection is not taken for a request."""
    before = served.path("a", "s2").read_bytes()
    answer = said(served, request_bytes)
    assert b"Traceback" not in answer
    assert set(statuses(answer)) <= {200, 400, 413}
    assert statuses(answer)[-1:] == [400] or len(statuses(answer)) <= 1, answer
    assert served.path("a", "s2").read_bytes() == before  # it was not evicted
    still_answers(served)


OVERSIZED = {
    "a long target": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long header": GET + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "many headers": GET + b"".join(b"X%d: y\r\n" % number for number in range(20_000)) + b"\r\n",
    "a header without an end": GET + b"X: " + b"a" * 3_000_000,
    "a large body": b"POST /v1/retry HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000,
    "a body said to be endless": b"POST /v1/retry HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nx",
    "a large chunked body": b"POST /v1/retry HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 40 + b"0\r\n\r\n",
    "many options": b"GET /v1/status?" + b"a=b&" * 3000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long name": b"GET /v1/sessions/" + b"s" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "another version": b"GET /v1/sessions HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    "an upgrade": GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "CONNECT": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a proxy's target": b"GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("request_bytes", OVERSIZED.values(), ids=OVERSIZED.keys())
def test_p16_what_is_too_much_is_refused(served: Host, request_bytes: bytes):
    answer = said(served, request_bytes)
    assert b"Traceback" not in answer
    assert all(status == 200 if b"Upgrade" in request_bytes else status >= 400 for status in statuses(answer)[:1])
    still_answers(served)


def test_p16_clients_that_never_finish_hold_up_nobody(served: Host):
    """200 connections that say half a request each and go on letter by letter; others are answered meanwhile."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(served)) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.sendall(GET[: 5 + number % 30])
        for _ in range(5):
            still_answers(served)
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b"X")
        assert served.run("status", "s1", "--json").code == 0
    assert served.daemon is not None
    pid = served.daemon.pid
    eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) < 120, 15, "their descriptors are let go")


METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"BREW", b"", b"\0"])
TARGETS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"/v1/status", b"/v1/artifacts/s1/a", b"/v1/list", b"/v1/sessions/s1/flush", b"*", b"//", b"/%"]),
    st.text(max_size=20).map(lambda text: b"/v1/artifacts/" + text.encode("utf-8", "surrogatepass")),
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"Content-Length", b"Range", b"If-Match", b"If-None-Match", b"Expect", b"TE", b"\xff"])
        | st.binary(max_size=8),
        st.binary(max_size=20) | st.sampled_from([b"bytes=0-", b"bytes=9-1", b"-1", b"100-continue", b"*", b'"'])
    ),
    max_size=4,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(method=METHODS, target=TARGETS, headers=HEADERS, body=st.binary(max_size=60))
def test_p16_malformed_requests(
    served: Host, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
):
    lines = b"".join(b"%s: %s\r\n" % header for header in headers)
    answer = said(served, b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n%s" % (method, target, lines, body))
    assert b"Traceback" not in answer
    assert b"internal error" not in answer, answer
    assert all(status < 500 or status == 504 for status in statuses(answer)), answer


def test_p16_noise(served: Host):
    """300 messages of noise and of good requests with flipped bytes; then the daemon answers as before."""
    chance = random.Random(16)
    good = GET + b"Content-Length: 3\r\nRange: bytes=0-1\r\n\r\nabc"
    for number in range(300):
        noise = bytearray(good if number % 2 else chance.randbytes(chance.randrange(200)))
        for _ in range(3 if number % 2 else 0):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        assert b"internal error" not in said(served, bytes(noise))
    still_answers(served)


def test_p16_what_is_no_request_is_not_written_down(served: Host):
    """It may hold anything, a token for instance; and who may connect must not fill the log."""
    size = served.log.stat().st_size
    for _ in range(50):
        answer = said(
            served, GET + b"Authorization\0: Bearer MARKED-TOKEN\r\nContent-Length: +MARKED\r\n\r\n", more=True
        )
        assert statuses(answer) in ([400], [])  # [] if it hung up before we had read that
    still_answers(served)
    assert "MARKED" not in served.said()
    assert served.log.stat().st_size - size < 1000


BODIES = {
    "no gzip": b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
    "no deflate": b"Content-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    "no brotli": b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nabcde",
    "a bad chunk": b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdeXX\r\n0\r\n\r\n",
    "half a chunk": b"Transfer-Encoding: chunked\r\n\r\nffff\r\nabcde",
    "half a body": b"Content-Length: 50\r\n\r\nabcde",
    "deep JSON": b"Content-Length: 60000\r\n\r\n" + b"[" * 60_000,
    "a number that is none": b'Content-Length: 20\r\n\r\n{"s1": {"a": 1e999}}',
    "a large number": b"Content-Length: 6000\r\n\r\n" + b"9" * 6000,
    "no JSON": b"Content-Length: 3\r\n\r\n\xff\xfe\x00",
    "a list": b"Content-Length: 2\r\n\r\n[]",
    "an odd expectation": b"Expect: the-moon\r\nContent-Length: 2\r\n\r\n{}",
    "an expectation in no encoding": b"Expect: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    "two expectations": b"Expect: 100-continue\r\nExpect: x\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"DELETE"])
@pytest.mark.parametrize(
    "target", [b"/v1/retry", b"/v1/ondemand/notices", b"/v1/artifacts/s2/new", b"/healthz", b"/none"]
)
def test_p16_a_body_that_is_none_is_the_sender_s_fault(served: Host, method: bytes, target: bytes, body: bytes):
    """JSON, 400 or the like, and at most a line of the log."""
    said_before = served.log.stat().st_size
    answer = said(served, b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % (method, target) + body)
    assert b"internal error" not in answer
    assert b"text/plain" not in answer
    assert all(status in (100, 400, 404, 405, 409, 413, 417) for status in statuses(answer)) or (
        (method, target) == (b"PUT", b"/v1/artifacts/s2/new") and statuses(answer)[-1:] == [201]
    ), answer
    assert served.log.stat().st_size - said_before < 1000, served.said()[-3000:]
    assert "Traceback" not in served.said()


@pytest.mark.parametrize("size", [5, 200_000])
def test_p16_who_waits_to_be_told_is_told(served: Host, size: int):
    head = b"PUT /v1/artifacts/s2/expected HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n" % size
    with connected(served) as connection:
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"x" * size)
        assert statuses(connection.recv(65536)) == [201]
    assert served.path("expected", "s2").stat().st_size == size


@pytest.mark.parametrize("path", ["link/x", "folder", "linked/x", "file/x", "file/x/y"])
def test_p16_what_stands_in_the_way_is_a_conflict(served: Host, path: str):
    there = served.root / "s2"
    (there / "folder").mkdir(exist_ok=True)
    served.write("file", "a file", "s2")
    for name, target in (("link", "file"), ("linked", served.folder / "outside")):
        with contextlib.suppress(FileExistsError):
            (there / name).symlink_to(target)
    head = f"PUT /v1/artifacts/s2/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\n"
    answer = said(served, head.encode() + b"abc", more=True)
    assert statuses(answer) == [409], answer
    assert b'"PathTaken"' in answer
    assert not (served.folder / "outside" / "x").exists()


# -- what a client believes --------------------------------------------------------------------------------------------


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """A socket whose server says what it is told to."""
    path, answers = tmp_path / "liar.sock", [b""]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(answers[0])

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield path, answers
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


ODD = [
    b"[" * 100_000, b'{"sessions": 1}', b'{"sessions": [' + b"[" * 5000, b"NaN", b'{"sessions": NaN}', b"\xff\xfe",
    b'{"error": {"exit_code": 99, "kind": "SystemExit"}}', b'{"error": {"kind": "__import__", "exit_code": "x"}}',
    b'{"error": 5}', b'{"error": {"kind": "OSError", "cause": [1]}}', b"9" * 6000,
    b'{"sessions": ["\\ud800"]}', b'{"error": {"exit_code": 1e999}}',
]  # fmt: skip


@pytest.mark.parametrize("status", [b"200 OK", b"500 x", b"404 x", b"99999 x", b"\xff"])
@pytest.mark.parametrize("body", ODD, ids=lambda body: repr(body[:24]))
def test_p16_a_lying_daemon_is_an_error_of_ours(liar: tuple[Path, list[bytes]], status: bytes, body: bytes):
    path, answers = liar
    answers[0] = (
        b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body
    )
    try:
        names = ControlClient(path).sessions()
    except CacheSyncError:
        return
    assert all(isinstance(name, str) for name in names)


def test_a_socket_that_is_a_link_leads_to_no_other(tmp_path: Path):
    """What stands at the socket's path is not followed when it is served."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "state" / "control.sock"
    path.parent.mkdir()
    path.symlink_to(victim)
    verbs: Any = None
    server = ControlServer(verbs, path, None, ready=lambda: True, live=lambda: True)
    with pytest.raises(Exception, match="not a socket"):
        server.start()
    assert victim.read_text() == "precious"
    with pytest.raises(DaemonUnavailable):
        ControlClient(tmp_path / "none.sock").sessions()


def test_p16_what_is_no_http_is_answered_in_json_on_each_socket(served: Host):
    """However its bytes come: a bad chunk may come with the head of its request, or after it."""
    head = b"POST /v1/retry HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for first, rest in (
        (head + b"5\r\nabcdeXX\r\n0\r\n\r\n", b""),
        (head, b"5\r\nabcdeXX\r\n0\r\n\r\n"),
        (b"MARKED\r\n\r\n", b""),
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(os.fspath(served.state / "control.sock"))
            connection.sendall(first)
            if rest:
                time.sleep(0.2)
                connection.sendall(rest)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b"application/json" in answer, answer
        assert b"MARKED" not in answer
        assert b"text/plain" not in answer
