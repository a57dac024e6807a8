"""Requests for single objects past botocore: with its credentials, but signed, sent and read in the calling thread.

botocore and aiohttp take a millisecond of the one interpreter for a request, and two changes of thread; this takes a
tenth of it. Where they would do something else than signing with a key and connecting (no credentials, S3 Express, a
proxy), and after a redirect, which botocore knows how to follow, this does nothing, and they are asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from botocore.exceptions import ClientError
from botocore.parsers import RestXMLParser

from cachesync.errors import StoreCredentials
from cachesync.store import s3_sign
from cachesync.store.s3_connection import Reply
from cachesync.store.s3_wire import Wire

if TYPE_CHECKING:
    from cachesync.store.s3_client import S3Client, S3Settings

T = TypeVar("T")

FRESH = 10.0
"""Seconds that credentials are used before the chain is asked for them again; it renews them minutes ahead."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCOPE = "/s3/aws4_request"
_OK = frozenset({200, 204, 206})
_FIRST_ERROR = 400
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_UNTOLD = "400"


@dataclass(frozen=True, slots=True)
class _Route:
    """How to get to the bucket with the credentials of ``fs``. ``base`` is the path before a key; without a ``wire``
    botocore has to be asked."""

    fs: Any
    found_at: float
    wire: Wire | None = None
    host: str = ""
    base: str = ""
    scope: str = ""
    credentials: Any = None


class Direct:
    """The short way to the objects of one bucket, for many threads."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._signed = not private(client.settings.endpoint)
        self._route: _Route | None = None

    def call(
        self, operation: str, path: str, method: str, args: Mapping[str, Any], *, size: int, patience: float
    ) -> dict[str, Any] | None:
        """The answer to a call, as botocore would have it; None if botocore has to be asked. Raises like S3Client."""

        def asked(route: _Route) -> dict[str, Any] | None:
            limit, question = self._client.questioning(operation, path, size=size, patience=patience)
            with question:
                deadline = time.monotonic() + limit
                reply = self._send(route, method, args, deadline)
                if reply is None:
                    return None
                reply.text(deadline)
                return s3_sign.told(reply.headers)

        return self._on_route(operation, path, method, args, asked)

    def open(self, operation: str, path: str, args: Mapping[str, Any]) -> tuple[dict[str, Any], Reply] | None:
        """A GET: what its head says, and its body, to be read and closed. None if botocore has to be asked."""

        def asked(route: _Route) -> tuple[dict[str, Any], Reply] | None:
            limit, question = self._client.questioning(operation, path)
            with question:
                reply = self._send(route, "get_object", args, time.monotonic() + limit)
                if reply is None:
                    return None
                try:
                    return s3_sign.told(reply.headers), reply
                except BaseException:
                    reply.close()
                    raise

        return self._on_route(operation, path, "get_object", args, asked)

    def close(self) -> None:
        """Let the connections go."""
        route, self._route = self._route, None
        if route is not None and route.wire is not None:
            route.wire.close()

    def _on_route(
        self, operation: str, path: str, method: str, args: Mapping[str, Any], asked: Callable[[_Route], T | None]
    ) -> T | None:
        if not s3_sign.is_plain(method, args):
            return None
        route = self._route
        if route is None or not self._client.uses(route.fs) or time.monotonic() - route.found_at > FRESH:
            route = self._client.run(self._find(operation, path))
        if route.wire is None:
            return None
        try:
            return asked(route)
        except StoreCredentials:
            self._client.retire(route.fs)
            raise

    def _send(self, route: _Route, method: str, args: Mapping[str, Any], deadline: float) -> Reply | None:
        assert route.wire is not None  # noqa: S101 -- its caller looked
        verb, body = s3_sign.VERBS[method], args.get("Body", b"")
        path, query = route.base + quote(args["Key"], safe="/~"), s3_sign.query(args)
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        key = route.credentials
        lines = s3_sign.headers(method, args, date=date, token=key.token, signed=self._signed)
        lines["host"] = route.host
        lines["authorization"] = s3_sign.authorization(
            verb, path, query, lines, route.scope, key.access_key, key.secret_key
        )
        lines["user-agent"] = "cachesync"
        reply = route.wire.ask(verb, f"{path}?{query}" if query else path, lines, body, deadline)
        if reply.status in _OK:
            return reply
        if reply.status >= _FIRST_ERROR:
            raw = {"status_code": reply.status, "headers": reply.headers, "body": reply.text(deadline)}
            error = RestXMLParser().parse(raw, None)
            code = error["Error"]["Code"]
            if verb == "HEAD" and code == _UNTOLD:
                return None
            if code not in _ELSEWHERE:
                raise ClientError(error, method.title().replace("_", ""))
        reply.close()
        route.wire.close()
        self._route = replace(route, wire=None)
        return None

    async def _find(self, operation: str, path: str) -> _Route:
        """The way, as it is now; on the loop."""
        settings = self._client.settings
        async with self._client.using(operation, path) as fs, asyncio.timeout(settings.answer):
            s3 = await fs.get_s3(settings.bucket)
            old = self._route
            if old is None or old.fs is not fs:
                self.close()
                old = await _way(fs, s3, settings)
            route = replace(old, found_at=time.monotonic())
            if route.wire is not None:
                frozen = await s3._request_signer._credentials.get_frozen_credentials()  # noqa: SLF001
                route = replace(route, credentials=frozen)
            self._route = route
            return route


async def _way(fs: Any, s3: Any, settings: S3Settings) -> _Route:
    """Where botocore would send a request, as one of its links shows it."""
    none = _Route(fs, 0.0)
    if s3._request_signer._credentials is None:  # noqa: SLF001
        return none
    url = await s3.generate_presigned_url("get_object", Params={"Bucket": settings.bucket, "Key": "k"})
    link = urlsplit(url)
    said = parse_qs(link.query)
    scope = said.get("X-Amz-Credential", [""])[0].partition("/")[2].partition("/")[2]
    if said.get("X-Amz-Algorithm") != [s3_sign.ALGORITHM] or not scope.endswith(_SCOPE):
        return none
    session = s3._endpoint.http_session  # noqa: SLF001
    if not link.path.endswith("/k") or link.hostname is None or session._proxy_config.proxy_url_for(url):  # noqa: SLF001
        return none
    context = None
    if link.scheme == "https":
        context, _ = await asyncio.to_thread(session._build_ssl_contexts, None)  # noqa: SLF001
    port = link.port or _DEFAULT_PORTS[link.scheme]
    connect_timeout = min(5.0, settings.timeout)
    wire = Wire(link.hostname, port, context, connect_timeout=connect_timeout, silence=settings.timeout)
    named = link.hostname if ":" not in link.hostname else f"[{link.hostname}]"
    host = named if port == _DEFAULT_PORTS[link.scheme] else f"{named}:{port}"
    return _Route(fs, 0.0, wire, host, link.path[:-1], scope)


def private(endpoint: str | None) -> bool:
    """Whether nobody between us and the endpoint can change bytes; then the body need not be in the signature."""
    if endpoint is None:
        return True
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
