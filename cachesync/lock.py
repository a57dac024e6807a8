"""One daemon a root: an flock on a file in the state folder, which ends with the process whatever happens to it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from cachesync.errors import RootLocked, UsageError


class RootLock:
    """Holds the root's lock from construction to ``release``. Raises RootLocked, naming the owner's pid.

    The lock file tells the pid; the root's own directory (``descriptor``, where one is given) is locked as well, since
    the state folder may be removed under a daemon.
    """

    def __init__(self, path: Path, root: Path, descriptor: int | None = None) -> None:
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
        if descriptor is not None and not _lock(descriptor):
            os.close(self._descriptor)
            raise RootLocked("serve", str(root), "a process serves it already, whose state folder was removed")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have the root."""
        os.close(self._descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a directory, where the file system can; whether nobody else has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks on directories
        return True
    return True
