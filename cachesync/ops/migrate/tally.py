"""Counting a migration: each file once, under what became of it."""

from __future__ import annotations

import threading
from collections import Counter

from cachesync.model.outcomes import MigrateReport
from cachesync.model.policy import part_size
from cachesync.model.reports import Failure, Pending
from cachesync.model.values import Conflict, Skipped

PUT_DOLLARS = 0.005 / 1000
MONTH_DOLLARS = 0.023 / 10**9
"""Of a PUT request and of a byte a month in S3 Standard: the design note's prices ("Cost Estimation"), which are those
of us-east-1 at https://aws.amazon.com/s3/pricing/."""


def put_requests(size: int) -> int:
    """How many requests of the price of a PUT an object of ``size`` bytes takes."""
    length = part_size(size)
    return 1 if length is None else -(-size // length) + 2  # begin, the parts, complete


class Tally:
    """What is known so far. Safe to use from many threads. ``counts`` has MigrateReport's names."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: list[Failure] = []
        self.pending: list[Pending] = []
        self.skipped: list[Skipped] = []
        self.conflicts: list[Conflict] = []
        self._lock = threading.Lock()

    def stored(self, size: int, *, sent: bool) -> None:
        """A file that the store has now, or would have; ``sent`` says that it had not before."""
        place = "sent" if sent else "present"
        with self._lock:
            self.counts.update({"files": 1, "bytes": size, place: 1, f"{place}_bytes": size})

    def fail(self, path: str, error: str, size: int = 0) -> None:
        """A file that cannot be stored."""
        with self._lock:
            self.counts.update(files=1, bytes=size)
            self.failed.append(Failure(path, error))

    def wait(self, path: str, reason: str, size: int = 0) -> None:
        """A file that is not stored yet."""
        with self._lock:
            self.counts.update(files=1, bytes=size)
            self.pending.append(Pending(path, reason))

    def report(self, source: str, *, dry_run: bool, sessions: int, requests: int, seconds: float) -> MigrateReport:
        """All of it, in order."""
        return MigrateReport(
            source=source,
            dry_run=dry_run,
            sessions=sessions,
            **self.counts,
            failed=sorted(self.failed, key=lambda failure: failure.path),
            pending=sorted(self.pending, key=lambda pending: pending.path),
            skipped=sorted(self.skipped, key=lambda skipped: skipped.path),
            conflicts=sorted(self.conflicts, key=lambda conflict: conflict.path),
            requests=requests,
            dollars=requests * PUT_DOLLARS,
            dollars_a_month=self.counts["sent_bytes"] * MONTH_DOLLARS,
            seconds=seconds,
        )
