"""A body that tells how it is read."""

from __future__ import annotations

from collections.abc import Callable

from cachesync.store.base import Body


class ObservedBody:
    """``body``, with ``reading`` called with the number of bytes before each read. It may wait."""

    def __init__(self, body: Body, reading: Callable[[int], None]) -> None:
        self.size = body.size
        self.sha256 = body.sha256
        self.part_size = body.part_size
        self.part_sha256 = body.part_sha256
        self._read = body.read
        self._reading = reading

    def read(self, offset: int, length: int) -> bytes:
        """See Body."""
        self._reading(length)
        return self._read(offset, length)
