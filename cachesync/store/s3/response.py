"""A GET that botocore asked, as it arrives."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from typing import Any

import aiohttp

from cachesync.store.s3.download import OPERATION, PIECE
from cachesync.store.s3.errors import check_origin, classified
from cachesync.store.s3.library import Library


class Answer:
    """A GET that botocore asked. Its coroutines run on the loop; ``close`` gives the connection back."""

    def __init__(self, library: Library, key: str) -> None:
        self._library = library
        self._key = key
        self._stack = contextlib.AsyncExitStack()
        self._body: aiohttp.ClientResponse | None = None
        self._next: Future[bytes] | None = None
        self.head: dict[str, Any] = {}
        self._ended = False

    def ahead(self) -> None:
        """Have the loop gather the next piece."""
        self._next = self._library.submit(self.gather())

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
        if not self._ended and not self._library.stopped:
            self._library.submit(self.end())

    async def open(self, **args: Any) -> bytes:
        """Send the request; return the first piece. Classified errors leave nothing open."""
        try:
            fs = await self._stack.enter_async_context(self._library.using(OPERATION, self._key))
            bucket = self._library.bucket
            async with self._library.using(OPERATION, self._key), self._library.question(OPERATION, self._key):
                self.head = await fs._call_s3("get_object", Bucket=bucket, Key=self._key, **args)  # noqa: SLF001
                self._body = self.head["Body"].raw_stream
                check_origin(OPERATION, self._key, "get_object", self.head, self.head["ResponseMetadata"])
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
                    async with self._library.question(OPERATION, self._key):
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
