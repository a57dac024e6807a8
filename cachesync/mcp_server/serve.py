"""How a client reaches the server: stdio, or streamable HTTP on loopback (elsewhere only with a token)."""

from __future__ import annotations

import hmac
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl

from cachesync.config.kinds import is_loopback
from cachesync.errors import CacheSyncError, UsageError
from cachesync.mcp_server.build import build_server
from cachesync.mcp_server.scope import Scope
from cachesync.mcp_server.shared import Connect

PATH = "/mcp"

GRACE = 10
"""Seconds that calls under way get when the server is stopped."""


def serve_stdio(connect: Connect, scope: Scope) -> None:
    """Serve until stdin ends. Nothing but the protocol goes to stdout: the SDK sends all else to stderr."""
    _quiet()
    build_server(connect, scope).run()


def serve_http(
    connect: Connect, scope: Scope, host: str, port: int, token: str | None, announce: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT; ``announce`` gets the URL once it listens, also for port 0.

    With ``token`` every request must carry it as a bearer token. Raises UsageError if others than this machine could
    get in without one, CacheSyncError if the address cannot be had.
    """
    shown = f"[{host}]" if ":" in host else host
    local = is_loopback(f"http://{shown}")
    if not local and token is None:
        hint = "set CACHESYNC_HTTP_TOKEN, which every client then has to send, or serve on 127.0.0.1"
        raise UsageError("serve on", f"{shown}:{port}", "everybody in the network could read and write", hint)
    auth, verifier = None, None
    if token is not None:
        # There is no authorization server: the token comes from whoever set it.
        auth, verifier = (
            AuthSettings(issuer_url=AnyHttpUrl("http://localhost"), resource_server_url=None),
            _Token(token),
        )
    server = build_server(connect, scope, auth=auth, token_verifier=verifier)
    names = ["127.0.0.1", "localhost", "[::1]", shown]
    # A web page that the user visits must not reach it by a name that it lets point here.
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=local,
        allowed_hosts=[f"{name}:*" for name in names],
        allowed_origins=[f"http://{name}:*" for name in names],
    )
    app = server.streamable_http_app(streamable_http_path=PATH, host=host, transport_security=security)
    _quiet()
    with _listen(host, port) as listener:
        announce(f"http://{shown}:{listener.getsockname()[1]}{PATH}")
        # uvicorn stops by itself and raises the signal once more: an end that was asked for is no failure.
        signal.signal(signal.SIGTERM, lambda *_: None)
        settings = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE)
        uvicorn.Server(settings).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or error
        raise CacheSyncError("serve on", f"{host}:{port}", cause, "is it in use? give another port") from error


class _Token:
    """The one token that is right (the SDK's TokenVerifier)."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def verify_token(self, token: str) -> AccessToken | None:
        """Who sends it, if it is the token."""
        if not hmac.compare_digest(token.encode(), self._token):
            return None
        return AccessToken(token=token, client_id="cachesync", scopes=[])


def _quiet() -> None:
    """Each request would be a line of the SDK's and one of uvicorn's."""
    for noisy in ("mcp", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
