"""A proxy in front of an S3 server that does to its traffic what networks and stores do.

Requests pass byte for byte, so signatures stay good: they are made for the proxy's address, which the server finds in
the Host header. ``Rule`` says which requests are hit, and an action what happens to them; each request is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

T = TypeVar("T")

_CONDITIONS = frozenset({"if-match", "if-none-match"})


@dataclass(slots=True)
class Request:
    """One request as it came: ``operation`` is S3's name for it, ``head`` its start line and headers."""

    method: str
    target: str
    head: bytes
    headers: dict[str, str]
    body: bytes
    operation: str
    key: str


@dataclass(slots=True)
class Record:
    """What became of a request with ``size`` bytes. ``sent`` is the status that the client saw, None if it saw none;
    ``upstream`` the server's, None if it never got the request or gave no answer."""

    at: float
    operation: str
    method: str
    key: str
    target: str
    size: int
    sent: int | None = None
    upstream: int | None = None


@dataclass(slots=True)
class Response:
    """An answer, whole, ready to be passed on."""

    status: int
    head: bytes
    body: bytes

    @property
    def raw(self) -> bytes:
        return self.head + self.body


class Exchange(Protocol):
    """What an action may do with one request."""

    request: Request
    record: Record

    async def forward(self, request: Request | None = None) -> Response: ...
    async def send(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


Action = Callable[[Exchange], Coroutine[Any, Any, None]]


# -- actions ---------------------------------------------------------------------------------------------------------


async def forward(exchange: Exchange) -> None:
    """Nothing happens to it."""
    response = await exchange.forward()
    exchange.record.sent = response.status
    await exchange.send(response.raw)


def answer(status: int, code: str) -> Action:
    """The store says no, and never sees the request."""

    async def act(exchange: Exchange) -> None:
        text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>'.encode()
        if exchange.request.method == "HEAD":
            text = b""
        head = f"HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n"
        head += "x-amz-request-id: 18ECB3A9F7A57684\r\n\r\n"
        exchange.record.sent = status
        await exchange.send(head.encode() + text)

    return act


INTERNAL_ERROR = answer(500, "InternalError")
SLOW_DOWN = answer(503, "SlowDown")
ACCESS_DENIED = answer(403, "AccessDenied")
EXPIRED_TOKEN = answer(400, "ExpiredToken")
"""To a HEAD a bare 400, as all errors are."""
PRECONDITION_FAILED = answer(412, "PreconditionFailed")
NO_SUCH_BUCKET = answer(404, "NoSuchBucket")
ERROR_IN_200 = answer(200, "InternalError")
"""What S3 does when a copy or the completion of an upload fails after its answer has begun."""

CONDITIONAL_CONFLICT = answer(409, "ConditionalRequestConflict")
NOT_IMPLEMENTED = answer(501, "NotImplemented")
ARCHIVED = answer(403, "InvalidObjectState")
KMS_THROTTLED = [answer(400, f"{prefix}ThrottlingException") for prefix in ("", "KMS.")]
"""In both spellings."""


def page(status: int = 200, *headers: str, kind: str = "text/html") -> Action:
    """A page of something that stands before the store, which never sees the request: a captive portal, a proxy."""

    async def act(exchange: Exchange) -> None:
        text = b"<!DOCTYPE html><html><body>Please log in<br></body></html>"
        lines = [f"HTTP/1.1 {status} Page", f"Content-Type: {kind}", f"Content-Length: {len(text)}", *headers, "", ""]
        exchange.record.sent = status
        await exchange.send("\r\n".join(lines).encode() + (b"" if exchange.request.method == "HEAD" else text))

    return act


PORTAL = page()
PORTAL_WITH_ETAG = page(200, 'ETag: "5f3-62a"', "Last-Modified: Mon, 30 Nov 2026 03:04:54 GMT")
"""As web servers send their files."""


async def reset(exchange: Exchange) -> None:
    """The connection breaks before the store has the request."""
    exchange.abort()


async def lost_reply(exchange: Exchange) -> None:
    """The store does it, and nobody hears of that."""
    await exchange.forward()
    exchange.abort()


async def corrupt(exchange: Exchange) -> None:
    """One bit of the body arrives as another."""
    request = exchange.request
    body = request.body[:-1] + bytes([request.body[-1] ^ 1])
    response = await exchange.forward(replace(request, body=body))
    exchange.record.sent = response.status
    await exchange.send(response.raw)


async def truncate(exchange: Exchange) -> None:
    """The answer stops half-way."""
    response = await exchange.forward()
    await exchange.send(
        response.raw[: len(response.head) // 2] if not response.body else response.raw[: -len(response.body) // 2]
    )
    exchange.abort()


def flip(at: float) -> Action:
    """One bit of the answer's body arrives as another; ``at`` is where, from 0 to 1."""

    async def act(exchange: Exchange) -> None:
        response = await exchange.forward()
        body = bytearray(response.body)
        if body:
            body[int((len(body) - 1) * at)] ^= 4
        exchange.record.sent = response.status
        await exchange.send(replace(response, body=bytes(body)).raw)

    return act


def other_header(name: str, value: str) -> Action:
    """A header of the answer arrives with another value."""

    async def act(exchange: Exchange) -> None:
        response = await exchange.forward()
        pattern = rf"(?im)^{re.escape(name)}:[^\r]*".encode()
        head, count = re.subn(pattern, f"{name}: {value}".encode(), response.head)
        assert count, f"the answer has no {name}"
        exchange.record.sent = response.status
        await exchange.send(head + response.body)

    return act


async def swallow(exchange: Exchange) -> None:
    """A part that the store says it has, and has not."""
    etag = hashlib.md5(exchange.request.body, usedforsecurity=False).hexdigest()
    exchange.record.sent = 200
    await exchange.send(f'HTTP/1.1 200 OK\r\nETag: "{etag}"\r\nContent-Length: 0\r\n\r\n'.encode())


class Stale:
    """Answers as a store that is behind: each request that was seen before gets the answer of that time, once
    ``behind`` is set; until then the answers are remembered."""

    def __init__(self) -> None:
        self.behind = False
        self.hits = 0
        self._answers: dict[str, Response] = {}

    async def __call__(self, exchange: Exchange) -> None:
        target = exchange.request.target
        if self.behind and target in self._answers:
            self.hits += 1
            response = self._answers[target]
        else:
            response = self._answers[target] = await exchange.forward()
        exchange.record.sent = response.status
        await exchange.send(response.raw)


def stall(seconds: float) -> Action:
    """The request is taken, and no answer comes."""

    async def act(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        exchange.abort()

    return act


def stall_in_answer(seconds: float) -> Action:
    """The store does it; the answer begins and then hangs."""

    async def act(exchange: Exchange) -> None:
        response = await exchange.forward()
        await exchange.send(response.raw[: len(response.head) // 2])
        await asyncio.sleep(seconds)
        exchange.abort()

    return act


def trickle(pause: float, piece: int = 16) -> Action:
    """The answer comes a few bytes at a time."""

    async def act(exchange: Exchange) -> None:
        response = await exchange.forward()
        for start in range(0, len(response.raw), piece):
            await exchange.send(response.raw[start : start + piece])
            await asyncio.sleep(pause)
        exchange.record.sent = response.status

    return act


def delay(seconds: float) -> Action:
    """It all works, later."""

    async def act(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await forward(exchange)

    return act


def without_conditions(key: str, secret: str, region: str = "us-east-1") -> Action:
    """The store ignores conditions: they are taken out and the request is signed again."""

    async def act(exchange: Exchange) -> None:
        request = exchange.request
        if not _CONDITIONS & request.headers.keys():
            await forward(exchange)
            return
        dropped = _CONDITIONS | {"authorization", "x-amz-date", "host", "content-length", "connection", "expect"}
        kept = {name: value for name, value in request.headers.items() if name not in dropped}
        host = request.headers["host"]
        signed = AWSRequest(request.method, f"http://{host}{request.target}", headers=kept, data=request.body)
        S3SigV4Auth(Credentials(key, secret), "s3", region).add_auth(signed)
        lines = [f"{request.method} {request.target} HTTP/1.1", f"host: {host}", f"content-length: {len(request.body)}"]
        lines += [f"{name}: {value}" for name, value in signed.headers.items()]
        changed = Request(
            request.method, request.target, "\r\n".join([*lines, "", ""]).encode(), {}, request.body, "", request.key
        )
        response = await exchange.forward(changed)
        exchange.record.sent = response.status
        await exchange.send(response.raw)

    return act


# -- rules -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rule:
    """Hits requests of ``operation`` (S3's name, a regular expression) on keys that match ``key``.

    The first ``skip`` that match pass, then ``times`` are hit (None: all), until ``until`` (monotonic seconds).
    """

    action: Action
    operation: str = ".*"
    key: str = ".*"
    skip: int = 0
    times: int | None = None
    until: float | None = None
    hits: int = 0
    seen: int = 0

    def takes(self, request: Request) -> bool:
        if not re.fullmatch(self.operation, request.operation) or not re.fullmatch(self.key, request.key, re.DOTALL):
            return False
        if self.until is not None and time.monotonic() > self.until:
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


@dataclass
class Chance:
    """Random faults from a seed: each request is hit by one of ``actions`` with probability ``share``."""

    seed: int
    share: float
    actions: list[Action] = field(
        default_factory=lambda: [INTERNAL_ERROR, SLOW_DOWN, reset, lost_reply, truncate, CONDITIONAL_CONFLICT]
    )

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.hits = 0

    def pick(self) -> Action | None:
        if self._random.random() >= self.share:
            return None
        self.hits += 1
        return self._random.choice(self.actions)


# -- the proxy -------------------------------------------------------------------------------------------------------


class Proxy:
    """One proxy in a thread of its own; a context manager. Change ``rules`` and ``chance`` at any time."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        assert parts.port is not None
        self._upstream = parts.hostname, parts.port
        self.rules: list[Rule] = []
        self.chance: Chance | None = None
        self.records: list[Record] = []
        self.refused = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def add(self, action: Action, operation: str = ".*", key: str = ".*", **limits: Any) -> Rule:
        """Put a rule in force; the earliest that takes a request has it."""
        rule = Rule(action, operation, key, **limits)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Be a plain proxy again."""
        self.rules = []
        self.chance = None

    def refuse(self) -> None:
        """Close the listener and every connection: whoever connects is refused."""
        self._run(self._refuse())

    def accept(self) -> None:
        """Listen, again."""
        self._run(self._accept())

    def count(self, operation: str, key: str = ".*", *, reached: bool = False) -> int:
        """How many requests of an operation came, or (``reached``) came to the server."""
        return sum(
            1
            for record in self.records
            if re.fullmatch(operation, record.operation)
            and re.fullmatch(key, record.key, re.DOTALL)
            and not (reached and record.upstream is None)
        )

    def counts(self) -> Counter[str]:
        """How many requests of each operation came."""
        return Counter(record.operation for record in self.records)

    # -- on the loop -------------------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _accept(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20, backlog=512)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        self._writers.add(writer)
        connection = _Connection(self, reader, writer, self._upstream)
        try:
            await connection.run()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            self._clients.discard(task)
            self._writers.discard(writer)
            connection.close()
            writer.transport.abort()

    def choose(self, request: Request) -> Action:
        for rule in self.rules:
            if rule.takes(request):
                return rule.action
        if self.chance is not None and (action := self.chance.pick()) is not None:
            return action
        return forward


class _Connection:
    """One client's connection, and the one to the server that belongs to it."""

    request: Request
    record: Record

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: tuple[str, int]
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._upstream = upstream
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        while not self._writer.is_closing():
            request = await self._read()
            if request is None:
                return
            self.request = request
            told = (request.operation, request.method, request.key, request.target, len(request.body))
            self.record = Record(time.monotonic(), *told)
            self._proxy.records.append(self.record)
            await self._proxy.choose(request)(self)

    def close(self) -> None:
        if self._server is not None:
            self._server[1].transport.abort()

    # -- Exchange ----------------------------------------------------------------------------------------------------

    async def forward(self, request: Request | None = None) -> Response:
        """Let the server do it, even if the client goes away meanwhile."""
        return await asyncio.shield(self._forward(request or self.request, self.record))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def abort(self) -> None:
        self._writer.transport.abort()

    # -- HTTP --------------------------------------------------------------------------------------------------------

    async def _read(self) -> Request | None:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        start, headers = _parse(head)
        method, target, _ = start.split(" ", 2)
        if headers.get("expect", "").lower() == "100-continue":
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect: 100-continue", b"", head)
        assert "transfer-encoding" not in headers, "no client of ours sends chunks"
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        operation, key = classify(method, target, headers)
        return Request(method, target, head, headers, body, operation, key)

    async def _forward(self, request: Request, record: Record) -> Response:
        for fresh in (False, True):
            if self._server is None or fresh:
                self._server = await asyncio.open_connection(*self._upstream, limit=2**20)
            reader, writer = self._server
            try:
                writer.write(request.head + request.body)
                response = await _answer(reader, request.method)
            except (OSError, asyncio.IncompleteReadError):
                writer.transport.abort()
                if fresh:
                    raise
                continue
            record.upstream = response.status
            return response
        raise AssertionError("not reached")


async def _answer(reader: asyncio.StreamReader, method: str) -> Response:
    head = await reader.readuntil(b"\r\n\r\n")
    start, headers = _parse(head)
    status = int(start.split(" ", 2)[1])
    if status == 100:
        return await _answer(reader, method)
    if method == "HEAD" or status in (204, 304):
        return Response(status, head, b"")
    if "chunked" not in headers.get("transfer-encoding", ""):
        return Response(status, head, await reader.readexactly(int(headers.get("content-length", "0"))))
    body = bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return Response(status, head, bytes(body))


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    start, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return start, headers


def classify(method: str, target: str, headers: dict[str, str]) -> tuple[str, str]:
    """The S3 operation and the key of a path-style request."""
    path, _, query = target.partition("?")
    asked = parse_qs(query, keep_blank_values=True)
    _, _, key = unquote(path).lstrip("/").partition("/")
    if not key:
        if method == "GET":
            name = "ListObjects" if "list-type" in asked else f"GetBucket{next(iter(asked), '').capitalize()}"
            return name, asked.get("prefix", [""])[0]
        return f"{method.capitalize()}Bucket", ""
    copied = "x-amz-copy-source" in headers
    table: dict[tuple[str, bool, bool], str] = {
        ("PUT", True, False): "UploadPartCopy" if copied else "UploadPart",
        ("PUT", False, False): "CopyObject" if copied else "PutObject",
        ("POST", False, True): "CreateMultipartUpload",
        ("POST", True, False): "CompleteMultipartUpload",
        ("DELETE", True, False): "AbortMultipartUpload",
        ("DELETE", False, False): "DeleteObject",
        ("GET", False, False): "GetObject",
        ("HEAD", False, False): "HeadObject",
    }
    return table.get((method, "uploadId" in asked, "uploads" in asked), f"{method} {query}"), key


@contextlib.contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    """A proxy for the time of the block."""
    with Proxy(upstream) as proxy:
        yield proxy
