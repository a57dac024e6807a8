"""Putting files, links and directories into a session's directory, and taking them out again.

In: made whole in the staging folder, then renamed to a name that is free, so that what somebody else makes meanwhile
wins. Out: renamed to the staging folder, where no path leads, and looked at there; what is not exactly what was
expected, or is open for writing, goes back. No byte that is not expected is ever dropped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as st
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self

from cachesync.model.errors import RootHalted
from cachesync.model.keys import conflict_path
from cachesync.model.policy import Writer
from cachesync.model.values import FileStat, Kind, Rights
from cachesync.root.making import DIRECTORY_BITS, NO_MODES, NO_RIGHTS, make_path
from cachesync.root.open_file import OpenFile
from cachesync.root.openat2 import HOLD, open_beneath, open_regular
from cachesync.root.rename import exchange, move
from cachesync.root.rights import give_link, rights_at, set_mode
from cachesync.root.staging import Leftover, Staging, Temporary, translated
from cachesync.root.tree import Tree

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_CHANGED = "it changed a moment ago"
_OPEN = "a program has it open for writing"
MAYBE_OPEN = "cannot determine whether a program has it open for writing"
"""The only reason that ``force`` overrides."""


class Ground:
    """A session's directory, held by its descriptor: another one in its place is left alone.

    ``identity`` is the word that ``Tree.session_directory`` has for it. ``close`` it, or use it as a context.
    """

    def __init__(self, tree: Tree, session: str, staging: Staging) -> None:
        """Raises RootHalted if no directory stands there."""
        self.tree = tree
        self.session = session
        self._staging = staging
        self.identity = tree.session_directory(session) or ""
        try:
            self._base = open_beneath(tree.descriptor, session, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise RootHalted("open", str(tree.root / session), error.strerror) from error
        if not self.identity.startswith(f"{os.fstat(self._base).st_ino}:"):
            os.close(self._base)
            raise RootHalted("open", str(tree.root / session), "its directory was replaced a moment ago")
        self._way = staging.begin_way()
        self._shortened: dict[int, tuple[int, int]] = {}
        """Files that lost one of their names here: inode to the ctime before, and to the one that came of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._base)
        self._staging.end_way(self._way)

    # -- in ------------------------------------------------------------------------------------------------------------

    def make_directories(
        self, path: str, modes: Mapping[str, int] = NO_MODES, rights: Mapping[str, Rights] = NO_RIGHTS
    ) -> list[str]:
        """Make what is missing of ``path``; returns what was made, each ending in "/". ``modes`` and ``rights`` are by
        the same names. Raises FileUnwritable."""
        with translated("make the directory", path):
            return make_path(self._staging, self._base, path, modes, rights)

    def place(self, file: Temporary, path: str, rights: Rights | None = None) -> FileStat | None:
        """Put a sealed file at ``path``; what it is there, or None if something has the name. Without ``rights`` it
        belongs to whom its directory does. Raises FileUnwritable."""
        with translated("place", path), self._parent(path) as (parent, name):
            file.give(rights, parent)
            try:
                move(file.folder, file.name, parent, name)
            except FileExistsError:
                return None
            self._changed(path)
            return file.file.restat()

    def swap(self, file: Temporary, path: str, expected: FileStat) -> FileStat | None:
        """Put a sealed file in the place of the one that is ``expected`` there; what it is there, or None if another
        stands there, or one that is in use, or if this file system cannot exchange names. It gets the rights of the
        other one. Raises FileUnwritable."""
        if self.refuses(path, expected) is not None:
            return None
        with translated("replace", path), self._parent(path) as (parent, name):
            file.give(rights_at(parent, name), parent)
            with self._outside(path) as (out, outside):
                move(file.folder, file.name, out, outside)
                try:
                    if not exchange(out, outside, parent, name):
                        os.unlink(outside, dir_fd=out)
                        return None
                except OSError:
                    os.unlink(outside, dir_fd=out)
                    raise
                if self._refuses(out, outside, expected) is None:
                    os.unlink(outside, dir_fd=out)
                    self._changed(path)
                    return file.file.restat()
                exchange(out, outside, parent, name)
                if self._refuses(out, outside, file.sealed) is None:
                    os.unlink(outside, dir_fd=out)
                    return None
            self._put_back(path)
        return None

    def place_link(self, path: str, target: str, mtime_ns: int, rights: Rights | None = None) -> FileStat | None:
        """Make a link; what it is there, or None if something has the name. ``rights`` as in ``place``. Raises
        FileUnwritable."""
        with translated("place the link", path), self._parent(path) as (parent, name):
            made, folder = self._staging.name(), self._staging.inward
            os.symlink(target, made, dir_fd=folder)
            try:
                give_link(folder, made, rights, parent)
                os.utime(made, ns=(mtime_ns, mtime_ns), dir_fd=folder, follow_symlinks=False)
                move(folder, made, parent, name)
            except FileExistsError:
                os.unlink(made, dir_fd=folder)
                return None
            self._changed(path)
            found = self.tree.lstat(self.session, path)
            return found if isinstance(found, FileStat) and found.target == target else None

    def finish_directory(self, path: str, mode: int, mtime_ns: int) -> FileStat:
        """Set a directory's permission bits, including sticky and set-group-ID, and its mtime. Returns its stat. Raises
        FileUnwritable."""
        flags = os.O_RDONLY | os.O_DIRECTORY
        with (
            translated("finish the directory", path),
            OpenFile(open_beneath(self._base, path, flags), path) as directory,
        ):
            set_mode(directory.descriptor, mode & DIRECTORY_BITS)
            os.utime(directory.descriptor, ns=(mtime_ns, mtime_ns))
            self._changed(path)
            return directory.restat()

    # -- out -----------------------------------------------------------------------------------------------------------

    def refuses(self, path: str, expected: FileStat, *, force: bool = False) -> str | None:
        """Return why the file or link at ``path`` must not be removed; None if it equals ``expected`` and no program
        has it open for writing. With ``force``, an unknown writer counts as none."""
        try:
            with self._parent(path) as (parent, name):
                return self._refuses(parent, name, expected, self._ctime(expected), force=force)
        except OSError as error:
            return _CHANGED if error.errno in _GONE else error.strerror

    def rights(self, path: str) -> Rights | None:
        """Return the rights of what stands at ``path``; None if nothing can be learned of it."""
        try:
            with self._parent(path) as (parent, name):
                return rights_at(parent, name)
        except OSError:
            return None

    def take_out(self, path: str, expected: FileStat, still: Callable[[], bool], *, force: bool = False) -> str | None:
        """Remove the file or link at ``path``; returns None, or why it was left in place.

        It is removed only if it equals ``expected``, no program has it open for writing, and ``still`` returns True
        after the name is gone. ``force`` is as in ``refuses``. Raises FileUnwritable.
        """
        with translated("remove", path):
            with (
                self._parent(path) as (parent, name),
                self._staging.mirror(self._way, self.session, path) as (out, outside),
            ):
                refusal = self._refuses(parent, name, expected, self._ctime(expected), force=force)
                if refusal is not None:
                    return refusal
                move(parent, name, out, outside)
                refusal = self._refuses(out, outside, expected, force=force)
                if refusal is None and not still():
                    refusal = _CHANGED
                if refusal is None:
                    self._drop(out, outside, expected)
                    self._changed(path)
                    return None
            self._put_back(path)
            return refusal

    def _refuses(
        self, directory: int, name: str, expected: FileStat, ctime_ns: int | None = None, *, force: bool = False
    ) -> str | None:
        return _refuses(self.tree, directory, name, expected, ctime_ns, force=force)

    def _drop(self, out: int, outside: str, expected: FileStat) -> None:
        """Remove a name that nobody finds. If the file has others, they must not look changed by it."""
        if expected.kind is Kind.LINK or os.stat(outside, dir_fd=out, follow_symlinks=False).st_nlink == 1:
            os.unlink(outside, dir_fd=out)
            return
        held = os.open(outside, HOLD | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=out)
        try:
            os.unlink(outside, dir_fd=out)
            self._shortened[expected.inode] = (expected.ctime_ns, os.fstat(held).st_ctime_ns)
        finally:
            os.close(held)

    def _ctime(self, expected: FileStat) -> int:
        """The ctime that a file has by now if nothing but its names changed, and those by our doing."""
        before, after = self._shortened.get(expected.inode, (None, 0))
        return after if before == expected.ctime_ns else expected.ctime_ns

    def put_back(self, left: Leftover) -> None:
        """Put back what another life of this process left on its way out. Raises FileUnwritable."""
        with translated("put back", left.path):
            self._return(left.directory, left.name, left.path)

    def _put_back(self, path: str) -> None:
        with self._outside(path) as (out, outside):
            self._return(out, outside, path)

    def _return(self, out: int, outside: str, path: str) -> None:
        """Back to its name, or, where that is taken by now, to one beside it: both are kept."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        candidate, number = path, 0
        while True:
            self.make_directories(candidate.rpartition("/")[0])
            with self._parent(candidate) as (parent, name):
                try:
                    return move(out, outside, parent, name)
                except FileExistsError:
                    number += 1
            candidate = conflict_path(path, stamp, f"local{number}")

    def remove_directory(self, path: str) -> bool:
        """Remove an empty directory; whether it is gone. Raises FileUnwritable."""
        with translated("remove the directory", path):
            try:
                with self._parent(path) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
            except OSError as error:
                if error.errno in _GONE:
                    return True
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
        return True

    def stands(self) -> bool:
        """Whether the session's directory is still the one that is held. Raises RootHalted."""
        return self.tree.session_directory(self.session) == self.identity

    def remove(self) -> bool:
        """Remove the session's directory itself, if it is empty and still the one that is held. Raises FileUnwritable,
        RootHalted."""
        if not self.stands():
            return False
        with translated("remove the directory", self.session):
            try:
                os.rmdir(self.session, dir_fd=self.tree.descriptor)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
        return True

    def _changed(self, path: str) -> None:
        self.tree.changes.note(self.session, path)

    def _outside(self, path: str) -> contextlib.AbstractContextManager[tuple[int, str]]:
        return self._staging.mirror(self._way, self.session, path)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        above, _, name = path.rstrip("/").rpartition("/")
        held = open_beneath(self._base, above, HOLD | os.O_DIRECTORY)
        try:
            yield held, name
        finally:
            os.close(held)


def drop_leftover(tree: Tree, left: Leftover, expected: FileStat | None) -> bool:
    """Drop what another life left on its way out, whatever it is or if it is ``expected``; whether it is gone. Raises
    FileUnwritable."""
    with translated("drop", left.path):
        if expected is not None and _refuses(tree, left.directory, left.name, expected) is not None:
            return False
        os.unlink(left.name, dir_fd=left.directory)
    return True


def _refuses(
    tree: Tree, directory: int, name: str, expected: FileStat, ctime_ns: int | None = None, *, force: bool = False
) -> str | None:
    """Return why ``name`` in an open directory must not be removed; None if it equals ``expected`` and is not in use.
    Without ``ctime_ns``, its ctime is not compared: our rename changed it. ``force`` is as in ``Ground.refuses``.
    Raises OSError."""
    if expected.kind is Kind.LINK:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        same = st.S_ISLNK(found.st_mode) and (found.st_ino - expected.inode) % 2**64 == 0
        return None if same and os.readlink(name, dir_fd=directory) == expected.target else _CHANGED
    descriptor = open_regular(directory, name)
    if descriptor is None:
        return _CHANGED
    with OpenFile(descriptor, name, tree.capabilities) as file:
        s = file.stat
        if (s.inode, s.size, s.mtime_ns, s.mode) != (expected.inode, expected.size, expected.mtime_ns, expected.mode):
            return _CHANGED
        if ctime_ns is not None and s.ctime_ns != ctime_ns:
            return _CHANGED
        writer = file.writer()
    if writer is Writer.UNKNOWN and not force:
        return MAYBE_OPEN
    return _OPEN if writer is Writer.OPEN else None
