"""P16 on TCP: who may speak to the daemon there, and what nobody can make it, or the page that it serves, do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cachesync.api import tcp
from cachesync.api.page_routes import PageRoutes
from cachesync.api.routes import Routes
from cachesync.model.events import LISTENERS
from tests.conftest import MakeHost
from tests.promises.host import Host, eventually, hosts_of
from tests.servers import SeaweedServer

TOKEN = "MARKED-token-0123456789"
PAGE = re.compile(r"^page\s+http://(\S+?):(\d+)/", re.MULTILINE)
pytestmark = pytest.mark.s3


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


class Client:
    """Requests, each on a connection of its own; ``raw`` sends what no library would."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"

    def __call__(self, target: str, method: str = "GET", token: str | None = TOKEN, **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given.setdefault("Authorization", f"Bearer {token}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest(method, target, skip_host="Host" in given, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read())

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def raw(self, request: bytes) -> bytes:
        with self.connected() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
            return all_of(connection)


def all_of(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            answer += data
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def client_of(host: Host) -> Client:
    """Of a daemon that was asked for port 0: it says which one it got."""
    found = eventually(lambda: PAGE.findall(host.said()), 10, "it says where the page is")
    return Client(int(found[-1][1]))


@pytest.fixture(scope="module")
def served(seaweed: SeaweedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One daemon that all attacks share, since none of them may harm it."""
    folder = tmp_path_factory.mktemp("http")
    with hosts_of(Host, seaweed, f"http-{folder.parent.name.replace('_', '-')[-40:]}", folder) as make:
        host = make()
        host.write("a", "mine")
        host.write("evil.html", "<script>alert(1)</script>")
        (host.folder / "outside").mkdir()
        (host.folder / "outside" / "secret").write_text("SECRET outside")
        (host.root / "s1" / "link").symlink_to(host.folder / "outside" / "secret")
        host.env |= {"CACHESYNC_HTTP": "127.0.0.1:0", "CACHESYNC_HTTP_TOKEN": TOKEN}
        host.start()
        host.stored()
        yield host
        assert host.stop() == 0, host.complaints()
        assert "Traceback" not in host.said()
        assert TOKEN not in host.said()


@pytest.fixture
def ask(served: Host) -> Iterator[Client]:
    client = client_of(served)
    yield client
    assert client("/v1/sessions").told["sessions"] == ["s1"], "it answers as before"


# -- the token ---------------------------------------------------------------------------------------------------------

ROUTES = [
    (route.method, re.sub(r"{\w+:[^}]*}", "/s1/a", re.sub(r"{session}", "s1", route.path)).replace("//", "/"))
    for route in Routes(None, bool, bool).table()  # type: ignore[arg-type]
    if route.path not in ("/healthz", "/readyz")
]


@pytest.mark.parametrize(("method", "target"), ROUTES, ids=lambda part: part.replace("/", "."))
def test_every_route_wants_the_token(ask: Client, served: Host, method: str, target: str):
    for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.lower(), "é"):
        answer = ask(target, method, token)
        assert answer.status == 401, (token, answer)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.told["error"]["kind"] == "UsageError"
    assert served.path("a").read_text() == "mine"


@pytest.mark.parametrize(
    "header",
    [f"Basic {TOKEN}", TOKEN, f"Bearer{TOKEN}", f"Bearer {TOKEN}, Bearer x", f"Bearer x {TOKEN}", "Bearer", "Bearer "],
)
def test_the_token_is_taken_in_one_form_only(ask: Client, header: str):
    assert ask("/v1/status", Authorization=header).status == 401


def test_two_tokens_are_none(ask: Client):
    both = f"Authorization: Bearer wrong\r\nAuthorization: Bearer {TOKEN}\r\n"
    answer = ask.raw(f"GET /v1/status HTTP/1.1\r\nHost: {ask.host}\r\n{both}\r\n".encode())
    assert statuses(answer) in ([401], [400])


@pytest.mark.parametrize("name", ["token", "access_token", "http_token", "Authorization"])
def test_a_token_in_the_address_opens_nothing(ask: Client, name: str):
    """It would be in the log of every proxy on the way."""
    for value in (TOKEN, f"Bearer%20{TOKEN}"):
        assert ask(f"/v1/status?{name}={value}", token=None).status == 401
        page = ask(f"/?{name}={value}", token=None)
        assert page.status == 400
        assert TOKEN.encode() not in page.body
    assert ask("/v1/status", token=None, Cookie=f"{name}={TOKEN}").status == 401
    assert "Set-Cookie" not in ask("/v1/status").headers


def test_health_is_for_everybody(ask: Client):
    assert ask("/healthz", token=None).told == {"live": True}
    assert ask("/readyz", token=None).told == {"ready": True}
    assert ask("/healthz", "POST", token=None).status == 401


def test_each_request_of_a_connection_is_looked_at(ask: Client):
    """Also one that comes along with another that needs no token, or after one that had it."""
    open_one = f"GET /healthz HTTP/1.1\r\nHost: {ask.host}\r\n"
    closed = f"POST /v1/sessions/s1/evict HTTP/1.1\r\nHost: {ask.host}\r\n\r\n"
    assert statuses(ask.raw((open_one + "\r\n" + closed).encode())) == [200, 401]
    assert statuses(ask.raw((open_one + f"Authorization: Bearer {TOKEN}\r\n\r\n" + closed).encode())) == [200, 401]
    assert statuses(ask.raw((open_one + f"Content-Length: {len(closed)}\r\n\r\n" + closed).encode())) == [400]


def test_a_stranger_s_body_is_not_read(ask: Client):
    head = f"PUT /v1/artifacts/s1/x HTTP/1.1\r\nHost: {ask.host}\r\nContent-Length: 9999999999\r\n\r\n"
    begun = time.monotonic()
    with ask.connected() as connection:
        connection.sendall(head.encode() + b"x" * 100_000)
        assert statuses(all_of(connection)) == [401]
    assert time.monotonic() - begun < 8


def test_who_sends_no_body_to_an_open_path_holds_no_place(ask: Client):
    """50 a second would have locked the holder of the token out: each was waited for, 10 s long."""
    target = [b"GET / HTTP/1.1", b"GET /healthz HTTP/1.1", b"HEAD /readyz HTTP/1.1", b"GET /page/app.js HTTP/1.1"]
    length = [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Length: 5\r\nExpect: 100-continue"]
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        for number in range(tcp.CONNECTIONS + 100):
            connection = stack.enter_context(ask.connected())
            with contextlib.suppress(ConnectionError):
                connection.sendall(target[number % 4] + b"\r\nHost: 127.0.0.1\r\n" + length[number % 3] + b"\r\n\r\n")
            if number % 25 == 0:
                assert ask("/v1/status").status == 200
        assert time.monotonic() - begun < 60
    for line in length:
        answer = ask.raw(target[0] + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + line + b"\r\n\r\n")
        assert statuses(answer) == [400], answer


def test_nobody_is_told_to_go_on_without_the_token(ask: Client):
    head = f"PUT /v1/artifacts/s1/x HTTP/1.1\r\nHost: {ask.host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    assert statuses(ask.raw(head.encode())) == [401]


# -- other pages -------------------------------------------------------------------------------------------------------

STRANGE_HOSTS = [
    "evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
    "10.0.0.1", "169.254.169.254", "[fe80::1]", "[::]", "0.0.0.0", "localhost.", "", " ", "a b", "127.0.0.1:99999999",
    "2130706433", "0x7f.1", "127.1", "127.0.0.1/evil", "xn--lcalhost-66a",
]  # fmt: skip
OWN_HOSTS = ["127.0.0.1", "127.0.0.1:{port}", "localhost", "LocalHost:{port}", "[::1]:{port}", "127.9.9.9:1"]


@pytest.mark.parametrize("host", STRANGE_HOSTS)
def test_a_name_that_was_made_to_point_here_gets_nothing(ask: Client, host: str):
    """DNS rebinding. Not even the page, nor whether the daemon lives."""
    for target in ("/v1/status", "/", "/healthz", "/page/app.js"):
        answer = ask(target, Host=host.format(port=ask.port))
        assert answer.status == 403, answer
        assert b"s1" not in answer.body


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_its_own_names(ask: Client, host: str):
    assert ask("/v1/status", Host=host.format(port=ask.port)).status == 200


def test_no_host_and_two_of_them(ask: Client):
    token = f"Authorization: Bearer {TOKEN}\r\n"
    for hosts in ("", f"Host: {ask.host}\r\nHost: evil.example\r\n", f"Host: evil.example\r\nHost: {ask.host}\r\n"):
        answer = ask.raw(f"GET /v1/status HTTP/1.1\r\n{hosts}{token}\r\n".encode())
        assert statuses(answer) in ([403], [400]), answer
    assert statuses(
        ask.raw(f"GET http://evil.example/v1/status HTTP/1.1\r\nHost: evil.example\r\n{token}\r\n".encode())
    )[0] in (403, 400)


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost", "http://127.0.0.1:1", "file://", "", "http://{host}.evil.example",
     "http://evil.example@{host}", "chrome-extension://abc", "http://{host}/"],
)  # fmt: skip
def test_another_page_gets_nothing_even_with_the_token(ask: Client, served: Host, origin: str):
    given = origin.format(host=ask.host)
    for method, target in (("GET", "/v1/status"), ("POST", "/v1/sessions/s1/evict"), ("GET", "/")):
        answer = ask(target, method, Origin=given)
        assert answer.status == 403, answer
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert served.path("a").exists()


def test_its_own_page_may(ask: Client):
    assert ask("/v1/status", Origin=f"http://{ask.host}").status == 200
    assert ask("/v1/status", Origin="https://localhost", Host="localhost:443").status == 200  # a proxy with TLS


def test_a_preflight_allows_nothing(ask: Client):
    asked = {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "authorization"}
    for origin, expected in (("https://evil.example", 403), (f"http://{ask.host}", 405)):
        answer = ask("/v1/status", "OPTIONS", token=None, Origin=origin, **asked)
        assert answer.status == expected
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


# -- what it can be made to do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "OPTIONS", "PATCH", "PROPFIND", "DEBUG", "get"])
def test_odd_methods(ask: Client, method: str):
    token = f"Authorization: Bearer {TOKEN}\r\n"
    answer = ask.raw(f"{method} /v1/status HTTP/1.1\r\nHost: {ask.host}\r\n{token}\r\n".encode())
    assert statuses(answer) in ([405], [400], [401]), answer
    assert TOKEN.encode() not in answer, "TRACE would say it back"


WAYS_OUT = [
    "..", "../..", "../../outside/secret", "../outside/secret", "%2e%2e/%2e%2e/outside/secret",
    "..%2f..%2foutside%2fsecret", "%2e%2e%2foutside/secret", "....//outside/secret",
    "/etc/passwd", "%2fetc%2fpasswd",
    "%00", "a%00.txt", "./a", "a/.", "a/..", "a//b", ".cachesync/manifest.json", "link/x",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_path_leads_out(ask: Client, served: Host, way: str):
    for prefix in (
        "/v1/artifacts/s1/",
        "/v1/artifacts/../",
        "/v1/list/s1/",
        "/v1/history/s1/",
        "/v1/explain/s1/",
        "/page/",
    ):
        answer = ask(prefix + way)
        assert b"SECRET" not in answer.body
        assert b"root:" not in answer.body
        if "list" not in prefix:
            assert answer.status >= 400, (prefix, answer)
    before = sorted(path.name for path in served.folder.iterdir())
    assert ask(f"/v1/artifacts/s1/{way}", "PUT", Content_Length="0").status >= 400
    assert sorted(path.name for path in served.folder.iterdir()) == before


def test_the_page_s_files_and_no_others(ask: Client):
    for target in PageRoutes().paths:
        assert ask(target, token=None).status == 200
    others = [
        "/page", "/page/", "/page/index.html", "/page/x.js", "/page/app.js/", "/page/%2e%2e/wire.py", "/index.html",
        "/page/..%2f__init__.py", "/page//app.js", "/favicon.ico", "/robots.txt", "/.git/config",
    ]  # fmt: skip
    for target in others:
        answer = ask(target, token=None)
        assert answer.status == 401, target  # what is not there and what is not yours look the same
        assert ask(target).status == 404, target
        assert b"Index of" not in answer.body


OVERSIZED = {
    "a long target": "GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n".replace("{}", "a" * 70_000),
    "a long header": "GET /v1/status HTTP/1.1\r\nHost: {host}\r\nX: " + "a" * 1_000_000 + "\r\n\r\n",
    "many headers": "GET /v1/status HTTP/1.1\r\nHost: {host}\r\n" + "X: y\r\n" * 20_000 + "\r\n",
    "a long token": "GET /v1/status HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer " + "a" * 100_000 + "\r\n\r\n",
    "a long host": "GET /v1/status HTTP/1.1\r\nHost: " + "a" * 100_000 + "\r\n\r\n",
    "a header without an end": "GET / HTTP/1.1\r\nHost: {host}\r\nX: " + "a" * 3_000_000,
    "a body": "POST /v1/retry HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer " + TOKEN + "\r\n"
    "Content-Length: 5000000\r\n\r\n" + "x" * 5_000_000,
}  # fmt: skip


@pytest.mark.parametrize("request_text", OVERSIZED.values(), ids=OVERSIZED.keys())
def test_what_is_too_much_is_refused(ask: Client, request_text: str):
    answer = ask.raw(request_text.replace("{host}", ask.host).encode())
    assert b"Traceback" not in answer
    assert all(400 <= status < 500 for status in statuses(answer)), answer[:300]


# -- slow and many -----------------------------------------------------------------------------------------------------


def test_a_head_that_does_not_end_is_cut_off(ask: Client):
    """Slowloris: a letter now and then does not keep a connection."""
    with ask.connected() as slow, ask.connected() as silent:
        begun = time.monotonic()
        slow.sendall(b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        slow.settimeout(0.25)
        ended = False
        while not ended:
            assert time.monotonic() - begun < tcp.QUIET + 5
            try:
                slow.sendall(b"a")
                ended = slow.recv(1000) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
        assert time.monotonic() - begun > tcp.QUIET - 1
        silent.settimeout(3)
        with contextlib.suppress(ConnectionError):
            assert silent.recv(1) == b""


def test_those_who_only_hold_connections_lock_nobody_out(served: Host, ask: Client):
    """More of them than are allowed: who asks is answered at once all the same, and the number stays bounded."""
    assert served.daemon is not None
    descriptors = f"/proc/{served.daemon.pid}/fd"
    before = len(os.listdir(descriptors))
    with contextlib.ExitStack() as stack:
        for number in range(tcp.CONNECTIONS + 150):
            connection = stack.enter_context(ask.connected())
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"[: number % 30])
        for _ in range(20):
            begun = time.monotonic()
            assert ask("/v1/status").status == 200
            assert time.monotonic() - begun < 5
        assert len(os.listdir(descriptors)) < before + tcp.CONNECTIONS + 20
    eventually(lambda: len(os.listdir(descriptors)) < before + 20, 20, "they are let go")


def test_a_connection_that_showed_the_token_gives_way_last(ask: Client):
    """It is the quietest of all, and stays; one that only claims to have a token does not."""
    request = f"HTTP/1.1\r\nHost: {ask.host}\r\nAuthorization: Bearer "
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(ask.connected())
        held.sendall(f"GET /v1/sessions {request}{TOKEN}\r\n\r\n".encode())
        assert held.recv(65536).startswith(b"HTTP/1.1 200")
        claims = stack.enter_context(ask.connected())
        claims.sendall(f"GET /healthz {request}{'x' * 20}\r\n\r\n".encode())
        assert claims.recv(65536).startswith(b"HTTP/1.1 200")
        for _ in range(tcp.CONNECTIONS + 50):
            stack.enter_context(ask.connected())
        held.sendall(f"GET /v1/sessions {request}{TOKEN}\r\n\r\n".encode())
        assert held.recv(65536).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionError):
            assert claims.recv(1) == b""


def test_who_takes_nothing_of_an_answer_holds_no_other_up(ask: Client):
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(ask.connected())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            for _ in range(200):
                with contextlib.suppress(BlockingIOError, TimeoutError, ConnectionError):
                    connection.settimeout(0.01)
                    connection.sendall(b"GET /page/style.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        begun = time.monotonic()
        assert ask("/v1/status").status == 200
        assert time.monotonic() - begun < 5


# -- what a browser is told --------------------------------------------------------------------------------------------


def test_the_page_may_load_what_is_ours_and_nothing_else(ask: Client):
    page = ask("/", token=None)
    policy = dict(part.strip().partition(" ")[::2] for part in page.headers["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' blob:",
        "connect-src": "'self'", "frame-src": "'none'", "base-uri": "'none'", "form-action": "'none'",
        "frame-ancestors": "'none'", "require-trusted-types-for": "'script'", "trusted-types": "'none'",
    }  # fmt: skip
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "Python" not in page.headers["Server"]


def test_the_page_holds_no_data_and_names_no_other_place():
    for path, (data, kind, _) in PageRoutes()._files.items():
        text = data.decode()
        hosts = set(re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[\w/.]*", text))
        assert hosts <= {"http://www.w3.org/2000/svg"}, (path, hosts)
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc", text
        )
        if kind == "text/html":
            assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|<style", text)


@pytest.mark.parametrize("target", ["/v1/artifacts/s1/evil.html", "/v1/status", "/healthz", "/v1/none", "/v1/events"])
def test_an_answer_that_a_browser_shows_by_itself_does_nothing(ask: Client, target: str):
    connection = http.client.HTTPConnection("127.0.0.1", ask.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", target, headers={"Authorization": f"Bearer {TOKEN}"})
        headers = dict(connection.getresponse().headers)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_the_token_is_written_down_nowhere(served: Host, ask: Client):
    """Wherever a client puts it by mistake; the fixture looks at the whole log once more."""
    for target in (f"/v1/artifacts/{TOKEN}/x", f"/v1/status?session={TOKEN}", f"/{TOKEN}", f"/v1/explain/s1/{TOKEN}"):
        ask(target)
    ask.raw(f"GET / HTTP/1.1\r\nHost: {TOKEN}\r\nAuthorization\0: Bearer {TOKEN}\r\n\r\n".encode())
    ask.raw(f"{TOKEN}\r\n\r\n".encode())
    assert TOKEN not in served.said()
    assert served.daemon is not None
    assert TOKEN.encode() not in Path(f"/proc/{served.daemon.pid}/cmdline").read_bytes()
    for words in (["config"], ["status"], ["doctor"]):
        done = served.run(*words)
        assert TOKEN not in done.out + done.err


# -- the daemon's life -------------------------------------------------------------------------------------------------


def test_without_a_configured_token_one_is_made_for_the_owner_alone(host: Host):
    host.env["CACHESYNC_HTTP"] = "127.0.0.1:0"
    host.start()
    path = host.state / "http.token"
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    token = path.read_text().strip()
    assert len(token) >= 40
    ask = client_of(host)
    assert ask("/v1/status", token=token).status == 200
    assert ask("/v1/status", token=None).status == 401
    assert token not in host.said(), "its log is no terminal"
    assert str(path) in host.said()
    assert host.stop() == 0
    host.log.unlink()
    host.start()
    assert client_of(host)("/v1/status", token=token).status == 200, "the same after a restart"


@pytest.mark.parametrize("what", ["link", "readable", "pipe", "short", "hard link", "empty"])
def test_a_token_that_others_know_or_chose_is_not_taken(host: Host, what: str):
    path, chosen = host.state / "http.token", "A" * 43
    host.state.mkdir(mode=0o700)
    (host.folder / "chosen").write_text(chosen)
    (host.folder / "chosen").chmod(0o600)
    if what == "link":
        path.symlink_to(host.folder / "chosen")
    elif what == "hard link":
        os.link(host.folder / "chosen", path)
    elif what == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.write_text({"readable": chosen, "short": "abc", "empty": ""}[what])
        path.chmod(0o644 if what == "readable" else 0o600)
    host.env["CACHESYNC_HTTP"] = "127.0.0.1:0"
    host.start()
    token = path.read_text().strip()
    assert token != chosen
    assert len(token) == 43
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert client_of(host)("/v1/status", token=chosen).status == 401
    assert (host.folder / "chosen").read_text() == chosen


@pytest.mark.parametrize("address", ["127.0.0.1:0", "0.0.0.0:0"])
@pytest.mark.parametrize("token", ["a", "a" * 15])
def test_a_short_token_is_refused_at_the_start(host: Host, address: str, token: str):
    done = host.run("run", env={"CACHESYNC_HTTP": address, "CACHESYNC_HTTP_TOKEN": token})
    assert done.code == 2
    assert "http_token" in done.err
    assert "openssl rand -hex 32" in done.err
    assert token * 2 not in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert host.run("status", env={"CACHESYNC_HTTP_TOKEN": token}).code == 0, "what does not serve it does not mind"


def test_a_port_in_use_is_told_in_one_line(host: Host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = host.run("run", env={"CACHESYNC_HTTP": address, "CACHESYNC_HTTP_TOKEN": TOKEN})
    assert done.code == 2
    assert "http" in done.err
    assert address in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert TOKEN not in done.err + done.out


def test_a_second_daemon_is_told_of_the_first_not_of_the_port(host: Host):
    host.env |= {"CACHESYNC_HTTP": "127.0.0.1:0"}
    host.start()
    assert host.daemon is not None
    taken = f"127.0.0.1:{client_of(host).port}"
    done = host.run("run", env={"CACHESYNC_HTTP": taken})
    assert done.code == 2
    assert str(host.daemon.pid) in done.err


def test_it_stops_with_the_daemon_whoever_is_connected(host: Host):
    host.env |= {"CACHESYNC_HTTP": "127.0.0.1:0", "CACHESYNC_HTTP_TOKEN": TOKEN}
    host.start()
    host.write("a")
    ask = client_of(host)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ask.connected())
        half = stack.enter_context(ask.connected())
        half.sendall(b"GET / HT")
        streams = [stack.enter_context(ask.connected()) for _ in range(5)]
        for stream in streams:
            head = f"GET /v1/events HTTP/1.1\r\nHost: {ask.host}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            stream.sendall(head.encode())
            assert stream.recv(1000).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        assert host.stop() == 0
        assert time.monotonic() - begun < 8
    with pytest.raises(ConnectionRefusedError):
        ask.connected()


def test_the_port_outlives_a_control_socket_that_is_made_anew(host: Host):
    host.env |= {"CACHESYNC_HTTP": "127.0.0.1:0", "CACHESYNC_HTTP_TOKEN": TOKEN}
    host.start()
    ask = client_of(host)
    (host.state / "control.sock").unlink()
    eventually((host.state / "control.sock").exists, 15)
    assert eventually(lambda: ask("/v1/sessions").status == 200, 10)


def test_beyond_this_machine_it_goes_by_addresses_and_the_names_it_was_given(make_host: MakeHost):
    """And the log says that it is in the clear."""
    host = make_host()
    host.env |= {
        "CACHESYNC_HTTP": "0.0.0.0:0",
        "CACHESYNC_HTTP_TOKEN": TOKEN,
        "CACHESYNC_HTTP_NAMES": "agents.example.com, Other.example",
    }
    host.start()
    ask = client_of(host)
    assert "put TLS in front of it" in host.said()
    for name in ("10.1.2.3:8484", "[2001:db8::1]", "agents.example.com", "AGENTS.example.com:443", "other.example:9"):
        assert ask("/v1/status", Host=name).status == 200, name
        assert ask("/v1/status", token=None, Host=name).status == 401, name
    for name in ("evil.example", "x.agents.example.com", "agents.example.com.evil.example"):
        assert ask("/v1/status", Host=name).status == 403, name
    assert ask("/v1/status", Host="agents.example.com", Origin="https://agents.example.com").status == 200


# -- what the document says --------------------------------------------------------------------------------------------


def test_the_limits_are_those_of_the_document():
    text = (Path(__file__).resolve().parents[2] / "docs/page.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text, re.MULTILINE))
    assert rows["connections"].startswith(f"{tcp.CONNECTIONS};")
    assert rows["time until the head of a request is complete, and between two requests"] == f"{tcp.QUIET:.0f} s"
    assert rows["time in which a client takes nothing of an answer"] == f"{tcp.STUCK:.0f} s"
    assert rows["listeners to events"] == str(LISTENERS)
