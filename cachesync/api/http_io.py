"""How a request is read and answered, whatever it asks. Every answer is JSON, errors too, and none shows a traceback.

Names and paths are percent-encoded bytes; options go in the query, and one that is not known is refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

from aiohttp import HttpVersion11, web

from cachesync.api import wire
from cachesync.model import errors
from cachesync.model.errors import CacheSyncError, ExitCode, UsageError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HTTP_STATUS: list[tuple[type[CacheSyncError], int]] = [
    (errors.RootLocked, 409),
    (errors.UsageError, 400),
    (errors.NoSuchSession, 404),
    (errors.ObjectNotFound, 404),
    (errors.NoSuchBucket, 404),
    (errors.Unstorable, 409),
    (errors.FileChanging, 409),
    (errors.FileUnreadable, 409),
    (errors.PathTaken, 409),
    (errors.ArtifactExists, 412),
    (errors.PreconditionFailed, 409),
    (errors.RootHalted, 503),
    (errors.JournalUnavailable, 503),
    (errors.DaemonUnavailable, 503),
    (errors.StoreUnreachable, 504),
    (errors.StoreTransient, 503),
    (errors.StoreError, 502),
]
"""The first that fits; 500 for the rest."""

REPORT_STATUS = {ExitCode.DONE: 200, ExitCode.FAILED: 409, ExitCode.UNFINISHED: 504}
"""The HTTP status of a report, by the exit code that the command has."""

_EXPECT = "cachesync.expect"
_CONTINUE = "100-continue"

_log = logging.getLogger(__name__)


@web.middleware
async def as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a JSON error."""
    try:
        _check_expectation(request)
        if request.method != "PUT" and request.can_read_body:
            # Somebody's options in the wrong place. To wait for its end would hold a place for whoever sends none.
            raise UsageError(f"{request.method} {request.path}", cause="takes no body", hint="options go in the query")
        return await handler(request)
    except web.HTTPException as error:
        told = UsageError(
            f"{request.method} {request.path}", cause=error.reason, hint="docs/reference/http.md lists the routes"
        )
        return answer(wire.error_json(told), error.status)
    except Exception as error:  # noqa: BLE001  # no traceback may reach a client
        told_error, status = told_as(error, request)
        return answer(wire.error_json(told_error), status)


def told_as(error: BaseException, request: web.Request) -> tuple[CacheSyncError, int]:
    """What a client is told of an error, and the HTTP status that goes with it."""
    if isinstance(error, CacheSyncError):
        return error, next((status for kind, status in _HTTP_STATUS if isinstance(error, kind)), 500)
    # A defect of ours. Its text may hold anything, so the client gets the kind and the log gets the rest.
    _log.error("%s %.200s failed", request.method, request.path, exc_info=error)
    cause = f"internal error ({type(error).__name__})"
    return CacheSyncError("answer", request.path, cause, "see the daemon's log"), 500


def answer(told: object, status: int = 200) -> web.Response:
    """A JSON answer. What is long comes as bytes: to make them takes time that the loop does not have."""
    body = told if isinstance(told, bytes) else wire.dumps(told)
    return web.Response(body=body + b"\n", status=status, content_type="application/json")


class Connection(web.RequestHandler):
    """One connection of a server, made in its event loop. ``settings`` are those of aiohttp's."""

    def __init__(self, server: web.Server, settings: Mapping[str, Any]) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the answer to what is no request: JSON, without the bytes that were sent, which may hold a token."""
        super().handle_error(request, status, exc, message)
        hint = "see RFC 9112" if status < web.HTTPInternalServerError.status_code else "see the daemon's log"
        error = UsageError("answer", cause="that is no HTTP request as it is understood here", hint=hint)
        response = answer(wire.error_json(error), status)
        response.force_close()
        return response


def take_expectations(runner: web.AppRunner) -> None:
    """Keep ``Expect`` from aiohttp, which tells a client to go on before the request has met any check, and answers in
    plain text. ``go_on`` does so where the body is wanted. Call it once the runner is set up."""
    server = runner.server
    assert server is not None  # noqa: S101  # it is set up
    make = server.request_factory

    def made(message: Any, *rest: Any) -> web.BaseRequest:
        if "Expect" not in message.headers:
            return make(message, *rest)
        headers = message.headers.copy()
        expected = headers.popall("Expect")
        request = make(message._replace(headers=headers), *rest)
        request[_EXPECT] = ", ".join(expected).strip().lower()
        return request

    server.request_factory = made


def _check_expectation(request: web.Request) -> None:
    if request.get(_EXPECT, _CONTINUE) != _CONTINUE:
        raise web.HTTPExpectationFailed(reason="only 100-continue can be expected")


async def go_on(request: web.Request) -> None:
    """Tell a client that waits for it to send the body. Raises OSError."""
    if request.pop(_EXPECT, None) and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def json_body(request: web.Request) -> Any:
    """The body as JSON. Raises ValueError for what is none, or nests deeper than anything that is sent here, and
    UsageError for a body that does not end as it said."""
    try:
        await go_on(request)
        body = await request.read()
    except (OSError, web.RequestPayloadError) as error:
        cause = "its body is not what its headers say"
        raise UsageError(f"{request.method} {request.path}", cause=cause, hint="send it again") from error
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error


def segments(request: web.Request) -> list[str]:
    """The path's segments, decoded one by one from what was sent: an encoded "/" separates nothing."""
    return [unquote(part, errors="surrogateescape") for part in request.rel_url.raw_path.split("/")[1:]]


def query(request: web.Request, *known: str) -> dict[str, str]:
    """The options, each given once. Raises UsageError for one that is not known."""
    asked: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known or name in asked:
            cause = "is given twice" if name in asked else f"is not known here; known: {', '.join(known) or 'none'}"
            raise UsageError("option", name, cause)
        asked[name] = value
    return asked


def seconds(name: str, text: str | None, default: float, most: float) -> float:
    """A number of seconds from 0 to ``most``. Raises UsageError."""
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise UsageError(name, text, f"allowed: 0 to {most:.0f} seconds")
    return number


def flag(name: str, asked: dict[str, str]) -> bool:
    """Whether an option is set. Raises UsageError."""
    text = asked.get(name, "").lower()
    if text in ("1", "true", "yes"):
        return True
    if text in ("", "0", "false", "no"):
        return False
    raise UsageError(name, text, "allowed: 1, true, yes, 0, false, no")
