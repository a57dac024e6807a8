"""Flush: the barrier that never lies (P3).

Scan, take the barrier (the map of what is dirty at this instant), wait until the store has all of it, write the
manifest, report. One number instead of the map would lie: a path that is rewritten just before its upload gets a later
generation. The barrier names paths, but files move. ``Following`` finds the files that moved, and the flush waits for
them under their new names.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from cachesync.model.errors import (
    CacheSyncError,
    JournalUnavailable,
    NoSuchBucket,
    NoSuchSession,
    PreconditionFailed,
    RootHalted,
    StoreTransient,
)
from cachesync.model.events import What
from cachesync.model.keys import RESERVED, check_session, manifest_key
from cachesync.model.reports import Failure, FlushReport, Pending, ReceiptLine, gone_with_directory
from cachesync.model.values import Barrier, Entry, Kind, Session, Skipped
from cachesync.sync.commit import Committer
from cachesync.sync.context import Context
from cachesync.sync.following import Following
from cachesync.sync.manifest import Summary
from cachesync.sync.run_with_timeout import StillRunning, within
from cachesync.sync.scanner.scan import Scanner
from cachesync.sync.transfer import Transfer
from cachesync.sync.uploader import Uploader
from cachesync.watch.hearing import Hearing

logger = logging.getLogger(__name__)

MANIFEST = f"{RESERVED}/manifest.json"
MOVING = "files moved during every scan"
MOVED = "the file moved here during the flush"
DELETED = "another host deleted it in the store; the file here stays"
DELETING = "its deletion is under way"
MISSING = "the file is missing; no scan has found yet whether it was moved or deleted"
_FIRST_LOOK = 0.1
_FULL_LOOK = 0.25
_FEW = 64
_LOOK_AT_FEW = 0.01
"""Entries, and seconds: so many are looked at that often. What is left at the end may be what changed since the barrier
was taken, and is not waited for."""
_PAUSE, _MOST_PAUSE = 0.003, 0.1
"""Seconds between two queries of a single flush, and the most between two of a concurrent one."""


class Flusher:
    """Flushes sessions; many at once if need be."""

    def __init__(
        self,
        context: Context,
        scanner: Scanner,
        uploader: Uploader,
        transfer: Transfer,
        committer: Committer,
        hearing: Hearing,
    ) -> None:
        self._hearing = hearing
        self._c = context
        self._scanner = scanner
        self._uploader = uploader
        self._transfer = transfer
        self._committer = committer

    def flush(
        self,
        session: str,
        *,
        timeout: float,
        confirm_deletes: bool = False,
        receipt: bool = False,
        patient: bool = False,
    ) -> FlushReport:
        """Run the barrier for one session until ``timeout``, and report the rest. A ``patient`` flush does not
        hasten deletions.

        Raises NoSuchSession, NoSuchBucket, UsageError, RootHalted.
        """
        check_session(session)
        begun = time.monotonic()
        deadline = begun + timeout
        if session not in self._c.journal.sessions.names() and self._c.tree.session_directory(session) is None:
            raise NoSuchSession("flush", session, "there is no such directory under the root")
        before = self._transfer.stored[session], self._transfer.deleted[session]
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._uploader.urgent(session, deletes=False))
            following = Following(self._c, self._scanner, self._hearing, stack, session, deadline)
            lost = self._scanner.presence.lost[session]
            flying, gone = self._uploader.flying(session), self._committer.lost(session)
            expired = self._committer.expired(session)
            scan = following.look()
            if session not in self._c.journal.sessions.names():  # removed meanwhile
                raise NoSuchSession("flush", session, "there is no such directory under the root")
            if confirm_deletes:
                self._c.journal.sessions.confirm_deletes(session)
                self._transfer.removal.recount(session)
            local = self._c.on_this_machine
            report = FlushReport(
                session, stored=False, skipped=scan.skipped, failed=scan.failures, on_this_machine=local
            )
            if not scan.finished:
                report = replace(report, pending=[Pending(".", "the scan did not end in time")])
            elif not following.whole:
                report = replace(report, pending=[Pending(".", MOVING)])
            else:
                if not patient:
                    stack.enter_context(self._uploader.urgent(session, deletes=True))
                report = self._store(report, following, deadline, flying, gone)
            row = self._c.journal.sessions.get(session)
            report = replace(report, vanished=0 if row is None else row.vanished)
            if not report.failed and (count := self._lost(session, row, lost)):
                report = replace(report, stored=False, failed=[gone_with_directory(count)])
            if report.failed and self._uploader.no_bucket is not None:
                raise self._uploader.no_bucket
        if receipt:
            report = replace(report, entries=self._receipt(session))
        report = replace(
            report,
            uploaded=self._transfer.stored[session] - before[0],
            deleted=self._transfer.deleted[session] - before[1],
            expired=self._committer.expired(session) - expired,
            seconds=time.monotonic() - begun,
        )
        self._tell(report)
        return report

    def write_manifest(self, session: str, *, timeout: float) -> FlushReport:
        """Write the manifest of a session whose files are all stored. Raises what ``flush`` raises."""
        begun = time.monotonic()
        lost = self._committer.lost(session)
        report = self._commit(session, FlushReport(session, stored=False), begun + timeout, lost)
        if self._committer.lost(session) != lost:
            report = replace(report, pending=[Pending(MANIFEST, "the store lost files; they are stored again")])
        report = replace(report, seconds=time.monotonic() - begun)
        self._tell(report)
        return report

    def _tell(self, report: FlushReport) -> None:
        left = len(report.failed) + len(report.pending)
        self._c.events.tell(
            What.FLUSHED,
            report.session,
            stored=report.stored,
            files=report.files,
            bytes=report.bytes,
            seconds=report.seconds,
            left=left,
        )
        facts = {
            "session": report.session,
            "files": report.files,
            "size": report.bytes,
            "uri": report.manifest and f"{self._c.url}/{report.manifest}",
            "duration": round(report.seconds, 4),
            "left": left,
        }
        logger.info("flushed" if report.stored else "not flushed", extra=facts)

    def _lost(self, session: str, row: Session | None, before: int) -> int:
        """How many files went unstored with the directory: while it was flushed, or earlier if none stands."""
        if lately := self._scanner.presence.lost[session] - before:
            return lately
        return row.lost if row is not None and self._c.tree.session_directory(session) is None else 0

    # -- the barrier ---------------------------------------------------------------------------------------------------

    def _store(
        self, report: FlushReport, following: Following, deadline: float, flying: Sequence[str], gone: int
    ) -> FlushReport:
        """Wait until the store has what the barrier holds, under the files' current names, then write the manifest.

        ``flying`` are the paths whose transfer ran when the flush began. Such a transfer may have read bytes that
        changed since without a trace, so the flush compares these files once more. ``gone`` is the Committer.lost count
        at the start. Files that the store lost since then are stored again first.
        """
        session, failures = report.session, report.failed
        barrier = self._c.journal.waiting.barrier(session)
        while True:
            report = self._wait(session, report, barrier, deadline)
            missing = any(one.reason == MISSING for one in report.pending)
            moved = following.moved(look=missing)
            if moved == [] and not (missing or failures or report.failed or report.pending):
                moved, flying = self._changed(session, flying), ()
            if moved == [] and not missing:
                if failures or report.failed or report.pending:
                    return replace(report, failed=[*failures, *report.failed])
                moves = following.moves
                report = self._commit(session, report, deadline, gone)
                if (lost := self._committer.lost(session)) != gone:
                    gone, barrier = lost, self._c.journal.waiting.barrier(session)
                    continue
                if not report.stored:
                    return report
                moved = following.moved()
                if moved == [] and following.moves == moves:  # else the manifest may lack a new name that is stored
                    return report
            if moved is None or time.monotonic() >= deadline:
                left = [Pending(entry.path, MOVED) for entry in moved or ()] or [Pending(".", MOVING)]
                left += report.pending
                return replace(report, stored=False, failed=[*failures, *report.failed], pending=left)
            barrier = barrier.with_moved(moved)

    def _changed(self, session: str, flying: Sequence[str]) -> list[Entry]:
        """Return the entries of ``flying`` whose files changed since a transfer read them."""
        if not flying or not self._scanner.changed_since_read(session, flying):
            return []
        entries = [self._c.journal.entries.entry(session, path) for path in flying]
        return [entry for entry in entries if entry is not None and entry.dirty and not entry.tombstone]

    def _wait(self, session: str, report: FlushReport, barrier: Barrier, deadline: float) -> FlushReport:
        """Wait until the barrier is met, or until the deadline. Paths that are left are failed or pending."""
        started = self._c.clock()
        self._c.journal.work.hurry(session)
        self._uploader.resume()
        look_at = look_at_few = time.monotonic() + _FIRST_LOOK
        while True:
            now = time.monotonic()
            expired = now >= deadline
            left = self._c.journal.work.left(session, _FEW)
            done = expired or not left
            if not done and now >= (look_at if left == _FEW else look_at_few):
                done = not self._is_waiting(session, barrier, started)
                pause = 10 * (time.monotonic() - now) * self._uploader.waited_for()
                look_at_few = now + max(_LOOK_AT_FEW, pause)
                look_at = now + max(_FULL_LOOK, pause)
            if done:
                failed, pending = self._left(session, barrier, started)
                reasons = {one.reason for one in pending}
                # An old name waits for a new name that is missing: only a scan resolves that.
                if expired or not pending or (MISSING in reasons and reasons <= {MISSING, DELETING}):
                    break
            self._uploader.wait_for_progress(min(0.05, max(0.001, deadline - now)))
            # Concurrent flushes must not slow the uploads, so all together query the journal as often as one flush.
            time.sleep(max(0.0, min(_MOST_PAUSE, _PAUSE * self._uploader.waited_for(), deadline - time.monotonic())))
        conflicts = self._c.journal.sessions.conflicts(session)
        return replace(report, stored=False, failed=failed, pending=pending, conflicts=conflicts)

    def _is_waiting(self, session: str, barrier: Barrier, started: float) -> bool:
        """Whether the barrier waits for something that may yet be stored. Nothing of it is put off."""
        unmet, now = self._c.journal.waiting.unmet, self._c.clock()
        for entry in unmet(session, barrier, due_after=now):  # for a writer, or after a try that began before us
            if not (_is_tried(entry, started) or _is_missing(entry)):
                self._c.journal.work.postpone(entry, now)
                self._uploader.wake()
        missing = deleting = False
        for entry in unmet(session, barrier):
            if _is_missing(entry):
                missing = True
            elif not (entry.failed and _is_tried(entry, started)):
                if not entry.tombstone:
                    return True
                deleting = True
        return deleting and not missing

    def _left(self, session: str, barrier: Barrier, started: float) -> tuple[list[Failure], list[Pending]]:
        """What the barrier still waits for: tried since it was taken and found impossible, or still under way."""
        failed, pending = list[Failure](), list[Pending]()
        for entry in self._c.journal.waiting.unmet(session, barrier):
            if entry.failed and _is_tried(entry, started):
                failed.append(Failure(entry.path, entry.error or "unknown"))
            else:
                pending.append(Pending(entry.path, _reason(entry)))
        return failed, pending

    # -- the end -------------------------------------------------------------------------------------------------------

    def _commit(self, session: str, report: FlushReport, deadline: float, gone: int) -> FlushReport:
        """Write the manifest. Retries transient errors and conflicts until the deadline. Returns the report unchanged
        if the store lost more files than ``gone``."""
        pause = 0.05
        while True:
            left = deadline - time.monotonic()
            try:
                commit = partial(self._committer.commit, session, patience=max(0.0, left), lost=gone)
                summary = within(left, commit)
            except StillRunning:
                return replace(report, pending=[Pending(MANIFEST, "the store has not answered in time")])
            except (StoreTransient, PreconditionFailed, RootHalted, JournalUnavailable) as error:
                if left <= pause:
                    return replace(report, pending=[Pending(MANIFEST, error.reason)])
                time.sleep(pause)
                pause = min(1.0, pause * 2)
            except NoSuchBucket:
                raise
            except CacheSyncError as error:
                return replace(report, failed=[Failure(MANIFEST, error.advice)])
            else:
                return report if summary is None else self._written(report, summary)

    def _written(self, report: FlushReport, summary: Summary) -> FlushReport:
        """Return the report with what the manifest lists."""
        if summary.failures:
            return replace(report, failed=summary.failures)
        if summary.deleted_elsewhere:
            paths = self._c.journal.residence.deleted_elsewhere(report.session)
            report = replace(report, skipped=[*report.skipped, *(Skipped(path, DELETED) for path in paths)])
        key = manifest_key(self._c.prefix, report.session)
        return replace(report, stored=True, files=summary.files, bytes=summary.bytes, manifest=key)

    def _receipt(self, session: str) -> list[ReceiptLine]:
        """The proof for each file that the store has."""
        return [
            ReceiptLine(
                path=entry.path,
                key=self._c.key(session, entry.path),
                size=stored.size,
                sha256=stored.sha256,
                version=stored.version.etag,
                version_id=stored.version.version_id,
            )
            for entry in self._c.journal.entries.walk(session)
            if entry.kind is Kind.FILE and (stored := entry.current) is not None and not entry.tombstone
        ]


def _is_tried(entry: Entry, since: float) -> bool:
    return (entry.tried_at or 0.0) >= since


def _is_missing(entry: Entry) -> bool:
    """Whether the path is missing and no scan has found yet whether the file was moved or deleted."""
    return not entry.tombstone and entry.absent == entry.generation


def _reason(entry: Entry) -> str:
    """What a path still waits for."""
    if _is_missing(entry):
        return MISSING
    if entry.error:
        return entry.error
    if entry.tombstone:
        return DELETING
    return "its upload is under way"
