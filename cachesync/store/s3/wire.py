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
from concurrent.futures import Future
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cachesync.store.s3.connection import ConnectFailed, Connection, Reply

if TYPE_CHECKING:
    import ssl

KEPT = 15.0
"""Seconds that a connection is kept unused: less than what servers keep them for."""

_WITH_BODY = frozenset({"PUT", "POST"})
_EXPECT = b"expect: 100-continue\r\n\r\n"
_LEFT = 1.0
"""Seconds for a server that refuses a body to say why."""

LARGE = 1024 * 1024
"""Bytes from which on a body waits until the server wants it (RFC 9110, 10.1.1): a refusal, or a redirect, then costs
a round trip instead of the body."""

CONTINUE_WITHIN = 1.0
"""Seconds for the server to say so. The body follows then in any case."""


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
        self._continues: bool | None = None  # whether the server reacts to "Expect", once that is known
        self._lookup: Future[list[str]] | None = None
        self._numeric = _is_numeric(host)

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
        asks = len(body) >= LARGE and self._continues is not False
        expecting = head[:-2] + _EXPECT if asks else head
        if (connection := self._kept()) is not None:
            try:
                return self._exchange(connection, verb, expecting, body, deadline, patience)
            except ConnectionError:
                if verb == "POST":
                    raise
        reply = self._exchange(self._connect(deadline), verb, expecting, body, deadline, patience)
        if asks and reply.status == HTTPStatus.EXPECTATION_FAILED:
            reply.close()
            self._continues = False
            reply = self._exchange(self._connect(deadline), verb, head, body, deadline, patience)
        return reply

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
                if not head.endswith(_EXPECT):
                    connection.send(head, body, deadline, self._silence)
                elif not self._send_if_wanted(connection, head, body, deadline):
                    broken = ConnectionResetError("the server took the request without its body")
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

    def _send_if_wanted(self, connection: Connection, head: bytes, body: bytes, deadline: float) -> bool:
        """Send a request; False if the server has answered before it got the body, which is not sent then."""
        connection.send(head, b"", deadline, self._silence)
        wants = connection.wants_body(deadline, CONTINUE_WITHIN)
        if wants is None and self._continues is None:
            self._continues = False  # one that never did so is not waited for again
        elif wants is not None:
            self._continues = True
        if wants is False:
            return False
        connection.send(b"", body, deadline, self._silence)
        return True

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
            from cachesync.store.s3.tls import SecureConnection

            return SecureConnection(held, self._context, self._host)
        except BaseException:
            held.close()
            raise

    def _reach(self, deadline: float) -> socket.socket:
        """The first of the host's addresses that answers. Each has half of the time that is left, the last all."""
        _, *others = found = [self._host] if self._numeric else self._addresses(deadline)
        for number, address in enumerate(found):
            last = number == len(others)
            left = max(0.001, deadline - time.monotonic())
            try:
                return socket.create_connection((address, self._port), left if last else left / 2)
            except OSError:
                if last:
                    raise
        raise AssertionError("the last one returns or raises")

    def _addresses(self, deadline: float) -> list[str]:
        """The host's addresses. A lookup cannot be given a deadline, so a thread of its own waits for it: one, however
        many want to know. Raises OSError."""
        with self._lock:
            if (lookup := self._lookup) is None:
                lookup = self._lookup = Future()
                try:
                    threading.Thread(target=self._look_up, args=(lookup,), name="resolve", daemon=True).start()
                except BaseException:
                    self._lookup = None
                    raise
        try:
            return lookup.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise TimeoutError("its name was not resolved in time") from None

    def _look_up(self, lookup: Future[list[str]]) -> None:
        host = self._host.encode("ascii") if self._host.isascii() else self._host  # which IDNA leaves as it is
        try:
            found = socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM)
        except BaseException as error:  # noqa: BLE001 -- those who wait for it raise it
            self._lookup = None
            lookup.set_exception(error)
        else:
            self._lookup = None
            lookup.set_result([str(address[0]) for *_, address in found])


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
