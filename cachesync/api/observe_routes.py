"""The routes for who watches: events as they happen, what happened lately, and measures (observation.Seeing)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from aiohttp import web

from cachesync.api import wire
from cachesync.api.bounded_pool import Lane
from cachesync.api.http_io import answer, query
from cachesync.api.observation import Seeing
from cachesync.api.streams import ClientGone, begin, write
from cachesync.model.errors import UsageError
from cachesync.model.events import Event, Listener
from cachesync.model.keys import check_session
from cachesync.model.verbs import Verbs
from cachesync.telemetry.metrics import CONTENT_TYPE, render

KEEPALIVE = 15.0
"""Seconds after which a comment is sent where nothing happens: proxies cut what is silent for longer."""

LOOK = 1.0
"""Seconds until it is seen that a client hung up, and its place is free for another."""

SCRAPES = 2
"""Scrapes at once."""

GATHER = 0.02
"""Seconds in which what happens is gathered into one piece: in a burst, a piece an event would cost the engine its
processor."""


class SeeingRoutes:
    """The handlers. Make it inside the event loop that serves it. Ends with the server, like a lane."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._stopping = False
        self._woken: set[asyncio.Event] = set()
        self._scrapes = Lane("measure", SCRAPES, wait=5.0, idle=30.0)

    def table(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [
            web.get("/v1/events", self.events, allow_head=False),  # ?session=
            web.get("/v1/activity", self.activity),
            web.get("/metrics", self.metrics),
        ]

    def waiting(self) -> set[asyncio.Future[Any]]:
        """The answers that somebody waits for, but for those without end."""
        return self._scrapes.waiting()

    def give_up(self) -> None:
        """End everything."""
        self._scrapes.give_up()
        self._stopping = True
        for woken in self._woken:
            woken.set()

    @property
    def _seeing(self) -> Seeing:
        if isinstance(self._verbs, Seeing):
            return self._verbs
        raise UsageError("watch", cause="there is no daemon here to be watched")

    async def activity(self, request: web.Request) -> web.Response:
        """The last 15 minutes, in buckets."""
        query(request)
        return answer(self._seeing.activity.json())

    async def metrics(self, request: web.Request) -> web.Response:
        """What Prometheus reads; 501 where its client library is missing."""
        query(request)
        measure = self._seeing.measure
        if measure is None:
            raise UsageError("measure", cause="no daemon runs here")
        try:
            body = await self._scrapes.run(lambda: render(measure()))
        except ImportError as error:
            told = UsageError("tell", request.path, error, "pip install prometheus-client")
            return answer(wire.error_json(told), web.HTTPNotImplemented.status_code)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events, without end: ``event: KIND`` and ``data: {...}``. Who is too slow gets a ``lost`` event
        with how many it missed."""
        asked = query(request, "session").get("session")
        return await self.stream(request, None if asked is None else check_session(asked), _always)

    async def stream(
        self, request: web.Request, session: str | None, still: Callable[[], Awaitable[bool]]
    ) -> web.StreamResponse:
        """The events of a session, or of all, until the client ends it or ``still`` returns False."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(woken.set)

        response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        response.content_type = "text/event-stream"
        self._woken.add(woken)
        try:
            with self._seeing.events.listen(session, wake) as listener, suppress(ClientGone):
                await begin(response, request)
                await write(response, b": listening\n\n")
                await self._send(request, response, listener, woken, still)
        finally:
            self._woken.discard(woken)
        return response

    async def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        listener: Listener,
        woken: asyncio.Event,
        still: Callable[[], Awaitable[bool]],
    ) -> None:
        """Send what comes until the client, the server or ``still`` ends it. Raises ClientGone."""
        said = asyncio.get_running_loop().time()
        while not self._stopping and not _hung_up(request):
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await woken.wait()
                await asyncio.sleep(0 if self._stopping else GATHER)
            woken.clear()
            lost, events = listener.take()
            now = asyncio.get_running_loop().time()
            if lost or events:
                if not await still():
                    return
                said = now
                await write(response, _as_events(lost, events))
            elif now - said >= KEEPALIVE:
                said = now
                await write(response, b": still here\n\n")


async def _always() -> bool:
    return True


def _hung_up(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _as_events(lost: int, events: Iterable[Event]) -> bytes:
    """Events as they are sent, after a ``lost`` if some are missing before them."""
    told = [_event("lost", {"count": lost})] if lost else []
    told += [_told(event) for event in events]
    return b"".join(told)


@lru_cache(4096)
def _told(event: Event) -> bytes:
    """One event as it is sent: made once, however many listen."""
    return _event(event.what, event.json())


def _event(kind: str, data: dict[str, object]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode("ascii"), wire.dumps(data))
