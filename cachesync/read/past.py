"""Past versions: read whole from the store's archive, block by block through the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cachesync.model.errors import IntegrityError, PreconditionFailed, StoreTransient
from cachesync.model.values import ObjectInfo, Version
from cachesync.read.cache.blob_store import Block
from cachesync.read.cache.blocks import BLOCK, BlockCache
from cachesync.read.fetch import Got, close
from cachesync.store.base import Archive, Download


class Past:
    """Blocks of one past version. It never changes, so what is known of it need not be checked."""

    def __init__(self, archive: Archive, cache: BlockCache | None, key: str, version_id: str) -> None:
        self._archive = archive
        self._cache = cache
        self._key = key
        self._version_id = version_id
        self._name = f"{key}\0{version_id}"
        self._opened: Download | None = None

    def find(self, now: float) -> ObjectInfo:
        """Describe it. Raises ObjectNotFound, StoreError."""
        known = self._cache.describe(self._name) if self._cache else None
        if known is not None:
            return known[0]
        self._opened = self._archive.read(self._key, self._version_id)
        info = self._opened.info
        info = replace(info, version=Version(info.version.etag, self._version_id))
        if self._cache:
            self._cache.note(self._name, info, now)
        return info

    def blocks(self, info: ObjectInfo, first: int, last: int) -> Iterator[Got]:
        """Blocks ``first`` to ``last``. An archive has no ranges: what comes before a block that is not cached is read
        and passed over."""
        for number in range(first, last + 1):
            block = self._cache.get(info.key, info.version, number) if self._cache else None
            if block is None:
                yield from self._download(info, number, last)
                return
            yield Got(block, stored=False)

    def _download(self, info: ObjectInfo, first: int, last: int) -> Iterator[Got]:
        download, self._opened = self._opened or self._archive.read(self._key, self._version_id), None
        try:
            if (download.info.version.etag, download.info.size) != (info.version.etag, info.size):
                raise PreconditionFailed("read", self._key, "the version is not what it was")
            for number, block in enumerate(_blocks(download, info)):
                if number > last:
                    return
                if number >= first:
                    if self._cache:
                        self._cache.put(info.key, info.version, number, block)
                    yield Got(block, stored=True)
        finally:
            close(download)

    def close(self) -> None:
        """Let the connection go."""
        if self._opened is not None:
            close(self._opened)
            self._opened = None


def _blocks(download: Download, info: ObjectInfo) -> Iterator[Block]:
    """A download cut into blocks. Raises StoreTransient if it is not as long as it should be."""
    data, left = bytearray(), info.size
    for piece in download.chunks:
        data += piece
        left -= len(piece)
        while len(data) >= BLOCK:
            yield Block(bytes(data[:BLOCK]))
            del data[:BLOCK]
    if left:
        raise StoreTransient("read", info.key, f"{info.size - left} bytes came instead of {info.size}")
    if data:
        yield _checked(Block(bytes(data)), info)


def _checked(block: Block, info: ObjectInfo) -> Block:
    if info.sha256 and len(block.data) == info.size and block.sha256.hex() != info.sha256:
        raise IntegrityError("read", info.key, "its SHA-256 is not the one it was stored with")
    return block
