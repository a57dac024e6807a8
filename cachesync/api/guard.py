"""Who may ask over TCP, where anybody on this machine or beyond it can knock: the checks before any route.

A token in a header, never in the address or a cookie: an address is written down on the way, and a cookie is sent by
whatever page asks for it. Host and Origin are looked at all the same, so that a page which lets its own name point here
gets nothing, not even ours.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Collection, MutableMapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Middleware

from cachesync.api import wire
from cachesync.api.guesses import Guesses
from cachesync.api.http_io import Handler, answer
from cachesync.model.errors import UsageError

OPEN = {"/healthz", "/readyz"}
"""Anybody may ask whether it lives."""

METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE"}

# Trusted types: no string becomes markup, whatever a file's name or bytes are.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " frame-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What the page may load: what is ours. Nothing of what it shows may run or load anything."""

ANSWER_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""What an answer may do if a browser shows it by itself: nothing. Artifacts hold whatever an agent wrote."""

CHALLENGE = 'Bearer realm="cachesync"'

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"https?://(.+)", re.IGNORECASE)
_DEFAULT_PORTS = (None, "80", "443")
_HINT = "send 'Authorization: Bearer TOKEN'; docs/page.md says where the token is"


class Asked(NamedTuple):
    """What the guard looks at: ``headers`` returns all values of one, ``peer`` is the address of the client."""

    method: str
    path: str
    headers: Callable[[str], Sequence[str]]
    peer: str


class Guard:
    """The checks. ``token`` opens everything, ``names`` are the host names it goes by besides this machine's own.

    ``anywhere`` is for what listens beyond this machine: it may be called by any of its IP addresses then, none of
    which another page's name can pretend to be. ``shown`` are the paths that are served without the token.
    """

    def __init__(self, token: str, names: Collection[str], *, anywhere: bool, shown: Collection[str]) -> None:
        self._token = token.encode()
        self._names = {"localhost", *(name.lower() for name in names)}
        self._anywhere = anywhere
        self._shown = frozenset(shown)
        self._guesses = Guesses()

    def refusal(self, asked: Asked) -> tuple[UsageError, int] | None:
        """Why a request is not answered, with the HTTP status; None if it is."""
        what = f"{asked.method} {asked.path}"
        hosts = asked.headers("Host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            hint = "ask it by 127.0.0.1, or name it with the setting http_names"
            return UsageError(what, cause="it does not go by that Host", hint=hint), 403
        if any(_plain(_of_origin(origin)) != _plain(hosts[0]) for origin in asked.headers("Origin")):
            return UsageError(what, cause="it is not for pages from elsewhere", hint="see the Origin header"), 403
        if asked.method not in METHODS:
            hint = f"allowed: {', '.join(sorted(METHODS))}"
            return UsageError(what, cause="this method is not known here", hint=hint), 405
        if asked.path in self._shown and asked.method in ("GET", "HEAD"):
            return None
        return self._judge(asked.headers("Authorization"), asked.peer, what)

    def _judge(self, given: Sequence[str], peer: str, what: str) -> tuple[UsageError, int] | None:
        """Look at the token. One that is missing is no guess."""
        now = time.monotonic()
        if given and not self._guesses.may(peer, now):
            hint = "try again in a few seconds; docs/page.md says how many are allowed"
            return UsageError(what, cause="too many wrong tokens came from this address", hint=hint), 429
        if self._has_token(given):
            self._guesses.right(peer, now)
            return None
        if given:
            self._guesses.wrong(peer, now)
        return UsageError(what, cause="the bearer token is missing or wrong", hint=_HINT), 401

    def _is_ours(self, host: str) -> bool:
        found = _AUTHORITY.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        try:
            number = ip_address(name)
        except ValueError:
            return name in self._names
        return self._anywhere or number.is_loopback or name in self._names

    def _has_token(self, headers: Collection[str]) -> bool:
        if len(headers) != 1:
            return False
        scheme, _, given = next(iter(headers)).partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        return right and scheme.lower() == "bearer"


def _of_origin(origin: str) -> str:
    found = _ORIGIN.fullmatch(origin)
    return "" if found is None else found[1]


def _plain(authority: str) -> tuple[str, str | None] | None:
    """Name and port as they can be compared, also behind a proxy that speaks https for us; None if it is neither."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        return None
    return found[1].lower(), None if found[2] in _DEFAULT_PORTS else found[2]


def guarded(guard: Guard) -> Middleware:
    """The guard as the first thing that a request meets."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = guard.refusal(_asked(request))
        if refused is None:
            return await handler(request)
        error, status = refused
        response = answer(wire.error_json(error), status)
        if status == web.HTTPUnauthorized.status_code:
            response.headers["WWW-Authenticate"] = CHALLENGE
        elif status == web.HTTPTooManyRequests.status_code:
            response.headers["Retry-After"] = "5"
        response.force_close()  # of whatever body it sent, nothing is read
        return response

    return check


def _asked(request: web.Request) -> Asked:
    peer = request.transport and request.transport.get_extra_info("peername")
    return Asked(
        request.method, request.path, lambda name: request.headers.getall(name, []), str(peer[0]) if peer else ""
    )


async def protect(_request: web.Request, response: web.StreamResponse) -> None:
    """``seal`` each answer (a signal handler of aiohttp's)."""
    seal(response.headers)


def seal(headers: MutableMapping[str, str]) -> None:
    """Say what a browser may do with an answer."""
    headers.setdefault("Content-Security-Policy", ANSWER_POLICY)
    headers.setdefault("Cache-Control", "no-store")
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Server"] = "cachesync"
