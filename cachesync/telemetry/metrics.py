"""What is measured of a daemon, and the same as Prometheus reads it. Owns prometheus_client.

``METRICS`` says what each one is; docs/metrics.md shows it to people. No label can have more values than stand here:
sessions and paths are no labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from cachesync import __version__
from cachesync.model.record import record
from cachesync.model.values import QueueCounts
from cachesync.telemetry.activity import BOUNDS, Totals

if TYPE_CHECKING:
    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@record(frozen=True, slots=True)
class CacheUse:
    """What the read cache did and holds."""

    hits: int
    misses: int
    evictions: int
    bytes: int


@record(frozen=True, slots=True)
class Watching:
    """How the root is watched. ``uncovered`` counts directories that are polled instead."""

    healthy: bool
    root_ok: bool
    events: int
    overflows: int
    restarts: int
    uncovered: int


@record(frozen=True, slots=True)
class Measures:
    """A daemon in numbers at one instant. What is None is not known, or does not apply. ``since`` and ``now`` are
    seconds since the epoch."""

    now: float
    since: float
    totals: Totals
    queue: QueueCounts | None
    unseen: int
    in_flight: int
    cache: CacheUse
    watching: Watching
    listeners: int
    events_lost: int
    store_silent_for: float | None
    credentials_expire_at: float | None
    credentials_ending: bool


class Told(NamedTuple):
    """One metric: its kind as Prometheus calls it, its unit ("" for a plain number), its labels and what they may be,
    and what it says."""

    kind: str
    unit: str
    labels: dict[str, tuple[str, ...]]
    help: str


METRICS: dict[str, Told] = {
    "cachesync_build_info": Told("gauge", "", {"version": (__version__,)}, "Always 1; the version is the label."),
    "cachesync_start_time_seconds": Told("gauge", "seconds since 1970", {}, "When the daemon began."),
    "cachesync_sessions": Told("gauge", "sessions", {}, "Sessions that the journal knows."),
    "cachesync_dirty_entries": Told(
        "gauge", "entries", {}, "Entries whose state the store does not have: files, links, and deletions under way."
    ),
    "cachesync_failed_entries": Told(
        "gauge", "entries", {}, "Dirty entries that cannot be stored until somebody changes something."
    ),
    "cachesync_unseen_paths": Told(
        "gauge", "paths", {}, "Paths that cannot be looked at or may not be stored: nobody knows whether they are."
    ),
    "cachesync_lost_sessions": Told(
        "gauge", "sessions", {}, "Sessions whose directory went with files that were not stored."
    ),
    "cachesync_in_flight_transfers": Told("gauge", "transfers", {}, "Transfers under way."),
    "cachesync_oldest_dirty_seconds": Told(
        "gauge", "seconds", {}, "How long the oldest dirty entry waits; 0 for none."
    ),
    "cachesync_marks_total": Told("counter", "changes", {}, "Changes of files that were noticed."),
    "cachesync_uploads_total": Told(
        "counter",
        "tries",
        {"outcome": ("stored", "unchanged", "retried", "failed")},
        "Tries to store a file: stored, found unchanged in the store, to be tried again by itself, failed for good.",
    ),
    "cachesync_uploaded_bytes_total": Told("counter", "bytes", {}, "Bytes of the files stored."),
    "cachesync_close_to_stored_seconds": Told(
        "histogram", "seconds", {}, "From a file's change first noticed to the store's yes."
    ),
    "cachesync_deletions_total": Told("counter", "objects", {}, "Objects deleted in the store."),
    "cachesync_failed_deletions_total": Told(
        "counter", "tries", {}, "Tries to delete an object that failed or were held, those that are made again too."
    ),
    "cachesync_conflicts_total": Told("counter", "conflicts", {}, "Other writers' bytes that were in the way."),
    "cachesync_flushes_total": Told(
        "counter", "flushes", {"stored": ("true", "false")}, "Flushes, by whether all of the session was stored."
    ),
    "cachesync_evicted_files_total": Told("counter", "files", {}, "Files whose local bytes were dropped."),
    "cachesync_evicted_bytes_total": Told("counter", "bytes", {}, "Local bytes dropped."),
    "cachesync_scan_repairs_total": Told(
        "counter", "changes", {}, "Changes that a scan found and that an event should have told of."
    ),
    "cachesync_watcher_events_total": Told("counter", "events", {}, "Events of the kernel, before they are coalesced."),
    "cachesync_watcher_overflows_total": Told("counter", "overflows", {}, "How often the kernel dropped events."),
    "cachesync_watcher_restarts_total": Told("counter", "restarts", {}, "How often the watcher was made anew."),
    "cachesync_watcher_up": Told("gauge", "", {}, "1 if a living thread watches the right root."),
    "cachesync_watcher_polled_directories": Told(
        "gauge", "directories", {}, "Directories that cannot be watched and are scanned instead."
    ),
    "cachesync_root_up": Told("gauge", "", {}, "1 if the root that was opened is in its place."),
    "cachesync_cache_hits_total": Told("counter", "blocks", {}, "Blocks and records that the read cache had."),
    "cachesync_cache_misses_total": Told("counter", "blocks", {}, "Blocks and records that it had not."),
    "cachesync_cache_evictions_total": Told("counter", "blocks", {}, "Blocks and records dropped to make room."),
    "cachesync_cache_bytes": Told(
        "gauge", "bytes", {}, "What the read cache takes of the disk, as of what was last put into it."
    ),
    "cachesync_store_silent_seconds": Told(
        "gauge", "seconds", {}, "How long the store has left unanswered what it was asked; 0 if it answers."
    ),
    "cachesync_credentials_expire_seconds": Told(
        "gauge", "seconds", {}, "Until the credentials expire; negative since they have. Not there if they do not."
    ),
    "cachesync_credentials_ending": Told(
        "gauge", "", {}, "1 if the credentials expire soon and are not being renewed."
    ),
    "cachesync_event_listeners": Told("gauge", "listeners", {}, "Who listens to /v1/events."),
    "cachesync_events_lost_total": Told("counter", "events", {}, "Events that slow listeners have lost."),
}
"""Every metric by its name, in the order in which they are shown."""


def render(measures: Measures) -> bytes:
    """Prometheus's text format. Raises ImportError where prometheus_client is missing."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(measures))
    return generate_latest(registry)


class _Collector:
    """The measures as metrics."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures

    def describe(self) -> list[Metric]:
        """None: the registry is of this collector alone."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Each of METRICS for which there is a number."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        numbers = _numbers(self._measures)
        for name, told in METRICS.items():
            if told.kind == "histogram":
                histogram = HistogramMetricFamily(name, told.help)
                totals = self._measures.totals
                histogram.add_metric([], _classes(totals.latency), totals.seconds)
                yield histogram
                continue
            kind = CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily
            family = kind(name, told.help, labels=list(told.labels))
            for labels, number in numbers.get(name, ()):
                family.add_metric(labels, number)
            if name in numbers:
                yield family


def _classes(counts: list[int]) -> list[tuple[str, float]]:
    """Counts of each class as Prometheus has them: of all up to the class's bound."""
    bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
    return [(bound, sum(counts[: place + 1])) for place, bound in enumerate(bounds)]


def _numbers(m: Measures) -> dict[str, list[tuple[list[str], float]]]:
    """The numbers that are known of each metric, each with its labels' values."""
    totals = m.totals
    found: dict[tuple[str, ...], float | None] = {
        ("build_info", __version__): 1,
        ("start_time_seconds",): m.since,
        ("unseen_paths",): m.unseen,
        ("in_flight_transfers",): m.in_flight,
        ("marks_total",): totals.marks,
        ("uploads_total", "stored"): totals.stored,
        ("uploads_total", "unchanged"): totals.unchanged,
        ("uploads_total", "retried"): totals.retried,
        ("uploads_total", "failed"): totals.failed,
        ("uploaded_bytes_total",): totals.bytes,
        ("deletions_total",): totals.deleted,
        ("failed_deletions_total",): totals.undeleted,
        ("conflicts_total",): totals.conflicts,
        ("flushes_total", "true"): totals.flushes[True],
        ("flushes_total", "false"): totals.flushes[False],
        ("evicted_files_total",): totals.evicted,
        ("evicted_bytes_total",): totals.evicted_bytes,
        ("scan_repairs_total",): totals.repaired,
        ("watcher_events_total",): m.watching.events,
        ("watcher_overflows_total",): m.watching.overflows,
        ("watcher_restarts_total",): m.watching.restarts,
        ("watcher_up",): m.watching.healthy,
        ("watcher_polled_directories",): m.watching.uncovered,
        ("root_up",): m.watching.root_ok,
        ("cache_hits_total",): m.cache.hits,
        ("cache_misses_total",): m.cache.misses,
        ("cache_evictions_total",): m.cache.evictions,
        ("cache_bytes",): m.cache.bytes,
        ("store_silent_seconds",): m.store_silent_for or 0.0,
        ("credentials_expire_seconds",): m.credentials_expire_at and m.credentials_expire_at - m.now,
        ("credentials_ending",): m.credentials_ending,
        ("event_listeners",): m.listeners,
        ("events_lost_total",): m.events_lost,
    }
    if (queue := m.queue) is not None:
        found |= {
            ("sessions",): queue.sessions,
            ("dirty_entries",): queue.dirty,
            ("failed_entries",): queue.failed,
            ("lost_sessions",): queue.lost,
            ("oldest_dirty_seconds",): 0.0 if queue.oldest is None else max(0.0, m.now - queue.oldest),
        }
    known: dict[str, list[tuple[list[str], float]]] = defaultdict(list)
    for (name, *labels), number in found.items():
        if number is not None:
            known[f"cachesync_{name}"].append((labels, float(number)))
    return known
