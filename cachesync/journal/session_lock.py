"""Whose turn it is to change the names of a session: the daemon's, or that of a program at the mount.

The daemon brings and drops files many at a time, each together with what the journal says of it; a program that makes,
renames or removes a name between the two would be misunderstood. So both lock a byte of a file beside the journal, each
session its own (those that share one by chance wait for each other, which harms nobody): the daemon alone, the mount's
server shared with itself. Of a file that the server has let a program open for writing, it locks another byte: the
kernel opens it a moment later, and until then nothing else tells that it is in use.

The locks are of open file descriptions (fcntl(2)): they end with the descriptor, whatever happens to the process, and
two descriptors of one process exclude each other. A system without them has no mount.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock: type, whence, start, length, pid."""

_FILES = 1 << 32
_INODES = 1 << 62
_SUPPORTED = hasattr(fcntl, "F_OFD_SETLK")


def _asked(kind: int, at: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, at, 1, 0)


def _byte_of(session: bytes) -> int:
    return zlib.crc32(session)


def _byte_of_file(inode: int) -> int:
    return _FILES + inode % _INODES


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _path(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.turns")


class Turn:
    """The daemon's turn in a session, as ``Turns.alone`` gives it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def is_written(self, inode: int) -> bool:
        """Whether a program at the mount has a file open for writing, or is about to."""
        if self._descriptor < 0:
            return False
        asked = _asked(fcntl.F_WRLCK, _byte_of_file(inode))
        found: bytes = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


class Turns:
    """The daemon's side, for the journal at a path. Safe to use from many threads."""

    def __init__(self, journal: Path) -> None:
        self._path = _path(journal)
        self._ours: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def alone(self, session: str) -> Iterator[Turn]:
        """Wait until nobody changes names of a session, and let nobody do so. Not to be held while the store is asked:
        programs wait. Raises OSError where the state folder cannot be written to."""
        with self._of(session):
            if not _SUPPORTED:
                yield Turn(-1)
                return
            descriptor = _open(self._path)
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _asked(fcntl.F_WRLCK, _byte_of(os.fsencode(session))))
                yield Turn(descriptor)
            finally:
                os.close(descriptor)

    def let_end(self, session: str, timeout: float) -> bool:
        """Wait for the turn that is under way in a session, if one is: what it changed is written down then. A saving,
        and no exclusion: the next one may begin at once. Returns False on timeout, in seconds."""
        lock = self._of(session)
        if not lock.acquire(timeout=timeout):
            return False
        lock.release()
        return True

    def _of(self, session: str) -> threading.Lock:
        return self._ours.setdefault(session, threading.Lock())


class HeldTurn:
    """A program's turn that was waited for. It ends with the context; or, as nobody comes back to a program that was
    killed meanwhile, when it is dropped."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = _end


class SharedTurns:
    """The mount's server's side. Not for more than one thread at once, but for ``wait``.

    Where the file cannot be opened (the state folder is gone) there is nobody to exclude.
    """

    def __init__(self, journal: Path) -> None:
        self._path = _path(journal)
        self._descriptor = -1
        self._identity = (0, 0)
        self._asked: dict[bytes, tuple[bytes, bytes]] = {}
        """What to tell the kernel to take, and to give back, a session's turn."""

    def refresh(self) -> None:
        """Take the file that is at the path now."""
        with contextlib.suppress(OSError):
            found = os.stat(self._path)
            if (found.st_dev, found.st_ino) == self._identity:
                return
        self.close()

    def close(self) -> None:
        """Let the file go, and with it all that is held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._identity = -1, (0, 0)

    def _file(self) -> int:
        """Raises OSError."""
        if self._descriptor < 0:
            self._descriptor = _open(self._path)
            found = os.fstat(self._descriptor)
            self._identity = (found.st_dev, found.st_ino)
        return self._descriptor

    def take(self, session: bytes) -> bool:
        """Begin a change of a session's names; False if the daemon is at it. Each that began is to be given back,
        before the next begins."""
        asked = self._asked.get(session)
        if asked is None:
            at = _byte_of(session)
            asked = self._asked[session] = _asked(fcntl.F_RDLCK, at), _asked(fcntl.F_UNLCK, at)
        try:
            fcntl.fcntl(self._file(), fcntl.F_OFD_SETLK, asked[0])
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def give_back(self, session: bytes) -> None:
        """End what ``take`` began."""
        self._tell(self._asked[session][1])

    def wait(self, session: bytes) -> HeldTurn:
        """Wait for the daemon, and hold a turn. Raises OSError."""
        held = HeldTurn(_open(self._path))
        fcntl.fcntl(held.descriptor, fcntl.F_OFD_SETLKW, _asked(fcntl.F_RDLCK, _byte_of(session)))
        return held

    def written(self, inode: int) -> None:
        """A program is about to have a file open for writing."""
        self._tell(_asked(fcntl.F_RDLCK, _byte_of_file(inode)))

    def not_written(self, inode: int) -> None:
        """No program that came through the mount has the file open for writing any more."""
        self._tell(_asked(fcntl.F_UNLCK, _byte_of_file(inode)))

    def _tell(self, asked: bytes) -> None:
        try:
            fcntl.fcntl(self._file(), fcntl.F_OFD_SETLK, asked)
        except OSError:
            return
