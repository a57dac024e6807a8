"""The findings of a scan, or of a check of some paths."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

from cachesync.model.reports import Failure
from cachesync.model.values import Mark, Rights, Skipped

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that makes room for other sessions now and then."""


def finish(steps: Steps[T]) -> T:
    """Do all steps at once, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class ScanOptions(TypedDict, total=False):
    """See ``Scanner.scan_in_steps``."""

    recheck: bool
    unwritten: bool
    expired: Callable[[], bool]
    whole: Callable[[], bool] | None


@dataclass(slots=True)
class Batch:
    """What one notice or scan has found and not yet committed.

    ``trees`` are directories to compare, ``met`` those already compared. ``missing`` are expected paths that do not
    exist; the end of the scan decides whether they were deleted. ``others`` are marks of directories where something
    was mounted or unmounted; a path that is missing below them is no evidence of a deletion. ``stamps`` are the stamps
    of the listed directories, ``volumes`` the file systems of directories that are not on the root's, ``unsettled`` the
    clean files to read again. ``own`` are the permission bits and rights of the session's directory, if it was listed.
    ``looked`` is the work since the scan last made room for others, in files.
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
    own: tuple[int, Rights] | None = None
    looked: int = 0

    def volume_of(self, path: str) -> str | None:
        """Return the file system of the nearest existing directory above a missing path."""
        above = path.rstrip("/").rpartition("/")[0]
        while above and f"{above}/" not in self.stamps:
            above = above.rpartition("/")[0]
        return self.volumes.get(f"{above}/" if above else "")


@dataclass(slots=True)
class ScanResult:
    """The result of a scan of a session. ``marked`` counts paths that no hint had reported yet. ``changed`` counts the
    files and links among them, without those that were only read again. ``untold`` counts those that a hint should
    have reported. ``still`` says that the scan saw every file that existed when it began. ``stamps`` are the input of
    ``stood_still``."""

    finished: bool = True
    marked: int = 0
    changed: int = 0
    untold: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    still: bool = False
    stamps: Mapping[str, int] = field(default_factory=dict)
