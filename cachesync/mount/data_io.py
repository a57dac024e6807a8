"""Requests about the bytes of open files, where they do not pass us by; and about when they are safe."""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial

from cachesync.fuse import Later, Loop, Request, linux, wire
from cachesync.mount.leases import opened_anew
from cachesync.mount.mutations import without_suid
from cachesync.mount.nodes import Node, session_of
from cachesync.mount.view import View, split

_AT_ONCE = 16 * 1024 * 1024


class WriteThrough(StrEnum):
    """When a program is told that its bytes are stored."""

    OFF = "off"
    FSYNC = "fsync"
    CLOSE = "close"


class Passing:
    """Handlers; see fuse.loop.Handler."""

    def __init__(self, view: View, loop: Loop, through: WriteThrough) -> None:
        self._view = view
        self._loop = loop
        self._through = through

    def read(self, r: Request) -> bytes:
        """READ."""
        _, offset, size, *_ = wire.READ_IN.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        if node.file >= 0:
            return os.pread(node.file, size, offset)
        remote = node.remote
        if remote is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if (held := remote.held(offset, size)) is not None:
            return held
        got: list[bytes] = []
        read = partial(remote.read, offset, size)
        raise Later(lambda: got.append(read()), lambda: got[0], party=session_of(node), remote=True)

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
        size = 0 if node.remote is None else node.remote.size
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
        file = opened_anew(node, node.file, os.O_RDWR)
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

        raise Later(work, bytes, party=session_of(node), remote=self._through is not WriteThrough.OFF)

    def flush(self, r: Request) -> bytes:
        """FLUSH: a descriptor is closed; with write-through at close the program learns now whether that is stored."""
        (handle,) = wire.U64.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        if not handle & 1 or self._through is not WriteThrough.CLOSE:
            return b""
        raise Later(partial(self._store, node), bytes, party=session_of(node), remote=True)

    def _store(self, node: Node) -> None:
        with self._loop.lock:
            if node.unlinked or node.lost:
                return
            session, path = split(node.path)
        if path:
            self._view.keeper.store(session, path)
