"""A counter in the journal and in the root, which shows that one of them was rolled back.

An administrator may restore a snapshot of the root without the journal, or a backup of the journal without the root.
The journal then expects files that are missing, although no program deleted them (P7). A file in the root holds the
journal's counter. Both grow at each start, scan of the root, manifest, open, eviction and shutdown.

A crash between the two writes must not look like a rollback. So the file contains both the old and the new number while
the journal's counter grows.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cachesync.journal.journal import Journal
from cachesync.model.keys import RESERVED

NAME = "pulse"
_SIZES = 997
"""Consecutive numbers have different sizes: rsync takes files of one size and one second for equal, and would keep the
newer number in a root that it rolls back."""


class Pulse:
    """The counter of one root."""

    def __init__(self, root: Path, journal: Journal, stands: Callable[[], bool], *, writable: bool) -> None:
        """``stands`` returns whether the opened root is still at its path. If the root is not ``writable``, the counter
        is neither written nor compared."""
        self._writable = writable
        self._journal = journal
        self._stands = stands
        self._folder = root / RESERVED
        self._lock = threading.Lock()
        self._number = journal.pulse()

    def is_foreign(self) -> bool:
        """Whether the root's counter differs from the journal's."""
        if not self._writable:
            return False
        return self._number != 0 and self._number not in self._read()

    def beat(self) -> None:
        """Increment both counters."""
        with self.growing():
            self._journal.next_pulse()

    @contextlib.contextmanager
    def growing(self) -> Iterator[None]:
        """Increment the root's counter around the caller's transaction, which increments the journal's."""
        with self._lock:
            self._write(self._number, self._number + 1)
            yield
            self._number += 1
            self._write(self._number, self._number)

    def _write(self, before: int, after: int) -> None:
        if not self._writable or not self._stands():
            return
        with contextlib.suppress(OSError):  # the next start then detects a rollback
            self._folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                length = os.pwrite(descriptor, f"{before:020} {after:020}\n".encode() + b"\n" * (after % _SIZES), 0)
                os.ftruncate(descriptor, length)
            finally:
                os.close(descriptor)

    def _read(self) -> list[int]:
        with contextlib.suppress(OSError, ValueError):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._folder / NAME, flags)
            try:
                return [int(number) for number in os.read(descriptor, 2 * _SIZES).split()]
            finally:
                os.close(descriptor)
        return []
