"""How a client reaches the server: stdio, or streamable HTTP with a token."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import field
from http import HTTPStatus
from typing import Any

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings

from cachesync.api import wire
from cachesync.api.guard import CHALLENGE, Asked, Guard
from cachesync.config.kinds import Address, is_loopback
from cachesync.model.errors import CacheSyncError
from cachesync.model.record import record
from cachesync.programs.mcp_server.build import build_server
from cachesync.programs.mcp_server.scope import Scope
from cachesync.programs.mcp_server.shared import Connect

Application = Callable[[Any, Any, Any], Awaitable[None]]
"""As ASGI has it: https://asgi.readthedocs.io/en/latest/specs/main.html"""

PATH = "/mcp"

GRACE = 10
"""Seconds that calls under way get when the server is stopped."""


@record(frozen=True, slots=True)
class Entry:
    """Who may come in over HTTP: who has the token. ``names`` are host names that it is called by, besides its own."""

    token: str = field(repr=False)
    names: Collection[str] = ()


def serve_stdio(connect: Connect, scope: Scope) -> None:
    """Serve until stdin ends. Nothing but the protocol goes to stdout: the SDK sends all else to stderr."""
    _quiet()
    build_server(connect, scope).run()


def serve_http(connect: Connect, scope: Scope, address: Address, entry: Entry, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``announce`` gets the URL once it listens, also for port 0.

    Every request must carry the token of ``entry``, also on loopback, where each user and each container of the host's
    network can connect; and one of a browser must come from a page of this very address. Raises CacheSyncError if the
    address cannot be had.
    """
    host = f"[{address.host}]" if ":" in address.host else address.host
    anywhere = not is_loopback(f"http://{host}")
    guard = Guard(entry.token, {address.host, *entry.names}, anywhere=anywhere, shown=())
    # The guard knows which names and pages are ours; the SDK would take any port of localhost for that.
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    server = build_server(connect, scope)
    app = server.streamable_http_app(streamable_http_path=PATH, host=address.host, transport_security=security)
    _quiet()
    with _listen(address.host, address.port) as listener:
        settings = uvicorn.Config(
            _Guarded(app, guard), log_config=None, access_log=False, timeout_graceful_shutdown=GRACE
        )
        running = uvicorn.Server(settings)

        def stop(*_: object) -> None:
            running.should_exit = True

        # uvicorn stops by itself and raises the signal once more: an end that was asked for is no failure. One that
        # comes before it listens to signals ends it too.
        signal.signal(signal.SIGTERM, stop)
        announce(f"http://{host}:{listener.getsockname()[1]}{PATH}")
        running.run(sockets=[listener])


class _Guarded:
    """An ASGI application behind a guard: of a request that it refuses no body is read."""

    def __init__(self, app: Application, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def headers(name: str) -> list[str]:
            wanted = name.lower().encode()
            return [value.decode("latin-1") for given, value in scope["headers"] if given.lower() == wanted]

        peer = scope.get("client") or ("",)
        refused = self._guard.refusal(Asked(scope["method"], scope["path"], headers, str(peer[0])))
        if refused is None:
            await self._app(scope, receive, send)
            return
        error, status = refused
        more = [(b"www-authenticate", CHALLENGE.encode())] if status == HTTPStatus.UNAUTHORIZED else []
        told = [(b"content-type", b"application/json"), (b"connection", b"close"), *more]
        await send({"type": "http.response.start", "status": status, "headers": told})
        await send({"type": "http.response.body", "body": wire.dumps(wire.error_json(error)) + b"\n"})


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or error
        raise CacheSyncError("serve on", f"{host}:{port}", cause, "is it in use? give another port") from error


def _quiet() -> None:
    """Each request would be a line of the SDK's and one of uvicorn's, also what a stranger sends that is none."""
    logging.getLogger("mcp").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
