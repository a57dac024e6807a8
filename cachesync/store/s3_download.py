"""One GET as it arrives, in flat memory, verified at the end."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Protocol, Self

import aiohttp

from cachesync.errors import IntegrityError, StoreTransient
from cachesync.model import ObjectInfo, Version
from cachesync.store import s3_fields as fields
from cachesync.store.s3_client import SLOWEST, S3Client
from cachesync.store.s3_connection import Reply
from cachesync.store.s3_errors import classified
from cachesync.store.silence import PATIENCE as SILENT

PIECE = 1024 * 1024
"""Bytes of a piece. Two are in memory: the one being read and the one being used."""

SLICE = int(SLOWEST * SILENT)
"""Bytes that are waited for at once: a line may be as slow as that before the store counts as silent."""

OPERATION = "read"


class Source(Protocol):
    """An open GET. Whoever stops reading before its end closes it."""

    def ahead(self) -> None:
        """Begin with the next piece, if that is something to begin with."""

    def piece(self) -> bytes:
        """The next piece: full, or the last; empty after that. Raises the classified error."""

    def close(self) -> None:
        """Stop reading."""


class Direct:
    """A GET in the calling thread."""

    def __init__(self, client: S3Client, key: str, reply: Reply) -> None:
        self._client = client
        self._key = key
        self._reply = reply

    def ahead(self) -> None:
        """The kernel receives."""

    def piece(self) -> bytes:
        """See Source."""
        gathered, came = [], 0
        while came < PIECE:
            limit, question = self._client.questioning(OPERATION, self._key)
            with question:
                data = self._reply.read(SLICE, time.monotonic() + limit)
            gathered.append(data)
            came += len(data)
            if len(data) < SLICE:
                break
        return b"".join(gathered)

    def close(self) -> None:
        """Let the connection go, if there are bytes left that nobody wants."""
        self._reply.close()


class Answer:
    """A GET that botocore asked. Its coroutines run on the loop; ``close`` gives the connection back."""

    def __init__(self, client: S3Client, key: str) -> None:
        self._client = client
        self._key = key
        self._stack = contextlib.AsyncExitStack()
        self._body: aiohttp.ClientResponse | None = None
        self._next: Future[bytes] | None = None
        self.head: dict[str, Any] = {}
        self._ended = False

    def ahead(self) -> None:
        """Have the loop gather the next piece."""
        self._next = self._client.submit(self.gather())

    def piece(self) -> bytes:
        """See Source."""
        if self._next is None:
            self.ahead()
        future, self._next = self._next, None
        assert future is not None  # noqa: S101 -- ahead() made it
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Stop reading."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if not self._ended and not self._client.stopped:
            self._client.submit(self.end())

    async def open(self, **args: Any) -> bytes:
        """Send the request; return the first piece. Classified errors leave nothing open."""
        try:
            fs = await self._stack.enter_async_context(self._client.using(OPERATION, self._key))
            bucket = self._client.settings.bucket
            async with self._client.using(OPERATION, self._key), self._client.question(OPERATION, self._key):
                self.head = await fs._call_s3("get_object", Bucket=bucket, Key=self._key, **args)  # noqa: SLF001
                self._body = self.head["Body"].raw_stream
            return await self.gather()
        except BaseException:
            await self.end()
            raise

    async def gather(self) -> bytes:
        """The next piece."""
        gathered, came = [], 0
        if self._body is not None:
            stream = self._body.content
            with classified(OPERATION, self._key):
                while came < PIECE and not stream.at_eof():
                    async with self._client.question(OPERATION, self._key):
                        data = await stream.read(PIECE - came)
                    gathered.append(data)
                    came += len(data)
        if came < PIECE:
            await self.end()
        return gathered[0] if len(gathered) == 1 else b"".join(gathered)

    async def end(self) -> None:
        """Give the connection back; one with unread bytes is closed."""
        self._ended = True
        body, self._body = self._body, None
        if body is not None:
            body.close()
        await self._stack.aclose()


class Pieces(Iterator[bytes]):
    """The bytes of one GET, for one thread. ``close`` it, or drop it, to let the connection go early."""

    def __init__(self, source: Source, first: bytes | None, info: ObjectInfo, length: int) -> None:
        self._source = source
        self._first = first
        self._info = info
        self._left = length
        self._ended = False
        self._digest = hashlib.sha256() if info.sha256 and length == info.size else None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        piece = b"" if self._ended else self._take()
        if not piece:
            self._finish()
            raise StopIteration
        self._left -= len(piece)
        last = len(piece) < PIECE or self._left <= 0
        if not last:
            self._source.ahead()
        if self._digest:
            self._digest.update(piece)
        if last:
            # Checked before the last bytes go out, so that nobody has all of a wrong object in hand.
            self._finish()
        return piece

    def close(self) -> None:
        """Stop reading."""
        self._ended = True
        self._source.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _take(self) -> bytes:
        first, self._first = self._first, None
        try:
            return self._source.piece() if first is None else first
        except BaseException:
            self._left = 0
            self._digest = None
            self.close()
            raise

    def _finish(self) -> None:
        left, self._left = self._left, 0
        digest, self._digest = self._digest, None
        if left:
            raise StoreTransient(OPERATION, self._info.key, f"the answer is {abs(left)} bytes {_too(left)}")
        if digest and digest.hexdigest() != self._info.sha256:
            raise IntegrityError(OPERATION, self._info.key, "its SHA-256 is not the one it was stored with")
        self.close()


def _too(left: int) -> str:
    return "too short" if left > 0 else "too long"


def download(
    client: S3Client, key: str, version: Version | None, byte_range: str | None, version_id: str | None = None
) -> tuple[ObjectInfo, dict[str, Any], Source, bytes | None]:
    """Open a GET of ``key``, or of a past version of it; ``byte_range`` as HTTP writes it. Returns what its head says,
    in our words and in botocore's, its body, and the first piece of it where that came along."""
    args: dict[str, Any] = {} if version_id is None else {"VersionId": version_id}
    if version is not None:
        args["IfMatch"] = fields.quoted(version.etag)
    if byte_range is not None:
        args["Range"] = byte_range
    source: Source
    if (opened := client.direct.open(OPERATION, key, {"Key": key} | args)) is not None:
        head, reply = opened
        source, first = Direct(client, key, reply), None
    else:
        source = answer = Answer(client, key)
        first = client.run(answer.open(**args))
        head = answer.head
    try:
        return fields.found(OPERATION, key, head), head, source, first
    except StoreTransient:
        source.close()
        raise
