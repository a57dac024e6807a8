"""One daemon a root: an flock on a file in the state folder, which ends with the process whatever happens to it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cachesync.errors import RootLocked, UsageError


class RootLock:
    """Holds the root's lock from construction to ``release``. Raises RootLocked, naming the owner's pid."""

    def __init__(self, path: Path, root: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError("open the lock", str(path), error.strerror, "the state folder must be ours") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise RootLocked("serve", str(root), f"process {owner} serves it already") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have the root."""
        os.close(self._descriptor)
