"""Requests past botocore: signed, sent and read in the calling thread.

botocore and aiohttp take a millisecond of the one interpreter for a request, and two changes of thread; this takes a
tenth of it. The address and the key are what the environment says, if it says all of it, or botocore's. Where botocore
would do something else than signing with a key and connecting (no credentials, S3 Express, a proxy), this does
nothing, and it is asked. No redirect is followed: what the store says of the bucket's region is an error, of which
``S3Client`` makes what it may.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from cachesync.model.errors import StoreCredentials
from cachesync.model.record import record
from cachesync.store.s3 import calls, sign
from cachesync.store.s3.address import Address, from_environment, is_private
from cachesync.store.s3.connection import Garbled, Reply
from cachesync.store.s3.errors import check_origin
from cachesync.store.s3.wire import Wire

if TYPE_CHECKING:
    import ssl

    from cachesync.store.s3.client import S3Client

T = TypeVar("T")

_log = logging.getLogger(__name__)

FRESH = 10.0
"""Seconds that credentials are used before the chain is asked for them again; it renews them minutes ahead."""

MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes of a document that an answer brings, at most. The largest page, of a thousand names of 1,024 bytes with each of
them percent-encoded and all else that S3 says of an object, has 3.5 million."""

SKEW = 300.0
"""Seconds that our clock may be off the store's before a refusal is put down to that. S3 refuses from 900 on."""

_OK = frozenset({200, 204, 206})
_FORBIDDEN = 403


@record(frozen=True, slots=True)
class _Route:
    """How to get to the bucket. Without a ``wire`` botocore has to be asked. ``fs`` has the credentials, or is None
    where they are the environment's."""

    fs: Any = None
    found_at: float = 0.0
    wire: Wire | None = None
    address: Address | None = None
    credentials: Any = None


class Direct:
    """The short way to one bucket, for many threads."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._signed = not is_private(client.settings.endpoint)
        self._route: _Route | None = None
        self._finding = threading.Lock()
        self._refused = False
        self._ahead = 0.0  # seconds that the store's clock is ahead of ours

    def call(
        self, operation: str, path: str, method: str, args: Mapping[str, Any], *, size: int, patience: float
    ) -> dict[str, Any] | None:
        """The answer to a call, as botocore would have it; None if botocore has to be asked. Raises like S3Client."""

        def asked(route: _Route) -> dict[str, Any]:
            limit, question = self._client.questioning(operation, path, size=size, patience=patience)
            with question:
                deadline = time.monotonic() + limit
                reply = self._send(route, method, args, deadline, patience)
                text = reply.text(deadline, MAX_DOCUMENT + 1)
                if len(text) > MAX_DOCUMENT:
                    raise Garbled(f"the answer has more than {MAX_DOCUMENT} bytes")
                told = calls.told(reply.headers)
                if method in calls.DOCUMENTS:
                    from cachesync.store.s3.xml import read

                    told |= read(method, text)
                told["ResponseMetadata"] = {"HTTPStatusCode": reply.status, "HTTPHeaders": reply.headers}
                check_origin(operation, path, method, told, told["ResponseMetadata"])
                return told

        return self._on_route(operation, path, method, args, asked)

    def open(self, operation: str, path: str, args: Mapping[str, Any]) -> tuple[dict[str, Any], Reply] | None:
        """A GET: what its head says, and its body, to be read and closed. None if botocore has to be asked."""

        def asked(route: _Route) -> tuple[dict[str, Any], Reply]:
            limit, question = self._client.questioning(operation, path)
            with question:
                reply = self._send(route, "get_object", args, time.monotonic() + limit)
                try:
                    told = calls.told(reply.headers)
                    metadata = {"HTTPStatusCode": reply.status, "HTTPHeaders": reply.headers}
                    check_origin(operation, path, "get_object", told, metadata)
                    return told, reply
                except BaseException:
                    reply.close()
                    raise

        return self._on_route(operation, path, "get_object", args, asked)

    def forget(self) -> None:
        """Find the way to the bucket anew before the next request."""
        with self._finding:
            self._let_go()

    def close(self) -> None:
        """Let the connections go."""
        self._let_go()

    def _on_route(
        self, operation: str, path: str, method: str, args: Mapping[str, Any], asked: Callable[[_Route], T]
    ) -> T | None:
        self._client.check_open()
        if not calls.is_known(method, args):
            return None
        route = self._route
        if route is None or (route.fs is not None and not self._is_current(route)):
            route = self._found(operation, path)
        if route.wire is None:
            return None
        try:
            return asked(route)
        except StoreCredentials:
            self._refuse(route)
            raise

    def _is_current(self, route: _Route) -> bool:
        return time.monotonic() - route.found_at <= FRESH and self._client.library.uses(route.fs)

    def _refuse(self, route: _Route) -> None:
        """The chain is asked for other credentials before the next request."""
        if route.fs is not None:
            self._client.library.retire(route.fs)
            return
        with self._finding:
            self._refused = True
            if self._route is route:
                self._let_go()

    def _found(self, operation: str, path: str) -> _Route:
        """The way, as it is now."""
        wire: Wire | None
        with self._finding:
            settings = self._client.settings  # inside: forget() comes after they are changed
            if self._route is None and not self._refused and (found := from_environment(settings, os.environ)):
                address, key = found
                with contextlib.suppress(OSError):  # botocore says better what is wrong with a bundle
                    wire = self._wire(address, _trusting() if address.scheme == "https" else None)
                    self._route = _Route(None, 0.0, wire, address, key)
            if self._route is not None and self._route.fs is None:
                return self._route
        library = self._client.library
        way = library.run(library.way(operation, path))
        with self._finding:
            old = self._route
            if old is not None and old.fs is way.fs:
                wire = old.wire
            else:
                self._let_go()
                wire = None if way.address is None else self._wire(way.address, way.context)
            self._route = _Route(way.fs, time.monotonic(), wire, way.address, way.credentials)
            return self._route

    def _wire(self, address: Address, context: ssl.SSLContext | None) -> Wire:
        silence = self._client.settings.timeout
        return Wire(address.hostname, address.port, context, connect_timeout=min(5.0, silence), silence=silence)

    def _send(self, route: _Route, method: str, args: Mapping[str, Any], deadline: float, patience: float = 1) -> Reply:
        """Send a request and return its answer; once more if only our clock was wrong. Raises Refused."""
        assert route.wire is not None and route.address is not None  # noqa: S101, PT018 -- its caller looked
        verb, path, query, body = calls.request(method, route.address.base, args)
        target = f"{path}?{query}" if query else path
        key = route.credentials
        for again in (True, False):
            date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + self._ahead))
            lines = calls.headers(method, args, body, date=date, token=key.token, signed=self._signed)
            lines["host"] = route.address.host
            lines["authorization"] = sign.authorization(
                verb, path, query, lines, route.address.scope, key.access_key, key.secret_key
            )
            lines["user-agent"] = "cachesync"
            reply = route.wire.ask(verb, target, lines, body, deadline, patience)
            if not (again and reply.status == _FORBIDDEN and self._takes_time(reply.headers)):
                break
            reply.text(deadline)  # the connection serves again
        if reply.status in _OK:
            return reply
        from cachesync.store.s3.xml import refusal

        raise refusal(reply.status, reply.text(deadline), reply.headers)

    def _takes_time(self, headers: Mapping[str, str]) -> bool:
        """Sign with the time that a refusal names from now on, if ours is off. Not where others could have changed it:
        what is signed for a later time, they could send then."""
        if self._signed:
            return False
        try:
            ahead = calls.moment(headers["date"]).timestamp() - time.time()
        except (KeyError, ValueError, OverflowError):
            return False
        if abs(ahead - self._ahead) <= SKEW:
            return False
        if abs(ahead) <= SKEW:
            self._ahead = 0.0
            _log.info("this machine's clock is right again; requests are signed with its time")
            return True
        self._ahead = ahead
        off = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'}"
        _log.warning("this machine's clock is %s the store's; requests are signed with the store's time", off)
        return True

    def _let_go(self) -> None:
        route, self._route = self._route, None
        if route is not None and route.wire is not None:
            route.wire.close()


def _trusting() -> ssl.SSLContext:
    from cachesync.store.s3.tls import trusting

    return trusting()
