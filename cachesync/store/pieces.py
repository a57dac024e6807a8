"""What a store over a file system needs of it, and reading one file of it in pieces, verified."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, Self

from cachesync.model.errors import IntegrityError, StoreTransient
from cachesync.model.values import ObjectInfo
from cachesync.store.sidecar import Stat

PIECE = 1024 * 1024
"""Bytes of a piece."""


class Tree(Protocol):
    """Files by key, with small files of our own beside them. A missing file is FileNotFoundError."""

    url: str

    def classified(self, operation: str, key: str) -> AbstractContextManager[None]:
        """Raise the errors of the file system as StoreErrors, but for FileNotFoundError."""

    def locked(self, key: str) -> AbstractContextManager[None]:
        """Nobody else changes ``key`` meanwhile."""

    def stat(self, key: str) -> Stat:
        """Describe one file."""

    def read(self, key: str) -> tuple[Stat, Callable[[int, int], bytes], Callable[[], None]]:
        """Open one version of a file: what it is, ``read(offset, length)`` and ``close()``."""

    def spool(self, pieces: Iterator[bytes]) -> tuple[str, Stat | None]:
        """Write a temporary file; returns its name and, if that can be known, what it will be in its place."""

    def unspool(self, path: str) -> None:
        """Remove a temporary file, if it is still there."""

    def place(self, path: str, key: str) -> None:
        """Move a temporary file into its place."""

    def remove(self, key: str) -> None:
        """Remove a file."""

    def read_own(self, path: str) -> bytes | None:
        """The content of one of our own files."""

    def write_own(self, path: str, data: bytes | None) -> None:
        """Replace one of our own files; None removes it."""

    def walk(self, prefix: str, *, shallow: bool = False) -> Iterator[tuple[str, Stat | None]]:
        """Every file under a prefix, in key order. ``shallow`` goes into no folder: one that holds a file is shown by a
        key that ends in "/", and None."""


class Pieces(Iterator[bytes]):
    """The bytes from ``span[0]`` up to ``span[1]`` of one file. ``close`` it, or drop it, to let the file go early."""

    def __init__(
        self,
        tree: Tree,
        info: ObjectInfo,
        stat: Stat,
        read: Callable[[int, int], bytes],
        close: Callable[[], None],
        span: tuple[int, int],
    ) -> None:
        self._tree = tree
        self._info = info
        self._stat = stat
        self._read = read
        self.close = close
        self._at, self._end = span
        self._digest = hashlib.sha256() if info.sha256 and span == (0, info.size) else None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._at >= self._end:
            self._finish()
            raise StopIteration
        with self._tree.classified("read", self._info.key):
            piece = self._read(self._at, min(PIECE, self._end - self._at))
        if not piece:
            self.close()
            raise StoreTransient("read", self._info.key, "it became shorter while it was read")
        self._at += len(piece)
        if self._digest:
            self._digest.update(piece)
        if self._at >= self._end:
            # Checked before the last bytes go out, so that nobody has all of a wrong object in hand.
            self._finish()
        return piece

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _finish(self) -> None:
        self.close()
        digest, self._digest = self._digest, None
        if digest and digest.hexdigest() != self._info.sha256:
            raise IntegrityError("read", self._info.key, "its SHA-256 is not the one it was stored with")
