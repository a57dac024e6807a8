"""A counter in the journal and in the root, which shows that one of them was rolled back.

An administrator may restore a snapshot of the root without the journal, or a backup of the journal without the root.
The journal then expects files that are missing, although no program deleted them (P7). A file in the root holds the
journal's counter. Both grow at each start, scan of the root, manifest, open, eviction and shutdown.
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
        """``stands`` returns whether the opened root is still at its path. If the root is not ``writable``, the counter
        is neither written nor compared."""
        self._writable = writable
        self._journal = journal
        self._stands = stands
        self._folder = root / RESERVED

    def is_foreign(self) -> bool:
        """Whether the root's counter differs from the journal's."""
        return self._writable and self._journal.pulse() not in (0, self._read())

    def beat(self) -> None:
        """Increment both counters, the journal's first. A crash in between leaves an older number in the root."""
        self.show(self._journal.next_pulse())

    def show(self, number: int) -> None:
        """Write the journal's number to the root."""
        if not self._writable or not self._stands():
            return
        with contextlib.suppress(OSError):  # the next start then takes the root for rolled back
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
