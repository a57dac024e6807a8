"""The control API's routes: HTTP in, verbs, JSON out. Every answer is JSON, errors too, and none shows a traceback.

The body of a flush is its report whatever the outcome, and the HTTP status says it again for ``curl --fail``: 200
stored, 409 something cannot be stored, 504 not finished in time. Names and paths are percent-encoded bytes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from aiohttp import web

from cachesync import errors
from cachesync.control import wire
from cachesync.control.lanes import Lane, Work
from cachesync.errors import CacheSyncError, ExitCode, UsageError
from cachesync.keys import check_path, check_session
from cachesync.verbs import Verbs

FLUSHES = 256
"""Flushes that may wait at once; the next one is refused. Each holds a thread, most of them asleep."""

QUERIES = 8
QUERY_WAIT = 20.0
"""Seconds that a short verb waits for its place; less than a client waits for its answer."""

MAX_BODY = 64 * 1024

_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HTTP_STATUS: list[tuple[type[CacheSyncError], int]] = [
    (errors.RootLocked, 409),
    (errors.UsageError, 400),
    (errors.NoSuchSession, 404),
    (errors.ObjectNotFound, 404),
    (errors.NoSuchBucket, 404),
    (errors.Unstorable, 409),
    (errors.FileChanging, 409),
    (errors.FileUnreadable, 409),
    (errors.PreconditionFailed, 409),
    (errors.RootHalted, 503),
    (errors.JournalUnavailable, 503),
    (errors.DaemonUnavailable, 503),
    (errors.StoreUnreachable, 504),
    (errors.StoreTransient, 503),
    (errors.StoreError, 502),
]
"""The first that fits; 500 for the rest."""

_FLUSH_STATUS = {ExitCode.DONE: 200, ExitCode.FAILED: 409, ExitCode.UNFINISHED: 504}


class Routes:
    """The handlers. Flushes wait in a lane of their own, so that they cannot hold up a status.

    ``ready`` and ``live`` answer at once. Make it inside the event loop that serves it.
    """

    def __init__(self, verbs: Verbs, ready: Callable[[], bool], live: Callable[[], bool]) -> None:
        self._verbs = verbs
        self._ready = ready
        self._live = live
        self.flushes = Lane("flush", FLUSHES, wait=0.1)
        self.queries = Lane("ask the daemon", QUERIES, wait=QUERY_WAIT)

    def table(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [
            web.post("/v1/sessions/{session}/flush", self.flush),  # ?timeout=S &confirm_deletes=1 &receipt=1
            web.get("/v1/sessions/{session}", self.session),
            web.get("/v1/sessions", self.sessions),
            web.get("/v1/status", self.status),  # ?session=
            web.get("/v1/explain/{session}/{path:(?s:.+)}", self.explain),
            web.post("/v1/retry", self.retry),  # ?session=
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
        ]

    async def flush(self, request: web.Request) -> web.Response:
        """The barrier of one session; answers when it is passed or the time is up."""
        asked = _query(request, "timeout", "confirm_deletes", "receipt")
        session = check_session(_segments(request)[2])
        timeout = _seconds(asked.get("timeout", ""))
        confirm = _flag("confirm_deletes", asked.get("confirm_deletes", ""))
        receipt = _flag("receipt", asked.get("receipt", ""))
        outcome = ExitCode.UNFINISHED

        def work() -> bytes:
            nonlocal outcome
            report = self._verbs.flush(session, timeout=timeout, confirm_deletes=confirm, receipt=receipt)
            outcome = report.exit_code
            return wire.dumps(report.json())

        body = await self.flushes.run(work)
        return _answer(body, _FLUSH_STATUS[outcome])

    async def session(self, request: web.Request) -> web.Response:
        """The status of one session, without the rest."""
        _query(request)
        session = check_session(_segments(request)[2])

        def work() -> bytes:
            for status in self._verbs.status(session).sessions:
                if status.session == session:
                    return wire.dumps(status.json())
            raise errors.NoSuchSession("status of", session, "there is no such session")

        return await self._ask(work)

    async def sessions(self, request: web.Request) -> web.Response:
        """The names."""
        _query(request)
        return await self._ask(lambda: wire.dumps({"sessions": self._verbs.sessions()}))

    async def status(self, request: web.Request) -> web.Response:
        """Root, store, daemon and sessions."""
        session = _session_asked(request)
        return await self._ask(lambda: wire.dumps(self._verbs.status(session).json()))

    async def explain(self, request: web.Request) -> web.Response:
        """The story of one path."""
        _query(request)
        _, _, session, *rest = _segments(request)
        path = "/".join(rest)
        check_session(session)
        check_path(path.removesuffix("/"))
        return await self._ask(lambda: wire.dumps(self._verbs.explain(session, path).json()))

    async def retry(self, request: web.Request) -> web.Response:
        """Failed entries, due now; ``{"retried": N}``."""
        session = _session_asked(request)
        return await self._ask(lambda: wire.dumps({"retried": self._verbs.retry(session)}))

    async def healthz(self, _request: web.Request) -> web.Response:
        """Whether the daemon's threads are alive."""
        live = self._live()
        return _answer(wire.dumps({"live": live}), 200 if live else 503)

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether the daemon takes work."""
        ready = self._ready()
        return _answer(wire.dumps({"ready": ready}), 200 if ready else 503)

    async def _ask(self, work: Work) -> web.Response:
        return _answer(await self.queries.run(work), 200)


@web.middleware
async def as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a JSON error."""
    try:
        await _refuse_body(request)
        return await handler(request)
    except CacheSyncError as error:
        status = next((status for kind, status in _HTTP_STATUS if isinstance(error, kind)), 500)
        return _answer(wire.dumps(wire.error_json(error)), status)
    except web.HTTPException as error:
        told = UsageError(f"{request.method} {request.path}", cause=error.reason, hint="the README lists the routes")
        return _answer(wire.dumps(wire.error_json(told)), error.status)
    except Exception as error:  # noqa: BLE001  # no traceback may reach a client
        # A defect of ours. Its text may hold anything, so the client gets the kind and the log gets the rest.
        _log.exception("%s %s failed", request.method, request.path)
        bug = CacheSyncError("answer", request.path, f"internal error ({type(error).__name__})", "see the daemon's log")
        return _answer(wire.dumps(wire.error_json(bug)), 500)


def _answer(body: bytes, status: int) -> web.Response:
    return web.Response(body=body + b"\n", status=status, content_type="application/json")


async def _refuse_body(request: web.Request) -> None:
    """A body is somebody's options in the wrong place; to ignore them would be to do something else than asked."""
    if request.can_read_body and await request.read():
        raise UsageError(f"{request.method} {request.path}", cause="takes no body", hint="options go in the query")


def _segments(request: web.Request) -> list[str]:
    """The path's segments, decoded one by one from what was sent: an encoded "/" separates nothing."""
    return [unquote(part, errors="surrogateescape") for part in request.rel_url.raw_path.split("/")[1:]]


def _query(request: web.Request, *known: str) -> dict[str, str]:
    asked: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known or name in asked:
            cause = "is given twice" if name in asked else f"is not known here; known: {', '.join(known) or 'none'}"
            raise UsageError("option", name, cause)
        asked[name] = value
    return asked


def _session_asked(request: web.Request) -> str | None:
    session = _query(request, "session").get("session")
    return None if session is None else check_session(session)


def _seconds(text: str) -> float:
    if not text:
        return wire.DEFAULT_FLUSH_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= wire.MAX_FLUSH_TIMEOUT:
        raise UsageError("timeout", text, f"allowed: 0 to {wire.MAX_FLUSH_TIMEOUT:.0f} seconds")
    return seconds


def _flag(name: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("", "0", "false", "no"):
        return False
    raise UsageError(name, text, "allowed: 1, true, yes, 0, false, no")
