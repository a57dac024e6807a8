"""A large file that is read where it is, in the store: a few of its blocks in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from cachesync.model.verbs import Reading

BLOCK = 4 * 1024 * 1024
_KEPT = 4


class RemoteFile:
    """One version of a file, read by blocks. ``held`` is asked by the request loop, ``read`` called elsewhere."""

    def __init__(self, reading: Reading, translated: Callable[[], AbstractContextManager[None]]) -> None:
        self._reading = reading
        self._translated = translated
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching: dict[int, threading.Lock] = {}
        self.size = reading.artifact.size
        self.version = reading.artifact.version
        self.given_up = False
        """It was not brought when its name was to go."""

    def held(self, offset: int, length: int) -> bytes | None:
        """The bytes at ``offset``, fewer at the end, if their blocks are in memory."""
        pieces = []
        for number, start, stop in _parts(offset, min(offset + length, self.size)):
            with self._lock:
                block = self._blocks.get(number)
            if block is None:
                return None
            pieces.append(block[start:stop])
        return b"".join(pieces)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at ``offset``, fewer at the end. Raises OSError."""
        end = min(offset + length, self.size)
        return b"".join(self._fetch(number)[start:stop] for number, start, stop in _parts(offset, end))

    def _fetch(self, number: int) -> bytes:
        """One block; however many ask for it at once, it is fetched once."""
        with self._lock:
            turn = self._fetching.setdefault(number, threading.Lock())
        with turn:
            with self._lock:
                block = self._blocks.get(number)
            if block is None:
                with self._translated():
                    length = min(BLOCK, self.size - number * BLOCK)
                    block = b"".join(self._reading.chunks(number * BLOCK, length))
            with self._lock:
                self._blocks[number] = block
                self._blocks.move_to_end(number)
                while len(self._blocks) > _KEPT:
                    self._blocks.popitem(last=False)
                self._fetching.pop(number, None)
        return block

    def close(self) -> None:
        """Let it go."""
        self._reading.close()


def _parts(offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """What the blocks have of a range: number, and start and stop in the block."""
    while offset < end:
        number, start = divmod(offset, BLOCK)
        stop = min(BLOCK, start + end - offset)
        yield number, start, stop
        offset += stop - start
