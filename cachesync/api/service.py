"""The verbs, in the process that owns the root (verbs.Verbs)."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cachesync import __version__
from cachesync.journal.journal import Journal
from cachesync.model.errors import NoSuchSession, ObjectNotFound, Unstorable
from cachesync.model.events import Events
from cachesync.model.ignore import IgnoreRules
from cachesync.model.keys import check_path, check_session, to_key
from cachesync.model.record import record
from cachesync.model.reports import (
    NOT_CONFIGURED,
    DaemonStatus,
    Failure,
    FlushReport,
    SessionStatus,
    StatusReport,
    Story,
    gone_here,
    gone_with_directory,
)
from cachesync.model.values import Entry, Kind, Skipped
from cachesync.model.verbs import Artifacts, Lifecycle, OnDemand
from cachesync.root.tree import NO_SESSION, Tree
from cachesync.sync.flush import Flusher
from cachesync.sync.identity import StoreIdentity
from cachesync.sync.scanner.scan import Scanner
from cachesync.sync.transfer import Transfer
from cachesync.sync.uploader import Uploader
from cachesync.telemetry.activity import Activity
from cachesync.telemetry.metrics import Measures
from cachesync.watch.hints import Hint

_OF_THE_DISK = "lost+found"
"""A directory at the top of an ext4 volume."""

_SHOWN_FAILURES = 20
_CHECK = 2.0
"""Timeout in seconds for the check of the store's identity after the daemon's start. Status waits for the check."""

_RATE_WINDOW = 10.0
_RATE_LEAST = 3.0


@record(frozen=True, slots=True)
class Place:
    """The root and the store, as displayed. ``prefix`` is the store's own. ``on_this_machine`` says that no store is
    configured, so that the store is a folder of this machine."""

    root: str
    store: str
    prefix: str
    on_this_machine: bool = False


_LONGEST_NAME = 255
"""Bytes of a name that can stand in a directory. The store may have longer ones."""


class Service:
    """Implements the verbs. ``notes`` says what an operator should see; ``since`` is when a daemon began, or None;
    ``measure`` takes that daemon's measures."""

    def __init__(
        self,
        place: Place,
        tree: Tree,
        journal: Journal,
        scanner: Scanner,
        uploader: Uploader,
        transfer: Transfer,
        flusher: Flusher,
        *,
        artifacts: Artifacts,
        lifecycle: Lifecycle,
        ondemand: OnDemand,
        silent_for: Callable[[], float | None],
        clock: Callable[[], float],
        since: float | None,
        events: Events,
        activity: Activity,
        identity: StoreIdentity,
    ) -> None:
        self._place = place
        self._tree = tree
        self._journal = journal
        self._scanner = scanner
        self._uploader = uploader
        self._transfer = transfer
        self._flusher = flusher
        self.artifacts = artifacts
        self.lifecycle = lifecycle
        self.ondemand = ondemand
        self._clock = clock
        self._since = since
        self.events = events
        self.activity = activity
        self._silent_for = silent_for
        self._rate = Rate()
        self._identity = identity
        self.notes: Callable[[], list[str]] = list
        self.measure: Callable[[], Measures] | None = None

    def flush(
        self, session: str, *, timeout: float, confirm_deletes: bool = False, receipt: bool = False
    ) -> FlushReport:
        """See flush.Flusher.flush."""
        return self._flusher.flush(session, timeout=timeout, confirm_deletes=confirm_deletes, receipt=receipt)

    def status(self, session: str | None = None) -> StatusReport:
        """Every session from the journal, or one after a scan: its answer decides whether a machine is killed."""
        if session is not None:
            self._check_known(session)
            self._scanner.scan(session, recheck=True)
        if self._since is not None:
            self._identity.checked.wait(max(0.0, min(_CHECK, self._since + _CHECK - self._clock())))
        names = self._journal.sessions.names() if session is None else [session]
        in_journal = set(self._journal.sessions.names())
        known = [name for name in names if name in in_journal]
        silent = self.store_silent_for()
        notes = [*self.notes(), *self._identity.notes(), *self._silence_notes(silent)]
        if self._place.on_this_machine:
            notes.append(NOT_CONFIGURED)
        if doubt := self._tree.ignore_doubt():
            notes.append(doubt)
        notes += [note for name in known if (note := self._conflict_note(name))]
        rows = [self._session_status(name) for name in known]
        notes += [f"{row.session}: {gone_here(row.vanished)}" for row in rows if row.vanished]
        daemon = None
        if self._since is not None:
            daemon = DaemonStatus(os.getpid(), __version__, max(0.0, self._clock() - self._since))
        return StatusReport(
            root=self._place.root,
            store=self._place.store,
            daemon=daemon,
            sessions=rows,
            notes=notes,
            rate=None if daemon is None else self._rate.now(),
            store_silent_for=silent,
            on_this_machine=self._place.on_this_machine,
        )

    def tend(self) -> None:
        """Once a second, in a daemon: how much was sent until now."""
        self._rate.sample(time.monotonic(), self._transfer.bytes_sent)

    def explain(self, session: str, path: str) -> Story:
        """What is known of one path, after a look at it."""
        check_path(path.rstrip("/"))
        self._check_known(session)
        can_stand = max(map(len, os.fsencode(path).split(b"/"))) <= _LONGEST_NAME
        if can_stand:
            self._scanner.notice(session, {path.rstrip("/"): Hint.CHANGED})
        entry = None
        if session in self._journal.sessions.names():
            entry = self._journal.entries.entry(session, path)
            if entry is None and not path.endswith("/"):
                entry = self._journal.entries.entry(session, path + "/")
        if entry is None and can_stand and (reason := self._scanner.left_out(session, path.rstrip("/"))) is not None:
            return Story.of_left_out(session, path, reason)
        if entry is None:
            raise ObjectNotFound("explain", f"{session}/{path}", "nothing is known of this path", "was it ever there?")
        return self._story(entry)

    def pending(self, session: str, *, failed: bool | None, after: str, limit: int) -> list[Story]:
        """What is not stored, as the journal has it."""
        if session not in self._journal.sessions.names():
            self._check_known(session)
            return []
        entries = self._journal.waiting.pending(session, failed=failed, after=after, limit=limit)
        return [self._story(entry) for entry in entries]

    def retry(self, session: str | None = None) -> int:
        """Make failed entries due now."""
        if session is not None:
            self._check_known(session)
        self._uploader.resume()
        names = self._journal.sessions.names() if session is None else [session]
        count = sum(self._journal.work.retry(name, self._clock()) for name in names)
        self._uploader.wake()
        return count

    def sessions(self) -> list[str]:
        """All that stand in the root or are known to the journal."""
        return sorted({*self._tree.sessions()[0], *self._journal.sessions.names()})

    def strays(self) -> list[Skipped]:
        """See Verbs."""
        text = self._tree.ignore_text(None)
        strays = [other for other in self._tree.sessions()[1] if other.reason == NO_SESSION]
        return [one for one in strays if one.path != _OF_THE_DISK and IgnoreRules(one.path, text).whole is None]

    # -- parts of the answers ------------------------------------------------------------------------------------------

    def _check_known(self, session: str) -> None:
        check_session(session)
        if session not in self.sessions():
            raise NoSuchSession("find", session, "there is no such session")

    def _session_status(self, name: str) -> SessionStatus:
        counts = self._journal.waiting.counts(name)
        row = self._journal.sessions.get(name)
        oldest = counts.oldest_dirty
        unseen = [one for one in self._scanner.unseen.get(name, []) if not self._is_dirty(name, one.path)]
        if row is not None and row.lost:
            unseen = [*unseen, gone_with_directory(row.lost)]
        if name in self._identity.doubted:
            unseen = [*unseen, Failure(".", "the store was emptied, restored or replaced, and is being compared")]
        failed = self._journal.waiting.failures(name, _SHOWN_FAILURES)
        return SessionStatus(
            session=name,
            state=row.state if row is not None else "open",
            files=counts.files,
            bytes=counts.bytes,
            dirty=counts.dirty + len(unseen),
            dirty_bytes=counts.dirty_bytes,
            in_flight=self._uploader.in_flight(name),
            failed=counts.failed + len(unseen),
            evicted=counts.evicted,
            conflicts=self._journal.sessions.conflict_count(name),
            oldest_dirty_age=None if oldest is None else max(0.0, self._clock() - oldest),
            failures=[*unseen[:_SHOWN_FAILURES], *(Failure(entry.path, entry.error or "") for entry in failed)],
            vanished=counts.vanished,
        )

    def _is_dirty(self, name: str, path: str) -> bool:
        """Whether an entry stands for a path already, so that it is not counted twice."""
        entry = self._journal.entries.entry(name, path)
        return entry is not None and entry.dirty

    def store_silent_for(self) -> float | None:
        """Seconds of silence as the store itself knows it, or since the uploads get no answer: whichever is longer."""
        down = self._uploader.store_down_since
        times = [self._silent_for(), None if down is None else max(0.0, self._clock() - down)]
        return max((seconds for seconds in times if seconds is not None), default=None)

    def _silence_notes(self, silent: float | None) -> list[str]:
        if silent is None:
            return []
        since = datetime.fromtimestamp(self._clock() - silent, UTC).strftime("%H:%M:%SZ")
        silence = f"the store has not answered since {since}, for {silent:.0f} s"
        return [f"{silence}; writes go on and are stored when it is back"]

    def _conflict_note(self, name: str) -> str | None:
        count = self._journal.sessions.conflict_count(name)
        if not count:
            return None
        return f"{name}: {count} conflicts; the bytes that the store had are kept there as *.conflict-*"

    def _story(self, entry: Entry) -> Story:
        stored = entry.current
        try:
            key = to_key(self._place.prefix, entry.session, entry.path) if entry.kind is Kind.FILE else None
        except Unstorable:
            key = None
        return Story(
            session=entry.session,
            path=entry.path,
            kind=str(entry.kind),
            state=_state(entry),
            generation=entry.generation,
            synced=entry.synced,
            size=stored.size if entry.stat is None and stored else entry.stat.size if entry.stat else None,
            dirty_since=entry.dirty_since if entry.dirty else None,
            due_at=entry.due_at if entry.dirty else None,
            attempts=entry.attempts,
            tried_at=entry.tried_at,
            error=entry.error,
            stored_at=stored.stored_at if stored else None,
            key=key,
            version=stored.version.etag if stored else None,
            version_id=stored.version.version_id if stored else None,
            sha256=stored.sha256 if stored else None,
        )


_ELSEWHERE = "here only, because another host deleted it in the store"


def _state(entry: Entry) -> str:
    if entry.failed:
        return "failed"
    if entry.tombstone:
        return "deleted here, not yet in the store"
    if entry.dirty:
        return "dirty"
    if entry.kind is Kind.FILE and entry.resident and entry.superseded is not None:
        return _ELSEWHERE if entry.current is None else "older than what another host stored"
    return "clean" if entry.resident else "evicted"


class Rate:
    """Bytes a second over the last seconds, from samples of a counter that only grows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: list[tuple[float, int]] = []

    def sample(self, at: float, count: int) -> None:
        """The counter's value at a time, in seconds; in order."""
        with self._lock:
            self._samples = [sample for sample in self._samples if at - sample[0] <= _RATE_WINDOW]
            self._samples.append((at, count))

    def now(self) -> float | None:
        """The rate since sending began, in the window at most; None while that is too short to tell."""
        with self._lock:
            samples = list(self._samples)
        last_at, last = samples[-1] if samples else (0.0, 0)
        for (at, count), (_, after) in itertools.pairwise(samples):
            if after > count:  # before that it had nothing to send
                return (last - count) / (last_at - at) if last_at - at >= _RATE_LEAST else None
        return 0.0
