"""The control API's routes: HTTP in, verbs, JSON out.

The body of a flush is its report whatever the outcome, and the HTTP status says it again for ``curl --fail``: 200
stored, 409 something cannot be stored, 504 not finished in time.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from cachesync.api import wire
from cachesync.api.artifact_routes import ArtifactRoutes
from cachesync.api.bounded_pool import Lane
from cachesync.api.http_io import REPORT_STATUS, answer, flag, query, seconds, segments
from cachesync.api.lifecycle_routes import LifecycleRoutes
from cachesync.api.observe_routes import SeeingRoutes
from cachesync.api.ondemand_routes import OnDemandRoutes
from cachesync.api.pending_routes import PendingRoutes
from cachesync.model.errors import NoSuchSession
from cachesync.model.keys import check_path, check_session, printable
from cachesync.model.limits import DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT
from cachesync.model.reports import FlushReport, Json
from cachesync.model.verbs import Verbs

FLUSHES = 256
"""Flushes that may wait at once; the next one is refused. Each holds a thread, most of them asleep."""

QUERIES = 8
QUERY_WAIT = 20.0
"""Seconds that a short verb waits for its place; less than a client waits for its answer."""

MAX_BODY = 64 * 1024


class Routes:
    """The handlers. Flushes wait in a lane of their own, so that they cannot hold up a status.

    ``ready`` and ``live`` answer at once. Make it inside the event loop that serves it.
    """

    def __init__(self, verbs: Verbs, ready: Callable[[], bool], live: Callable[[], bool]) -> None:
        self._verbs = verbs
        self._ready = ready
        self._live = live
        self._flushes = Lane("flush", FLUSHES, wait=0.1)
        self._queries = Lane("ask the daemon", QUERIES, wait=QUERY_WAIT)
        self._artifacts = ArtifactRoutes(verbs)
        self._lifecycle = LifecycleRoutes(verbs)
        self._ondemand = OnDemandRoutes(verbs)
        self.seeing = SeeingRoutes(verbs)
        self._pending = PendingRoutes(verbs)
        parts = (self._artifacts, self._lifecycle, self._ondemand, self._pending)
        lanes = (self._flushes, self._queries, *(lane for part in parts for lane in part.lanes))
        self.lanes: tuple[Lane | SeeingRoutes, ...] = (*lanes, self.seeing)
        """What may be under way when the server stops."""

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
            *self._artifacts.table(),
            *self._lifecycle.table(),
            *self._ondemand.table(),
            *self.seeing.table(),
            *self._pending.table(),
        ]

    async def flush(
        self, request: web.Request, shown: Callable[[FlushReport], FlushReport] | None = None, waited: float = 0.0
    ) -> web.Response:
        """The barrier of one session; answers when it is passed or the time is up, of which ``waited`` seconds are.
        ``shown`` makes of the report what is answered."""
        asked = query(request, "timeout", "confirm_deletes", "receipt")
        session = check_session(segments(request)[2])
        timeout = seconds("timeout", asked.get("timeout"), DEFAULT_FLUSH_TIMEOUT, MAX_FLUSH_TIMEOUT)
        confirm, receipt = flag("confirm_deletes", asked), flag("receipt", asked)

        def work() -> tuple[bytes, int]:
            left = max(0.0, timeout - waited)
            report = self._verbs.flush(session, timeout=left, confirm_deletes=confirm, receipt=receipt)
            return wire.dumps((shown(report) if shown else report).json()), REPORT_STATUS[report.exit_code]

        return answer(*await self._flushes.run(work))

    async def session(self, request: web.Request) -> web.Response:
        """The status of one session, without the rest."""
        query(request)
        session = check_session(segments(request)[2])

        def work() -> Json:
            for status in self._verbs.status(session).sessions:
                if status.session == session:
                    return status.json()
            raise NoSuchSession("status of", session, "there is no such session")

        return await self._ask(work)

    async def sessions(self, request: web.Request) -> web.Response:
        """Return the names of the sessions, and the directories that are not sessions."""
        query(request)

        def work() -> Json:
            strays = [{"path": printable(stray.path), "reason": stray.reason} for stray in self._verbs.strays()]
            return {"sessions": self._verbs.sessions(), "strays": strays}

        return await self._ask(work)

    async def status(self, request: web.Request) -> web.Response:
        """Root, store, daemon and sessions."""
        session = _session_asked(request)
        return await self._ask(lambda: self._verbs.status(session).json())

    async def explain(self, request: web.Request) -> web.Response:
        """The story of one path."""
        query(request)
        _, _, session, *rest = segments(request)
        path = "/".join(rest)
        check_session(session)
        check_path(path.removesuffix("/"))
        return await self._ask(lambda: self._verbs.explain(session, path).json())

    async def retry(self, request: web.Request) -> web.Response:
        """Failed entries, due now; ``{"retried": N}``."""
        session = _session_asked(request)
        return await self._ask(lambda: {"retried": self._verbs.retry(session)})

    async def healthz(self, _request: web.Request) -> web.Response:
        """Whether the daemon's threads are alive."""
        live = self._live()
        return answer({"live": live}, 200 if live else 503)

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether the daemon takes work."""
        ready = self._ready()
        return answer({"ready": ready}, 200 if ready else 503)

    async def _ask(self, work: Callable[[], Json]) -> web.Response:
        return answer(await self._queries.run(lambda: wire.dumps(work())))


def _session_asked(request: web.Request) -> str | None:
    session = query(request, "session").get("session")
    return None if session is None else check_session(session)
