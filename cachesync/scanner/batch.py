"""What a look at some paths, or at a whole session, has found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cachesync.model import Mark, Skipped
from cachesync.reports import Failure


@dataclass(slots=True)
class Batch:
    """What one notice or scan has found so far and not yet committed.

    ``trees`` are directories still to compare, and ``met`` those that were. ``missing`` are paths that are expected and
    do not stand; whether they were deleted is decided at the end. ``others`` are marks of directories that something
    was mounted over, or unmounted from: what is missing below them was not seen to go. ``stamps`` are the
    directories' stamps when they were listed, ``volumes`` the file systems of those that are not on the root's,
    ``unsettled`` clean files to be read again.
    """

    trees: list[str] = field(default_factory=list)
    recheck: bool = False
    expired: Callable[[], bool] = lambda: False
    marks: list[Mark] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    others: dict[str, Mark] = field(default_factory=dict)
    stamps: dict[str, int] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    marked: int = 0
    changed: int = 0
    untold: int = 0
    rechecked: set[str] = field(default_factory=set)
    unsettled: list[str] = field(default_factory=list)

    def volume_of(self, path: str) -> str | None:
        """The file system that a missing path's directory is on, or the nearest one above it that stands."""
        above = path.rstrip("/").rpartition("/")[0]
        while above and f"{above}/" not in self.stamps:
            above = above.rpartition("/")[0]
        return self.volumes.get(f"{above}/" if above else "")


@dataclass(slots=True)
class ScanResult:
    """What a scan of a session found besides changes. ``marked`` counts what no hint had told of yet, ``changed`` the
    files and links among that which are not only read once more, ``untold`` those that a hint should have told of.
    ``still`` says that the scan missed no file that stood when it began; ``stamps`` are for ``stood_still``."""

    finished: bool = True
    marked: int = 0
    changed: int = 0
    untold: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    still: bool = False
    stamps: Mapping[str, int] = field(default_factory=dict)
