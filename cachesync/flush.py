"""Flush: the barrier that never lies (P3).

Scan, take the barrier (the map of what is dirty at this instant), wait until the store has all of it, write the
manifest, report. One number instead of the map would lie: a path that is rewritten just before its upload gets a later
generation.
"""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import replace
from functools import partial

from cachesync.commit import Committer
from cachesync.context import Context
from cachesync.errors import (
    CacheSyncError,
    JournalUnavailable,
    NoSuchBucket,
    NoSuchSession,
    PreconditionFailed,
    RootHalted,
    StoreTransient,
)
from cachesync.events import What
from cachesync.keys import RESERVED, check_session, manifest_key
from cachesync.model import Barrier, Entry, Kind
from cachesync.patience import StillRunning, within
from cachesync.reports import Failure, FlushReport, Pending, ReceiptLine, gone_with_directory
from cachesync.scanner import Scanner, ScanResult
from cachesync.transfer import Transfer
from cachesync.uploader import Uploader

logger = logging.getLogger(__name__)

MANIFEST = f"{RESERVED}/manifest.json"
_FIRST_LOOK = 0.1
_FULL_LOOK = 0.25
_FEW = 64
_LOOK_AT_FEW = 0.01
"""Entries, and seconds: so many are looked at that often. What is left at the end may be what changed since the barrier
was taken, and is not waited for."""
_SCANS = 5
_BETWEEN_SCANS = 0.05


class Flusher:
    """Flushes sessions; many at once if need be."""

    def __init__(
        self, context: Context, scanner: Scanner, uploader: Uploader, transfer: Transfer, committer: Committer
    ) -> None:
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
        """The barrier for one session; ends by its timeout and says what is left. A ``patient`` one believes deletions
        no sooner than without it.

        Raises NoSuchSession, NoSuchBucket, UsageError, RootHalted.
        """
        check_session(session)
        begun = time.monotonic()
        deadline = begun + timeout
        if self._c.tree.session_directory(session) is None and session not in self._c.journal.sessions.names():
            raise NoSuchSession("flush", session, "there is no such directory under the root")
        before = self._transfer.stored[session], self._transfer.deleted[session]
        with self._uploader.urgent(session, deletes=False):
            lost = self._scanner.presence.lost[session]
            scan, steady = self._scan(session, deadline)
            if session not in self._c.journal.sessions.names():  # it stood a moment ago
                raise NoSuchSession("flush", session, "there is no such directory under the root")
            if confirm_deletes:
                self._c.journal.sessions.confirm_deletes(session)
                self._transfer.removal.recount(session)
            report = FlushReport(session, stored=False, skipped=scan.skipped)
            if not steady and not self._c.watched:
                report = replace(report, pending=[Pending(".", "files were moved whenever it was scanned")])
            elif scan.finished:
                with self._uploader.urgent(session, deletes=steady and not patient):
                    report = self._wait(session, report, scan, deadline)
            else:
                report = replace(report, pending=[Pending(".", "the scan did not end in time")])
            if (count := self._lost(session, lost)) and not report.failed:
                report = replace(report, failed=[gone_with_directory(count)])
            if report.failed and self._uploader.no_bucket is not None:
                raise self._uploader.no_bucket
            if not report.failed and not report.pending:
                report = self._commit(session, report, deadline)
        if receipt:
            report = replace(report, entries=self._receipt(session))
        report = replace(
            report,
            uploaded=self._transfer.stored[session] - before[0],
            deleted=self._transfer.deleted[session] - before[1],
            seconds=time.monotonic() - begun,
        )
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

    def _scan(self, session: str, deadline: float) -> tuple[ScanResult, bool]:
        """Scan, and again while files are missing that the store has and the tree changed under the scan: a file that
        is moved meanwhile, from a directory that was not yet listed to one that was, is seen nowhere. Returns the last
        scan, and whether what it missed is certainly gone.

        Where nobody watches there is no other word of such a move: then it goes on until one scan saw a still tree.
        """
        for count in itertools.count(1):
            stamps: dict[str, int] = {}
            scan = self._scanner.scan(session, recheck=True, expired=lambda: time.monotonic() > deadline, stamps=stamps)
            if not scan.finished:
                return scan, count == 1
            if not self._c.journal.work.missed(session) or self._scanner.stood_still(session, stamps):
                return scan, True
            if time.monotonic() >= deadline or (self._c.watched and count >= _SCANS):
                return scan, False
            time.sleep(min(_BETWEEN_SCANS, max(0.0, deadline - time.monotonic())))
        raise AssertionError("count() never ends")

    def _lost(self, session: str, before: int) -> int:
        """How many files went unstored with the directory: while it was flushed, or earlier if none stands."""
        if lately := self._scanner.presence.lost[session] - before:
            return lately
        row = self._c.journal.sessions.get(session)
        return row.lost if row is not None and self._c.tree.session_directory(session) is None else 0

    # -- the barrier ---------------------------------------------------------------------------------------------------

    def _wait(self, session: str, report: FlushReport, scan: ScanResult, deadline: float) -> FlushReport:
        """Wait until the store has what was dirty when the barrier was taken."""
        barrier = self._c.journal.waiting.barrier(session)
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
                # Many who look must not hold up the uploads.
                pause = 10 * (time.monotonic() - now) * self._uploader.waited_for()
                look_at_few = now + max(_LOOK_AT_FEW, pause)
                look_at = now + max(_FULL_LOOK, pause)
            if done:
                failed, pending = self._left(session, barrier, started)
                if expired or not pending:
                    break
            self._uploader.wait_for_progress(min(0.05, max(0.001, deadline - now)))
            time.sleep(min(0.003, max(0.0, deadline - time.monotonic())))
        return replace(
            report,
            failed=[*scan.failures, *failed],
            pending=pending,
            conflicts=self._c.journal.sessions.conflicts(session),
        )

    def _is_waiting(self, session: str, barrier: Barrier, started: float) -> bool:
        """Whether the barrier waits for something that may yet be stored. Nothing of it is put off."""
        unmet, now = self._c.journal.waiting.unmet, self._c.clock()
        for entry in unmet(session, barrier, due_after=now):  # for a writer, or after a try that began before us
            if not _is_tried(entry, started):
                self._c.journal.work.postpone(entry, now)
                self._uploader.wake()
        return not all(entry.failed and _is_tried(entry, started) for entry in unmet(session, barrier))

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

    def _commit(self, session: str, report: FlushReport, deadline: float) -> FlushReport:
        """Write the manifest. A store that hiccups, or another writer, is asked again until the deadline."""
        pause = 0.05
        while True:
            left = deadline - time.monotonic()
            try:
                summary = within(left, partial(self._committer.commit, session, patience=max(0.0, left)))
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
                if summary.failures:
                    return replace(report, failed=summary.failures)
                key = manifest_key(self._c.prefix, session)
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


def _reason(entry: Entry) -> str:
    """What a path still waits for."""
    if entry.error:
        return entry.error
    if entry.tombstone:
        return "its deletion is under way"
    return "its upload is under way"
