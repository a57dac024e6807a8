"""What comes of a bringing, from many threads: counted and told of; what an error means, and why it ends early."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from cachesync.model.errors import (
    CacheSyncError,
    DiskFull,
    ObjectNotFound,
    PreconditionFailed,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.model.outcomes import OnProgress, Progress
from cachesync.model.reports import Failure, Pending
from cachesync.model.values import Skipped
from cachesync.read.hydrate.plan import Plan


@dataclass(slots=True)
class Brought:
    """What came of it."""

    fetched: int = 0
    fetched_bytes: int = 0
    present: int = 0
    present_bytes: int = 0
    failed: list[Failure] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    full: bool = False
    """The disk took no more."""
    unreachable: bool = False
    """The store did not answer."""

    @property
    def complete(self) -> bool:
        """Nothing is left to bring."""
        return not self.failed and not self.pending


class Tally:
    """Counts, and tells ``progress`` how far it is. Safe to call from many threads."""

    def __init__(self, plan: Plan, progress: OnProgress) -> None:
        self.brought = Brought(present=plan.present, present_bytes=plan.present_bytes, skipped=plan.skipped)
        self._files = plan.present + len(plan.files)
        self._bytes = plan.present_bytes + sum(plan.files.values())
        self._progress = progress
        self._lock = threading.Lock()
        self.ended: str | None = None
        """Why no more files are fetched."""

    def note(self, what: Failure | Pending | Skipped) -> None:
        """A path that is not brought."""
        with self._lock:
            if isinstance(what, Failure):
                self.brought.failed.append(what)
            elif isinstance(what, Pending):
                self.brought.pending.append(what)
            else:
                self.brought.skipped.append(what)

    def failed(self, path: str, error: CacheSyncError) -> None:
        """A path that is not brought, by an error; some mean the end of all fetching."""
        if isinstance(error, StoreUnreachable | DiskFull):
            self.brought.full = self.brought.full or isinstance(error, DiskFull)
            self.brought.unreachable = self.brought.unreachable or isinstance(error, StoreUnreachable)
            self.end(error.advice)
            self.note(Pending(path, error.advice))
        elif isinstance(error, PreconditionFailed | ObjectNotFound):
            self.note(Pending(path, "another host replaced or deleted it a moment ago"))
        elif isinstance(error, StoreTransient):
            self.note(Pending(path, error.reason))
        else:
            self.note(Failure(path, error.advice))

    def end(self, reason: str) -> None:
        """No more files are to be fetched."""
        self.ended = reason

    def present(self, size: int) -> None:
        """A file that stands here already."""
        with self._lock:
            self.brought.present += 1
            self.brought.present_bytes += size

    def fetched(self, sizes: list[int]) -> None:
        """Files that were put into place."""
        with self._lock:
            self.brought.fetched += len(sizes)
            self.brought.fetched_bytes += sum(sizes)

    def tell(self) -> None:
        """Say how far it is."""
        with self._lock:
            b = self.brought
            done, size = b.fetched + b.present, b.fetched_bytes + b.present_bytes
        self._progress(Progress(done, self._files, size, self._bytes))
