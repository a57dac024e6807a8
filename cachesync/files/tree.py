"""The root and the sessions in it: what is there, without ever following a link or opening what is no file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as st
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cachesync.errors import FileUnreadable, RootHalted, UsageError
from cachesync.files.beneath import HOLD, birth_ns, open_beneath, open_regular, writer_of
from cachesync.files.changes import Changes
from cachesync.keys import RESERVED, is_session_name
from cachesync.model import FileStat, Kind, Skipped
from cachesync.policy import Writer

_END_OF_TIME = 2**63 - 1
"""What the journal can count to: a file may be dated after 2262, and inode numbers are unsigned."""

_TICK = 20_000_000
"""Nanoseconds in which two changes may get one time stamp: the kernel's clock ticks every 1 to 10 ms."""

_LONGEST_IGNORE = 64 * 1024
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_SPECIAL = {
    st.S_IFIFO: "a pipe",
    st.S_IFSOCK: "a socket",
    st.S_IFBLK: "a block device",
    st.S_IFCHR: "a character device",
}
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
"""As os.fsencode has them, for where a call of that is too much."""

_KINDS = {st.S_IFREG: Kind.FILE, st.S_IFLNK: Kind.LINK, st.S_IFDIR: Kind.DIRECTORY}


@dataclass(slots=True)
class Listing:
    """One directory: what is in it by name, but for files and directories that are as they were, and what is there but
    not stored. ``stamp`` is of before it was listed."""

    stamp: int = 0
    same_files: list[str] = field(default_factory=list)
    same_directories: list[str] = field(default_factory=list)
    found: dict[str, FileStat] = field(default_factory=dict)
    special: list[Skipped] = field(default_factory=list)

    def files(self) -> list[str]:
        """The names of all files and links."""
        return self.same_files + [name for name, stat in self.found.items() if stat.kind is not Kind.DIRECTORY]

    def directories(self) -> list[str]:
        """The names of all directories."""
        return self.same_directories + [name for name, stat in self.found.items() if stat.kind is Kind.DIRECTORY]


class OpenFile:
    """A regular file open for reading. ``stat`` is what it was when it was opened."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        self.stat = self.restat()

    def restat(self) -> FileStat:
        """The file's stat now."""
        return _to_stat(os.fstat(self.descriptor), None)

    def await_write(self) -> None:
        """Return when a write(2) that is under way has ended: looking for data takes the inode's lock, which reading
        does not on ext4 (ext4_seek_data, btrfs_file_llseek, shmem_file_llseek; XFS locks its reads anyway)."""
        with contextlib.suppress(OSError):
            os.lseek(self.descriptor, 0, os.SEEK_DATA)

    def writer(self) -> Writer:
        """Whether some process has it open for writing."""
        return writer_of(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer only at the end. Raises FileUnreadable."""
        try:
            data = os.pread(self.descriptor, length, offset)
            while 0 < len(data) < length:
                more = os.pread(self.descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise FileUnreadable("read", self.path, error.strerror) from error
        return data

    def close(self) -> None:
        """Let the descriptor go."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Tree:
    """A root directory, held by its descriptor, so that another one in its place is noticed."""

    def __init__(self, root: Path, *, create: bool = False, writable: bool = True) -> None:
        """Open the root. Raises UsageError if it is no directory or may not be read and, if ``writable``, written."""
        self.root = root
        self.changes = Changes()
        try:
            if create:
                root.mkdir(parents=True, exist_ok=True)
            self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError("open the root", str(root), error.strerror, "it must be a directory of yours") from error
        if not os.access(root, os.R_OK | os.X_OK | (os.W_OK if writable else 0)):
            os.close(self._root)
            cause = f"it may not be read{' and written' * writable}"
            raise UsageError("open the root", str(root), cause, "it must be a directory of yours")
        held = os.fstat(self._root)
        self.identity = (held.st_dev, held.st_ino)

    @property
    def descriptor(self) -> int:
        """The open root, to be locked."""
        return self._root

    def close(self) -> None:
        """Let the root go."""
        os.close(self._root)

    def check(self) -> None:
        """Raise RootHalted unless the directory at the root's path is the one that was opened."""
        try:
            found = os.stat(self.root)
        except OSError as error:
            raise RootHalted("look at the root", str(self.root), error.strerror) from error
        if (found.st_dev, found.st_ino) != self.identity:
            raise RootHalted("look at the root", str(self.root), "another directory stands in its place")

    def sessions(self) -> tuple[list[str], list[Skipped]]:
        """The sessions in the root, and what else is there. Raises RootHalted."""
        self.check()
        names, others = [], []
        try:
            with _listed(self._root) as entries:
                for entry in entries:
                    if entry.name in (RESERVED, ".cachesyncignore"):
                        continue
                    if not entry.is_dir(follow_symlinks=False):
                        others.append(Skipped(entry.name, "not in a session directory"))
                    elif not is_session_name(entry.name):
                        others.append(Skipped(entry.name, "not a session name"))
                    else:
                        names.append(entry.name)
        except OSError as error:
            raise RootHalted("list the root", str(self.root), error.strerror) from error
        return sorted(names), others

    def session_directory(self, session: str) -> str | None:
        """Which directory the session's is, as a word that no other directory has (inode and time of birth; the number
        alone is given again at once), or None if none stands. Raises RootHalted if the root does not."""
        self.check()
        try:
            found = os.stat(session, dir_fd=self._root, follow_symlinks=False)
        except OSError as error:
            if error.errno in _ABSENT:
                self.check()  # the root may have gone between
                return None
            raise RootHalted("look at", str(self.root / session), error.strerror) from error
        if not st.S_ISDIR(found.st_mode):
            return None
        return f"{found.st_ino}:{birth_ns(self._root, session)}"

    def lstat(self, session: str, path: str) -> FileStat | Skipped | None:
        """What stands at a path now: a stat, something that is not stored, or nothing.

        Raises FileUnreadable where the file system gives no answer; that is not absence.
        """
        parent, _, name = f"{session}/{path}".rpartition("/")
        try:
            directory = open_beneath(self._root, parent, HOLD | os.O_DIRECTORY)
            try:
                return _examine(directory, name, path)
            finally:
                os.close(directory)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise FileUnreadable("look at", path, error.strerror) from error

    def listing(self, session: str, directory: str, seen: dict[bytes, tuple[Any, ...]] | None = None) -> Listing | None:
        """What is in a directory of a session ("" is its top), or None if there is no such directory.

        ``seen`` is how files and directories were when somebody looked before, by raw name (a directory's ends in "/"):
        that name, ``st_mode``, size, mtime, ctime and inode. What still is so is taken out of it. Raises FileUnreadable
        where it cannot be listed; that is not emptiness.
        """
        listing = Listing()
        try:
            descriptor = open_beneath(self._root, f"{session}/{directory}".rstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise FileUnreadable("list", directory or ".", error.strerror) from error
        try:
            listing.stamp = _stamp(descriptor)
            with os.scandir(descriptor) as entries:
                _fill(listing, descriptor, entries, directory, {} if seen is None else seen)
        except OSError as error:
            raise FileUnreadable("list", directory or ".", error.strerror) from error
        finally:
            os.close(descriptor)
        return listing

    def stamp(self, session: str, directory: str) -> int | None:
        """What changes with every name that comes to or goes from a directory; None if it cannot be looked at."""
        try:
            descriptor = open_beneath(self._root, f"{session}/{directory}".rstrip("/"), HOLD | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            return _stamp(descriptor)
        finally:
            os.close(descriptor)

    def open(self, session: str, path: str) -> OpenFile | None:
        """Open a regular file, or return None if there is none at this path. Raises FileUnreadable."""
        try:
            descriptor = open_regular(self._root, f"{session}/{path}")
            return None if descriptor is None else OpenFile(descriptor, path)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise FileUnreadable("open", path, error.strerror) from error

    def look(self, session: str, path: str) -> OpenFile | FileStat | Skipped | None:
        """``open`` where a regular file stands, ``lstat`` where it is something else: of what is not there at all, one
        question. (What became a regular file between the two is told by its stat.) Raises FileUnreadable."""
        try:
            descriptor = open_regular(self._root, f"{session}/{path}")
            if descriptor is not None:
                return OpenFile(descriptor, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            if error.errno not in _ABSENT:  # a link: on the way there, or, where that cannot be held, the path itself
                raise FileUnreadable("open", path, error.strerror) from error
        return self.lstat(session, path)

    def ignore_text(self, session: str | None) -> str:
        """The text of ``.cachesyncignore`` in a session, or in the root (None); empty if there is none."""
        try:
            file = self.open(session or ".", ".cachesyncignore")
        except FileUnreadable:
            return ""
        if file is None:
            return ""
        with file:
            return file.read(0, _LONGEST_IGNORE).decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _listed(directory: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    """What is in a held directory, through a descriptor of its own: two listings that share one would each miss what
    the other has read."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


def _stamp(directory: int) -> int:
    """A directory's ctime in nanoseconds. One that is so young that a later change may get the same is none: it is
    replaced by the time of asking, which never comes again."""
    changed, now = os.fstat(directory).st_ctime_ns, time.time_ns()
    return changed if not 0 <= now - changed < _TICK else -now


def _fill(
    listing: Listing,
    descriptor: int,
    entries: Iterator[os.DirEntry[str]],
    directory: str,
    seen: dict[bytes, tuple[Any, ...]],
) -> None:
    """Look at each of ``entries``. A scan comes by here with every file of the root: one that is as it was costs a stat
    and no object of ours."""
    for entry in entries:
        name = entry.name
        try:
            s = entry.stat(follow_symlinks=False)
            raw = name.encode(_ENCODING, _ERRORS)
            if seen.get(raw) == (raw, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino):
                del seen[raw]
                listing.same_files.append(name)
                continue
            found = _examine(descriptor, name, directory + name, s)
        except OSError as error:
            if error.errno in _ABSENT:  # deleted since it was listed
                continue
            raise
        if isinstance(found, Skipped):
            listing.special.append(found)
            continue
        was = seen.get(raw + b"/") if found.kind is Kind.DIRECTORY else None
        if was is not None and was[1::2] == (s.st_mode, s.st_mtime_ns, s.st_ino):
            del seen[raw + b"/"]
            listing.same_directories.append(name)  # its size and ctime say nothing that its entries do not
        else:
            listing.found[name] = found


def _examine(directory: int, name: str, path: str, found: os.stat_result | None = None) -> FileStat | Skipped:
    """What ``name`` is in an open directory; ``found`` if somebody has just asked. A link that becomes something else
    meanwhile is looked at again."""
    while True:
        found = found or os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = st.S_IFMT(found.st_mode)
        if kind in _SPECIAL:
            return Skipped(path, _SPECIAL[kind])
        if kind != st.S_IFLNK:
            return _to_stat(found, None)
        try:
            return _to_stat(found, os.readlink(name, dir_fd=directory))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            found = None


def _to_stat(found: os.stat_result, target: str | None) -> FileStat:
    return FileStat(
        _KINDS[st.S_IFMT(found.st_mode)],
        found.st_size,
        max(-_END_OF_TIME, min(found.st_mtime_ns, _END_OF_TIME)),
        max(-_END_OF_TIME, min(found.st_ctime_ns, _END_OF_TIME)),
        found.st_ino if found.st_ino <= _END_OF_TIME else found.st_ino - 2**64,
        st.S_IMODE(found.st_mode),
        target,
    )


def timestamp_granularity(folder: Path) -> float:
    """How far apart two writes must be, in seconds, for a stat between them to show both; 0 where it always does.

    Linux 6.13 and later give a file that was looked at a fresh time stamp on its next write (multigrain timestamps);
    before, two writes in one tick of the kernel's clock look alike.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        descriptor = file.fileno()
        for _ in range(32):
            os.pwrite(descriptor, b"a", 0)
            first = os.fstat(descriptor).st_ctime_ns
            os.pwrite(descriptor, b"b", 0)
            if os.fstat(descriptor).st_ctime_ns == first:
                return 0.020
    return 0.0
