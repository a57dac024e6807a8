"""Counting a migration: each file once, under what became of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from cachesync.model import Conflict, Skipped
from cachesync.outcomes import MigrateReport
from cachesync.policy import part_size
from cachesync.reports import Failure, Pending

PUT_DOLLARS = 0.005 / 1000
MONTH_DOLLARS = 0.023 / 10**9
"""Of a PUT request and of a byte a month in S3 Standard: the design note's prices ("Cost Estimation"), which are those
of us-east-1 at https://aws.amazon.com/s3/pricing/."""


def put_requests(size: int) -> int:
    """How many requests of the price of a PUT an object of ``size`` bytes takes."""
    length = part_size(size)
    return 1 if length is None else -(-size // length) + 2  # begin, the parts, complete


@dataclass(slots=True)
class Tally:
    """What is known so far. Safe to use from many threads."""

    files: int = 0
    bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    present: int = 0
    present_bytes: int = 0
    failed: list[Failure] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stored(self, size: int, *, sent: bool) -> None:
        """A file that the store has now, or would have; ``sent`` says that it had not before."""
        with self._lock:
            self.files += 1
            self.bytes += size
            if sent:
                self.sent += 1
                self.sent_bytes += size
            else:
                self.present += 1
                self.present_bytes += size

    def fail(self, path: str, error: str, size: int = 0) -> None:
        """A file that cannot be stored."""
        with self._lock:
            self.files += 1
            self.bytes += size
            self.failed.append(Failure(path, error))

    def wait(self, path: str, reason: str, size: int = 0) -> None:
        """A file that is not stored yet."""
        with self._lock:
            self.files += 1
            self.bytes += size
            self.pending.append(Pending(path, reason))

    def report(self, source: str, *, dry_run: bool, sessions: int, requests: int, seconds: float) -> MigrateReport:
        """All of it, in order."""
        return MigrateReport(
            source=source,
            dry_run=dry_run,
            sessions=sessions,
            files=self.files,
            bytes=self.bytes,
            sent=self.sent,
            sent_bytes=self.sent_bytes,
            present=self.present,
            present_bytes=self.present_bytes,
            failed=sorted(self.failed, key=lambda failure: failure.path),
            pending=sorted(self.pending, key=lambda pending: pending.path),
            skipped=sorted(self.skipped, key=lambda skipped: skipped.path),
            conflicts=sorted(self.conflicts, key=lambda conflict: conflict.path),
            requests=requests,
            dollars=requests * PUT_DOLLARS,
            dollars_a_month=self.sent_bytes * MONTH_DOLLARS,
            seconds=seconds,
        )
