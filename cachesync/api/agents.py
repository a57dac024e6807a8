"""The agents' socket: the few verbs that an agent needs, for the sessions that its user may read, and nothing else.

What is answered is a list of routes (``ANSWERED``). A route that is not in it is refused, also one that a later
version adds. Places are counted for each user, so that a user who asks without end holds up no other. The operator's
socket has places of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from cachesync.api import wire
from cachesync.api.bounded_pool import Lane
from cachesync.api.http_io import Handler, answer, as_json, flag, query, seconds, segments
from cachesync.api.rights import Peer, SessionRights, peer_of
from cachesync.api.routes import MAX_BODY, Routes
from cachesync.api.tcp import Site, answered, noting
from cachesync.model.address import Address, parse_whole
from cachesync.model.errors import CacheSyncError, DaemonUnavailable, NoSuchSession, UsageError
from cachesync.model.keys import check_session
from cachesync.model.limits import DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT
from cachesync.model.record import record
from cachesync.model.reports import Json
from cachesync.model.verbs import Verbs

_OWN, _GRANTED, _FILTERED, _EVERYBODY = "own", "granted", "filtered", "everybody"
ANSWERED = {
    ("POST", "/v1/sessions/{session}/flush"): _OWN,
    ("GET", "/v1/sessions/{session}"): _OWN,
    ("GET", "/v1/explain/{session}/{path:(?s:.+)}"): _OWN,
    ("GET", "/v1/sessions"): _FILTERED,
    ("GET", "/v1/status"): _FILTERED,
    ("GET", "/v1/events"): _FILTERED,
    ("GET", "/v1/artifacts/{address:(?s:.+)}"): _GRANTED,
    ("GET", "/v1/list{address:(?s:/.*)?}"): _GRANTED,
    ("GET", "/healthz"): _EVERYBODY,
    ("GET", "/readyz"): _EVERYBODY,
}
"""Every route that is answered, and to whom: of sessions that the peer's user may read, of what the operator grants,
filtered by what the user may read, or to everybody."""

_REFUSED = (
    "the agents' socket answers flush, status, explain and events of sessions that its user may read; ask the operator"
)
_FLUSHES, _STREAMS, _QUESTIONS = 8, 4, 4
"""Requests of one user at once, by kind."""

_LISTENERS = 16
"""Streams of events of all users at once; as many are left for the operator."""

_SHOWN, _ROOM = 1000, 128 * 1024
"""Lines of each list of an answer, and their characters: an agent can make as many as it likes."""

_WAITED = "cachesync.waited"
_WAIT = 20.0
_AT_ONCE = 8
T = TypeVar("T")


@record(frozen=True, slots=True)
class AgentDoor:
    """The agents' socket, as it is configured. ``granted`` are addresses that may be read through it, ``owner`` is the
    user of a session's directory as the journal has it."""

    path: Path
    root: Path
    granted: tuple[str, ...] = ()
    owner: Callable[[str], int | None] = lambda _: None


class AgentRoutes:
    """The handlers. Make it inside the event loop that serves it; it has places of its own for what it answers."""

    def __init__(self, verbs: Verbs, ready: Callable[[], bool], live: Callable[[], bool], door: AgentDoor) -> None:
        self._verbs = verbs
        self._routes = Routes(verbs, ready, live)
        self._rights = SessionRights(door.root, door.owner)
        self._granted = [parse_whole(address) for address in door.granted]
        self._checks = Lane("look at a session's rights", _AT_ONCE, _WAIT, idle=30.0)
        self._queries = Lane("ask the daemon", _AT_ONCE, _WAIT)
        self._places = _Places()
        self.lanes = (*self._routes.lanes, self._checks, self._queries)

    def table(self) -> list[web.RouteDef]:
        """The routes of ``ANSWERED``; everything else is refused."""
        own: Mapping[str, Handler] = {
            "/v1/sessions/{session}/flush": self.flush,
            "/v1/sessions": self.sessions,
            "/v1/status": self.status,
            "/v1/events": self.events,
        }
        rows = []
        for route in self._routes.table():
            kind = ANSWERED.get((route.method, route.path))
            if kind is None:
                continue
            handler: Handler = own.get(route.path, route.handler)
            if kind == _OWN:
                handler = self._of_own(handler)
            elif kind == _GRANTED:
                handler = self._of_granted(handler)
            rows.append(web.RouteDef(route.method, route.path, self._counted(route.path, handler), route.kwargs))
        return [*rows, web.route("*", "/{any:(?s:.*)}", self.refuse)]

    async def refuse(self, _request: web.Request) -> web.StreamResponse:
        """Whatever else is asked."""
        raise web.HTTPForbidden(reason=_REFUSED)

    async def flush(self, request: web.Request) -> web.Response:
        """The barrier of one session, with lists that are bounded."""
        waited = request.get(_WAITED, 0.0)
        return await self._routes.flush(request, lambda report: report.cut(_SHOWN, _ROOM), waited)

    async def sessions(self, request: web.Request) -> web.Response:
        """The names of the sessions that the user may read."""
        query(request)
        peer = _peer(request)

        def work() -> Json:
            names = [name for name in self._verbs.sessions() if self._rights.may_read(peer, name)]
            return {"sessions": names, "strays": []}

        return answer(await self._queries.run(work))

    async def status(self, request: web.Request) -> web.Response:
        """Root, store, daemon, and the sessions that the user may read."""
        peer, session = _peer(request), query(request, "session").get("session")
        if session is not None:
            await self._check(peer, check_session(session))

        def work() -> bytes:
            report = self._verbs.status(session)
            rows = [row for row in report.sessions if self._rights.may_read(peer, row.session)]
            others = {row.session for row in report.sessions} - {row.session for row in rows}
            notes = [note for note in report.notes if note.partition(":")[0] not in others]
            return wire.dumps(replace(report, sessions=rows, notes=notes).json())

        return answer(await self._queries.run(work))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The events of one session, as long as the user may read it."""
        session = query(request, "session").get("session")
        if session is None:
            raise UsageError("listen to events", cause="the option session is missing", hint="name one session")
        peer = _peer(request)
        await self._check(peer, check_session(session))

        async def still() -> bool:
            return await self._checks.run(lambda: self._rights.may_read(peer, session))

        async with self._places.take(None, "events", _LISTENERS):
            return await self._routes.seeing.stream(request, session, still)

    # -- who may ask what ----------------------------------------------------------------------------------------------

    def _of_own(self, handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            peer, session = _peer(request), check_session(segments(request)[2])
            await self._check(peer, session)
            try:
                response = await handler(request)
            except CacheSyncError:
                await self._check(peer, session)
                raise
            await self._check(peer, session)  # a flush takes a while, and the right may be gone
            return response

        return checked

    def _of_granted(self, handler: Handler) -> Handler:
        async def checked(request: web.Request) -> web.StreamResponse:
            address = parse_whole("/".join(segments(request)[2:]))
            if not any(_covers(granted, address) for granted in self._granted):
                raise web.HTTPForbidden(reason=_REFUSED)
            return await handler(request)

        return checked

    async def _check(self, peer: Peer, session: str) -> None:
        if not await self._checks.run(lambda: self._rights.may_read(peer, session)):
            raise NoSuchSession("find", session, "there is no such session here that your user may read")

    def _counted(self, path: str, handler: Handler) -> Handler:
        kind, limit = "questions", _QUESTIONS
        if path.endswith("/flush"):
            kind, limit = "flushes", _FLUSHES
        elif path == "/v1/events" or path.startswith("/v1/artifacts"):
            kind, limit = path, _STREAMS

        async def counted(request: web.Request) -> web.StreamResponse:
            user = _peer(request).user
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._places.take(user, kind, limit))
                if kind == "flushes" and flag("receipt", dict(request.query)):  # it lists every file
                    loop = asyncio.get_running_loop()
                    begun = loop.time()
                    wait = seconds("timeout", request.query.get("timeout"), DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT)
                    await stack.enter_async_context(self._places.take(user, "receipts", 1, wait))
                    request[_WAITED] = loop.time() - begun
                return await _taken(request, await handler(request))

        return counted


async def _taken(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send a response. It counts for its user until the client has read it; tcp.Site drops a client that does not."""
    answered(request)
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
    return response


def _peer(request: web.Request) -> Peer:
    """Who asks. Raises DaemonUnavailable if the connection is gone."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    if connection is None:
        raise DaemonUnavailable("answer", cause="the connection is gone")
    return peer_of(connection)


def _covers(granted: Address, asked: Address) -> bool:
    """Whether an address is a granted one, or lies in it."""
    if granted.space is not asked.space or (granted.name and granted.name != asked.name):
        return False
    inside, path = granted.path.rstrip("/"), asked.path
    return not inside or path.rstrip("/") == inside or path.startswith(f"{inside}/")


class _Places:
    """How many requests each user has under way; those above their number wait."""

    def __init__(self) -> None:
        self._taken: dict[tuple[int | None, str], tuple[asyncio.Semaphore, set[object]]] = {}

    @asynccontextmanager
    async def take(self, user: int | None, kind: str, limit: int, wait: float | None = None) -> AsyncIterator[None]:
        """A place of a user's. Raises DaemonUnavailable if none gets free in time (seconds)."""
        places, users = self._taken.setdefault((user, kind), (asyncio.Semaphore(limit), set()))
        token = object()
        users.add(token)
        try:
            try:
                async with asyncio.timeout(_WAIT if wait is None else wait):
                    await places.acquire()
            except TimeoutError:
                cause = f"{limit} {kind if kind == 'receipts' else 'requests'} of your user are under way already"
                raise DaemonUnavailable("answer", cause=cause, hint="try again in a moment") from None
            try:
                yield
            finally:
                places.release()
        finally:
            users.discard(token)
            if not users:
                self._taken.pop((user, kind), None)


def agents_site(routes: AgentRoutes, listener: socket.socket, settings: Mapping[str, Any]) -> Site:
    """The site of the agents' socket, with bounded connections. Call it in the event loop that serves it."""
    app = web.Application(middlewares=[noting, as_json], client_max_size=MAX_BODY)
    app.add_routes(routes.table())
    return Site(app, listener, settings)
