"""One GET as it arrives: from the loop thread to the calling thread, in flat memory, verified at the end."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Self

import aiohttp

from cachesync.errors import IntegrityError, StoreTransient
from cachesync.model import ObjectInfo, Version
from cachesync.store import s3_fields as fields
from cachesync.store.s3_client import S3Client
from cachesync.store.s3_errors import classified

PIECE = 1024 * 1024
"""Bytes of a piece. Two are in memory: the one being read and the one being used."""

OPERATION = "read"


class Answer:
    """An open GET. Lives on the loop: all methods are coroutines; ``close`` gives the connection back."""

    def __init__(self, client: S3Client, key: str) -> None:
        self._client = client
        self._key = key
        self._stack = contextlib.AsyncExitStack()
        self._body: aiohttp.ClientResponse | None = None
        self.head: dict[str, Any] = {}
        self.ended = False

    async def open(self, **args: Any) -> bytes:
        """Send the request; return the first piece. Classified errors leave nothing open."""
        try:
            fs = await self._stack.enter_async_context(self._client.using(OPERATION, self._key))
            async with self._client.using(OPERATION, self._key), self._client.question(OPERATION, self._key):
                self.head, self._body = await self._ask(fs, args)
            return await self.piece()
        except BaseException:
            await self.close()
            raise

    async def _ask(self, fs: Any, args: dict[str, Any]) -> tuple[dict[str, Any], aiohttp.ClientResponse]:
        shortcut, client = self._client.shortcut, await fs.get_s3(self._client.settings.bucket)
        if (head := await shortcut.get(client, self._key, args)) is not None:
            return head, head["Body"]
        head = await fs._call_s3("get_object", Bucket=self._client.settings.bucket, Key=self._key, **args)  # noqa: SLF001
        body: aiohttp.ClientResponse = head["Body"].raw_stream
        shortcut.learn(client, self._key, body)
        return head, body

    async def piece(self) -> bytes:
        """The next piece: full, or the last; empty after that."""
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
            await self.close()
        return gathered[0] if len(gathered) == 1 else b"".join(gathered)

    async def close(self) -> None:
        """Give the connection back; one with unread bytes is closed."""
        self.ended = True
        body, self._body = self._body, None
        if body is not None:
            body.close()
        await self._stack.aclose()


class Pieces(Iterator[bytes]):
    """The bytes of one GET, for one thread. ``close`` it, or drop it, to let the connection go early."""

    def __init__(self, client: S3Client, answer: Answer, first: bytes, info: ObjectInfo, length: int) -> None:
        self._client = client
        self._answer = answer
        self._next: bytes | Future[bytes] = first
        self._info = info
        self._left = length
        self._digest = hashlib.sha256() if info.sha256 and length == info.size else None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        piece = self._next if isinstance(self._next, bytes) else self._take(self._next)
        if not piece:
            self._finish()
            raise StopIteration
        self._left -= len(piece)
        last = len(piece) < PIECE or self._left <= 0
        self._next = b"" if last else self._client.submit(self._answer.piece())
        if self._digest:
            self._digest.update(piece)
        if last:
            # Checked before the last bytes go out, so that nobody has all of a wrong object in hand.
            self._finish()
        return piece

    def close(self) -> None:
        """Stop reading."""
        if isinstance(self._next, Future):
            self._next.cancel()
            self._next = b""
        if not self._answer.ended and not self._client.stopped:
            self._client.submit(self._answer.close())

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _take(self, future: Future[bytes]) -> bytes:
        try:
            return future.result()
        except BaseException:
            future.cancel()
            self._next = b""
            self._left = 0
            self._digest = None
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
) -> tuple[Answer, bytes]:
    """Open a GET of ``key``, or of a past version of it; ``byte_range`` as HTTP writes it. Returns the answer and the
    first piece."""
    args: dict[str, Any] = {} if version_id is None else {"VersionId": version_id}
    if version is not None:
        args["IfMatch"] = fields.quoted(version.etag)
    if byte_range is not None:
        args["Range"] = byte_range
    answer = Answer(client, key)
    return answer, client.run(answer.open(**args))
