"""What a look at some paths has found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cachesync.model import Mark


@dataclass(slots=True)
class Batch:
    """What one notice or scan has found so far and not yet committed; ``trees`` are directories still to compare, and
    ``met`` those that were; ``unsettled`` are clean files to be read again."""

    marks: list[Mark] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    trees: list[str] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    recheck: bool = False
    expired: Callable[[], bool] = lambda: False
    stamps: dict[str, int] | None = None
    marked: int = 0
    changed: int = 0
    untold: int = 0
    rechecked: set[str] = field(default_factory=set)
    unsettled: list[str] = field(default_factory=list)

    def listed(self, directory: str, stamp: int) -> None:
        """Note for those who want it what a directory was."""
        if self.stamps is not None:
            self.stamps[directory] = stamp
