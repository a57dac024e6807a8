"""One connection that speaks HTTP/1.1 (RFC 9112), and the answers that come over it, in the calling thread."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

T = TypeVar("T")

MAX_HEAD = 128 * 1024
"""Bytes of an answer's status and headers, at most."""

MAX_TEXT = 1024 * 1024
"""Bytes that are read of a body which nobody streams."""

_RECEIVE = 256 * 1024
_SLICE = 1.0
"""Seconds that one call of the kernel waits, at most."""

_NO_BODY = frozenset({204, 304})
_INFORMATIONAL = range(100, 200)
_INTERIM = re.compile(rb"HTTP/1\.[01] 1[0-9]{2}")
_STATUS = re.compile(r"[0-9]{3}")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"[0-9A-Fa-f]{1,15}")


class ConnectFailed(OSError):
    """Nobody answers at the address."""


class Garbled(OSError):
    """What came is no HTTP answer, or not all of one."""


class NoDocument(Garbled):
    """What came is a document, but of a kind that S3 never sends."""


class Connection:
    """One connection. ``deadline`` is when to give up, by time.monotonic(); TimeoutError then.

    The kernel itself bounds how long it waits (socket(7), SO_RCVTIMEO). Python's own limit is two calls more for each
    that sends or receives, and each of them is a chance for another thread to take the interpreter. Only the main
    thread waits by it: signals come to it first, and after each the kernel's limit would begin anew (PEP 475).
    """

    def __init__(self, held: socket.socket) -> None:
        self._socket = held
        self._poll = select.poll()
        self._poll.register(held, select.POLLIN)
        self._got = bytearray()
        self._slice = 0.0
        self.idle_since = 0.0
        held.settimeout(None)

    def send(self, head: bytes, body: bytes, deadline: float, silence: float) -> None:
        """Send a request, of which the server takes nothing for ``silence`` seconds at most. One that it does not want
        to read to its end may have been answered."""
        for piece in (head + body,) if len(body) <= _RECEIVE else (head, body):
            left = memoryview(piece)
            while left:
                left = left[self._within(min(deadline, time.monotonic() + silence), self._socket.send, left) :]

    def head(self, deadline: float) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer that is final, with their names in small letters."""
        while True:
            status, headers = self._next_head(deadline)
            if status not in _INFORMATIONAL:
                return status, headers

    def wants_body(self, deadline: float, within: float) -> bool | None:
        """The server's reaction to ``Expect: 100-continue``: True if it wants the body, False if its final answer has
        come without that, None if it says nothing for ``within`` seconds."""
        until = min(deadline, time.monotonic() + within)
        while True:
            try:
                while b"\r\n\r\n" not in self._got and len(self._got) <= MAX_HEAD:
                    self.more(until)
            except TimeoutError:
                if until == deadline:
                    raise
                return None
            if not _INTERIM.match(self._got):
                return False
            if self._next_head(deadline)[0] == HTTPStatus.CONTINUE:
                return True

    def _next_head(self, deadline: float) -> tuple[int, dict[str, str]]:
        while (end := self._got.find(b"\r\n\r\n")) < 0:
            if len(self._got) > MAX_HEAD:
                raise Garbled("the answer's head has no end")
            self.more(deadline)
        first, *lines = self._got[:end].decode("utf-8", "surrogateescape").split("\r\n")
        del self._got[: end + 4]
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not _STATUS.match(rest):
            raise Garbled("the answer is no HTTP")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            if name == "content-length" and headers.get(name, value) != value:
                raise Garbled("the answer has two lengths")
            headers[name] = value
        if version == "HTTP/1.0":
            headers.setdefault("connection", "close")
        return int(rest[:3]), headers

    @property
    def buffered(self) -> int:
        """Bytes that have come and were not taken."""
        return len(self._got)

    def more(self, deadline: float) -> None:
        """Wait for bytes. Raises ConnectionResetError at their end."""
        data = self._within(deadline, self._socket.recv, _RECEIVE)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._got += data

    def take(self, size: int, deadline: float) -> bytes:
        """Exactly ``size`` bytes."""
        parts = [bytes(self._got[:size])] if self._got else []
        del self._got[:size]
        left = size - sum(map(len, parts))
        while left:
            part = self._receive(left, deadline)
            if not part:
                raise ConnectionResetError("the server closed the connection")
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def line(self, deadline: float) -> bytes:
        """The next line, without its end."""
        while (end := self._got.find(b"\r\n")) < 0:
            if len(self._got) > MAX_HEAD:
                raise Garbled("a line has no end")
            self.more(deadline)
        line = bytes(self._got[:end])
        del self._got[: end + 2]
        return line

    @property
    def is_quiet(self) -> bool:
        """Whether it can be used again, as far as can be seen: nothing has come that nobody asked for."""
        return not self._got and not self._poll.poll(0)

    def close(self) -> None:
        """Let it go."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _receive(self, most: int, deadline: float) -> bytes:
        """That many bytes, or fewer if they take their time; none at the end. (In the main thread: what has come.)"""
        return self._within(deadline, self._socket.recv, most, socket.MSG_WAITALL)

    def _within(self, deadline: float, call: Callable[..., T], *args: object) -> T:
        """What a call of the socket returns, which waits for the other end."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if _hears_signals():
                self._socket.settimeout(left)
                return call(*args)
            if self._socket.gettimeout() is not None:  # the main thread has used it
                self._socket.settimeout(None)
            wait = min(left, _SLICE)
            if self._slice > wait or self._slice < wait / 2:
                self._slice = wait
                limit = struct.pack("@ll", *divmod(max(1, round(wait * 1_000_000)), 1_000_000))
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            with contextlib.suppress(BlockingIOError):  # the slice has passed
                return call(*args)


class Reply:
    """An answer: ``status``, ``headers``, and its body, read in pieces. Once that is read to its end, ``keep`` is given
    the connection; who does not read so far closes it."""

    def __init__(self, connection: Connection, keep: Callable[[Connection], None], verb: str, deadline: float) -> None:
        self._keep = keep
        self._connection: Connection | None = connection
        self.status, self.headers = connection.head(deadline)
        length = self.headers.get("content-length", "")
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        self._left = 0
        self._endless = False
        if length and not _LENGTH.fullmatch(length):
            raise Garbled("the answer's length is no number")
        if length and self._chunked:
            self.headers["connection"] = "close"  # where it really ends, others may see otherwise (RFC 9112, 6.3)
        if verb == "HEAD" or self.status in _NO_BODY:
            self._chunked = False
        elif not self._chunked and length:
            self._left = int(length)
        elif not self._chunked:
            self._endless = True
        self._settle()

    def read(self, size: int, deadline: float) -> bytes:
        """The next ``size`` bytes; fewer only at the end. Raises OSError if it breaks off, TimeoutError."""
        if self._connection is None:
            return b""
        try:
            data = self._read(self._connection, size, deadline)
        except BaseException:
            self.close()
            raise
        self._settle()
        return data

    def text(self, deadline: float, most: int = MAX_TEXT) -> bytes:
        """All of a short body."""
        data = self.read(most, deadline)
        self.close()
        return data

    def close(self) -> None:
        """Let the connection go, if it is not given back yet."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _read(self, connection: Connection, size: int, deadline: float) -> bytes:
        if self._endless:
            return self._to_the_end(connection, size, deadline)
        if not self._chunked:
            data = connection.take(min(size, self._left), deadline)
            self._left -= len(data)
            return data
        gathered, came = [], 0
        while came < size and self._chunked:
            if not self._left:
                self._next_chunk(connection, deadline)
                continue
            part = connection.take(min(size - came, self._left), deadline)
            self._left -= len(part)
            gathered.append(part)
            came += len(part)
            if not self._left and connection.line(deadline):
                raise Garbled("a chunk is longer than it says")
        return b"".join(gathered)

    def _next_chunk(self, connection: Connection, deadline: float) -> None:
        told = connection.line(deadline).partition(b";")[0].strip()
        if not _CHUNK.fullmatch(told):
            raise Garbled("a chunk's length is no number")
        self._left = int(told, 16)
        if not self._left:
            while connection.line(deadline):
                pass  # trailers
            self._chunked = False

    def _to_the_end(self, connection: Connection, size: int, deadline: float) -> bytes:
        """A body without a length ends with its connection. Whether that was all only a digest can tell."""
        gathered = bytearray()
        while len(gathered) < size:
            try:
                gathered += connection.take(1, deadline)
            except ConnectionResetError:
                self._endless = False
                self.headers["connection"] = "close"
                break
            gathered += connection.take(min(connection.buffered, size - len(gathered)), deadline)
        return bytes(gathered)

    def _settle(self) -> None:
        """Give the connection back once the body is read."""
        if self._left or self._chunked or self._endless or self._connection is None:
            return
        connection, self._connection = self._connection, None
        if "close" in self.headers.get("connection", "").lower():
            connection.close()
        else:
            self._keep(connection)


def _hears_signals() -> bool:
    return threading.get_ident() == threading.main_thread().ident
