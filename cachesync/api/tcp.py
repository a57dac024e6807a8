"""The control API on TCP: the routes of the socket behind a guard, and the page.

Every program that reaches the port can open connections. So their number is bounded, and the time that a connection may
be idle or leave its response unread. If there are too many, the one that was idle for the longest is closed, so idle
connections cannot lock other clients out. On an AF_UNIX socket the number is also bounded for each user; a connection
above it is refused before the server allocates anything for it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import field
from functools import cache
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from cachesync.api import wire
from cachesync.api.guard import OPEN, Guard, guarded, protect, seal
from cachesync.api.http_io import Connection, Handler, as_json, take_expectations
from cachesync.api.page_routes import PageRoutes
from cachesync.api.socket_address import peer_user
from cachesync.config.kinds import Address, is_loopback
from cachesync.model.errors import ConfigError, DaemonUnavailable
from cachesync.model.record import record

CONNECTIONS = 256
BACKLOG = 4096
"""Connections that the kernel keeps until they are taken; it may keep fewer (``net.core.somaxconn``)."""

OF_ONE = 32
"""Connections of one user on an AF_UNIX socket."""

QUIET = 10.0
"""Seconds that a connection may have no request whose head is complete: before the first, and between two."""

STUCK = 60.0
"""Seconds that a client may take nothing of an answer."""

_LOOK = 0.5
_MAKES_ROOM = 1.0
"""Seconds that a connection has to be quiet until it makes room for another one of its user."""

_AT_ONCE, _LOOKED_AT = 32, 512
"""Connections that are served, and that are accepted at all, in one round of the loop: those that say something are
heard before the next come, and what is refused costs little."""

_OUT_OF_DESCRIPTORS = 1.0
"""Seconds until connections are taken again, where none can be had."""

_log = logging.getLogger(__name__)


def listen(address: Address) -> socket.socket:
    """Return a socket that listens at the address of the setting ``http``. Raises ConfigError if that fails, and
    DaemonUnavailable if no interface has the address yet, as while a machine boots."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        cause = str(getattr(error, "strerror", None) or error).partition(" (while attempting")[0]
        hint = "is the port in use? give the setting http another one, or turn it off"
        early = getattr(error, "errno", None) == errno.EADDRNOTAVAIL
        raise (DaemonUnavailable if early else ConfigError)(
            "setting", "http", f"cannot listen on {address.host}:{address.port}: {cause}", hint
        ) from error


@record(frozen=True, slots=True)
class Door:
    """A listening socket, kept by whoever opened it, and who may come in: see Guard."""

    listener: socket.socket
    host: str
    names: Collection[str] = ()
    token: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it."""
        port = self.listener.getsockname()[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  # where to ask, not serve
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    @property
    def beyond(self) -> bool:
        """Whether others than this machine can reach it."""
        return not is_loopback(f"http://[{self.host}]" if ":" in self.host else f"http://{self.host}")


class Site:
    """Serves an application at a listening socket, with bounded connections. ``noting`` is its first middleware.

    Make it, and call it, in the event loop that serves it. ``settings`` are those of aiohttp's connections.
    """

    def __init__(self, app: web.Application, listener: socket.socket, settings: Mapping[str, Any]) -> None:
        self._listener = listener
        self._settings = settings
        self._runner = web.AppRunner(app, shutdown_timeout=0.5, **settings)
        self._open: set[_Connection] = set()
        self._beginning: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take connections."""
        await self._runner.setup()
        take_expectations(self._runner)
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._listen()
        self._looking = asyncio.create_task(self._look())

    async def shut(self) -> None:
        """Take no more connections; those that there are go on."""
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    async def cleanup(self) -> None:
        """End all connections."""
        await self.shut()
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await self._runner.cleanup()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Accept waiting connections, several at once. The event loop calls this."""
        left = _AT_ONCE
        for _ in range(_LOOKED_AT):
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("no connection can be taken: %s", error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                loop.call_later(_OUT_OF_DESCRIPTORS, self._listen)
                return
            left -= self._take(connection)
            if not left:
                return

    def _take(self, connection: socket.socket) -> bool:
        """Serve a connection; or refuse it, before anything is made for it, and return False."""
        connection.setblocking(False)
        whose = peer_user(connection) if connection.family == socket.AF_UNIX else None
        if (full := self._full(whose)) is not None:
            with connection, suppress(OSError):
                connection.send(_refusal(full))
            return False
        server = self._runner.server
        assert server is not None  # noqa: S101  # it is set up
        protocol = _Connection(server, self._open, self._settings, whose)
        loop = asyncio.get_running_loop()
        beginning = loop.create_task(loop.connect_accepted_socket(lambda: protocol, connection))
        self._beginning.add(beginning)
        beginning.add_done_callback(lambda task: self._begun(task, protocol))
        return True

    def _begun(self, task: asyncio.Task[Any], protocol: _Connection) -> None:
        self._beginning.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._open.discard(protocol)

    def _full(self, whose: int | None) -> str | None:
        """Why there is no place for another one of a user; None if there is, for which a quiet one may have ended."""
        if whose is not None:
            own = [one for one in self._open if one.whose == whose]
            if len(own) >= OF_ONE:
                before = time.monotonic() - _MAKES_ROOM
                dropped = _drop_quietest(one for one in own if one.since < before)
                return None if dropped else f"{OF_ONE} of your user are"
        if len(self._open) < CONNECTIONS:
            return None
        counts = Counter(one.whose for one in self._open)
        most = max(counts[one.whose] for one in self._open)
        dropped = _drop_quietest(one for one in self._open if counts[one.whose] == most) or _drop_quietest(self._open)
        return None if dropped else f"{CONNECTIONS} others are"

    async def _look(self) -> None:
        """End what is quiet for too long, now and then."""
        while True:
            await asyncio.sleep(_LOOK)
            for connection in list(self._open):
                connection.look()


def tcp_site(door: Door, table: Collection[web.RouteDef], max_body: int, settings: Mapping[str, Any]) -> Site:
    """The site that serves routes and the page at a door. Call it in the event loop that serves it."""
    page = PageRoutes()
    shown = {*OPEN, *page.paths}
    guard = Guard(door.token, {door.host, *door.names}, anywhere=door.beyond, shown=shown)
    app = web.Application(middlewares=[noting, guarded(guard), knowing(shown), as_json], client_max_size=max_body)
    app.on_response_prepare.append(protect)
    app.add_routes([*page.table(), *table])
    return Site(app, door.listener.dup(), settings)


def _drop_quietest(among: Iterable[_Connection]) -> bool:
    """End the one that is quiet for the longest, of those that showed no token if there are any. False if all are being
    served."""
    quietest = min((one for one in among if not one.busy), key=lambda one: (one.known, one.since), default=None)
    if quietest is not None:
        quietest.drop()
    return quietest is not None


@cache
def _refusal(full: str) -> bytes:
    """The answer to a connection for which there is no place."""
    cause = f"{full} being served already"
    body = wire.dumps(wire.error_json(DaemonUnavailable("answer", cause=cause, hint="try again in a moment")))
    head = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection(Connection):
    """One connection, which is in ``those_open`` as long as it counts. ``busy`` while a request is being answered,
    ``known`` after one with the token; ``whose`` is the user at the other end of an AF_UNIX socket."""

    def __init__(
        self, server: web.Server, those_open: set[_Connection], settings: Mapping[str, Any], whose: int | None
    ) -> None:
        super().__init__(server, settings)
        self._those_open = those_open
        self.whose = whose
        self._waiting = 0
        self.busy = False
        self.known = False
        self.since = time.monotonic()
        those_open.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self not in self._those_open:  # it had to make room before it began
            self.drop()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._those_open.discard(self)
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """As on the sockets, with the headers of all answers over TCP."""
        response = super().handle_error(request, status, exc, message)
        seal(response.headers)
        return response

    def answered(self) -> None:
        """A request was answered; what was made of it may still be on its way."""
        self.busy, self.since = False, time.monotonic()

    def drop(self) -> None:
        """End it, whatever is not sent yet."""
        self._those_open.discard(self)
        if self.transport is not None:
            self.transport.abort()

    def look(self) -> None:
        """End it if it asks nothing, or takes nothing of its answer, for too long."""
        transport = self.transport
        if self.busy or transport is None:
            return
        waiting = transport.get_write_buffer_size()
        if waiting < self._waiting:  # it takes what it asked for
            self.since = time.monotonic()
        self._waiting = waiting
        if time.monotonic() - self.since > (STUCK if waiting else QUIET):
            self.drop()


@web.middleware
async def noting(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The first thing that a request meets: from here to the answer its connection is not quiet."""
    connection = request.protocol
    assert isinstance(connection, _Connection)  # noqa: S101  # there are no others here
    connection.busy = True
    try:
        return await handler(request)
    finally:
        connection.answered()


def knowing(shown: Collection[str]) -> Middleware:
    """What a request meets that passed the guard: its connection gives way after those that showed no token."""

    @web.middleware
    async def know(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)  # noqa: S101  # there are no others here
        connection.known = connection.known or request.path not in shown
        return await handler(request)

    return know


def answered(request: web.Request) -> None:
    """The answer to a request is made: from here its connection is dropped if nothing of it is taken."""
    connection = request.protocol
    assert isinstance(connection, _Connection)  # noqa: S101  # there are no others here
    connection.answered()
