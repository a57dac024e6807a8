"""The daemon's shutdown: stores the remaining files, writes manifests and reports the rest, in bounded time (P12).

Files come first. The drain flushes sessions that have something to store. It only compares the others with the disk,
which is cheap, and then writes the manifests that are out of date. It begins nothing after the deadline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

from cachesync.daemon.engine import Engine
from cachesync.model.errors import CacheSyncError, ExitCode, RootHalted
from cachesync.model.record import record
from cachesync.model.reports import FlushReport
from cachesync.sync.flush import MANIFEST

logger = logging.getLogger(__name__)

_SHOWN = 20
_FLUSHES = 64
_LOOKS = 16


@record(frozen=True, slots=True)
class Left:
    """Counts what a drain did not finish: ``unstored`` paths, ``unseen`` sessions that were not compared with the disk,
    and ``unlisted`` sessions whose files are stored but whose manifest is out of date."""

    unstored: int = 0
    unseen: int = 0
    unlisted: int = 0

    def __add__(self, other: Left) -> Left:
        return Left(self.unstored + other.unstored, self.unseen + other.unseen, self.unlisted + other.unlisted)


NOTHING = Left()


class Drain:
    """One drain of an engine whose watcher has stopped. Ends at ``deadline`` (monotonic seconds)."""

    def __init__(self, engine: Engine, deadline: float) -> None:
        self._engine = engine
        self._deadline = deadline

    def run(self) -> ExitCode:
        """Store the remaining files and log what is not done. Returns DONE if all files and manifests are stored, else
        UNFINISHED."""
        try:
            names = self._engine.tree.sessions()[0]
        except RootHalted as error:
            logger.error("%s", error)
            return ExitCode.UNFINISHED
        left = self._drain(names)
        if left.unstored:
            logger.warning("%d paths are not stored; start the daemon or run cachesync flush --all", left.unstored)
        if left.unseen:
            logger.warning("%d sessions were not scanned in time; the next start scans them", left.unseen)
        if left.unlisted:
            sentence = "%d manifests are not written, but their files are stored; run cachesync flush --all"
            logger.warning(sentence, left.unlisted)
        if left != NOTHING:
            return ExitCode.UNFINISHED
        logger.info("drained: everything is stored")
        return ExitCode.DONE

    def _drain(self, names: list[str]) -> Left:
        engine = self._engine
        engine.uploader.small_first = True
        engine.journal.work.hurry_all()
        engine.uploader.resume()
        busy = engine.journal.waiting.summary()
        with (
            ThreadPoolExecutor(_FLUSHES, thread_name_prefix="drain") as flushing,
            ThreadPoolExecutor(_LOOKS, thread_name_prefix="look") as looking,
        ):
            flushes = {name: flushing.submit(self._flush, name) for name in names if busy.get(name, (False,))[0]}
            rest = [name for name in names if name not in flushes]
            looks = list(looking.map(self._look, rest))
            left = sum((look for look in looks if look is not None), NOTHING)
            dirty = [name for name, look in zip(rest, looks, strict=True) if look is None]
            flushes |= {name: flushing.submit(self._flush, name) for name in dirty}
            wait(flushes.values(), timeout=self._time_left() / 2)  # a stuck flush leaves time for the manifests
            lacking = engine.journal.waiting.summary()
            unlisted = [name for name in rest if name not in flushes and lacking.get(name, (False, False))[1]]
            left += sum(looking.map(self._list, unlisted), NOTHING)
            return left + sum((flush.result() for flush in flushes.values()), NOTHING)

    def _time_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _look(self, name: str) -> Left | None:
        """Compare a session with the disk. Returns None if the session needs a flush."""
        if not self._time_left():
            return Left(unseen=1)
        try:
            scan = self._engine.scanner.scan(
                name, recheck=True, expired=lambda: not self._time_left(), whole=lambda: False
            )
        except CacheSyncError as error:
            logger.error("not drained: %s", error, extra={"session": name})
            return Left(unseen=1)
        if not scan.finished:
            return Left(unseen=1)
        # If files moved during the scan, it may have missed one. A flush tracks moved files.
        busy = scan.failures or not scan.still or self._engine.journal.work.remaining(name)
        return None if busy else NOTHING

    def _flush(self, name: str) -> Left:
        """Flush a session."""
        if self._time_left():
            flush = partial(self._engine.flusher.flush, name, timeout=self._time_left(), patient=True)
            if (report := self._report(name, flush)) is not None:
                left = [*(one.path for one in report.failed), *(one.path for one in report.pending)]
                return Left(unstored=len(left) - left.count(MANIFEST), unlisted=left.count(MANIFEST))
        return Left(unstored=max(1, self._engine.journal.waiting.counts(name).dirty))

    def _list(self, name: str) -> Left:
        """Write the manifest of a session whose files are stored."""
        if self._time_left():
            report = self._report(name, partial(self._engine.flusher.write_manifest, name, timeout=self._time_left()))
            if report is not None and report.stored:
                return NOTHING
        return Left(unlisted=1)

    def _report(self, name: str, flush: Callable[[], FlushReport]) -> FlushReport | None:
        """Run a flush, log what it left, and return its report; None if it raised an error."""
        try:
            report = flush()
        except CacheSyncError as error:
            logger.error("not drained: %s", error, extra={"session": name})
            return None
        left = [*((f.path, f.error) for f in report.failed), *((p.path, p.reason) for p in report.pending)]
        for path, reason in left[:_SHOWN]:
            logger.warning("not stored: %s", reason, extra={"session": name, "path": path})
        if len(left) > _SHOWN:
            logger.warning("not stored: %d more paths", len(left) - _SHOWN, extra={"session": name})
        return report
