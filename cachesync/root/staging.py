"""Our own folder on the root's file system, that neither watcher nor scan sees: ``ROOT/.cachesync/staging/LIFE/``.

What goes into the tree is made in ``in`` and renamed into place whole. What comes out lies in ``out/WAY`` under its
session and path until it is dropped, so that a process that dies in between has told where it belongs. Each life of a
process has its own folder; those of others are leftovers, since one process owns a root.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import shutil
import sys
from collections.abc import Iterator

from cachesync.model.errors import CacheSyncError, DiskFull, FileUnwritable, PathTaken, UsageError
from cachesync.model.keys import RESERVED
from cachesync.model.record import record
from cachesync.model.values import FileStat, Rights
from cachesync.root.open_file import OpenFile
from cachesync.root.openat2 import HOLD, open_beneath
from cachesync.root.rights import give
from cachesync.root.tree import Tree

_FOLDER = "staging"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_IN_THE_WAY = {
    errno.EISDIR: "a directory stands there",
    errno.ELOOP: "a link stands in the way",
    errno.ENOTDIR: "a file or a link stands in the way",
}


@contextlib.contextmanager
def translated(operation: str, path: str) -> Iterator[None]:
    """Raise what the file system says as FileUnwritable, PathTaken or DiskFull."""
    try:
        yield
    except OSError as error:
        if (in_the_way := _IN_THE_WAY.get(error.errno or 0)) is not None:
            raise PathTaken(operation, path, in_the_way) from error
        kind = DiskFull if error.errno in _NO_ROOM else FileUnwritable
        raise kind(operation, path, error.strerror) from error


@record(frozen=True, slots=True)
class Leftover:
    """A file that was on its way out of a session when its process died; ``path`` is where it stood."""

    session: str
    path: str
    directory: int
    name: str


class Temporary:
    """A new file outside the tree, open for writing; ``place.Ground`` puts it into the tree, ``discard`` drops it.
    ``sealed`` is its stat since ``seal`` or ``give``."""

    def __init__(self, folder: int, name: str) -> None:
        self.folder = folder
        self.name = name
        self.file = OpenFile(os.open(name, _NEW, 0o600, dir_fd=folder), name)
        self.sealed = self.file.stat

    def write(self, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``. Raises DiskFull, FileUnwritable."""
        with translated("write", self.name):
            view = memoryview(data)
            while view:
                written = os.pwrite(self.file.descriptor, view, offset)
                view, offset = view[written:], offset + written

    def begin_writing(self, offset: int, length: int) -> None:
        """Let the disk begin with some bytes that were written, so that ``seal`` waits for less. Waits for nothing."""
        # The kernel writes what is dirty before it drops what is not; nothing of this is clean yet.
        if sys.platform.startswith("linux"):
            with contextlib.suppress(OSError):  # then ``seal`` waits for all
                os.posix_fadvise(self.file.descriptor, offset, length, os.POSIX_FADV_DONTNEED)

    def clear(self) -> None:
        """Begin anew."""
        with translated("write", self.name):
            os.ftruncate(self.file.descriptor, 0)

    def seal(self, mode: int, mtime_ns: int) -> FileStat:
        """Give it permission bits and time, and its bytes to the disk: after a power loss it is whole, or not there.

        Bits that run a file as somebody else (setuid, setgid) are never applied. From here on it is open for reading
        only, so that whoever else has it open for writing can be told from us.
        """
        with translated("write", self.name):
            reading = os.open(self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folder)
            writing, self.file = self.file, OpenFile(reading, self.name)
            with writing:
                os.fchmod(writing.descriptor, mode & 0o777)
                os.utime(writing.descriptor, ns=(mtime_ns, mtime_ns))
                os.fdatasync(writing.descriptor)
            self.sealed = self.file.restat()
        return self.sealed

    def give(self, rights: Rights | None, above: int) -> None:
        """Give a sealed file its owner and ACLs, as ``rights.give`` does. ``above`` is the directory that it is put
        into. Raises OSError."""
        give(self.file.descriptor, rights, above, self.sealed.mode)
        self.sealed = self.file.restat()

    def discard(self) -> None:
        """Close it, and unlink it where it still has its name."""
        self.file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.folder)


class Staging:
    """The folder of this life. Raises UsageError, when made, if what is in its place is not ours."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._life = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self._held: list[int] = []
        self._shown = str(tree.root / RESERVED)
        self._mirrored: dict[str, set[str]] = {}
        try:
            self._ours = self._enter(tree.descriptor, RESERVED)
            if os.fstat(self._ours).st_uid != os.geteuid():
                raise UsageError("use", str(tree.root / RESERVED), "it belongs to another user", "remove it")
            os.fchmod(self._ours, 0o700)
            self._folder = self._enter(self._ours, _FOLDER)
            life = self._enter(self._folder, self._life)
            self.inward = self._enter(life, "in")
            self.outward = self._enter(life, "out")
        except OSError as error:
            self._let_go()
            hint = "it must be a folder of cachesync's own, on a disk that can be written"
            raise UsageError("use", str(tree.root / RESERVED / _FOLDER), error.strerror, hint) from error
        except CacheSyncError:
            self._let_go()
            raise

    @staticmethod
    def is_left_in(tree: Tree) -> bool:
        """Whether some life before this one has used the folder."""
        try:
            os.stat(f"{RESERVED}/{_FOLDER}", dir_fd=tree.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _enter(self, parent: int, name: str) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        held = os.open(name, _DIRECTORY, dir_fd=parent)
        self._held.append(held)
        return held

    def temporary(self) -> Temporary:
        """A new, empty file. Raises DiskFull, FileUnwritable."""
        with translated("make a file in", self._shown):
            return Temporary(self.inward, self.name())

    def name(self) -> str:
        """A name in ``inward`` that nothing has had."""
        return str(next(self._numbers))

    def begin_way(self) -> str:
        """A way out of its own, for as long as somebody works on a session: what was a directory the last time may be a
        file now."""
        way = self.name()
        self._mirrored[way] = set()
        return way

    def end_way(self, way: str) -> None:
        """Nobody uses the way any more. One on which something was left stays as it is."""
        if self._mirrored.pop(way):
            with contextlib.suppress(OSError):
                self._clear(f"{self._life}/out/{way}")

    @contextlib.contextmanager
    def mirror(self, way: str, session: str, path: str) -> Iterator[tuple[int, str]]:
        """The directory and name that a file has on its way out. Raises OSError."""
        above, _, name = f"{way}/{session}/{path}".rpartition("/")
        if above not in self._mirrored[way]:
            make_directories(self.outward, above)
            self._mirrored[way].add(above)
        held = open_beneath(self.outward, above, HOLD | os.O_DIRECTORY)
        try:
            yield held, name
        finally:
            os.close(held)

    def leftovers(self) -> Iterator[Leftover]:
        """What other lives left on its way out. A folder from which all was taken is removed, with what was to go in;
        one that still holds something is left for the next time. Raises FileUnwritable."""
        with translated("clear", str(self.tree.root / RESERVED / _FOLDER)):
            for life in os.listdir(self._folder):
                if life == self._life:
                    continue
                for above, _, names, directory in self._walk(f"{life}/out"):
                    _, _, place = above.removeprefix(f"{life}/out/").partition("/")
                    session, _, inside = place.partition("/")
                    for name in names:
                        yield Leftover(session, f"{inside}/{name}" if inside else name, directory, name)
                self._clear(life, "out")

    def close(self, *, leave_nothing: bool = False) -> None:
        """Remove the folder of this life, if nothing is on its way out; and ours as a whole, if ``leave_nothing``."""
        if not self._held:
            return
        with contextlib.suppress(OSError):
            self._clear(self._life, "out")
            if leave_nothing:
                os.rmdir(_FOLDER, dir_fd=self._ours)
                os.rmdir(RESERVED, dir_fd=self.tree.descriptor)
        self._let_go()

    def _walk(self, folder: str) -> Iterator[tuple[str, list[str], list[str], int]]:
        """What is in a folder; nothing in one that its life had no time to make."""
        try:
            os.stat(folder, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return iter(())
        return os.fwalk(folder, dir_fd=self._folder)

    def _clear(self, folder: str, inside: str = "") -> None:
        """Remove a folder, unless there is a file in it (or in what is ``inside``)."""
        if not any(names for _, _, names, _ in self._walk(f"{folder}/{inside}")):
            shutil.rmtree(folder, dir_fd=self._folder)

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.pop())


def make_directories(base: int, path: str) -> list[str]:
    """Make what is missing of ``path`` under an open directory, without following a link; returns what was made, each
    ending in "/". Raises OSError."""
    made = []
    held, here = os.dup(base), ""
    try:
        for part in path.split("/"):
            if not part:
                continue
            here += part + "/"
            try:
                os.mkdir(part, dir_fd=held)
                made.append(here)
            except FileExistsError:
                pass
            step = os.open(part, HOLD | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
            os.close(held)
            held = step
    finally:
        os.close(held)
    return made
