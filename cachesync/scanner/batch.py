"""What a look at some paths has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cachesync.model import Mark


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
