"""The connection to S3: an s3fs file system of our own, its credentials, its limits in time.

Calls come from many threads. Requests for single objects go the short way, in the calling thread (``s3_direct``); all
others run on fsspec's loop thread, where everything that belongs to an s3fs client is touched, so it needs no lock.
Retries of botocore and s3fs are off. aiohttp may send an idempotent request once more when a kept-alive connection
breaks; all writes are conditional, so that does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import fsspec.asyn
import s3fs
from aiobotocore.session import AioSession
from botocore.utils import parse_timestamp

from cachesync.errors import StoreCredentials, StoreError
from cachesync.store.s3_direct import Direct, private
from cachesync.store.s3_errors import classified
from cachesync.store.s3_question import Question
from cachesync.store.silence import Silence

T = TypeVar("T")

SLOWEST = 64 * 1024
"""Bytes a second: a request may take this much longer than the timeout for each byte that it carries."""

PATIENCE = 10
"""Times as long that the store gets for work of its own: completing and copying can take minutes on AWS."""

_ISO_8601 = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z")

ANSWER = 30.0
"""Seconds for the answer to a request that carries no bytes, and between two pieces of what is read, at most."""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Where the bucket is and how to talk to it.

    ``key``, ``secret`` and ``token`` replace the AWS chain when given, and stay out of the repr. ``connections`` is
    how many requests may be in flight, ``part_concurrency`` how many parts of big objects (over all of them: this
    bounds memory). ``timeout`` is seconds for a request that carries bytes, besides what those take; others get no more
    than ANSWER. ``copy_limit`` is the largest object, in bytes, that the store copies in one request.
    """

    bucket: str
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    sse: str | None = None
    sse_kms_key_id: str | None = None
    connections: int = 32
    part_concurrency: int = 4
    timeout: float = 30.0
    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    copy_limit: int = 5 * 1024**3

    @property
    def answer(self) -> float:
        """Seconds for the answer to a request that carries no bytes."""
        return min(ANSWER, self.timeout)

    @property
    def encryption(self) -> dict[str, Any]:
        """The request parameters that ask for encryption; none means the bucket's default."""
        asked = {"ServerSideEncryption": self.sse, "SSEKMSKeyId": self.sse_kms_key_id}
        return {name: value for name, value in asked.items() if value}


@dataclass(slots=True, eq=False)
class _Live:
    """One client, the calls that use it, and whether its credentials were refused."""

    fs: s3fs.S3FileSystem
    users: int = 0
    retired: bool = False


class S3Client:
    """Calls S3 from any thread. Every method raises the classified error, never the client library's."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self._loop: asyncio.AbstractEventLoop = fsspec.asyn.get_loop()
        self._live: _Live | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._silence = Silence()
        self.direct = Direct(self)

    def call(self, operation: str, path: str, method: str, *, size: int = 0, patience: float = 1, **args: Any) -> Any:
        """Do one request and return botocore's answer.

        ``operation`` and ``path`` are for the error; for ``size`` and ``patience`` see ``question``.
        """
        answer = self.direct.call(operation, path, method, args, size=size, patience=patience)
        if answer is not None:
            return answer
        return self.run(self.request(operation, path, method, size=size, patience=patience, **args))

    async def request(
        self, operation: str, path: str, method: str, *, size: int = 0, patience: float = 1, **args: Any
    ) -> Any:
        """``call`` for code that is on the loop already."""
        async with self.using(operation, path) as fs, self.question(operation, path, size=size, patience=patience):
            return await fs._call_s3(method, Bucket=self.settings.bucket, **args)  # noqa: SLF001

    @contextlib.asynccontextmanager
    async def using(self, operation: str, path: str) -> AsyncIterator[s3fs.S3FileSystem]:
        """A connected file system; on the loop only. What goes wrong inside is classified."""
        live: _Live | None = None
        try:
            with classified(operation, path):
                live = await self._acquire()
                yield live.fs
        except StoreCredentials:
            if live is not None:
                live.retired = True
            raise
        finally:
            if live is not None:
                await self._release(live)

    @contextlib.asynccontextmanager
    async def question(self, operation: str, path: str, *, size: int = 0, patience: float = 1) -> AsyncIterator[None]:
        """Something that the store is to answer, inside: bounded in time, and kept note of; on the loop only.

        ``size`` is how many bytes go along; ``patience`` stretches the time for what makes the store work. Raises
        StoreSilent when a question without bytes has no answer in time, StoreTransient for one with them.
        """
        limit, question = self.questioning(operation, path, size=size, patience=patience)
        with question:
            async with asyncio.timeout(limit):
                yield

    def questioning(self, operation: str, path: str, *, size: int = 0, patience: float = 1) -> tuple[float, Question]:
        """``question`` for who keeps to its limit, in seconds, himself; in any thread."""
        sending = size / SLOWEST
        limit = (self.settings.timeout if size else self.settings.answer) * patience + sending
        allowance = sending + (limit if patience > 1 else 0)
        return limit, Question(self._silence, operation, path, sends=bool(size), allowance=allowance)

    def uses(self, fs: s3fs.S3FileSystem) -> bool:
        """Whether ``fs`` is the one that requests use now, and its credentials were not refused."""
        live = self._live
        return live is not None and live.fs is fs and not live.retired

    def retire(self, fs: s3fs.S3FileSystem) -> None:
        """The credentials of ``fs`` were refused: the chain is asked for others before the next request."""
        if (live := self._live) is not None and live.fs is fs:
            live.retired = True

    @property
    def silent_for(self) -> float | None:
        """See ObjectStore."""
        now = time.monotonic()
        since = self._silence.since(now)
        return None if since is None else now - since

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the loop and wait for it. It must bound itself in time."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work`` on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @property
    def stopped(self) -> bool:
        """Whether there is no loop left to run anything on."""
        return self._loop.is_closed() or not self._loop.is_running()

    def close(self) -> None:
        """Close the connections; calls that come later fail."""
        if not self.stopped:
            self.run(self._close())
        self.direct.close()

    async def _acquire(self) -> _Live:
        while True:
            if self._closed:
                raise StoreError("use the store", f"s3://{self.settings.bucket}", "it is closed")
            live = self._live
            if live is None or live.retired:
                live = await self._open()
            if not live.retired:
                live.users += 1
                return live

    async def _open(self) -> _Live:
        """A client with fresh credentials: one, however many calls wait for it."""
        async with self._opening:
            if self._live is not None and not self._live.retired:
                return self._live
            old, self._live = self._live, None
            if old is not None and old.users == 0:
                await _disconnect(old.fs)
            async with asyncio.timeout(self.settings.timeout):
                self._live = _Live(await _connect(self.settings))
            return self._live

    async def _release(self, live: _Live) -> None:
        live.users -= 1
        if live.users == 0 and live.retired and live is not self._live:
            await _disconnect(live.fs)

    async def _close(self) -> None:
        self._closed = True
        async with self._opening:
            live, self._live = self._live, None
            if live is not None:
                live.retired = True
                await _disconnect(live.fs)


@functools.cache
def descriptions() -> Any:
    """The loader of the service descriptions. Parsing them is 0.1 s of work, done once in a process."""
    return AioSession().get_component("data_loader")


async def _connect(settings: S3Settings) -> s3fs.S3FileSystem:
    """A file system with a session of its own. ``asynchronous``: its life is ours, no finalizer closes it for us."""
    session = AioSession()
    session.register_component("data_loader", descriptions())
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)
    fs = s3fs.S3FileSystem(
        session=session,
        asynchronous=True,
        skip_instance_cache=True,
        use_listings_cache=False,
        key=settings.key,
        secret=settings.secret,
        token=settings.token,
        endpoint_url=settings.endpoint,
        client_kwargs={"region_name": settings.region} if settings.region else {},
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "max_pool_connections": settings.connections + settings.part_concurrency,
            "signature_version": "s3v4",
            "connect_timeout": min(5.0, settings.timeout),
            "read_timeout": settings.timeout,  # of silence once the body is sent
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "parameter_validation": False,
            "user_agent": "cachesync",
            "s3": {
                "addressing_style": "path" if settings.path_style else "auto",
                "payload_signing_enabled": not private(settings.endpoint),
            },
        },
    )
    fs.retries = 1
    client = await fs.set_session()
    # Asked for by hand: told so by a parameter, botocore would hash every byte that is read a second time.
    client.meta.events.register("before-sign.s3.GetObject", _ask_for_checksum)
    return fs


def _time(text: str) -> datetime:
    """A time as S3 writes it in a listing; in any other form as botocore reads it, which takes 300 times as long."""
    if _ISO_8601.fullmatch(text):
        return datetime.fromisoformat(text)
    told: datetime = parse_timestamp(text)
    return told


def _ask_for_checksum(request: Any, signature_version: str, **_: object) -> None:
    if not str(signature_version).endswith("-query"):  # who follows a link sends no headers of ours
        request.headers["x-amz-checksum-mode"] = "ENABLED"


async def _disconnect(fs: s3fs.S3FileSystem) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await fs._s3creator.__aexit__(None, None, None)  # noqa: SLF001
