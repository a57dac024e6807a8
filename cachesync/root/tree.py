"""The root and the sessions in it: what is there, without ever following a link or opening what is no file."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat as st
from pathlib import Path
from typing import Any

from cachesync.model.errors import FileUnreadable, RootHalted, UsageError, is_passing
from cachesync.model.keys import RESERVED, is_session_name
from cachesync.model.values import UNMEASURED, FileStat, Rights, Skipped
from cachesync.root.changes import Changes
from cachesync.root.listing import Listing, fill, listed, stamp_of
from cachesync.root.open_file import OpenFile
from cachesync.root.openat2 import HOLD, birth_ns, open_beneath, open_regular
from cachesync.root.rights import rights_of
from cachesync.root.stats import ABSENT, examine, volume_of

NO_SESSION = "not a session name"
"""The reason for skipping a directory in the root."""

_IGNORE = ".cachesyncignore"
_LONGEST_IGNORE = 64 * 1024

_log = logging.getLogger(__name__)


def tells_births(directory: str | None) -> bool:
    """Whether the identity of a session's directory (``Tree.session_directory``) contains a birth time."""
    return directory is not None and not directory.endswith(":None")


class Tree:
    """A root directory, held by its descriptor, so that a replacement is detected. ``capabilities`` are those of its
    file system, after the engine has measured them."""

    def __init__(self, root: Path, *, create: bool = False, writable: bool = True) -> None:
        """Open the root. Raises UsageError if it is not a directory that may be read (and written, if ``writable``);
        RootHalted if its file system does not respond now."""
        self.root = root
        self.changes = Changes()
        self.capabilities = UNMEASURED
        self._warned: str | None = None
        try:
            if create:
                root.mkdir(parents=True, exist_ok=True)
            self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if is_passing(error):
                raise RootHalted("open the root", str(root), error.strerror) from error
            raise UsageError("open the root", str(root), error.strerror, "it must be a directory of yours") from error
        if not os.access(root, os.R_OK | os.X_OK | (os.W_OK if writable else 0)):
            os.close(self._root)
            cause = f"it may not be read{' and written' * writable}"
            raise UsageError("open the root", str(root), cause, "it must be a directory of yours")
        held = os.fstat(self._root)
        self.identity = (held.st_dev, held.st_ino)

    @property
    def descriptor(self) -> int:
        """The descriptor of the open root."""
        return self._root

    @property
    def handed_down(self) -> int:
        """The root's set-group-ID bit, or 0."""
        return os.fstat(self._root).st_mode & st.S_ISGID

    def open_ours(self) -> int:
        """Open ``ROOT/.cachesync``; create it if it does not exist. Raises OSError."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(RESERVED, 0o700, dir_fd=self._root)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(RESERVED, flags, dir_fd=self._root)
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or found.st_dev != self.identity[0]:
            os.close(descriptor)
            raise OSError(errno.EPERM, f"{RESERVED} belongs to another user or is on another file system")
        return descriptor

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

    def stands(self) -> bool:
        """Whether the root's path still leads to the directory that was opened."""
        try:
            self.check()
        except RootHalted:
            return False
        return True

    def sessions(self) -> tuple[list[str], list[Skipped]]:
        """The sessions in the root, and what else is there. Raises RootHalted."""
        self.check()
        names, others = [], []
        try:
            with listed(self._root) as entries:
                for entry in entries:
                    if entry.name in (RESERVED, _IGNORE):
                        continue
                    if not _is_directory(entry):
                        others.append(Skipped(entry.name, "not in a session directory"))
                    elif not is_session_name(entry.name):
                        others.append(Skipped(entry.name, NO_SESSION))
                    else:
                        names.append(entry.name)
        except OSError as error:
            raise RootHalted("list the root", str(self.root), error.strerror) from error
        return sorted(names), others

    def session_directory(self, session: str) -> str | None:
        """Return the identity of the session's directory, or None if it does not exist.

        The identity is inode and birth time, since inode numbers are reused at once. Raises RootHalted if the root is
        gone; FileUnreadable if the file system returns an error for this name, which does not mean that it is gone.
        """
        self.check()
        try:
            found = os.stat(session, dir_fd=self._root, follow_symlinks=False)
            born = birth_ns(self._root, session) if st.S_ISDIR(found.st_mode) else None
        except OSError as error:
            self.check()  # the root may be gone
            if error.errno in ABSENT:
                return None
            raise FileUnreadable("look at", session, error.strerror) from error
        return f"{found.st_ino}:{born}" if st.S_ISDIR(found.st_mode) else None

    def lstat(self, session: str, path: str) -> FileStat | Skipped | None:
        """What stands at a path now: a stat, something that is not stored, or nothing.

        Raises FileUnreadable where the file system gives no answer; that is not absence.
        """
        parent, _, name = f"{session}/{path}".rpartition("/")
        try:
            directory = open_beneath(self._root, parent, HOLD | os.O_DIRECTORY)
            try:
                return examine(directory, name, path, self.identity[0])
            finally:
                os.close(directory)
        except OSError as error:
            if error.errno in ABSENT:
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
            if error.errno in ABSENT:
                return None
            raise FileUnreadable("list", directory or ".", error.strerror) from error
        try:
            listing.stamp, listing.stamped_at, held = stamp_of(descriptor)
            device, root = held.st_dev, self.identity[0]
            if not directory:
                listing.own = rights_of(descriptor, held)
            listing.volume = volume_of(device, root)
            with os.scandir(descriptor) as entries:
                fill(listing, descriptor, entries, directory, {} if seen is None else seen, device, root)
        except OSError as error:
            raise FileUnreadable("list", directory or ".", error.strerror) from error
        finally:
            os.close(descriptor)
        return listing

    def rights(self, session: str) -> tuple[int, Rights] | None:
        """Return the permission bits and rights of a session's directory; None if it cannot be opened."""
        try:
            descriptor = open_beneath(self._root, session, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            return rights_of(descriptor, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def stamp(self, session: str, directory: str) -> int | None:
        """What changes with every name that comes to or goes from a directory; None if it cannot be looked at."""
        try:
            descriptor = open_beneath(self._root, f"{session}/{directory}".rstrip("/"), HOLD | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            return stamp_of(descriptor)[0]
        finally:
            os.close(descriptor)

    def volume(self, session: str, directory: str) -> str | None:
        """Return an identifier of a directory's file system ("" is the session's top); None if it is the root's or the
        directory cannot be opened."""
        try:
            descriptor = open_beneath(self._root, f"{session}/{directory}".rstrip("/"), HOLD | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            return volume_of(os.fstat(descriptor).st_dev, self.identity[0])
        finally:
            os.close(descriptor)

    def birth_ns(self, session: str, path: str) -> int | None:
        """Return the birth time of the file at a path, in nanoseconds since the epoch; None if it is unknown."""
        parent, _, name = f"{session}/{path}".rpartition("/")
        try:
            directory = open_beneath(self._root, parent, HOLD | os.O_DIRECTORY)
            try:
                return birth_ns(directory, name)
            finally:
                os.close(directory)
        except OSError:
            return None

    def open(self, session: str, path: str) -> OpenFile | None:
        """Open a regular file, or return None if there is none at this path. Raises FileUnreadable."""
        try:
            descriptor = open_regular(self._root, f"{session}/{path}")
            return None if descriptor is None else OpenFile(descriptor, path, self.capabilities)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise FileUnreadable("open", path, error.strerror) from error

    def look(self, session: str, path: str) -> OpenFile | FileStat | Skipped | None:
        """``open`` where a regular file stands, ``lstat`` where it is something else: of what is not there at all, one
        question. (What became a regular file between the two is told by its stat.) Raises FileUnreadable."""
        try:
            descriptor = open_regular(self._root, f"{session}/{path}")
            if descriptor is not None:
                return OpenFile(descriptor, path, self.capabilities)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            if error.errno not in ABSENT:  # a link: on the way there, or, where that cannot be held, the path itself
                raise FileUnreadable("open", path, error.strerror) from error
        return self.lstat(session, path)

    def ignore_text(self, session: str | None) -> str:
        """The text of ``.cachesyncignore`` in a session, or in the root (None); empty if there is none that counts.

        The root's speaks for all sessions, so it counts only if ``ignore_doubt`` is None; else the log says so, once.
        """
        file = self._ignore_file(session or ".")
        if file is None:
            return ""
        with file:
            doubt = self._doubt(file) if session is None else None
            if session is None and doubt != self._warned:
                self._warned = doubt
                if doubt is not None:
                    _log.warning("%s", doubt)
            return "" if doubt else file.read(0, _LONGEST_IGNORE).decode("utf-8", "surrogateescape")

    def ignore_doubt(self) -> str | None:
        """Return why the root's ``.cachesyncignore`` is not used, as a sentence. None if it is used or does not exist.

        A user who may create sessions can create that file too, and could stop the storage of other users' files.
        """
        file = self._ignore_file(".")
        if file is None:
            return None
        with file:
            return self._doubt(file)

    def _ignore_file(self, session: str) -> OpenFile | None:
        try:
            return self.open(session, _IGNORE)
        except FileUnreadable:
            return None

    def _doubt(self, file: OpenFile) -> str | None:
        found = os.fstat(file.descriptor)
        where = f"{self.root}/{_IGNORE} is not used:"
        if found.st_uid not in (0, os.geteuid(), os.fstat(self._root).st_uid):
            return f"{where} it belongs to user {found.st_uid} (the root's owner or the daemon's user has to own it)"
        if st.S_IMODE(found.st_mode) & 0o022:
            return f"{where} other users can write it (run: chmod go-w {self.root}/{_IGNORE})"
        return None


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether a name in the root is a directory. A name that cannot be examined counts as one, so that its session
    reports the error."""
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return True
