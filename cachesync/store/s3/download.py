"""One GET as it arrives, in flat memory, verified at the end."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Any, Protocol, Self

from cachesync.model.errors import IntegrityError, PreconditionFailed, StoreError, StoreTransient
from cachesync.model.values import ObjectInfo, Version
from cachesync.store.outage import PATIENCE as SILENT
from cachesync.store.s3 import fields
from cachesync.store.s3.client import SLOWEST, S3Client
from cachesync.store.s3.connection import Reply
from cachesync.store.s3.errors import WrongRegion

PIECE = 1024 * 1024
"""Bytes of a piece. Two are in memory: the one being read and the one being used."""

SLICE = int(SLOWEST * SILENT)
"""Bytes that are waited for at once: a line may be as slow as that before the store counts as silent."""

MAX_SIZE = 10**18
"""Bytes: more than any object has."""

OPERATION = "read"
_OTHER = "the answer is another version than was asked for"


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
    client: S3Client, key: str, version: Version | None = None, part: range | None = None, version_id: str | None = None
) -> tuple[ObjectInfo, Source, bytes | None]:
    """Open a GET of ``key``, or of a past version of it, or of the bytes ``part`` of it; ``MAX_SIZE`` is as good as
    its end. Returns what its head says, its body, and the first piece of that where it came along.

    Raises StoreTransient and the like for an answer that is not what was asked for.
    """
    region = client.settings.region
    try:
        return _download(client, key, version, part, version_id)
    except WrongRegion as error:
        client.follow(error, region)
        return _download(client, key, version, part, version_id)


def _download(
    client: S3Client, key: str, version: Version | None, part: range | None, version_id: str | None
) -> tuple[ObjectInfo, Source, bytes | None]:
    args: dict[str, Any] = {} if version_id is None else {"VersionId": version_id}
    if version is not None:
        args["IfMatch"] = fields.quoted(version.etag)
    if part is not None:
        args["Range"] = f"bytes={part.start}-" + (str(part.stop - 1) if part.stop < MAX_SIZE else "")
    source: Source
    if (opened := client.direct.open(OPERATION, key, {"Key": key} | args)) is not None:
        head, reply = opened
        source, first = Direct(client, key, reply), None
    else:
        from cachesync.store.s3.response import Answer

        source = answer = Answer(client.library, key)
        first = client.library.run(answer.open(**args))
        head = answer.head
    try:
        info = fields.found(OPERATION, key, head)
        fields.check_range(OPERATION, key, head, info, part)
        if version is not None and not fields.same(info.version, version):
            raise _other_version(client, key, info.version, version)
        if version_id is not None and info.version.version_id not in (None, version_id):
            raise StoreTransient(OPERATION, key, _OTHER)
        return info, source, first
    except BaseException:
        source.close()
        raise


def _other_version(client: S3Client, key: str, told: Version, wanted: Version) -> StoreError:
    """Why a GET on a condition brought another version: the store ignores the condition, and the object was replaced;
    or the answer is wrong. A HEAD tells which."""
    now = fields.version(client.call(OPERATION, key, "head_object", Key=key))
    if fields.same(now, wanted):
        return StoreTransient(OPERATION, key, _OTHER)
    return PreconditionFailed(OPERATION, key, f"it is version {told.etag} now, not {wanted.etag}")
