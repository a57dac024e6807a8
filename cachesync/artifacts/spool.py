"""Bytes from anywhere as a body that a store takes: read once, to the end, with flat memory."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from cachesync.model.policy import MIB, PART_SIZE, Writer
from cachesync.root.open_file import OpenFile
from cachesync.root.snapshot import MemoryBody, take
from cachesync.store.base import Body


def pieces(source: BinaryIO) -> Iterator[bytes]:
    """What a file object holds, from where it stands to its end."""
    while piece := source.read(MIB):
        yield piece


@contextlib.contextmanager
def spooled(chunks: Iterable[bytes], scratch: Path | None) -> Iterator[Body]:
    """All of ``chunks`` as a body: in memory up to PART_SIZE, else in a file without a name in ``scratch`` (None: where
    temporary files go)."""
    held, rest = bytearray(), iter(chunks)
    for chunk in rest:
        held += chunk
        if len(held) > PART_SIZE:
            break
    else:
        yield MemoryBody(bytes(held))
        return
    with tempfile.TemporaryFile(dir=scratch) as out:
        out.write(held)
        held.clear()
        out.writelines(rest)
        with filed(out) as body:
            yield body


@contextlib.contextmanager
def filed(out: IO[bytes]) -> Iterator[Body]:
    """What was written to a temporary file, as a body."""
    out.flush()
    with OpenFile(os.dup(out.fileno()), "a temporary file") as file:
        yield take(file, writer=Writer.CLOSED).body
