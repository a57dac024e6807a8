"""``migrate``: the engine over a source that is not ours to write to."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cachesync.daemon.engine import Engine
from cachesync.model.address import Address, Space
from cachesync.model.errors import CacheSyncError, FileUnreadable, NoSuchBucket, RootHalted, RootLocked
from cachesync.model.keys import session_prefix
from cachesync.model.outcomes import MigrateReport, OnProgress, Progress
from cachesync.model.reports import FlushReport
from cachesync.model.values import Conflict, FileStat, Kind
from cachesync.ops.migrate.meter import Meter
from cachesync.ops.migrate.survey import Survey
from cachesync.ops.migrate.tally import Tally
from cachesync.sync.parallel import in_parallel

if TYPE_CHECKING:
    from cachesync.config import Config
    from cachesync.store.base import ObjectStore

PATIENCE = 600.0
"""Seconds in which the store confirms nothing, after which what is left is reported as pending."""

_SESSIONS = 16
_TELL = 0.25


def migrate(
    config: Config, store: ObjectStore, *, progress: OnProgress | None = None, patience: float = PATIENCE
) -> MigrateReport:
    """Store every session under ``config.root``, which is only read; ``config.state`` is the folder that is ours.

    What an earlier, interrupted call has stored is not sent again; nor is what the store has with the same checksum.
    Nothing is deleted in the store for what the source has no more since then. With ``progress``, the source is first
    walked through to know how much there is. Raises UsageError, RootLocked, RootHalted, StoreError.
    """
    begun = time.monotonic()
    meter = Meter(store)
    engine = _open(config, meter)
    try:
        names, others = engine.tree.sessions()
        next(meter.list(Address(Space.SESSIONS).key(config.prefix), shallow=True), None)  # is it there at all?
        _expect_only_what_stands(engine)
        engine.start()
        run = _Run(engine, meter, patience)
        run.tally.skipped += others
        with _telling(progress, run, names):
            in_parallel(iter(names), run.store, _SESSIONS)
        return run.tally.report(
            str(config.root),
            dry_run=False,
            sessions=len(names),
            requests=meter.requests,
            seconds=time.monotonic() - begun,
        )
    finally:
        engine.close(0.2)


def _open(config: Config, store: ObjectStore) -> Engine:
    try:
        return Engine(config, store, watched=False, read_only=True)
    except RootLocked as error:
        if "serves" in str(error.cause):
            cause = f"the daemon of this root stores it already: {error.cause}"
            raise RootLocked("migrate", str(config.root), cause, "cachesync flush --all") from None
        raise RootLocked("migrate", str(config.root), error.cause, "wait for it") from None


def _expect_only_what_stands(engine: Engine) -> None:
    """Let go of what an earlier call saw and the source has no more: it is not to be deleted in the store."""
    for session in engine.journal.sessions.names():
        for entry in engine.journal.entries.walk(session):
            if entry.resident:
                with contextlib.suppress(FileUnreadable):
                    stands = engine.tree.lstat(session, entry.path.rstrip("/"))
                    if not isinstance(stands, FileStat) or stands.kind is not entry.kind:
                        is_dir = entry.kind is Kind.DIRECTORY
                        engine.journal.entries.let_go(session, entry.path.rstrip("/"), is_dir=is_dir)


class _Run:
    """One migration under way."""

    def __init__(self, engine: Engine, meter: Meter, patience: float) -> None:
        self._engine = engine
        self._meter = meter
        self._patience = patience
        self.tree = engine.tree
        self.tally = Tally()

    def store(self, session: str, ended: threading.Event) -> None:
        """Flush one session for as long as it gets on, and count its files."""
        while not ended.is_set():
            before = self._meter.moved
            try:
                report = self._engine.service.flush(session, timeout=self._patience)
            except (RootHalted, NoSuchBucket):
                raise
            except CacheSyncError as error:
                self.tally.fail(session, error.advice)
                return
            if not report.pending or self._meter.moved == before:
                self._count(session, report)
                return

    def progress(self, total_files: int, total_bytes: int) -> Progress:
        """How far it is."""
        files = self._meter.files + self.tally.counts["present"] + len(self.tally.failed)
        sent = self._meter.bytes + self.tally.counts["present_bytes"]
        return Progress(min(files, total_files), total_files, min(sent, total_bytes), total_bytes)

    def _count(self, session: str, report: FlushReport) -> None:
        failed = {failure.path: failure.error for failure in report.failed}
        pending = {waiting.path: waiting.reason for waiting in report.pending}
        for entry in self._engine.journal.entries.walk(session):
            if entry.kind is not Kind.FILE or not entry.resident or entry.tombstone or entry.stat is None:
                continue
            where, size = f"{session}/{entry.path}", entry.stat.size
            reason = pending.pop(entry.path, "it was changed meanwhile")
            if (error := failed.pop(entry.path, None)) is not None:
                self.tally.fail(where, error, size)
            elif entry.dirty or entry.stored is None:
                self.tally.wait(where, entry.error or reason, size)
            else:
                key = session_prefix(self._engine.config.prefix, session) + entry.path
                self.tally.stored(size, sent=self._meter.was_sent(key))
        for path, error in failed.items():
            self.tally.fail(f"{session}/{path}", error)
        for path, reason in pending.items():
            self.tally.wait(f"{session}/{path}", reason)
        self.tally.skipped += [replace(left, path=f"{session}/{left.path}") for left in report.skipped]
        self.tally.conflicts += [Conflict(f"{session}/{c.path}", f"{session}/{c.kept_as}") for c in report.conflicts]


@contextlib.contextmanager
def _telling(progress: OnProgress | None, run: _Run, names: list[str]) -> Iterator[None]:
    """Tell ``progress`` now and then, in a thread of its own that first finds out how much there is."""
    if progress is None:
        yield
        return
    ended = threading.Event()

    def tell(progress: OnProgress) -> None:
        files = size = 0
        survey = Survey(run.tree)
        with contextlib.suppress(CacheSyncError):  # the migration itself says what is wrong
            for name in names:
                for _, stat in survey.files(name):
                    if ended.is_set():
                        return
                    files, size = files + 1, size + stat.size
                progress(run.progress(files, size))
            while not ended.wait(_TELL):
                progress(run.progress(files, size))

    thread = threading.Thread(target=tell, args=(progress,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)
