"""What happened, counted: totals since this process began, and the last quarter of an hour in small buckets. Pure.

``Activity.hear`` listens (events.Events.join); whoever shows numbers reads them here. Memory is bounded: the
buckets are a fixed number, and the times in each are counted in steps of a tenth.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cachesync.model.events import Event, What
from cachesync.model.reports import Json

BUCKET = 5
"""Seconds."""

KEPT = 180
"""Buckets: 15 minutes."""

BOUNDS = (
    0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
"""Seconds: the upper ends of the classes that ``Totals.latency`` counts; what took longer is in the last one."""

_STEP = math.log(1.1)
_LEAST = 0.0005


@dataclass(slots=True)
class Totals:
    """Since this process began. ``latency`` counts stored files by BOUNDS, one class more than there are bounds;
    ``seconds`` is the sum of what was counted there. ``failed`` and ``retried`` count tries to store a file,
    ``undeleted`` tries to delete an object that failed either way, ``flushes`` by whether all was stored."""

    stored: int = 0
    bytes: int = 0
    unchanged: int = 0
    failed: int = 0
    retried: int = 0
    conflicts: int = 0
    deleted: int = 0
    undeleted: int = 0
    repaired: int = 0
    evicted: int = 0
    evicted_bytes: int = 0
    marks: int = 0
    flushes: Counter[bool] = field(default_factory=Counter)
    latency: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0


@dataclass(slots=True)
class _Bucket:
    stored: int = 0
    bytes: int = 0
    failed: int = 0
    steps: Counter[int] = field(default_factory=Counter)


class Activity:
    """Counts. Safe to use from many threads; ``clock`` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._totals = Totals()
        self._buckets: dict[int, _Bucket] = {}

    def hear(self, event: Event) -> None:
        """Count it."""
        with self._lock:
            totals, what = self._totals, event.what
            if what is What.STORED:
                self._count_stored(event)
            elif what is What.DIRTY:
                totals.marks += 1
            elif what in (What.FAILED, What.RETRIED):
                self._count_failed(event)
            elif what is What.CONFLICT:
                totals.conflicts += 1
            elif what is What.DELETED:
                totals.deleted += event.sent is True
            elif what is What.REPAIRED:
                totals.repaired += event.changes or 0
            elif what is What.EVICTED:
                totals.evicted += event.files or 0
                totals.evicted_bytes += event.bytes or 0
            elif what is What.FLUSHED:
                totals.flushes[event.stored is True] += 1

    def _count_stored(self, event: Event) -> None:
        totals = self._totals
        if not event.sent:
            totals.unchanged += 1
            return
        bucket = self._bucket(event.at)
        totals.stored += 1
        totals.bytes += event.size or 0
        bucket.stored += 1
        bucket.bytes += event.size or 0
        if (seconds := event.seconds) is not None:
            totals.latency[bisect_left(BOUNDS, seconds)] += 1
            totals.seconds += seconds
            bucket.steps[step_of(seconds)] += 1

    def _count_failed(self, event: Event) -> None:
        totals = self._totals
        if event.what is What.FAILED:
            self._bucket(event.at).failed += 1
        if event.deleting:
            totals.undeleted += 1
        elif event.what is What.FAILED:
            totals.failed += 1
        else:
            totals.retried += 1

    def _bucket(self, at: float) -> _Bucket:
        number = int(at // BUCKET)
        bucket = self._buckets.get(number)
        if bucket is None:
            if len(self._buckets) >= KEPT:
                self._buckets = {n: kept for n, kept in self._buckets.items() if number - KEPT < n <= number}
            bucket = self._buckets[number] = _Bucket()
        return bucket

    def totals(self) -> Totals:
        """A copy of the totals, of one instant."""
        with self._lock:
            now = self._totals
            copied = {name: getattr(now, name) for name in now.__slots__}
            return Totals(**copied | {"flushes": Counter(now.flushes), "latency": list(now.latency)})

    def json(self) -> Json:
        """``GET /v1/activity``: the buckets in which something happened, the oldest first. ``p50`` and ``p99`` are
        seconds from the change first noticed to the store's yes, true to a twentieth; null if nothing was stored."""
        last = int(self._clock() // BUCKET)
        with self._lock:
            rows = [(number, kept) for number, kept in sorted(self._buckets.items()) if last - KEPT < number <= last]
            told = [
                {
                    "at": number * BUCKET,
                    "stored": kept.stored,
                    "bytes": kept.bytes,
                    "failed": kept.failed,
                    "p50": _quantile(kept.steps, 0.5),
                    "p99": _quantile(kept.steps, 0.99),
                }
                for number, kept in rows
            ]
        return {"bucket": BUCKET, "from": (last - KEPT + 1) * BUCKET, "buckets": told}


def step_of(seconds: float) -> int:
    """In which step of a tenth a time lies; what is shorter than half a millisecond lies in the first."""
    return int(math.log(max(seconds, _LEAST) / _LEAST) / _STEP)


def middle_of(step: int) -> float:
    """The seconds in the middle of a step: true to a twentieth for every time in it."""
    return _LEAST * math.exp((step + 0.5) * _STEP)


def _quantile(steps: Counter[int], share: float) -> float | None:
    """The middle of the step below which ``share`` of what was counted lies."""
    left = math.ceil(steps.total() * share)
    for step, count in sorted(steps.items()):
        left -= count
        if left <= 0:
            return round(middle_of(step), 5)
    return None
