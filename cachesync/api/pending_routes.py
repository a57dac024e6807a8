"""The route for what is not stored yet, path by path, and why (observation.Seeing)."""

from __future__ import annotations

from urllib.parse import parse_qs

from aiohttp import web

from cachesync.api import wire
from cachesync.api.bounded_pool import Lane
from cachesync.api.http_io import answer, flag, query, segments
from cachesync.api.observation import Seeing
from cachesync.model.errors import UsageError
from cachesync.model.keys import check_path, check_session
from cachesync.model.verbs import Verbs

LOOKS = 4
WAIT = 20.0
PAGE = 200
MOST = 1000
"""Paths in one answer."""


class PendingRoutes:
    """The handler. Make it inside the event loop that serves it."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._looks = Lane("list what is not stored", LOOKS, WAIT)
        self.lanes = (self._looks,)

    def table(self) -> list[web.RouteDef]:
        """Every route there is."""
        return [web.get("/v1/pending/{session}", self.pending)]  # ?failed=0|1 &after=PATH &limit=N

    async def pending(self, request: web.Request) -> web.Response:
        """``{"session", "pending": [story...], "more"}``: a page of the paths, from the one after ``after`` on.

        A path is as it is, so that it can be asked for again.
        """
        asked = query(request, "failed", "after", "limit")
        session, verbs = check_session(segments(request)[2]), self._verbs
        if not isinstance(verbs, Seeing):
            raise UsageError("list", session, "there is no daemon here that could tell")
        failed = flag("failed", asked) if asked.get("failed") else None
        limit = _limit(asked.get("limit", ""))
        # As it was sent: a name that is no UTF-8 does not survive what aiohttp makes of a query.
        sent = parse_qs(request.rel_url.raw_query_string, errors="surrogateescape")
        after = sent.get("after", [""])[0]
        if after:
            check_path(after)

        def work() -> bytes:
            stories = verbs.pending(session, failed=failed, after=after, limit=limit + 1)
            told = [story.json() | {"path": story.path} for story in stories[:limit]]
            return wire.dumps({"session": session, "pending": told, "more": len(stories) > limit})

        return answer(await self._looks.run(work))


def _limit(text: str) -> int:
    if not text:
        return PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) and 0 < int(text) <= MOST):
        raise UsageError("limit", text, f"allowed: 1 to {MOST}")
    return int(text)
