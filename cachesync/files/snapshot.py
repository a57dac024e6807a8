"""A file's bytes as they were at one moment (P4): stat, read, stat again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cachesync.errors import FileChanging
from cachesync.files.tree import OpenFile
from cachesync.model import FileStat
from cachesync.policy import Reading, Writer, judge_reading, part_size

_CHUNK = 1024 * 1024


class MemoryBody:
    """Bytes in memory, as a store takes them (store.base.Body)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.part_size = self.size
        self.part_sha256: list[str] = []
        self.sha256 = hashlib.sha256(data).hexdigest()

    def read(self, offset: int, length: int) -> bytes:
        """The bytes themselves, without a copy where all are asked for."""
        if offset == 0 and length == self.size:
            return self._data
        return self._data[offset : offset + length]


class FileBody:
    """The first ``size`` bytes of an open file, which is read twice: once for the digests, once for sending.

    The second reading is held against the first, so what is sent is what was hashed even if a writer is at work.
    """

    def __init__(self, file: OpenFile, size: int, part_size: int) -> None:
        self._file = file
        self.size = size
        self.part_size = part_size
        self.sha256, self.part_sha256 = digest(file, size, part_size)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``. Raises FileChanging if a whole part is not what was hashed."""
        data = self._file.read(offset, length)
        number, inside = divmod(offset, self.part_size)
        whole = inside == 0 and length == min(self.part_size, self.size - offset)
        if len(data) != length or (whole and hashlib.sha256(data).hexdigest() != self.part_sha256[number]):
            raise FileChanging("send", self._file.path, "it was changed while it was being sent")
        return data


def digest(file: OpenFile, size: int, part_size: int) -> tuple[str, list[str]]:
    """SHA-256 of the first ``size`` bytes and of each part of them. Raises FileChanging if there are fewer."""
    whole, parts = hashlib.sha256(), []
    for start in range(0, size, part_size):
        part = hashlib.sha256()
        end = min(start + part_size, size)
        for offset in range(start, end, _CHUNK):
            data = file.read(offset, min(_CHUNK, end - offset))
            if len(data) != min(_CHUNK, end - offset):
                raise FileChanging("read", file.path, "it was cut short while it was being read")
            whole.update(data)
            part.update(data)
        parts.append(part.hexdigest())
    return whole.hexdigest(), parts


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Bytes of one moment. ``stat`` is the file's before it was read; ``grew`` says that it is longer by now, ``cut``
    that it was stored up to its last line end only."""

    body: MemoryBody | FileBody
    stat: FileStat
    grew: bool
    cut: bool


def take(file: OpenFile, *, at_line_end: bool = False, writer: Writer = Writer.UNKNOWN) -> Snapshot:
    """Read a file as it is at one moment, up to its last line end if ``at_line_end``.

    A write(2) that began before the first stat has set the times already and may still be copying its bytes: it is
    waited for, and where ``writer`` is not known to be closed the bytes must read the same twice. Small files are held
    in memory, large ones are read again when they are sent, so the file must stay open until then. Raises FileChanging
    if it changed in another way than growing.
    """
    before = file.restat()
    file.await_write()
    size = before.size
    if at_line_end:
        size = _last_line_end(file, size)
    parts = part_size(size)
    body: MemoryBody | FileBody
    if parts is None:
        data = file.read(0, size)
        if len(data) != size:
            raise FileChanging("read", file.path, "it was cut short while it was being read")
        body = MemoryBody(data)
    else:
        body = FileBody(file, size, parts)
    after = file.restat()
    if after.size == before.size and judge_reading(before, after) is Reading.TORN:
        file.await_write()  # an append that is under way has set the times, and not yet the size
        after = file.restat()
    reading = judge_reading(before, after)
    doubted = reading is Reading.GREW or writer is not Writer.CLOSED
    if reading is Reading.TORN or (doubted and not _same_prefix(file, body)):
        raise FileChanging("read", file.path, "it was rewritten while it was being read")
    return Snapshot(body, before, grew=reading is Reading.GREW, cut=size < before.size)


def _same_prefix(file: OpenFile, body: MemoryBody | FileBody) -> bool:
    """Whether the bytes that were read are still there: growing leaves them alone, rewriting does not."""
    if body.part_sha256:
        return digest(file, body.size, body.part_size)[0] == body.sha256
    return file.read(0, body.size) == body.read(0, body.size)


def _last_line_end(file: OpenFile, size: int) -> int:
    """The length of the whole lines in the first ``size`` bytes."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        found = file.read(start, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
