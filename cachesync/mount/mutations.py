"""Requests that change names and attributes. Each is done in the root, where watcher, journal and uploader see it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as st
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from cachesync.fuse import Later, Loop, Request, linux, wire
from cachesync.fuse.wire import Set
from cachesync.model.keys import RESERVED
from cachesync.mount.leases import open_grasped, opened, opened_anew
from cachesync.mount.lookup import ACLS, OURS
from cachesync.mount.nodes import Node
from cachesync.mount.view import VALID, View, attributes_here, split
from cachesync.watch.hints import Hint

_APART = RESERVED.encode()
T = TypeVar("T")


class Changing:
    """Handlers; see fuse.loop.Handler."""

    def __init__(self, view: View, loop: Loop) -> None:
        self._view = view
        self._loop = loop
        self._uid, self._gid = os.getuid(), os.getgid()

    # -- making --------------------------------------------------------------------------------------------------------

    def mkdir(self, r: Request) -> bytes:
        """MKDIR."""
        mode, umask = wire.MKDIR_IN.unpack_from(r.buffer, wire.HEADER)
        return self._make(r, 8, masked(umask, lambda path: os.mkdir(path, mode & 0o7777)))

    def mknod(self, r: Request) -> bytes:
        """MKNOD."""
        mode, device, umask, _ = wire.MKNOD_IN.unpack_from(r.buffer, wire.HEADER)
        return self._make(r, 16, masked(umask, lambda path: os.mknod(path, mode, device)), mode & 0o7777)

    def symlink(self, r: Request) -> bytes:
        """SYMLINK."""
        name, target = r.text().split(b"\0", 1)
        return self._make(r, None, lambda path: os.symlink(target, path), name=name)

    def link(self, r: Request) -> bytes:
        """LINK."""
        (source,) = wire.U64.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[source]
        if node.unlinked and node.file >= 0 and not os.fstat(node.file).st_nlink:
            return self._make(r, 8, lambda path: linux.link_open(node.file, path))
        self._view.stand(node)
        return self._make(r, 8, lambda path: os.link(node.place, path, follow_symlinks=False), owned=False)

    def _make(
        self,
        r: Request,
        start: int | None,
        make: Callable[[bytes], None],
        mode: int = 0,
        *,
        name: bytes | None = None,
        owned: bool = True,
    ) -> bytes:
        view, parent = self._view, self._view.nodes[r.node]
        name = r.text(start or 0) if name is None else name
        check_name(view, parent, name)
        path = self.place_in(parent, name, make)
        if owned:
            self.give(path, r, mode)
        view.hint(parent, name, Hint.CHANGED.value)
        found = os.lstat(path)
        node = view.nodes.local(parent, name, found)
        return wire.entry_out(node.number, VALID, attributes_here(node, found))

    def place_in(self, parent: Node, name: bytes, make: Callable[[bytes], None]) -> bytes:
        """Make something of a name; if the directory itself is only in the store, raise Later for it. Returns the path
        to it."""
        try:
            path = parent.below(name)
            make(path)
        except FileNotFoundError:
            self._view.stand(parent)  # or it raises what has to be done about it
            raise
        return path

    def give(self, path: bytes | int, r: Request, mode: int = 0) -> None:
        """What was made belongs to who asked for it; the group to the directory's, where that hands it down."""
        if (r.uid, r.gid) == (self._uid, self._gid):
            return
        if self._uid != 0:
            return  # only we can come in here
        above = os.lstat(os.path.dirname(path) or b".") if isinstance(path, bytes) else None
        handed_down = above is not None and above.st_mode & st.S_ISGID
        before = os.lstat(path).st_mode if mode & 0o6000 and isinstance(path, bytes) else 0
        os.chown(path, r.uid, -1 if handed_down else r.gid, follow_symlinks=isinstance(path, int))
        if before:  # chown takes these bits away
            os.chmod(path, st.S_IMODE(before))

    # -- removing ------------------------------------------------------------------------------------------------------

    def unlink(self, r: Request) -> bytes:
        """UNLINK. Of what is only in the store, the journal is told, and nothing is fetched."""
        view, parent, name = self._view, self._view.nodes[r.node], r.text()
        node = view.nodes.at(parent, name)

        path = parent.child(name)
        view.keep_reading(path)
        try:
            place = parent.below(name)
            if node is not None:
                view.nodes.grasp(node, place)
            os.unlink(place)
        except FileNotFoundError:
            if view.away(path) is None:
                raise
            kept = r.kept()

            def done() -> bytes:
                if os.path.lexists(parent.below(name)) or view.away(path) is not None:
                    return self.unlink(kept)  # it was brought here meanwhile, and perhaps dropped again
                view.nodes.vacate(parent, name)
                if node is not None:
                    self.lost(node)
                return b""

            raise removing(view, path, done) from None
        view.nodes.vacate(parent, name)
        if node is not None:
            self.lost(node)
        view.hint(parent, name, Hint.GONE.value)
        return self.forget(parent, name)

    def forget(self, parent: Node, name: bytes) -> bytes:
        """Let the journal forget an evicted file at a name that a program just took away from the disk.

        The daemon was about to drop that file, or had not noticed yet that a program replaced it. If the daemon brings
        it back before the journal forgets it, it is removed here. Raises Later.
        """
        view, path = self._view, parent.child(name)
        if view.evicted(path) is None:
            return b""

        def done() -> bytes:
            known = view.known(path)
            with contextlib.suppress(FileNotFoundError):
                if known is not None and known.is_clean(os.lstat(parent.below(name))):
                    os.unlink(parent.below(name))
                    view.hint(parent, name, Hint.GONE.value)
            return self.forget(parent, name)

        raise removing(view, path, done)

    def rmdir(self, r: Request) -> bytes:
        """RMDIR."""
        view, parent, name = self._view, self._view.nodes[r.node], r.text()
        path = parent.child(name)
        if view.any_away_below(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        place = parent.below(name)
        stands = os.path.lexists(place)
        if view.evicted(path) is not None if stands else view.away(path) is not None:
            if stands and os.listdir(place):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
            # The journal first: the daemon would make it again where it is bringing the session.
            raise removing(view, path, partial(self._remove_directory, parent, name), directory=True)
        return self._remove_directory(parent, name, must=True)

    def _remove_directory(self, parent: Node, name: bytes, *, must: bool = False) -> bytes:
        """Remove a directory that has nothing in the store only; it ``must`` stand. Raises OSError."""
        try:
            os.rmdir(parent.below(name))
        except FileNotFoundError:
            if must:
                raise
        except OSError:
            self._view.hint(parent, name, Hint.CHANGED.value)
            raise
        if (node := self._view.nodes.at(parent, name)) is not None:
            node.let_go()
            node.unlinked = True
            self._view.nodes.left(node)
        self._view.hint(parent, name, Hint.GONE.value)
        return b""

    def lost(self, node: Node) -> None:
        """A node's name is gone, or another's now. Its file may have more names."""
        if (held := max(node.file, node.grip)) >= 0:
            node.unlinked = not os.fstat(held).st_nlink
        self._view.nodes.left(node)

    # -- attributes ----------------------------------------------------------------------------------------------------

    def setattr(self, r: Request) -> bytes:
        """SETATTR: mode, owner, size, times."""
        which, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = (
            wire.SETATTR_IN.unpack_from(r.buffer, wire.HEADER)
        )
        view, node = self._view, self._view.nodes[r.node]
        where = self._where(node, emptied=bool(which & Set.SIZE and not size))
        if which & Set.KILL_SUIDGID and not which & Set.MODE:
            before = view.attributes(node)[9]
            if (mode := without_suid(before)) != before:
                which |= Set.MODE
        if which & (Set.UID | Set.GID):
            owner = (uid if which & Set.UID else -1, gid if which & Set.GID else -1)
            os.chown(where, *owner, follow_symlinks=isinstance(where, int))
        if which & Set.MODE:
            os.chmod(where, st.S_IMODE(mode))
        if which & Set.SIZE:
            self.resize(node, where, size)
        if which & (Set.ATIME | Set.MTIME):
            linux.set_times(
                where,
                _time(which, Set.ATIME, Set.ATIME_NOW, atime, atime_ns),
                _time(which, Set.MTIME, Set.MTIME_NOW, mtime, mtime_ns),
            )
        if node.parent is not None:
            view.hint(node.parent, node.name, Hint.CHANGED.value if which & Set.SIZE else Hint.ATTRIBUTES.value)
        return wire.attr_out(VALID, view.attributes(node))

    def resize(self, node: Node, where: int | bytes, size: int) -> None:
        """Truncate or extend a file. An open for writing is enough, whatever the mode is now. Raises OSError, Held."""
        if isinstance(where, int) and node.writable:
            os.ftruncate(where, size)
            return
        if isinstance(where, int):
            file = opened_anew(node, where, os.O_WRONLY)
        else:
            file = opened(node, where, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(file, size)
        finally:
            os.close(file)

    def _where(self, node: Node, *, emptied: bool) -> int | bytes:
        """An open file's descriptor, or a path at which the node surely stands. Raises OSError, Later."""
        if node.file >= 0:
            return node.file
        if node.gripped and node.kind == st.S_IFREG:
            return open_grasped(node)
        if emptied and not os.path.lexists(node.place) and self._view.away(node.path) is not None:
            raise self._view.make_empty(node.path)
        self._view.stand(node)
        return node.place

    def setxattr(self, r: Request) -> bytes:
        """SETXATTR. They stay on this disk: the store does not have them. ACLs stay on this host."""
        layout = wire.SETXATTR_EXT_IN if self._loop.setxattr_ext else wire.SETXATTR_IN
        size, flags, *more = layout.unpack_from(r.buffer, wire.HEADER)
        name, value = bytes(r.buffer[wire.HEADER + layout.size : r.end]).split(b"\0", 1)
        node = self._view.nodes[r.node]
        check_attribute(name)
        where = self._where(node, emptied=False)
        os.setxattr(where, name, value[:size], flags, follow_symlinks=isinstance(where, int))
        self._hint_acl(node, name)
        if more and more[0] & wire.ACL_KILL_SGID:
            mode = st.S_IMODE(self._view.attributes(node)[9])
            os.chmod(where, mode & ~st.S_ISGID)
        return b""

    def removexattr(self, r: Request) -> bytes:
        """REMOVEXATTR."""
        name, node = r.text(), self._view.nodes[r.node]
        check_attribute(name)
        where = self._where(node, emptied=False)
        os.removexattr(where, name, follow_symlinks=isinstance(where, int))
        self._hint_acl(node, name)
        return b""

    def _hint_acl(self, node: Node, name: bytes) -> None:
        """An ACL is the permission bits too."""
        if name in ACLS and node.parent is not None:
            self._view.hint(node.parent, node.name, Hint.ATTRIBUTES.value)


def masked(umask: int, make: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Return ``make`` with the umask of the program that asks for it: where a directory has a default ACL the file
    system applies that instead."""

    def make_masked(path: bytes) -> T:
        os.umask(umask & 0o777)
        try:
            return make(path)
        finally:
            os.umask(0)

    return make_masked


def check_name(view: View, parent: Node, name: bytes) -> None:
    """Raise OSError (EPERM) for a name that is cachesync's own."""
    ours = name in view.hidden if parent.parent is None else name == _APART and parent.parent is view.nodes.root
    if ours:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def removing(view: View, path: bytes, then: Callable[[], bytes] | None = None, *, directory: bool = False) -> Later:
    """What to raise so that what is only in the store is removed, if it still is."""
    session, inside = split(path)

    def work() -> None:
        with contextlib.suppress(FileNotFoundError):
            view.keeper.remove(session, inside, directory=directory)

    return Later(work, then, party=session)


def check_attribute(name: bytes) -> None:
    """Raise OSError for an extended attribute that no program sets."""
    if name.startswith(OURS):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    if name == b"security.capability":
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def without_suid(mode: int) -> int:
    """A mode without the bits that run a file as somebody else. Pure."""
    return mode & ~(st.S_ISUID | (st.S_ISGID if mode & st.S_IXGRP else 0))


def _time(which: int, bit: int, now: int, seconds: int, ns: int) -> tuple[int, int]:
    if not which & bit:
        return 0, linux.UTIME_OMIT
    if which & now:
        return 0, linux.UTIME_NOW
    return seconds - (1 << 64) if seconds >> 63 else seconds, ns
