"""The lock on a root: files that one process locks, and that the kernel unlocks when the process ends.

Every process that works on a root locks ``lock`` in its state folder. A daemon locks ``serving`` first. So a second
daemon can tell a daemon, which it refuses to join, from a command, whose end it waits for. If the state folder is not
``ROOT/.cachesync``, the process locks the files there too, so that processes with different state folders exclude each
other. Both folders have mode 0700: no other user can open or lock the files in them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

from cachesync.model.errors import JournalUnavailable, RootLocked, UsageError, is_passing
from cachesync.model.keys import RESERVED

logger = logging.getLogger(__name__)

LOCK, SERVING = "lock", "serving"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RootLock:
    """Holds the lock on a root from construction to ``release``. The files name the process and its kind.

    With ``wait`` the caller is a daemon. While a command holds the lock, ``wait`` is called again and again; it raises
    to give up. Without ``wait`` the caller is a command. If the root is not ``writable``, nothing is written to it.

    Raises RootLocked with the owner's pid if another daemon or, for a command, any process holds the lock; UsageError
    if the state folder cannot be locked; JournalUnavailable if the error is temporary.
    """

    def __init__(
        self, state: Path, root: Path, *, wait: Callable[[RootLocked], None] | None = None, writable: bool = True
    ) -> None:
        self._root = root
        self._held: list[int] = []
        kind = "command" if wait is None else "daemon"
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as folders:
            undo.callback(self.release)
            try:
                own = os.open(state, _FOLDER)
                folders.callback(os.close, own)
                places = {own: True}
                if (inside := _folder_in(root, own, writable=writable)) is not None:
                    folders.callback(os.close, inside)
                    places[inside] = writable
                for name in (LOCK,) if wait is None else (SERVING, LOCK):
                    for folder, create in places.items():
                        while not self._take(folder, name, kind, create=create, must=folder == own):
                            locked = self._locked(folder, name)
                            if wait is None or name == SERVING:
                                raise locked
                            wait(locked)
            except OSError as error:
                if is_passing(error):
                    raise JournalUnavailable("lock", str(state / LOCK), error.strerror) from error
                hint = "set state to a folder of this user on a file system that supports locks"
                raise UsageError("lock", str(state / LOCK), error.strerror, hint) from error
            undo.pop_all()

    def _take(self, folder: int, name: str, kind: str, *, create: bool, must: bool) -> bool:
        """Lock a file and write this process's pid and kind into it. Returns False if another process holds the lock.

        An OSError is raised only if the file ``must`` be locked. Else it is ignored: the file system may have no locks,
        or a read-only root may have no such file.
        """
        try:
            held = _lock(folder, name, create=create)
            if held is None:
                return False
            self._held.append(held)
            if create:
                _sign(folder, name, kind)
        except OSError:
            if must:
                raise
        return True

    def _locked(self, folder: int, name: str) -> RootLocked:
        pid, kind = _owner(folder, name)
        if name == LOCK and kind == "command":
            return RootLocked("serve", str(self._root), f"process {pid} works on it", "wait until it ends")
        return RootLocked("serve", str(self._root), f"process {pid} serves it already")

    def release(self) -> None:
        """Release the lock."""
        while self._held:
            os.close(self._held.pop())


def check_free(state: Path, root: Path) -> None:
    """Raise RootLocked if a daemon serves the root with this state folder."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        folder = os.open(state, _FOLDER)
        stack.callback(os.close, folder)
        held = _lock(folder, SERVING, create=False)
        if held is None:
            raise RootLocked("serve", str(root), f"process {_owner(folder, SERVING)[0]} serves it already")
        os.close(held)


def _folder_in(root: Path, own: int, *, writable: bool) -> int | None:
    """Open ``ROOT/.cachesync``. Returns None if it is ``own``, does not exist or belongs to another user, whose locks
    do not count."""
    path = root / RESERVED
    try:
        if writable:
            path.mkdir(mode=0o700, exist_ok=True)
        folder = os.open(path, _FOLDER)
    except OSError:
        return None
    if os.path.sameopenfile(own, folder):
        os.close(folder)
        return None
    if os.fstat(folder).st_uid != os.geteuid():
        os.close(folder)
        logger.warning("%s belongs to another user: daemons with other state folders are not detected", path)
        return None
    if writable:
        os.fchmod(folder, 0o700)
    return folder


def _lock(folder: int, name: str, *, create: bool) -> int | None:
    """Open and lock a file in a folder, without waiting. Returns None if another process holds the lock.

    The file is open for writing only where locks need that (NFS): an administrator cannot remount a file system
    read-only while a file on it is open for writing. Raises OSError.
    """
    access = os.O_RDONLY
    while True:
        flags = access | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        held = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):  # removed since: another process would lock a new file
                if os.path.samestat(os.fstat(held), os.stat(name, dir_fd=folder, follow_symlinks=False)):
                    return held
        except BlockingIOError:
            os.close(held)
            return None
        except OSError as error:
            os.close(held)
            if error.errno != errno.EBADF or access == os.O_RDWR:
                raise
            access = os.O_RDWR
        else:
            os.close(held)


def _sign(folder: int, name: str, kind: str) -> None:
    """Write this process's pid and kind into the file that it locked. Ignores errors, such as a full disk."""
    with contextlib.suppress(OSError):
        file = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
        try:
            os.write(file, f"{os.getpid()} {kind}\n".encode())
        finally:
            os.close(file)


def _owner(folder: int, name: str) -> tuple[str, str]:
    """Read from a locked file the pid and the kind of the process that holds it."""
    with contextlib.suppress(OSError):
        held = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
        try:
            pid, _, kind = os.read(held, 64).decode("ascii", "replace").strip().partition(" ")
        finally:
            os.close(held)
        if pid:
            return pid, kind
    return "unknown", ""
