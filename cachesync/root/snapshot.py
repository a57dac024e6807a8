"""A file's bytes as they were at one moment (P4): stat, read, stat again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from cachesync.model.errors import FileChanging
from cachesync.model.policy import Reading, Writer, judge_reading, may_be_tail, part_size
from cachesync.model.record import record
from cachesync.model.values import FileStat, Stored, Tail
from cachesync.root.open_file import OpenFile

_CHUNK = 1024 * 1024
_STRETCH = 16 * _CHUNK

Turn = Callable[[], AbstractContextManager[object]]
"""Entered for each 16 MiB that are read of a large file: it may wait, or raise if the bytes are not wanted any more."""


class MemoryBody:
    """Bytes in memory, as a store takes them (store.base.Body)."""

    def __init__(self, data: bytes, grown_from: Stored | None = None) -> None:
        self._data = data
        self.size = len(data)
        self.part_size = self.size
        self.part_sha256: list[str] = []
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.tail: Tail | None = None
        if grown_from is not None:
            start, view = grown_from.size, memoryview(data)
            if hashlib.sha256(view[:start]).hexdigest() == grown_from.sha256:
                self.tail = Tail(start, self.size - start, [hashlib.sha256(view[start:]).hexdigest()])

    def read(self, offset: int, length: int) -> bytes:
        """The bytes themselves, without a copy where all are asked for."""
        if offset == 0 and length == self.size:
            return self._data
        return self._data[offset : offset + length]


class FileBody:
    """The first ``size`` bytes of an open file, which is read twice: once for the digests, once for sending.

    The second reading is held against the first, so what is sent is what was hashed even if a writer is at work: all of
    it stood there when the first reading ended.
    """

    def __init__(
        self, file: OpenFile, size: int, part_size: int, grown_from: Stored | None = None, turn: Turn = nullcontext
    ) -> None:
        self._file = file
        self.size = size
        self.part_size = part_size
        self.sha256, self.part_sha256, tail = digest(file, size, part_size, grown_from, turn)
        self.tail = None if tail is None or grown_from is None else Tail(grown_from.size, part_size, tail)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``. Raises FileChanging if a whole part is not what was hashed, or if the file
        is gone."""
        if self._file.is_gone():
            raise FileChanging("send", self._file.path, "it was deleted or replaced while it was being sent")
        data = self._file.read(offset, length)
        number, inside = divmod(offset, self.part_size)
        whole = inside == 0 and length == min(self.part_size, self.size - offset)
        if len(data) != length or (whole and hashlib.sha256(data).hexdigest() != self.part_sha256[number]):
            raise FileChanging("send", self._file.path, "it was changed while it was being sent")
        return data


class _Parts:
    """SHA-256 of each ``part_size`` bytes of what comes."""

    def __init__(self, part_size: int) -> None:
        self._size = part_size
        self._room = part_size
        self._part = hashlib.sha256()
        self._done: list[str] = []

    def update(self, data: bytes) -> None:
        """The next bytes."""
        view = memoryview(data)
        while view:
            taken = view[: self._room]
            self._part.update(taken)
            self._room -= len(taken)
            view = view[len(taken) :]
            if not self._room:
                self._done.append(self._part.hexdigest())
                self._part, self._room = hashlib.sha256(), self._size

    def digests(self) -> list[str]:
        """Of all that came, the last part's, which may be short, included."""
        return self._done if self._room == self._size else [*self._done, self._part.hexdigest()]


class Digests(NamedTuple):
    """SHA-256 of the whole, of each part, and of each part after what was stored before, if it begins with that."""

    whole: str
    parts: list[str]
    tail: list[str] | None


def digest(
    file: OpenFile, size: int, part_size: int, grown_from: Stored | None = None, turn: Turn = nullcontext
) -> Digests:
    """Read the first ``size`` bytes once, and hash whole and parts beside each other.

    Raises FileChanging if there are fewer, or as soon as the file is gone or is rewritten: at most 16 MiB later.
    """
    before = file.restat()
    whole, parts = hashlib.sha256(), _Parts(part_size)
    tail: _Parts | None = None
    split = 0 if grown_from is None else grown_from.size
    offset = 0
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as beside:
        while offset < size:
            stretch = min(size, offset + _STRETCH)
            with turn():
                _check_stands(file, before)
                hashed: Future[None] | None = None
                while offset < stretch:
                    end = min(stretch, offset + _CHUNK, split if offset < split else size)
                    data = file.content(offset, end - offset)
                    if len(data) != end - offset:
                        raise FileChanging("read", file.path, "it was cut short while it was being read")
                    if hashed is not None:
                        hashed.result()
                    hashed = beside.submit(parts.update, data)
                    whole.update(data)
                    if tail is not None:
                        tail.update(data)
                    offset = end
                    if grown_from is not None and offset == split and whole.hexdigest() == grown_from.sha256:
                        tail = _Parts(part_size)
                if hashed is not None:
                    hashed.result()
    return Digests(whole.hexdigest(), parts.digests(), None if tail is None else tail.digests())


def _check_stands(file: OpenFile, before: FileStat) -> None:
    """Raise FileChanging if the bytes are those of no file any more."""
    if file.is_gone():
        raise FileChanging("read", file.path, "it was deleted or replaced while it was being read")
    if _reading(file, before) is Reading.TORN:
        raise FileChanging("read", file.path, "it was rewritten while it was being read")


def _reading(file: OpenFile, before: FileStat) -> Reading:
    """Compare the file's stat with an earlier one."""
    after = file.restat()
    if after.size == before.size and judge_reading(before, after) is Reading.TORN:
        file.await_write()  # an append that is under way has set the times, and not yet the size
        after = file.restat()
    return judge_reading(before, after)


@record(frozen=True, slots=True)
class Snapshot:
    """Bytes of one moment. ``stat`` is the file's before it was read; ``grew`` says that it is longer by now, ``cut``
    that it was stored up to its last line end only."""

    body: MemoryBody | FileBody
    stat: FileStat
    grew: bool
    cut: bool


def take(
    file: OpenFile,
    *,
    at_line_end: bool = False,
    writer: Writer = Writer.UNKNOWN,
    stored: Stored | None = None,
    turn: Turn = nullcontext,
) -> Snapshot:
    """Read a file as it is at one moment, up to its last line end if ``at_line_end``.

    A write(2) that began before the first stat has set the times already and may still be copying its bytes: it is
    waited for, and where ``writer`` is not known to be closed the bytes must read the same twice. Small files are held
    in memory, large ones are read again when they are sent, so the file must stay open until then. Of a file that
    begins with what is ``stored`` the body tells its tail. A large file is read turn by turn. Raises FileChanging if it
    changed in another way than growing, and what ``turn`` raises.
    """
    before = file.restat()
    file.await_write()
    size = before.size
    if at_line_end:
        size = _last_line_end(file, size, turn)
    parts = part_size(size)
    grown_from = stored if stored is not None and may_be_tail(stored.size, size) else None
    body: MemoryBody | FileBody
    if parts is None:
        data = file.read(0, size)
        if len(data) != size:
            raise FileChanging("read", file.path, "it was cut short while it was being read")
        body = MemoryBody(data, grown_from)
    else:
        body = FileBody(file, size, parts, grown_from, turn)
    reading = _reading(file, before)
    doubted = reading is Reading.GREW or writer is not Writer.CLOSED
    if reading is Reading.TORN or (doubted and not _same_prefix(file, body, turn)):
        raise FileChanging("read", file.path, "it was rewritten while it was being read")
    return Snapshot(body, before, grew=reading is Reading.GREW, cut=size < before.size)


def _same_prefix(file: OpenFile, body: MemoryBody | FileBody, turn: Turn) -> bool:
    """Whether the bytes that were read are still there: growing leaves them alone, rewriting does not."""
    if isinstance(body, MemoryBody):
        return file.read(0, body.size) == body.read(0, body.size)
    # Sending reads a large one again, part by part, and compares; but not what a tail follows.
    return body.tail is None or digest(file, body.size, body.size, turn=turn).whole == body.sha256


def _last_line_end(file: OpenFile, size: int, turn: Turn) -> int:
    """The length of the whole lines in the first ``size`` bytes."""
    end = size
    while end > 0:
        with turn():
            stretch = max(0, end - _STRETCH)
            while end > stretch:
                start = max(0, end - _CHUNK)
                found = file.content(start, end - start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                end = start
    return 0
