"""The routes of a session's life (verbs.Lifecycle).

Open and verify may take long: their answer is a stream of lines, ``{"progress": {...}}`` at least every ``HEARTBEAT``
seconds and at the end ``{"report": {...}}`` or ``{"error": {...}}``. A client that goes away stops nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from cachesync.api import wire
from cachesync.api.bounded_pool import Lane
from cachesync.api.http_io import REPORT_STATUS, answer, flag, query, seconds, segments, told_as
from cachesync.api.rights import is_own
from cachesync.api.streams import ClientGone, begin, write
from cachesync.model.errors import ExitCode, UsageError
from cachesync.model.keys import check_session
from cachesync.model.limits import DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT
from cachesync.model.outcomes import OnProgress, OpenReport, Progress, VerifyReport
from cachesync.model.reports import Json
from cachesync.model.verbs import Verbs

LONG = 32
"""Opens and verifications at once; closes and evictions have as many places of their own."""

WAIT = 20.0
INTERVAL = 0.25
"""Seconds between two lines of progress, at least; an error that comes sooner has an HTTP status of its own."""

HEARTBEAT = 5.0
"""Seconds after which the last line is said again; a client that hears nothing for longer knows that we are gone."""

_log = logging.getLogger(__name__)


class _Report(Protocol):
    @property
    def exit_code(self) -> ExitCode: ...
    def json(self) -> Json: ...


class LifecycleRoutes:
    """The handlers. Make it inside the event loop that serves it."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._news = Lane("create a session", 8, WAIT)
        self._opens = Lane("open", LONG, WAIT)
        self._closes = Lane("close", LONG, WAIT)
        self.lanes = (self._news, self._opens, self._closes)

    def table(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [
            web.post("/v1/sessions", self.new),  # ?session= &project= &workspace= &template= (several)
            web.post("/v1/sessions/{session}/open", self.open),  # ?lazy=1 &into=DIR &timeout=S
            web.post("/v1/sessions/{session}/close", self.close),  # ?keep=1 &timeout=S &confirm_deletes=1 &force=1
            web.post("/v1/sessions/{session}/evict", self.evict),  # ?force=1
            web.post("/v1/sessions/{session}/verify", self.verify),  # ?repair=1
        ]

    async def new(self, request: web.Request) -> web.Response:
        """Create a session; 201 with ``{"session": NAME}``."""
        names = [name for name, _ in request.query.items() if name != "template"]
        for name in names:
            if name not in ("session", "project", "workspace") or names.count(name) > 1:
                raise UsageError("option", name, "is not known here, or given twice")
        asked = request.query
        session = asked.get("session")

        def work() -> str:
            return self._verbs.lifecycle.new(
                None if session is None else check_session(session),
                project=asked.get("project"),
                workspace=asked.get("workspace"),
                templates=asked.getall("template", []),
            )

        return answer({"session": await self._news.run(work)}, web.HTTPCreated.status_code)

    async def open(self, request: web.Request) -> web.StreamResponse:
        """Bring a session here."""
        asked = query(request, "lazy", "into", "timeout")
        session, lazy, into = _session(request), flag("lazy", asked), asked.get("into")
        if into is not None and not into.startswith("/"):
            raise UsageError("into", into, "is not absolute", "the daemon has another working directory than you")
        connection = None if request.transport is None else request.transport.get_extra_info("socket")
        if into is not None and not is_own(connection):
            cause = "the daemon writes files for its own user only, and not over TCP"
            raise UsageError("open into", into, cause, "cachesync open --into writes them as you")
        given = asked.get("timeout")
        timeout = seconds("timeout", given, 0.0, MAX_FLUSH_TIMEOUT) if given else None
        lifecycle = self._verbs.lifecycle

        def work(progress: OnProgress) -> OpenReport:
            return lifecycle.open(session, lazy=lazy, into=into, timeout=timeout, progress=progress)

        return await _stream(request, self._opens, work)

    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Read a session again."""
        repair = flag("repair", query(request, "repair"))
        session, lifecycle = _session(request), self._verbs.lifecycle

        def work(progress: OnProgress) -> VerifyReport:
            return lifecycle.verify(session, repair=repair, progress=progress)

        return await _stream(request, self._opens, work)

    async def close(self, request: web.Request) -> web.Response:
        """Flush, mark closed, evict."""
        asked = query(request, "keep", "timeout", "confirm_deletes", "force")
        session, keep, confirm = _session(request), flag("keep", asked), flag("confirm_deletes", asked)
        force = flag("force", asked)
        timeout = seconds("timeout", asked.get("timeout"), DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT)
        lifecycle = self._verbs.lifecycle
        return await self._end(
            lambda: lifecycle.close(session, keep=keep, timeout=timeout, confirm_deletes=confirm, force=force)
        )

    async def evict(self, request: web.Request) -> web.Response:
        """Drop what the store has."""
        session, force = _session(request), flag("force", query(request, "force"))
        lifecycle = self._verbs.lifecycle
        return await self._end(lambda: lifecycle.evict(session, force=force))

    async def _end(self, verb: Callable[[], _Report]) -> web.Response:
        def work() -> tuple[bytes, int]:
            report = verb()
            return wire.dumps(report.json()), REPORT_STATUS[report.exit_code]

        return answer(*await self._closes.run(work))


def _session(request: web.Request) -> str:
    return check_session(segments(request)[2])


async def _stream(request: web.Request, lane: Lane, work: Callable[[OnProgress], _Report]) -> web.StreamResponse:
    """Do ``work`` and tell of it, line by line. Raises what it raises at once."""
    latest = Progress()

    def hear(progress: Progress) -> None:
        nonlocal latest
        latest = progress

    running = asyncio.create_task(lane.run(lambda: wire.dumps({"report": work(hear).json()})))
    response = web.StreamResponse()
    response.content_type = "application/x-ndjson"
    said: Progress | None = None
    said_at = 0.0
    try:
        while not (await asyncio.wait({running}, timeout=INTERVAL))[0]:
            await begin(response, request)
            if latest is not said or time.monotonic() - said_at > HEARTBEAT:
                said, said_at = latest, time.monotonic()
                await write(response, wire.dumps({"progress": said.json()}) + b"\n")
        error = running.exception()
        if error is not None and not response.prepared:
            raise error
        await begin(response, request)
        last = running.result() if error is None else wire.dumps(wire.error_json(told_as(error, request)[0]))
        await write(response, last + b"\n")
    except ClientGone:
        await asyncio.wait({running})
        if (error := running.exception()) is not None:
            told, _ = told_as(error, request)
            _log.info("%s %.200s failed after its client had gone: %s", request.method, request.path, told)
    return response
