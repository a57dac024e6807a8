"""Room on disk that the journal keeps for itself: a file of nothing, given up when the disk is full."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

SIZE = 4 * 1024 * 1024
_PAUSE = 60.0


class Reserve:
    """Held from the start; ``release`` lets the next writes succeed, ``restore`` takes it again when there is room."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._released_at: float | None = 0.0
        self.restore()

    def release(self) -> None:
        """Give the room up."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._released_at = time.monotonic()

    def restore(self) -> None:
        """Take the room again if it was given up, at most once a minute; a disk that is still full is left alone."""
        if self._released_at is None or (self._released_at and time.monotonic() - self._released_at < _PAUSE):
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            self._released_at = time.monotonic()
            return
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
            self._released_at = None
        except OSError:
            self.release()
        finally:
            os.close(descriptor)
