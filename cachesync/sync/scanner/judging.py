"""Compares the disk's state of one path with the journal's."""

from __future__ import annotations

import os

from cachesync.journal.rows import Known
from cachesync.model.policy import Pace, due_after_change, looks_temporary
from cachesync.model.values import FileStat, Kind, Mark
from cachesync.sync.scanner.batch import Batch


def judge(
    path: str, stat: FileStat, known: Known | None, batch: Batch, *, now: float, pace: Pace, closed: bool = False
) -> None:
    """Compare one path with the journal. Adds to ``batch`` a mark if it changed, or the path if it is resident again.

    ``closed`` says that the hint was a writer's close.
    """
    if known is not None and known.gone_at is None and _same(known, stat):
        if not known.resident:
            batch.returned.append(path)
            if batch.recheck and known.unsettled:
                batch.unsettled.append(path)
            return
        suspect = known.unsettled and closed
        awaited = known.dirty and closed and not known.closed  # the upload waits for this close
        if not awaited and (known.dirty or not suspect):
            if batch.recheck and known.unsettled and not known.dirty:
                batch.unsettled.append(path)
            return
        batch.rechecked.add(path)
    dirty_since = known.dirty_since if known is not None and known.dirty else now
    stored_at = None if known is None else known.stored_at
    changed_at = stat.ctime_ns / 1e9
    due = due_after_change(now, changed_at, dirty_since, stored_at, temporary=looks_temporary(path), pace=pace)
    batch.marks.append(Mark(path, stat, due, closed))


def is_another_directory(stat: FileStat, known: Known | None) -> bool:
    """Whether something was mounted on or unmounted from the directory since the journal recorded it."""
    if stat.kind is not Kind.DIRECTORY or known is None or not known.resident or known.gone_at is not None:
        return False
    return known.mtime_ns is not None and known.mount != stat.mount


def is_change(mark: Mark) -> bool:
    """Whether hints report such a change. They do not report that a directory's time changed with its content."""
    return mark.stat is None or mark.stat.kind is not Kind.DIRECTORY


def _same(known: Known, stat: FileStat) -> bool:
    """Whether the disk is as last seen. A directory's size and ctime are ignored: its entries show the same changes."""
    if known.kind != stat.kind or known.mode != stat.mode or known.mtime_ns != stat.mtime_ns:
        return False
    if stat.kind is Kind.DIRECTORY:
        return (known.inode, known.mount) == (stat.inode, stat.mount)
    target = None if stat.target is None else os.fsencode(stat.target)
    return (known.size, known.ctime_ns, known.inode, known.target) == (stat.size, stat.ctime_ns, stat.inode, target)
