"""What the verbs of artifacts and of a session's life answer: frozen values with a stable JSON. Pure.

Like ``reports``, which holds those of the write path. Times are seconds since the epoch; sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from cachesync.model.errors import ExitCode
from cachesync.model.keys import printable
from cachesync.model.record import record
from cachesync.model.reports import Failure, FlushReport, Json, Pending, exit_code
from cachesync.model.values import Conflict, Skipped


@record(frozen=True, slots=True)
class Artifact:
    """One artifact: a file, a link or a directory of a session, or an object of a project or template.

    ``state`` is "stored" where only the store was asked, else the entry's: clean, dirty, evicted, failed. ``version``
    is None for what no store has yet, and ``version_id`` also where only a listing was read, which does not tell it.
    ``files`` is how many a session has, if the journal knows it; its size and time are theirs. ``unverified`` says that
    the store could not be asked, and this was known before.
    """

    address: str
    kind: str
    state: str
    size: int = 0
    modified: float | None = None
    key: str | None = None
    version: str | None = None
    version_id: str | None = None
    sha256: str | None = None
    content_type: str | None = None
    artifact_type: str | None = None
    target: str | None = None
    uri: str | None = None
    unverified: bool = False
    files: int | None = None

    def json(self) -> Json:
        """As ``ls --json`` shows it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"address": printable(self.address)}


@record(frozen=True, slots=True)
class PastVersion:
    """One state that an object had; ``deleted`` is a deletion (S3's delete marker), which holds no bytes."""

    address: str
    version: str | None
    version_id: str | None
    size: int
    modified: float
    latest: bool
    deleted: bool

    def json(self) -> Json:
        """As ``history --json`` shows it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"address": printable(self.address)}


@record(frozen=True, slots=True)
class Progress:
    """How far a long verb is."""

    files: int = 0
    files_total: int = 0
    bytes: int = 0
    bytes_total: int = 0

    def json(self) -> Json:
        """As it travels over the socket."""
        return {name: getattr(self, name) for name in self.__slots__}


OnProgress = Callable[[Progress], None]
"""Called now and then, from any thread."""


def no_progress(_: Progress) -> None:
    """For those who do not look."""


def _failures(failures: Sequence[Failure]) -> list[Json]:
    return [{"path": printable(failure.path), "error": failure.error} for failure in failures]


def _reasons(rows: Sequence[Pending] | Sequence[Skipped]) -> list[Json]:
    return [{"path": printable(row.path), "reason": row.reason} for row in rows]


@record(frozen=True, slots=True)
class OpenReport:
    """``open``: what a session has locally now. ``fetched`` came from the store, ``present`` stood here before, with
    changes of its own or without; ``evicted`` are known and not fetched (``--lazy``). ``flaws`` are what is wrong with
    the manifest in the store: what it does not tell comes from the store's listing then."""

    session: str
    directory: str
    files: int = 0
    bytes: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    present: int = 0
    evicted: int = 0
    failed: Sequence[Failure] = ()
    pending: Sequence[Pending] = ()
    skipped: Sequence[Skipped] = ()
    flaws: Sequence[str] = ()
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """DONE only if nothing is missing."""
        return exit_code(self.failed, self.pending)

    def json(self) -> Json:
        """``open --json``."""
        return {
            "session": self.session,
            "directory": printable(self.directory),
            "files": self.files,
            "bytes": self.bytes,
            "fetched": self.fetched,
            "fetched_bytes": self.fetched_bytes,
            "present": self.present,
            "evicted": self.evicted,
            "failed": _failures(self.failed),
            "pending": _reasons(self.pending),
            "skipped": _reasons(self.skipped),
            "flaws": list(self.flaws),
            "seconds": round(self.seconds, 3),
        }


@record(frozen=True, slots=True)
class EvictReport:
    """``evict``: what was dropped locally, and what stayed and why."""

    session: str
    evicted: int = 0
    bytes: int = 0
    kept: Sequence[Pending] = ()

    @property
    def exit_code(self) -> ExitCode:
        """UNFINISHED if something had to stay."""
        return ExitCode.UNFINISHED if self.kept else ExitCode.DONE

    def json(self) -> Json:
        """``evict --json``."""
        return {
            "session": self.session,
            "evicted": self.evicted,
            "bytes": self.bytes,
            "kept": _reasons(self.kept),
        }


@record(frozen=True, slots=True)
class CloseReport:
    """``close``: the flush, whether the manifest says closed, and what was evicted (None with ``--keep``)."""

    flush: FlushReport
    closed: bool
    evicted: EvictReport | None = None

    @property
    def exit_code(self) -> ExitCode:
        """The flush's. What was closed is stored, also where something had to stay here: that is listed."""
        return ExitCode.DONE if self.closed else self.flush.exit_code or ExitCode.FAILED

    def json(self) -> Json:
        """``close --json``."""
        evicted = None if self.evicted is None else self.evicted.json()
        return {
            "session": self.flush.session,
            "closed": self.closed,
            "flush": self.flush.json(),
            "eviction": evicted,
        }


@record(frozen=True, slots=True)
class VerifyReport:
    """The result of ``verify``: what was read, and each difference. ``repaired`` are the paths whose difference
    ``--repair`` removed."""

    session: str
    files: int = 0
    bytes: int = 0
    differences: Sequence[Failure] = ()
    pending: Sequence[Pending] = ()
    seconds: float = 0.0
    repaired: Sequence[str] = ()

    @property
    def verified(self) -> bool:
        """Everything was read, and is what manifest and journal say."""
        return not self.differences and not self.pending

    @property
    def exit_code(self) -> ExitCode:
        """FAILED for any difference."""
        return exit_code(self.differences, self.pending)

    def json(self) -> Json:
        """``verify --json``."""
        return {
            "session": self.session,
            "verified": self.verified,
            "files": self.files,
            "bytes": self.bytes,
            "differences": _failures(self.differences),
            "pending": _reasons(self.pending),
            "seconds": round(self.seconds, 3),
            "repaired": [printable(path) for path in self.repaired],
        }


@record(frozen=True, slots=True)
class MigrateReport:
    """``migrate``: every file of the source is in exactly one of ``sent``, ``present`` (stored before, with the same
    checksum), ``failed``, ``pending``; what is no session file is in ``skipped``. A directory that cannot be listed
    counts as one file that failed. ``requests`` and ``dollars`` are for what is sent, ``dollars_a_month`` for keeping
    it. ``conflicts`` names other writers' bytes that were in the way, and where they are kept."""

    source: str
    dry_run: bool
    sessions: int = 0
    files: int = 0
    bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0
    present: int = 0
    present_bytes: int = 0
    failed: Sequence[Failure] = field(default_factory=list)
    pending: Sequence[Pending] = field(default_factory=list)
    skipped: Sequence[Skipped] = field(default_factory=list)
    conflicts: Sequence[Conflict] = field(default_factory=list)
    requests: int = 0
    dollars: float = 0.0
    dollars_a_month: float = 0.0
    seconds: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """DONE only if everything is stored (or, dry, could be)."""
        return exit_code(self.failed, self.pending)

    def json(self) -> Json:
        """``migrate --json``."""
        lists = ("failed", "pending", "skipped", "conflicts")
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in lists}
        return plain | {
            "source": printable(self.source),
            "conflicts": [{"path": printable(c.path), "kept_as": printable(c.kept_as)} for c in self.conflicts],
            "failed": _failures(self.failed),
            "pending": _reasons(self.pending),
            "skipped": _reasons(self.skipped),
            "seconds": round(self.seconds, 3),
        }
