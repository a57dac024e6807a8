"""Reads clean files again if their bytes may have changed without a change of their stat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cachesync.journal.journal import Journal
from cachesync.model.errors import FileUnreadable
from cachesync.model.policy import Writer, is_unsettled
from cachesync.model.values import Entry, FileStat
from cachesync.root.open_file import OpenFile
from cachesync.root.tree import Tree

_CHUNK = 1024 * 1024


@dataclass(slots=True)
class Reread:
    """The result of ``reread``. ``changed`` are files that differ from the store, with their stat. ``finished`` is
    False if the time ran out."""

    changed: list[tuple[str, FileStat]] = field(default_factory=list)
    settled: list[tuple[Entry, bool]] = field(default_factory=list)
    finished: bool = True


def reread(
    tree: Tree,
    journal: Journal,
    session: str,
    paths: Iterable[str],
    *,
    clock: Callable[[], float],
    expired: Callable[[], bool],
    unwritten: bool,
) -> Reread:
    """Read files whose stat equals the journal's and compare their bytes with what is stored.

    An equal file stays clean. It becomes settled if no later write can leave its stat unchanged. With ``unwritten``, an
    unknown writer counts as none.
    """
    result = Reread()
    for path in paths:
        entry = journal.entries.entry(session, path)
        if entry is None or entry.dirty or not entry.unsettled or not entry.resident or entry.stat is None:
            continue
        file = _open(tree, entry)
        if file is None:
            result.changed.append((path, entry.stat))
            continue
        with file:
            if not _compare(file, entry, result, clock, expired, unwritten=unwritten):
                result.finished = False
                break
    if result.settled:
        journal.work.settle(session, result.settled)
    return result


def _open(tree: Tree, entry: Entry) -> OpenFile | None:
    """Open the file; None if it does not exist or cannot be opened. The uploader reports such an error."""
    try:
        return tree.open(entry.session, entry.path)
    except FileUnreadable:
        return None


def _compare(
    file: OpenFile,
    entry: Entry,
    result: Reread,
    clock: Callable[[], float],
    expired: Callable[[], bool],
    *,
    unwritten: bool,
) -> bool:
    """Compare one file with what is stored. Returns False if the time ran out."""
    file.await_tick(clock())
    read_at, writer = clock(), file.writer()
    if unwritten and writer is Writer.UNKNOWN:
        writer = Writer.CLOSED
    same = _is_stored(file, entry, expired)
    if same is None:
        return False
    unsettled = is_unsettled(read_at, file.stat, writer, tick=file.capabilities.tick)
    if not same:
        result.changed.append((entry.path, file.restat()))
    elif entry.doubted or not unsettled:
        result.settled.append((entry, unsettled))
    return True


def _is_stored(file: OpenFile, entry: Entry, expired: Callable[[], bool]) -> bool | None:
    """Whether the file has the stored bytes; None if the time ran out."""
    stored, digest, offset = entry.stored, hashlib.sha256(), 0
    if stored is None or file.stat != entry.stat or file.stat.size != stored.size:
        return False
    file.await_write()
    try:
        while offset < stored.size:
            if expired():
                return None
            data = file.content(offset, min(_CHUNK, stored.size - offset))
            if not data or file.is_gone():
                return False
            digest.update(data)
            offset += len(data)
    except FileUnreadable:
        return False
    return digest.hexdigest() == stored.sha256 and file.restat() == file.stat
