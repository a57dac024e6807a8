"""Requests about open files.

Where the kernel may, it reads and writes a file of the root itself (passthrough), and sees nothing of us until the file
is closed. All opens of one node share one registered descriptor, which the kernel demands. It is open for reading only:
it is opened anew for each user with their flags, so the watcher sees who wrote, and the uploader who still may.
"""

from __future__ import annotations

import errno
import logging
import os
import stat as st
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial

from cachesync.fuse import Device, Later, Loop, Request, linux, wire
from cachesync.fuse.wire import Opened
from cachesync.model import Kind
from cachesync.mount.changing import Changing, check_name, without_suid
from cachesync.mount.nodes import Node, stale
from cachesync.mount.remote import RemoteFile
from cachesync.mount.view import VALID, View, attributes_here, split
from cachesync.watcher.hints import Hint

logger = logging.getLogger(__name__)

WHOLE = 64 * 1024 * 1024
"""Bytes up to which a file is brought here when it is opened; a larger one is read where it is until it is written."""

_AT_ONCE = 16 * 1024 * 1024

_SUID = st.S_ISUID | st.S_ISGID


class WriteThrough(StrEnum):
    """When a program is told that its bytes are stored."""

    OFF = "off"
    FSYNC = "fsync"
    CLOSE = "close"


class Holding:
    """Handlers; see fuse.loop.Handler."""

    def __init__(self, view: View, changing: Changing, device: Device, loop: Loop, through: WriteThrough) -> None:
        self._view = view
        self._changing = changing
        self._device = device
        self._loop = loop
        self._through = through
        self._flags = Opened(0) if through is WriteThrough.CLOSE else Opened.NOFLUSH

    # -- opening -------------------------------------------------------------------------------------------------------

    def open(self, r: Request) -> bytes:
        """OPEN."""
        (flags,) = wire.U32.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if node.opens:
            self._open_more(node, flags, writing=writing)
        else:
            self._open_first(node, flags, writing=writing)
        if flags & os.O_TRUNC:
            self._changing.resize(node, node.file, 0)
        return self._opened(node, writing=writing)

    def _open_first(self, node: Node, flags: int, *, writing: bool) -> None:
        try:
            file, writable = self._descriptor(node.place, writing=writing)
        except FileNotFoundError:
            self._open_away(node, flags, writing=writing)
            return
        try:
            found = os.fstat(file)
            self._view.recognise(node, found)
            if writing:
                self._foresee(node)
        except BaseException:
            os.close(file)
            raise
        self._hold(node, file, found, writable=writable)

    def _foresee(self, node: Node) -> None:
        """A file that the daemon is about to drop is written to by somebody who saw what was in it. Raises Later."""
        away = self._view.evicted(node.path)
        if away is not None and not away.foreseen:
            raise Later(partial(self._view.keeper.foresee, *split(node.path)))

    def _open_away(self, node: Node, flags: int, *, writing: bool) -> None:
        """Open what is only in the store. Raises OSError, Later."""
        view, path = self._view, node.path
        away = view.away(path)
        if away is None or away.kind is not Kind.FILE:
            raise stale()  # gone, or brought here between the two questions: the kernel looks
        if flags & os.O_TRUNC:
            raise Later(partial(view.keeper.make_empty, *split(path)))
        if writing or away.size <= WHOLE:
            raise view.bring(node)
        if node.remote is None:
            raise Later(partial(self._open_remote, node))

    def _open_remote(self, node: Node) -> None:
        opened = self._view.keeper.read(*split(node.path))
        with self._loop.lock:
            if node.remote is None:
                node.remote = opened

    def _open_more(self, node: Node, flags: int, *, writing: bool) -> None:
        """One more open of a node that is open: of the same file, or the kernel has to look again."""
        if node.file < 0 and isinstance(node.remote, RemoteFile):
            if writing:
                self._take_over(node, node.remote.size, flags)
        elif not node.unlinked:
            try:
                found = os.lstat(node.place)
            except FileNotFoundError:
                raise stale() from None
            if (found.st_dev, found.st_ino) != node.key:
                raise stale()

    def _take_over(self, node: Node, size: int, flags: int) -> None:
        """What was read in the store is written to: it is brought here, and its readers go on with that.

        Raises Later; OSError (ESTALE) if it is another version than they read.
        """
        if flags & os.O_TRUNC and not os.path.lexists(node.place):
            raise Later(partial(self._view.keeper.make_empty, *split(node.path)))
        found = self._view.stand(node)
        if found.st_size != size and not flags & os.O_TRUNC:
            raise stale()
        node.file, node.writable = self._descriptor(node.place, writing=True, passed=False)

    def _make_writable(self, node: Node) -> None:
        file = os.open(b"/proc/self/fd/%d" % node.file, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(file, node.file, inheritable=False)
        os.close(file)
        node.writable = True

    def _descriptor(self, place: bytes, *, writing: bool, passed: bool = True) -> tuple[int, bool]:
        """A descriptor of a file of the root, and whether it can be written to."""
        if (self._loop.passthrough and passed) or not writing:
            try:
                return os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), False
            except PermissionError:
                if not writing:
                    raise
        try:
            return os.open(place, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), True
        except PermissionError:  # it may be written, but not read
            return os.open(place, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW), True

    def _hold(self, node: Node, file: int, found: os.stat_result, *, writable: bool) -> None:
        """A node is open as ``file``. One that runs as somebody else is written through us, who take that from it."""
        node.file, node.writable, node.backing = file, writable, 0
        if self._loop.passthrough and not found.st_mode & _SUID:
            try:
                node.backing = self._device.register(file)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ELOOP, errno.EOPNOTSUPP):
                    self._loop.passthrough = False
                logger.warning("the kernel does not pass a file through (%s): it is read and written here", error)

    def _opened(self, node: Node, *, writing: bool) -> bytes:
        """The answer to an OPEN: the handle says whether it may be written to."""
        if writing and not node.writable and not node.backing:
            self._make_writable(node)
        node.opens += 1
        handle = node.number << 1 | writing
        if node.backing:
            return wire.open_out(handle, self._flags | Opened.PASSTHROUGH, node.backing)
        return wire.open_out(handle, self._flags)

    def create(self, r: Request) -> bytes:
        """CREATE: make a file, and open it."""
        flags, mode, umask, _ = wire.CREATE_IN.unpack_from(r.buffer, wire.HEADER)
        parent, name, bits = self._view.nodes[r.node], r.text(16), mode & ~umask & 0o7777
        check_name(self._view, parent, name)
        # Read-only where the kernel writes: closing a writable one would tell the watcher that it was written.
        writable = not self._loop.passthrough
        access = (os.O_RDWR if writable else os.O_RDONLY) | flags & os.O_EXCL
        made = -1

        def make(path: bytes) -> None:
            nonlocal made
            made = os.open(path, os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | access, bits)

        path = self._changing.place_in(parent, name, make)
        try:
            self._changing.give(path, r, bits)
            found = os.fstat(made)
            node = self._view.nodes.local(parent, name, found)
        except BaseException:
            os.close(made)
            raise
        if node.opens:
            os.close(made)
        else:
            self._hold(node, made, found, writable=writable)
        return self._begun(node, found, flags)

    def tmpfile(self, r: Request) -> bytes:
        """TMPFILE: a file without a name."""
        flags, mode, umask, _ = wire.CREATE_IN.unpack_from(r.buffer, wire.HEADER)
        parent = self._view.nodes[r.node]
        self._view.stand(parent)
        access = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | flags & os.O_EXCL
        made = os.open(parent.place, access, mode & ~umask & 0o7777)
        try:
            self._changing.give(made, r)
            found = os.fstat(made)
            node = self._view.nodes.local(parent, b"", found)
            self._view.nodes.left(node)
            node.unlinked = True
        except BaseException:
            os.close(made)
            raise
        self._hold(node, made, found, writable=True)
        return self._begun(node, found, 0)

    def _begun(self, node: Node, found: os.stat_result, flags: int) -> bytes:
        """The answer to a CREATE or TMPFILE."""
        if flags & os.O_TRUNC and found.st_size:
            self._changing.resize(node, node.file, 0)
        return wire.entry_out(node.number, VALID, attributes_here(node, found)) + self._opened(node, writing=True)

    def release(self, r: Request) -> bytes:
        """RELEASE: one open less."""
        _, flags, _, _ = wire.RELEASE_IN.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        node.opens -= 1
        if not node.opens:
            if node.backing:
                self._device.unregister(node.backing)
            if node.file >= 0:
                os.close(node.file)
            if isinstance(node.remote, RemoteFile):
                node.remote.close()
            node.file, node.backing, node.writable, node.remote = -1, 0, False, None
        if flags & os.O_ACCMODE != os.O_RDONLY and not node.unlinked and node.parent is not None and not node.lost:
            self._view.hint(node.parent, node.name, Hint.CHANGED | Hint.CLOSED)
        return b""

    # -- bytes, where they do not pass us by ---------------------------------------------------------------------------

    def read(self, r: Request) -> bytes:
        """READ."""
        _, offset, size, *_ = wire.READ_IN.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        if node.file >= 0:
            return os.pread(node.file, size, offset)
        remote = node.remote
        if not isinstance(remote, RemoteFile):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if (held := remote.held(offset, size)) is not None:
            return held
        got: list[bytes] = []
        raise Later(lambda: got.append(remote.read(offset, size)), lambda: got[0])

    def write(self, r: Request) -> bytes:
        """WRITE."""
        _, offset, size, flags, *_ = wire.READ_IN.unpack_from(r.buffer, wire.HEADER)
        node, start = self._view.nodes[r.node], wire.HEADER + wire.READ_IN.size
        written = os.pwrite(node.file, memoryview(r.buffer)[start : start + size], offset)
        if flags & wire.KILL_SUIDGID and (mode := os.fstat(node.file).st_mode) != (kept := without_suid(mode)):
            os.fchmod(node.file, st.S_IMODE(kept))
        return wire.TWO_U32.pack(written, 0)

    def fallocate(self, r: Request) -> bytes:
        """FALLOCATE."""
        _, offset, length, mode, _ = wire.FALLOCATE_IN.unpack_from(r.buffer, wire.HEADER)
        with self._writable(self._view.nodes[r.node]) as file:
            linux.fallocate(file, mode, offset, length)
        return b""

    def lseek(self, r: Request) -> bytes:
        """LSEEK: to data or to a hole."""
        _, offset, whence, _ = wire.LSEEK_IN.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        if node.file >= 0:
            return wire.U64.pack(os.lseek(node.file, offset, whence))
        size = node.remote.size if isinstance(node.remote, RemoteFile) else 0
        if offset >= size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return wire.U64.pack(offset if whence == os.SEEK_DATA else size)

    def copy(self, r: Request) -> bytes:
        """COPY_FILE_RANGE: within the root's file system, a part at a time so that others get their turn."""
        _, offset, number, _, offset_out, length, _ = wire.COPY_IN.unpack_from(r.buffer, wire.HEADER)
        source = self._view.nodes[r.node].file
        if source < 0:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        with self._writable(self._view.nodes[number]) as file:
            copied = os.copy_file_range(source, file, min(length, _AT_ONCE), offset, offset_out)
        return wire.TWO_U32.pack(copied, 0)

    @contextmanager
    def _writable(self, node: Node) -> Iterator[int]:
        """A descriptor of an open node that can be written to."""
        if node.writable:
            yield node.file
            return
        file = os.open(b"/proc/self/fd/%d" % node.file, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield file
        finally:
            os.close(file)

    # -- durability ----------------------------------------------------------------------------------------------------

    def fsync(self, r: Request) -> bytes:
        """FSYNC: on the disk, and with write-through in the store. Elsewhere, so that nobody else waits for a disk."""
        _, flags, _ = wire.FSYNC_IN.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        sync = os.fdatasync if flags & wire.FSYNC_DATA else os.fsync

        def work() -> None:
            if node.file >= 0:
                sync(node.file)
            if self._through is not WriteThrough.OFF and node.file >= 0:
                self._store(node)

        raise Later(work, bytes)

    def flush(self, r: Request) -> bytes:
        """FLUSH: a descriptor is closed; with write-through at close the program learns now whether that is stored."""
        (handle,) = wire.U64.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        if not handle & 1 or self._through is not WriteThrough.CLOSE:
            return b""
        raise Later(partial(self._store, node), bytes)

    def _store(self, node: Node) -> None:
        with self._loop.lock:
            if node.unlinked or node.lost:
                return
            session, path = split(node.path)
        if path:
            self._view.keeper.store(session, path)
