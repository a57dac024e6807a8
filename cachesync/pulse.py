"""A counter that the journal and the root share, so that one of them that was rolled back is noticed.

A snapshot of the root may be restored without the journal, or a backup of the journal without the root. What came, or
was evicted, in between is then expected and missing, and nobody deleted it (P7). A file in the root holds the journal's
counter; both grow at each start, scan of the root, manifest, open, eviction and end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from cachesync.journal import Journal
from cachesync.keys import RESERVED

NAME = "pulse"


class Pulse:
    """The counter of one root."""

    def __init__(self, root: Path, journal: Journal, stands: Callable[[], bool], *, writable: bool) -> None:
        """``stands`` says whether the root that was opened is still at its path. One that is not ``writable`` is never
        written to, and never noticed to be another."""
        self._writable = writable
        self._journal = journal
        self._stands = stands
        self._folder = root / RESERVED

    def is_foreign(self) -> bool:
        """Whether the root is not as this journal left it."""
        return self._writable and self._journal.pulse() not in (0, self._read())

    def beat(self) -> None:
        """Count on, first in the journal: a process that dies in between leaves an older number in the root."""
        self.show(self._journal.next_pulse())

    def show(self, number: int) -> None:
        """Write the journal's number to the root."""
        if not self._writable or not self._stands():
            return
        with contextlib.suppress(OSError):  # a root that cannot be written counts as rolled back at the next start
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, f"{number:020}\n".encode(), 0)
            finally:
                os.close(descriptor)

    def _read(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._folder / NAME, flags)
            try:
                return int(os.read(descriptor, 32))
            finally:
                os.close(descriptor)
        return None
