"""The routes of a mount in front of the root (verbs.OnDemand). Each answers ``{"done": true}`` or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from aiohttp import web

from cachesync.api import wire
from cachesync.api.bounded_pool import Lane
from cachesync.api.http_io import answer, json_body, query, seconds, segments
from cachesync.api.streams import ClientGone, begin, write
from cachesync.model.errors import DaemonUnavailable, UsageError
from cachesync.model.keys import check_session
from cachesync.model.limits import DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT
from cachesync.model.verbs import Verbs

BRINGS = 128
"""Files that are brought or renamed in the store at once; as many wait. The mount's server asks for no more."""

LOCAL = 64
"""Questions at once that the journal and the disk answer, and that no transfer may hold up."""

LISTENERS = 16
STORES = 256
"""Programs that wait at once for what they wrote; most of the threads are asleep."""

WAIT = 20.0
IDLE = 10.0
_NAMES = {"bring": 2, "empty": 2, "foresee": 2, "remove": 2, "move": 4}
"""How many names each verb takes: sessions and paths in turn. An empty path is the session's directory."""


class OnDemandRoutes:
    """The handlers. Make it inside the event loop that serves it."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._brings = Lane("bring", BRINGS, WAIT, idle=IDLE)
        self._under_way: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._local = Lane("ask the journal", LOCAL, WAIT, idle=IDLE)
        self._stores = Lane("store", STORES, WAIT)
        self._listens = Lane("listen", LISTENERS, WAIT, idle=IDLE)
        self.lanes = (self._brings, self._local, self._stores, self._listens)

    def table(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [
            web.get("/v1/ondemand/sessions", self.sessions),
            web.get("/v1/ondemand/changes", self.changes, allow_head=False),
            web.put("/v1/ondemand/notices", self.notice),  # the body: {SESSION: {PATH: HINTS}}
            web.post("/v1/ondemand/store/{session}/{path}", self.store),  # ?timeout=S
            web.post("/v1/ondemand/{verb}/{names:(?s:.*)}", self.do),
        ]

    async def do(self, request: web.Request) -> web.Response:
        """Bring, empty, foresee, remove, move."""
        query(request)
        _, _, verb, *names = segments(request)
        if _NAMES.get(verb) != len(names):
            raise UsageError(f"{request.method} {request.path}", cause="no such request")
        ondemand = self._verbs.ondemand
        calls: dict[str, Callable[..., None]] = {
            "bring": ondemand.bring,
            "empty": ondemand.make_empty,
            "foresee": ondemand.foresee,
            "remove": ondemand.remove,
            "move": ondemand.move,
        }
        work = partial(calls[verb], *names)
        if verb == "bring" and names[1] and not names[1].endswith("/"):
            await self._bring((names[0], names[1]), work)
        else:
            await (self._brings if verb == "move" else self._local).run(work)
        return answer({"done": True})

    async def _bring(self, place: tuple[str, str], work: Callable[[], None]) -> None:
        """Bring a file; however many ask for it, or have stopped asking, it takes one place."""
        task = self._under_way.get(place)
        if task is None:
            task = self._under_way[place] = asyncio.ensure_future(self._brings.run(work))
            task.add_done_callback(partial(self._brought, place))
        await asyncio.shield(task)

    def _brought(self, place: tuple[str, str], task: asyncio.Future[None]) -> None:
        del self._under_way[place]
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more

    async def store(self, request: web.Request) -> web.Response:
        """Wait until one file is stored."""
        asked = query(request, "timeout")
        session, path = check_session(segments(request)[3]), segments(request)[4]
        timeout = seconds("timeout", asked.get("timeout"), DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT)
        await self._stores.run(lambda: self._verbs.ondemand.store(session, path, timeout=timeout))
        return answer({"done": True})

    async def notice(self, request: web.Request) -> web.Response:
        """Look at paths."""
        query(request)
        try:
            told = {
                check_session(session): {str(path): int(hint) for path, hint in paths.items()}
                for session, paths in (await json_body(request)).items()
            }
        except (ValueError, AttributeError, TypeError, OverflowError):
            raise UsageError("notices", cause="is not {SESSION: {PATH: HINTS}}") from None
        await self._local.run(lambda: self._verbs.ondemand.notice(told))
        return answer({"done": True})

    async def changes(self, request: web.Request) -> web.StreamResponse:
        """A line for each handful of changes, ``{SESSION: [PATH]}``, without end; every few seconds an empty one."""
        query(request)
        changes = self._verbs.ondemand.changes()
        response = web.StreamResponse()
        response.content_type = "application/x-ndjson"
        with suppress(ClientGone, DaemonUnavailable):  # the client ends it, or we do
            await begin(response, request)
            while True:
                told = await self._listens.run(lambda: next(changes))
                await write(response, wire.dumps(dict(told)) + b"\n")
        return response

    async def sessions(self, request: web.Request) -> web.Response:
        """The names, also of those that are only in the store."""
        query(request)
        names = await self._local.run(self._verbs.ondemand.sessions)
        return answer({"sessions": names})
