"""Reading one version of an object, from cache and store: whole and verified, or an error (P5, P11)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Self

from cachesync.model.address import Address
from cachesync.model.errors import IntegrityError, ObjectNotFound, PreconditionFailed
from cachesync.model.outcomes import Artifact
from cachesync.model.values import ObjectInfo
from cachesync.read import describing
from cachesync.read.cache.blocks import BLOCK, BlockCache, Pin
from cachesync.read.fetch import Got
from cachesync.read.versions import Known

TRIES = 4

Blocks = Callable[[ObjectInfo, int, int], Iterator[Got]]
"""The blocks of a version from the first number to the last."""


class StoredReading:
    """An object open for reading (verbs.Reading). Nothing is asked of the store before the first piece is.

    A whole read, and any of an object of one block, is held against the object's SHA-256. A part of a larger one that
    comes from the store is not: S3 vouches for whole objects only, and the wire is TLS's business. It is checked by the
    next whole read, cached or not.

    ``renew`` finds the version that replaced this one; None for a past version, which nothing replaces. ``state`` is
    what the artifact's is; ``let_go`` is called when it is closed.
    """

    def __init__(
        self,
        address: Address,
        known: Known,
        cache: BlockCache | None,
        blocks: Blocks,
        renew: Callable[[], Known] | None,
        *,
        state: str,
        url: str | None,
        let_go: Callable[[], None] | None = None,
    ) -> None:
        self._address = address
        self._known = known
        self._cache = cache
        self._blocks = blocks
        self._renew = renew
        self._state = state
        self._url = url
        self._let_go = let_go
        self._begun = False
        self._asked = True if known.block is not None and known.block.data else None
        self._pinned = self._pin()

    @property
    def artifact(self) -> Artifact:
        """The version that is read. Until the first piece is out, a newer one may take its place."""
        return describing.of_object(self._address, self._known.info, self._url, state=self._state)

    @property
    def unverified(self) -> bool:
        """Whether the store could not be asked if this is the newest version."""
        return self._known.unverified

    @property
    def source(self) -> str:
        """``store`` if it was asked for any byte; before the first piece, what it looks like."""
        asked = self._asked
        if asked is None:
            info = self._known.info
            asked = info.size > 0 and not (self._cache and self._cache.has(info.key, info.version, 0))
        return "store" if asked else "cache"

    def chunks(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes in pieces. Raises IntegrityError, PreconditionFailed, StoreError."""
        start = max(start, 0)
        for attempt in range(TRIES):
            try:
                yield from self._pieces(start, length)
                return
            except (PreconditionFailed, ObjectNotFound):
                if self._renew is None or self._begun or attempt == TRIES - 1:
                    raise
                self._known = self._renew()
                self._unpin()
                self._pinned = self._pin()

    def _pieces(self, start: int, length: int | None) -> Iterator[bytes]:
        info = self._known.info
        end = info.size if length is None else min(info.size, start + length)
        if start >= end:
            return
        whole = bool(info.sha256) and (start, end) == (0, info.size)
        first, last = start // BLOCK, (end - 1) // BLOCK
        digest = hashlib.sha256() if whole and last else None
        block = self._known.block
        blocks = self._blocks(info, first, last) if block is None else iter((Got(block, stored=True),))
        for number, got in enumerate(blocks, first):
            self._asked = self._asked or got.stored
            data = got.block.data
            if whole and number == last:
                # Before the last bytes go out, so that nobody has all of a wrong object in hand.
                handed_out = b"" if digest is None else digest.digest()
                if digest is not None:
                    digest.update(data)
                if (got.block.sha256 if digest is None else digest.digest()).hex() != info.sha256:
                    data = self._once_more(info, last, handed_out)
            elif digest is not None:
                digest.update(data)
            offset = number * BLOCK
            self._begun = True
            yield data[max(start - offset, 0) : end - offset]

    def _once_more(self, info: ObjectInfo, last: int, handed_out: bytes) -> bytes:
        """The last block, after everything was read again from the store: what was handed out must have been right.

        Raises IntegrityError.
        """
        self._drop(info)
        digest, before, data = hashlib.sha256(), b"", b""
        for number, got in enumerate(self._blocks(info, 0, last)):
            if number == last and last:
                before = digest.digest()
            data = got.block.data
            digest.update(data)
        self._asked = True
        if digest.hexdigest() != info.sha256:
            self._drop(info)
            raise IntegrityError("read", str(self._address), "its SHA-256 is not the one it was stored with")
        if before != handed_out:
            cause = "a part of it arrived damaged and was handed out before that was noticed"
            raise IntegrityError("read", str(self._address), cause, "read it again: the store has the right bytes")
        return data

    def _drop(self, info: ObjectInfo) -> None:
        if self._cache:
            self._cache.drop(info.key, info.version)

    def _pin(self) -> Pin | None:
        return self._cache.pin(self._known.info.key, self._known.info.version) if self._cache else None

    def _unpin(self) -> None:
        if self._pinned is not None:
            self._pinned.close()

    def close(self) -> None:
        """Let it go: the cache may evict it again."""
        self._unpin()
        if self._let_go is not None:
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
