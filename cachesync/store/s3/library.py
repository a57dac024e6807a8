"""botocore's side of the connection: an s3fs file system of our own, its credentials, its limits in time.

All runs on fsspec's loop thread, where everything that belongs to an s3fs client is touched, so it needs no lock.
Retries of botocore and s3fs are off. aiohttp may send an idempotent request once more when a kept-alive connection
breaks; all writes are conditional, so that does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec.asyn
import s3fs
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from cachesync.model.errors import StoreCredentials
from cachesync.model.record import record
from cachesync.store.s3.address import Address, from_endpoint, is_private
from cachesync.store.s3.errors import check_origin, classified
from cachesync.store.s3.session import Session
from cachesync.store.s3.xml import moment

if TYPE_CHECKING:
    from cachesync.store.s3.client import S3Client, S3Settings

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Live:
    """One client, the calls that use it, and whether its credentials were refused."""

    fs: s3fs.S3FileSystem
    users: int = 0
    retired: bool = False


@record(frozen=True, slots=True)
class Way:
    """Where the client ``fs`` sends its requests, and what it signs with. Without an address that cannot be told."""

    fs: s3fs.S3FileSystem
    address: Address | None = None
    context: ssl.SSLContext | None = None
    credentials: Any = None


class Library:
    """The requests of one ``S3Client`` that botocore does. Raises like it."""

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop = fsspec.asyn.get_loop()
        self._live: _Live | None = None
        self._opening = asyncio.Lock()
        self._way: Way | None = None

    async def request(
        self, operation: str, path: str, method: str, *, size: int = 0, patience: float = 1, **args: Any
    ) -> Any:
        """One request: see ``S3Client.call``."""
        async with self.using(operation, path) as fs, self.question(operation, path, size=size, patience=patience):
            said = await fs._call_s3(method, Bucket=self._client.settings.bucket, **args)  # noqa: SLF001
            check_origin(operation, path, method, said, said["ResponseMetadata"])
            return said

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
        """Something that the store is to answer, inside and in time (``S3Client.questioning``); on the loop only."""
        limit, question = self._client.questioning(operation, path, size=size, patience=patience)
        with question:
            async with asyncio.timeout(limit):
                yield

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self._client.settings.bucket

    async def link(self, operation: str, key: str, asked: dict[str, str], expires: int) -> str:
        """A signed GET, for so many seconds; on the loop only."""
        async with self.using(operation, key) as fs, asyncio.timeout(self._client.settings.timeout):
            return str(await fs._s3.generate_presigned_url("get_object", Params=asked, ExpiresIn=expires))  # noqa: SLF001

    async def way(self, operation: str, path: str) -> Way:
        """How requests go now; on the loop only."""
        async with self.using(operation, path) as fs, asyncio.timeout(self._client.settings.answer):
            s3 = await fs.get_s3(self._client.settings.bucket)
            way = self._way
            if way is None or way.fs is not fs:
                way = self._way = await _way(fs, s3, self._client.settings.bucket)
            if way.address is None:
                return way
            return replace(way, credentials=await s3._request_signer._credentials.get_frozen_credentials())  # noqa: SLF001

    def uses(self, fs: s3fs.S3FileSystem) -> bool:
        """Whether ``fs`` is the one that requests use now, and its credentials were not refused."""
        live = self._live
        return live is not None and live.fs is fs and not live.retired

    def forget(self) -> None:
        """Connect anew, as the settings are now, before the next request."""
        if (live := self._live) is not None:
            live.retired = True

    def retire(self, fs: s3fs.S3FileSystem) -> None:
        """The credentials of ``fs`` were refused: the chain is asked for others before the next request."""
        if (live := self._live) is not None and live.fs is fs:
            live.retired = True

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

    async def _acquire(self) -> _Live:
        while True:
            self._client.check_open()
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
            async with asyncio.timeout(self._client.settings.timeout):
                self._live = _Live(await _connect(self._client.settings))
            return self._live

    async def _release(self, live: _Live) -> None:
        live.users -= 1
        if live.users == 0 and live.retired and live is not self._live:
            await _disconnect(live.fs)

    async def _close(self) -> None:
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
    session.set_default_client_config(AioConfig(http_session_cls=Session))  # of those that fetch credentials
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)
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
            "http_session_cls": Session,
            "s3": {
                "addressing_style": "path" if settings.path_style else "auto",
                "payload_signing_enabled": not is_private(settings.endpoint),
            },
        },
    )
    fs.retries = 1
    client = await fs.set_session()
    # Asked for by hand: told so by a parameter, botocore would hash every byte that is read a second time.
    client.meta.events.register("before-sign.s3.GetObject", _ask_for_checksum)
    client.meta.events.register_last("before-parameter-build.s3", _stay)
    return fs


async def _way(fs: s3fs.S3FileSystem, s3: Any, bucket: str) -> Way:
    """Where botocore would send a request for an object."""
    if s3._request_signer._credentials is None:  # noqa: SLF001
        return Way(fs)
    operation = s3.meta.service_model.operation_model("GetObject")
    context = {"client_region": s3.meta.region_name, "client_config": s3.meta.config}
    # Not what a link shows: that leads to s3.amazonaws.com, whatever the region.
    asked = {"Bucket": bucket, "Key": "k"}
    url, headers, told = await s3._resolve_endpoint_ruleset(operation, asked, context)  # noqa: SLF001
    address = from_endpoint(url, next(iter(told.get("authSchemes", ())), {}))
    session = s3._endpoint.http_session  # noqa: SLF001
    if address is None or headers or session._proxy_config.proxy_url_for(url):  # noqa: SLF001
        return Way(fs)
    trusting = None
    if address.scheme == "https":
        trusting, _ = await asyncio.to_thread(session._build_ssl_contexts, None)  # noqa: SLF001
    return Way(fs, address, trusting)


def _ask_for_checksum(request: Any, signature_version: str, **_: object) -> None:
    if not str(signature_version).endswith("-query"):  # who follows a link sends no headers of ours
        request.headers["x-amz-checksum-mode"] = "ENABLED"


def _stay(context: dict[str, Any], **_: object) -> None:
    """Follow to no region by itself: ``S3Client`` judges what an answer names."""
    context.setdefault("s3_redirect", {})["redirected"] = True


async def _disconnect(fs: s3fs.S3FileSystem) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await fs._s3creator.__aexit__(None, None, None)  # noqa: SLF001
