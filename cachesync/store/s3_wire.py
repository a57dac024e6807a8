"""Kept connections to one server, for many threads: a request is sent and its answer begun in the calling thread.

A request that breaks off on a connection that was kept is sent once more, on a new one: the server may have closed the
old one just then. All writes are conditional, so that does no harm; but a POST begins or ends an upload, and no second.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from cachesync.store.s3_connection import ConnectFailed, Connection, Reply

if TYPE_CHECKING:
    import ssl

KEPT = 15.0
"""Seconds that a connection is kept unused: less than what servers keep them for."""

_WITH_BODY = frozenset({"PUT", "POST"})
_LEFT = 1.0
"""Seconds for a server that refuses a body to say why."""


class Wire:
    """Connections to one server. Safe to use from many threads. ``context`` is given for TLS.

    A deadline leaves time for the slowest way there: a server that does nothing for ``silence`` seconds, be it to take
    a request or to answer it, is given up before.
    """

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext | None, *, connect_timeout: float, silence: float
    ) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._connect_timeout = connect_timeout
        self._silence = silence
        self._idle: deque[Connection] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def ask(
        self,
        verb: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        deadline: float,
        patience: float = 1,
    ) -> Reply:
        """Send a request and return its answer, whose head has come. ``headers`` have all but content-length.
        ``patience`` is how many times as long the server may do nothing.

        Raises ConnectFailed, TimeoutError, OSError.
        """
        length = f"content-length: {len(body)}\r\n" if body or verb in _WITH_BODY else ""
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError("a line end in a header")
        head = f"{verb} {target} HTTP/1.1\r\n{lines}{length}\r\n".encode("utf-8", "surrogateescape")
        if (connection := self._kept()) is not None:
            try:
                return self._exchange(connection, verb, head, body, deadline, patience)
            except ConnectionError:
                if verb == "POST":
                    raise
        return self._exchange(self._connect(deadline), verb, head, body, deadline, patience)

    def keep(self, connection: Connection) -> None:
        """Take a connection back whose answer was read."""
        now = connection.idle_since = time.monotonic()
        past = []
        with self._lock:
            if self._closed:
                past.append(connection)
            else:
                self._idle.append(connection)
            # Those at this end are what a rush left behind: the last one kept is the first one used.
            while self._idle and now - self._idle[0].idle_since >= KEPT:
                past.append(self._idle.popleft())
        for gone in past:
            gone.close()

    def close(self) -> None:
        """Let the connections go; those in use when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    def _exchange(
        self, connection: Connection, verb: str, head: bytes, body: bytes, deadline: float, patience: float
    ) -> Reply:
        try:
            broken: ConnectionError | None = None
            patience *= self._silence
            try:
                connection.send(head, body, deadline, self._silence)
            except ConnectionError as error:
                # Who refuses a body may say why before closing. That it was stored nobody can say.
                broken = ConnectionResetError(f"the connection broke under the request: {error}")
                patience = _LEFT
            keep = self.keep if broken is None else Connection.close
            try:
                reply = Reply(connection, keep, verb, min(deadline, time.monotonic() + patience))
            except OSError:
                if broken is None:
                    raise
                raise broken from None
            if broken is not None and reply.status < HTTPStatus.MULTIPLE_CHOICES:
                raise broken
            return reply
        except BaseException:
            connection.close()
            raise

    def _kept(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if time.monotonic() - connection.idle_since < KEPT and connection.is_quiet:
                return connection
            connection.close()

    def _connect(self, deadline: float) -> Connection:
        try:
            held = self._reach(min(deadline, time.monotonic() + self._connect_timeout))
        except OSError as error:
            raise ConnectFailed(f"cannot connect to {self._host}:{self._port}: {error}") from error
        try:
            held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is None:
                return Connection(held)
            from cachesync.store.s3_tls import SecureConnection

            return SecureConnection(held, self._context, self._host)
        except BaseException:
            held.close()
            raise

    def _reach(self, deadline: float) -> socket.socket:
        """The first of the host's addresses that answers. Each has half of the time that is left, the last all."""
        host = self._host.encode("ascii") if self._host.isascii() else self._host  # which IDNA leaves as it is
        _, *others = found = socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM)
        for number, (*_, address) in enumerate(found):
            last = number == len(others)
            left = max(0.001, deadline - time.monotonic())
            try:
                return socket.create_connection((str(address[0]), self._port), left if last else left / 2)
            except OSError:
                if last:
                    raise
        raise AssertionError("the last one returns or raises")
