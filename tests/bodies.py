"""Bodies, attributes and memories of uploads for tests of stores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from cachesync.model.errors import FileChanging
from cachesync.model.values import Attributes, Multipart

PLAIN = Attributes("text/plain")
MIB = 1024 * 1024


class Bytes:
    """A body in memory; in parts if ``part_size`` is given. Counts what is read."""

    def __init__(self, data: bytes, part_size: int = 0, sha256: str | None = None) -> None:
        self.data = data
        self.size = len(data)
        self.sha256 = sha256 or hashlib.sha256(data).hexdigest()
        self.part_size = part_size
        starts = range(0, len(data), part_size) if part_size else range(0)
        self.part_sha256 = [hashlib.sha256(data[start : start + part_size]).hexdigest() for start in starts]
        self.reads: list[int] = []
        self.before_read: Callable[[int], None] = lambda _: None

    def read(self, offset: int, length: int) -> bytes:
        self.before_read(offset)
        self.reads.append(offset)
        data = self.data[offset : offset + length]
        if len(data) != length:
            raise FileChanging("read", "a body")
        return data


class Memory:
    """Remembers an upload as the journal does."""

    session = "s"

    def __init__(self) -> None:
        self.upload: Multipart | None = None
        self.events: list[str] = []

    def load(self) -> Multipart | None:
        return self.upload

    def started(self, upload: Multipart) -> None:
        self.upload = upload
        self.events.append("started")

    def part(self, number: int, etag: str) -> None:
        assert self.upload is not None
        self.upload = replace(self.upload, parts={**self.upload.parts, number: etag})
        self.events.append(f"part {number}")

    def finished(self) -> None:
        self.upload = None
        self.events.append("finished")
