"""Reading what stands in a session's directory: bytes of one moment, or an error (P4, P16)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Self

from cachesync.journal.journal import Journal
from cachesync.model.address import Address
from cachesync.model.errors import FileChanging, ObjectNotFound
from cachesync.model.outcomes import Artifact
from cachesync.model.policy import Reading, judge_reading
from cachesync.model.record import record
from cachesync.model.values import Entry, FileStat, Kind, Skipped
from cachesync.read import describing
from cachesync.read.cache.blocks import BLOCK
from cachesync.root.open_file import OpenFile
from cachesync.root.tree import Tree

TRIES = 5
PAUSE = 0.02
"""Seconds between two tries to read a file that is being written."""


@record(frozen=True, slots=True)
class Local:
    """The root that this process owns."""

    tree: Tree
    journal: Journal


class LocalReading:
    """A file that stands here, open (verbs.Reading). A file that only grows is read up to the size it had."""

    source = "local"
    unverified = False

    def __init__(self, address: Address, file: OpenFile, entry: Entry | None) -> None:
        self._address = address
        self._file = file
        self._entry = entry
        self._stat = file.stat
        self._begun = False

    @property
    def artifact(self) -> Artifact:
        """The file as it was when it was opened; or later, if it had to be read anew before the first piece."""
        return describing.of_file(self._address, self._stat, self._entry)

    def chunks(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes in pieces. Raises FileChanging, FileUnreadable.

        While nothing was handed out, a file that changes is read again as it is then.
        """
        start = max(start, 0)
        for attempt in range(TRIES):
            try:
                yield from self._pieces(start, length)
                return
            except FileChanging:
                if self._begun or attempt == TRIES - 1:
                    raise
                time.sleep(PAUSE)
                self._stat = self._file.restat()

    def _pieces(self, start: int, length: int | None) -> Iterator[bytes]:
        self._file.await_write()
        end = self._stat.size if length is None else min(self._stat.size, start + length)
        handed_out = hashlib.sha256()
        for offset in range(start, end, BLOCK):
            piece = self._file.read(offset, min(BLOCK, end - offset))
            if len(piece) != min(BLOCK, end - offset):
                raise FileChanging("read", str(self._address), "it was cut short while it was being read")
            handed_out.update(piece)
            doubted = self._doubted()
            if doubted and offset + BLOCK >= end and self._digest(start, end) != handed_out.digest():
                raise FileChanging("read", str(self._address), "it was rewritten while it was being read")
            self._begun = True
            yield piece

    def _doubted(self) -> bool:
        """Whether what was read must be compared at the end. Raises FileChanging if the file was surely rewritten.

        A file that only grew is what it was up to there, unless it was rewritten before; one of which only the ctime
        is another was most likely renamed, linked or replaced.
        """
        reading = judge_reading(self._stat, self._file.restat())
        if reading is Reading.TORN:
            self._file.await_write()  # an append that is under way has set the times, and not yet the size
            now = self._file.restat()
            reading = judge_reading(self._stat, now)
            if (
                reading is Reading.TORN
                and replace(now, ctime_ns=self._stat.ctime_ns, mode=self._stat.mode) != self._stat
            ):
                raise FileChanging("read", str(self._address), "it was rewritten while it was being read")
        return reading is not Reading.STABLE

    def _digest(self, start: int, end: int) -> bytes:
        digest = hashlib.sha256()
        for offset in range(start, end, BLOCK):
            digest.update(self._file.read(offset, min(BLOCK, end - offset)))
        return digest.digest()

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def look(local: Local, address: Address) -> LocalReading | Entry | None:
    """What this root says of a path: an open file; the entry of what is only in the store; or nothing.

    Raises ObjectNotFound for what is here and no file, or was deleted here; FileUnreadable; RootHalted if the root is
    needed to tell and is not there.
    """
    session, path = address.name, address.path
    while True:
        # Before the disk: a file made in between is no deletion.
        entry = local.journal.entries.remembered(session, path)
        stands = local.tree.look(session, path)
        if isinstance(stands, OpenFile):
            return LocalReading(address, stands, entry)
        if isinstance(stands, FileStat) and stands.kind is Kind.FILE:  # made, or put in place, just now
            continue
        missed = stands is None and entry is not None and entry.resident
        if not missed or local.journal.entries.remembered(session, path) == entry:  # or it was evicted just now
            break
    if stands is not None:
        raise ObjectNotFound("read", str(address), _no_file(stands))
    if entry is None:
        entry = local.journal.entries.entry(session, path + "/")
    if entry is None:
        return None
    if entry.tombstone or (entry.resident and _stands(local, session)):
        raise ObjectNotFound("read", str(address), "it was deleted here")
    if entry.kind is not Kind.FILE:
        raise ObjectNotFound("read", str(address), _no_file(entry.stat or FileStat(entry.kind, 0, 0, 0, 0, 0)))
    return entry


def _stands(local: Local, session: str) -> bool:
    """Whether a session's directory is the one that its entries were seen in: without it nothing is deleted (P7)."""
    known = local.journal.sessions.get(session)
    return known is not None and known.directory == local.tree.session_directory(session)


def _no_file(stands: FileStat | Skipped) -> str:
    if isinstance(stands, Skipped):
        return f"it is {stands.reason}"
    return "it is a directory" if stands.kind is Kind.DIRECTORY else f"it is a symbolic link to {stands.target!r}"
