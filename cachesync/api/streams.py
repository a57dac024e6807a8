"""Bytes between a thread that blocks and the event loop that has the connection: out to the client, and in from it.

The thread takes a step only when the client took, or sent, what went before, so memory stays flat; a client that does
neither for ``IDLE`` seconds is let go, and the thread with it. What ends early ends as a broken connection, never as
something short: nobody can take the half for the whole.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from aiohttp import web

from cachesync.api import wire
from cachesync.api.bounded_pool import Lane
from cachesync.api.http_io import go_on, told_as
from cachesync.model.errors import DaemonUnavailable, FileUnreadable, StoreTransient
from cachesync.model.reports import Json

IDLE = 60.0
"""Seconds that a client may take for one SLICE of an answer, or for sending anything of a body."""

SLICE = 256 * 1024
BATCH = 64 * 1024
BATCH_AGE = 0.2
"""Bytes and seconds of lines that are sent together."""

T = TypeVar("T")
Piece = bytes | bytearray | memoryview


class ClientGone(Exception):
    """The client hung up or stalled, or the server stops: nobody takes the rest."""


class Outlet:
    """One answer of unknown end, sent piece by piece by the one thread that makes it.

    Until the first piece is there nothing is sent, so an error before it can still be an answer of its own.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._response = web.StreamResponse()
        self._closed = False

    async def run(self, lane: Lane, work: Callable[[], object]) -> web.StreamResponse:
        """Do ``work``, which calls ``send_bytes`` or ``send_lines``, in a lane, and end the answer as it ended."""
        try:
            await lane.run(work)
        except ClientGone:
            self._drop(abort=True)
        except Exception as error:
            if not self._response.prepared:
                raise
            told, _ = told_as(error, self._request)
            if self._response.content_length is None:
                await self._last_words(wire.error_json(told))
            self._drop(abort=isinstance(error, DaemonUnavailable))
        finally:
            self._closed = True
        return self._response

    # -- called in the thread ------------------------------------------------------------------------------------------

    def send_bytes(self, status: int, headers: dict[str, str], length: int, pieces: Iterable[bytes]) -> None:
        """Answer with exactly ``length`` bytes. The last piece waits until nothing can go wrong any more.

        Raises ClientGone, StoreTransient if the pieces are not so many bytes, and what ``pieces`` raises.
        """
        self._response.set_status(status)
        self._response.headers.update(headers)
        self._response.content_length = length
        held, left = b"", length
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                break
            if held:
                self._send(held)
            held = piece
        if left:
            cause = f"{abs(left)} bytes {'more than announced' if left < 0 else 'are missing at the end'}"
            raise StoreTransient("read", self._request.path, cause)
        self._send(held)

    def send_lines(self, items: Iterable[Json]) -> None:
        """Answer with a line of JSON for each item. Raises ClientGone and what ``items`` raises."""
        self._response.content_type = "application/x-ndjson"
        batch, since = bytearray(), time.monotonic()
        for item in items:
            batch += wire.dumps(item) + b"\n"
            if len(batch) >= BATCH or time.monotonic() - since > BATCH_AGE:
                self._send(batch)
                batch, since = bytearray(), time.monotonic()
        self._send(batch)

    def _send(self, piece: Piece) -> None:
        wait_in_loop(self._loop, self._write(piece))

    # -- called in the loop --------------------------------------------------------------------------------------------

    async def _write(self, piece: Piece) -> None:
        if self._closed:
            raise ClientGone
        await begin(self._response, self._request)
        await write(self._response, piece)

    async def _last_words(self, told: Json) -> None:
        try:
            await write(self._response, wire.dumps(told) + b"\n")
        except ClientGone:
            self._drop(abort=True)

    def _drop(self, *, abort: bool) -> None:
        """End the connection without the end of the answer; ``abort`` also forgets what is not sent yet."""
        self._response.force_close()
        transport = self._request.transport
        if transport is None:
            return
        transport.close()
        if abort:
            transport.abort()
        else:
            self._loop.call_later(IDLE, transport.abort)


async def begin(response: web.StreamResponse, request: web.Request) -> None:
    """Send the head of the answer, unless that was done. Raises ClientGone."""
    if not response.prepared:
        try:
            await response.prepare(request)
        except OSError as error:
            raise ClientGone from error


async def write(response: web.StreamResponse, piece: Piece) -> None:
    """Send ``piece`` as fast as the client takes it. Raises ClientGone."""
    view = memoryview(piece)
    try:
        for start in range(0, len(view), SLICE):
            async with asyncio.timeout(IDLE):
                await response.write(view[start : start + SLICE])
    except (OSError, TimeoutError, RuntimeError) as error:
        raise ClientGone from error


def wait_in_loop(loop: asyncio.AbstractEventLoop, step: Coroutine[Any, Any, T]) -> T:
    """What ``step`` returns or raises, run in ``loop`` by another thread. Raises ClientGone if the loop ends."""
    try:
        future = asyncio.run_coroutine_threadsafe(step, loop)
    except RuntimeError:  # it is closed
        step.close()
        raise ClientGone from None
    while True:
        try:
            return future.result(timeout=1.0)
        except concurrent.futures.CancelledError:
            raise ClientGone from None
        except TimeoutError:
            if loop.is_closed():
                raise ClientGone from None


class BodySource(io.RawIOBase):
    """A request's body as a file for a thread. Make it in the loop that serves the request.

    Reading raises FileUnreadable if the body ends before its end, so that half a body is never taken for one.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill some of ``buffer``; 0 at the end."""
        view = memoryview(buffer).cast("B")
        piece = wait_in_loop(self._loop, self._read(len(view)))
        view[: len(piece)] = piece
        return len(piece)

    async def _read(self, size: int) -> bytes:
        try:
            async with asyncio.timeout(IDLE):
                await go_on(self._request)
                return await self._request.content.read(size)
        except TimeoutError:
            cause: object = f"nothing was sent for {IDLE:.0f} s"
        except (OSError, web.RequestPayloadError) as error:
            cause = str(error) or type(error).__name__
        raise FileUnreadable("read", f"the body of PUT {self._request.path}", cause, "send it again")
