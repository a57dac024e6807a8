"""What the verbs answer: frozen values with the JSON of SPEC section 6. Pure.

``json()`` is the stable, documented form; ``exit_code`` is the command's. Paths are made printable here, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, field, replace
from typing import Any

from cachesync.model.errors import ExitCode
from cachesync.model.keys import printable
from cachesync.model.record import record
from cachesync.model.values import Conflict, Skipped

Json = dict[str, Any]


NOT_CONFIGURED = (
    "no store is configured: files are stored in a folder of this machine, and are safe on this machine only"
    " (set CACHESYNC_STORE=s3://BUCKET)"
)
"""The warning for a root without a configured store."""


@record(frozen=True, slots=True)
class Failure:
    """A path that cannot be stored as things are, and why."""

    path: str
    error: str


def exit_code(failed: Sequence[Failure], pending: Sequence[Pending]) -> ExitCode:
    """DONE only if nothing failed and nothing is left to do."""
    if failed:
        return ExitCode.FAILED
    return ExitCode.UNFINISHED if pending else ExitCode.DONE


def gone_here(count: int) -> str:
    """Return the note about files that are missing without evidence of a deletion."""
    files = "1 file is" if count == 1 else f"{count} files are"
    return f"{files} missing here, but no deletion was seen; restore with cachesync open or delete with cachesync rm"


def gone_with_directory(count: int) -> Failure:
    """Nobody can say any more that a session is stored whose directory went with ``count`` files that were not."""
    files = "1 file" if count == 1 else f"{count} files"
    return Failure(".", f"the session's directory is gone, and {files} with it that had not been stored")


@record(frozen=True, slots=True)
class Pending:
    """A path that is not stored yet, and what it waits for."""

    path: str
    reason: str


@record(frozen=True, slots=True)
class ReceiptLine:
    """The proof for one stored file."""

    path: str
    key: str
    size: int
    sha256: str | None
    version: str
    version_id: str | None


@record(frozen=True, slots=True)
class FlushReport:
    """The result of a flush. ``stored`` is true if the store has every file and the manifest that lists them.

    ``vanished`` counts files that are missing here without evidence of a deletion; the store keeps them. ``expired``
    counts evicted logs that the store has removed. ``on_this_machine`` says that no store is configured, so that the
    store is a folder of this machine. ``counts`` is set where the lists have been cut: how long each of them was.
    """

    session: str
    stored: bool
    files: int = 0
    bytes: int = 0
    uploaded: int = 0
    deleted: int = 0
    expired: int = 0
    failed: Sequence[Failure] = ()
    pending: Sequence[Pending] = ()
    conflicts: Sequence[Conflict] = ()
    skipped: Sequence[Skipped] = ()
    manifest: str | None = None
    seconds: float = 0.0
    entries: Sequence[ReceiptLine] | None = None
    vanished: int = 0
    on_this_machine: bool = False
    counts: Mapping[str, int] | None = None

    def cut(self, most: int, room: int) -> FlushReport:
        """The same with at most ``most`` lines in each list, of about ``room`` characters; the receipt is whole."""
        whole: dict[str, Sequence[Any]] = {
            "failed": self.failed,
            "pending": self.pending,
            "conflicts": self.conflicts,
            "skipped": self.skipped,
        }
        lists = {name: _cut(lines, most, room) for name, lines in whole.items()}
        if all(len(lists[name]) == len(lines) for name, lines in whole.items()):
            return self
        return replace(self, **lists, counts={name: len(lines) for name, lines in whole.items()})  # type: ignore[arg-type]  # each keeps its kind

    @property
    def exit_code(self) -> ExitCode:
        """0 stored, 1 something cannot be, 4 not finished in time."""
        if self.stored:
            return ExitCode.DONE
        return ExitCode.FAILED if self.failed else ExitCode.UNFINISHED

    def json(self) -> Json:
        """``flush --json``; ``entries`` only where a receipt was asked for."""
        answer: Json = {
            "session": self.session,
            "stored": self.stored,
            "files": self.files,
            "bytes": self.bytes,
            "uploaded": self.uploaded,
            "deleted": self.deleted,
            "expired": self.expired,
            "failed": [{"path": printable(f.path), "error": f.error} for f in self.failed],
            "pending": [{"path": printable(p.path), "reason": p.reason} for p in self.pending],
            "conflicts": [{"path": printable(c.path), "kept_as": printable(c.kept_as)} for c in self.conflicts],
            "skipped": [{"path": printable(s.path), "reason": s.reason} for s in self.skipped],
            "manifest": self.manifest,
            "seconds": round(self.seconds, 3),
            "vanished": self.vanished,
            "on_this_machine": self.on_this_machine,
        }
        if self.counts is not None:
            answer["counts"] = dict(self.counts)
        if self.entries is not None:
            answer["entries"] = [
                {
                    "path": line.path,
                    "key": line.key,
                    "size": line.size,
                    "sha256": line.sha256,
                    "version": line.version,
                    "version_id": line.version_id,
                }
                for line in self.entries
            ]
        return answer


def _cut(lines: Sequence[Any], most: int, room: int) -> Sequence[Any]:
    """The first lines, at least one, that have room."""
    for number, line in enumerate(lines[:most]):
        room -= sum(map(len, astuple(line)))
        if room < 0 and number:
            return lines[:number]
    return lines[:most]


@record(frozen=True, slots=True)
class SessionStatus:
    """One session at this instant. ``files`` and ``bytes`` count resident and evicted files. ``vanished`` counts the
    evicted files that are missing here without evidence of a deletion."""

    session: str
    state: str
    files: int
    bytes: int
    dirty: int
    dirty_bytes: int
    in_flight: int
    failed: int
    evicted: int
    conflicts: int
    oldest_dirty_age: float | None
    failures: Sequence[Failure] = ()
    vanished: int = 0

    @property
    def safe_to_kill(self) -> bool:
        """Nothing of this session would be lost with this machine."""
        return self.dirty == 0 and self.in_flight == 0

    def json(self) -> Json:
        """One row of ``status --json``."""
        return {
            "session": self.session,
            "state": self.state,
            "files": self.files,
            "bytes": self.bytes,
            "dirty": self.dirty,
            "dirty_bytes": self.dirty_bytes,
            "in_flight": self.in_flight,
            "failed": self.failed,
            "evicted": self.evicted,
            "conflicts": self.conflicts,
            "oldest_dirty_age": None if self.oldest_dirty_age is None else round(self.oldest_dirty_age, 3),
            "safe_to_kill": self.safe_to_kill,
            "failures": [{"path": printable(f.path), "error": f.error} for f in self.failures],
            "vanished": self.vanished,
        }


@record(frozen=True, slots=True)
class DaemonStatus:
    """The daemon that answered."""

    pid: int
    version: str
    uptime: float


@record(frozen=True, slots=True)
class StatusReport:
    """``status``: the root, the store, who serves them, and every session.

    ``notes`` are plain sentences that an operator should see (the store is down since ..., no versioning, the root is
    gone). ``rate`` is bytes a second over the last few seconds, None without a daemon and until there are some seconds.
    ``store_silent_for`` are the seconds that the store has left unanswered what it was asked, None if it answers.
    ``on_this_machine`` says that no store is configured, so that the store is a folder of this machine and a session
    is safe to kill on this machine only.
    """

    root: str
    store: str
    daemon: DaemonStatus | None
    sessions: Sequence[SessionStatus] = ()
    notes: Sequence[str] = field(default=())
    rate: float | None = None
    store_silent_for: float | None = None
    on_this_machine: bool = False

    def json(self) -> Json:
        """``status --json``."""
        daemon = self.daemon
        return {
            "root": self.root,
            "store": self.store,
            "daemon": daemon and {"pid": daemon.pid, "version": daemon.version, "uptime": round(daemon.uptime, 1)},
            "sessions": [session.json() for session in self.sessions],
            "notes": list(self.notes),
            "rate": self.rate,
            "store_silent_for": None if self.store_silent_for is None else round(self.store_silent_for, 1),
            "on_this_machine": self.on_this_machine,
        }


@record(frozen=True, slots=True)
class Story:
    """``explain``: what is known of one path. Times are seconds since the epoch, None for "never"."""

    session: str
    path: str
    kind: str
    state: str
    generation: int = 0
    synced: int = 0
    size: int | None = None
    dirty_since: float | None = None
    due_at: float | None = None
    attempts: int = 0
    tried_at: float | None = None
    error: str | None = None
    stored_at: float | None = None
    key: str | None = None
    version: str | None = None
    version_id: str | None = None
    sha256: str | None = None

    @classmethod
    def of_left_out(cls, session: str, path: str, reason: str) -> Story:
        """The story of what is not stored, on purpose; ``error`` is the reason."""
        return cls(session, path, "other", "left out", error=reason)

    def json(self) -> Json:
        """``explain --json``."""
        return {name: getattr(self, name) for name in self.__slots__} | {"path": printable(self.path)}
