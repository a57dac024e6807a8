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
from functools import partial

from cachesync.fuse import Device, Handler, Held, Later, Loop, Request, wire
from cachesync.fuse.wire import Opened
from cachesync.model.values import Kind
from cachesync.mount.data_io import WriteThrough
from cachesync.mount.descriptors import Descriptors
from cachesync.mount.leases import opened, opened_anew
from cachesync.mount.mutations import Changing, check_name, masked
from cachesync.mount.nodes import Node, session_of, stale
from cachesync.mount.remote import RemoteFile
from cachesync.mount.view import VALID, View, attributes_here, split
from cachesync.watch.hints import Hint

logger = logging.getLogger(__name__)

WHOLE = 64 * 1024 * 1024
"""Bytes up to which a file is brought here when it is opened; a larger one is read where it is until it is written."""

_SUID = st.S_ISUID | st.S_ISGID
_WRITTEN = (Hint.CHANGED | Hint.CLOSED).value


class Holding:
    """Handlers; see fuse.loop.Handler."""

    def __init__(self, view: View, changing: Changing, device: Device, loop: Loop, through: WriteThrough) -> None:
        self._view = view
        self._changing = changing
        self._device = device
        self._loop = loop
        self._descriptors = Descriptors()
        self._flags = 0 if through is WriteThrough.CLOSE else Opened.NOFLUSH

    # -- opening -------------------------------------------------------------------------------------------------------

    def open(self, r: Request) -> bytes:
        """OPEN."""
        return _at_once(r, self._open)

    def _open(self, r: Request) -> bytes:
        (flags,) = wire.U32.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if node.opens:
            self._open_more(node, flags, writing=writing)
        else:
            self._open_first(node, flags, _program(r, node), writing=writing)
        opened = self._begin(node, flags, writing=writing)
        if writing and node.backing and node.announced < 0:
            self._announce(node)
        return opened

    def _announce(self, node: Node) -> None:
        """Tell the daemon of a writer that the kernel opens the file for: it could drop it before that. It cannot yet
        drop a file that was just made, which is not stored."""
        assert node.key is not None, "it is open"  # noqa: S101
        node.announced = node.key[1]
        self._view.absent.turns.written(node.announced)

    def _begin(self, node: Node, flags: int, *, writing: bool) -> bytes:
        """The answer to an OPEN; where it comes to nothing, and nobody else has it open, nothing is left of it."""
        try:
            if flags & os.O_TRUNC:
                self._changing.resize(node, node.file, 0)
            elif flags & os.O_NONBLOCK and writing and not node.writable:
                # The kernel is about to open it so, and would answer EIO where a lease is in the way.
                os.close(opened_anew(node, node.file, os.O_WRONLY))
            return self._opened(node, writing=writing)
        except BaseException:
            if not node.opens:
                self._let_go(node)
            raise

    def _open_first(self, node: Node, flags: int, program: int | bytes, *, writing: bool) -> None:
        self._descriptors.check(program)
        if node.gripped:
            file, writable = self._descriptor(node, writing=writing)
            self._hold(node, file, os.fstat(file), program, writable=writable)
            return
        try:
            file, writable = self._descriptor(node, writing=writing)
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
        self._hold(node, file, found, program, writable=writable)

    def _foresee(self, node: Node) -> None:
        """A file that the daemon is about to drop is written to by somebody who saw what was in it. Raises Later."""
        away = self._view.evicted(node.path)
        if away is not None and not away.foreseen:
            raise self._view.foresee(node.path)

    def _open_away(self, node: Node, flags: int, *, writing: bool) -> None:
        """Open what is only in the store. Raises OSError, Later."""
        view, path = self._view, node.path
        away = view.away(path)
        if away is None or away.kind is not Kind.FILE:
            raise stale()  # gone, or brought here between the two questions: the kernel looks
        if flags & os.O_TRUNC:
            raise view.make_empty(path)
        if writing or away.size <= WHOLE:
            raise view.bring(node)
        if node.remote is None:
            raise Later(partial(self._open_remote, node), party=split(path)[0], remote=True)

    def _open_remote(self, node: Node) -> None:
        opened = self._view.keeper.read(*split(node.path))
        with self._loop.lock:
            if node.remote is None:
                node.remote = opened
                self._view.nodes.read_in_store.add(node)
                return
        opened.close()

    def _open_more(self, node: Node, flags: int, *, writing: bool) -> None:
        """One more open of a node that is open: of the same file, or the kernel has to look again."""
        if node.file < 0 and node.remote is not None:
            if writing:
                self._take_over(node, node.remote, flags)
        elif not node.unlinked and not node.lost:
            try:
                found = os.lstat(node.place)
            except FileNotFoundError:
                raise stale() from None
            if (found.st_dev, found.st_ino) != node.key:
                raise stale()

    def _take_over(self, node: Node, remote: RemoteFile, flags: int) -> None:
        """What was read in the store is written to: it is brought here, and its readers go on with that.

        Raises Later; OSError (ESTALE) if it is another version than they read.
        """
        if flags & os.O_TRUNC and not os.path.lexists(node.place):
            raise self._view.make_empty(node.path)
        self._view.stand(node)
        if not flags & os.O_TRUNC and not self._view.is_version(node.path, remote):
            raise stale()
        node.file, node.writable = self._descriptor(node, writing=True, passed=False)

    def _make_writable(self, node: Node) -> None:
        file = opened_anew(node, node.file, os.O_RDWR)
        os.dup2(file, node.file, inheritable=False)
        os.close(file)
        node.writable = True

    def _descriptor(self, node: Node, *, writing: bool, passed: bool = True) -> tuple[int, bool]:
        """A descriptor of a file of the root, and whether it can be written to. Raises OSError, Held."""
        place, kept_out = (node.grasped, 0) if node.gripped else (node.place, os.O_NOFOLLOW)
        if (self._loop.passthrough and passed) or not writing:
            try:
                return opened(node, place, os.O_RDONLY | kept_out), False
            except PermissionError:
                if not writing:
                    raise
        try:
            return opened(node, place, os.O_RDWR | kept_out), True
        except PermissionError:  # it may be written, but not read
            return opened(node, place, os.O_WRONLY | kept_out), True

    def _hold(self, node: Node, file: int, found: os.stat_result, program: int | bytes, *, writable: bool) -> None:
        """A node is open as ``file``. One that runs as somebody else is written through us, who take that from it."""
        node.file, node.writable, node.backing, node.opener = file, writable, 0, program
        self._descriptors.take(program)
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
        node.writers += writing
        handle = node.number << 1 | writing
        if node.backing:
            return wire.open_out(handle, self._flags | Opened.PASSTHROUGH, node.backing)
        return wire.open_out(handle, self._flags)

    def create(self, r: Request) -> bytes:
        """CREATE: create a file and open it. If another program has just created one, the kernel looks the name up
        again, and checks that file's mode and owner."""
        flags, mode, umask, _ = wire.CREATE_IN.unpack_from(r.buffer, wire.HEADER)
        parent, name, bits = self._view.nodes[r.node], r.text(16), mode & 0o7777
        check_name(self._view, parent, name)
        program = _program(r, parent)
        self._descriptors.check(program)
        # Read-only where the kernel writes: closing a writable one would tell the watcher that it was written.
        writable = not self._loop.passthrough
        access = os.O_RDWR if writable else os.O_RDONLY
        made = -1

        def make(path: bytes) -> None:
            nonlocal made
            made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | access, bits)

        try:
            path = self._changing.place_in(parent, name, masked(umask, make))
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            raise stale() from None
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
            self._hold(node, made, found, program, writable=writable)
        return self._begun(node, found)

    def tmpfile(self, r: Request) -> bytes:
        """TMPFILE: a file without a name."""
        flags, mode, umask, _ = wire.CREATE_IN.unpack_from(r.buffer, wire.HEADER)
        parent = self._view.nodes[r.node]
        program = _program(r, parent)
        self._descriptors.check(program)
        self._view.stand(parent)
        access = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | flags & os.O_EXCL
        made = masked(umask, lambda path: os.open(path, access, mode & 0o7777))(parent.place)
        try:
            self._changing.give(made, r)
            found = os.fstat(made)
            node = self._view.nodes.local(parent, b"", found)
            self._view.nodes.left(node)
            node.unlinked = True
        except BaseException:
            os.close(made)
            raise
        self._hold(node, made, found, program, writable=True)
        return self._begun(node, found)

    def _begun(self, node: Node, found: os.stat_result) -> bytes:
        """The answer to a CREATE or TMPFILE."""
        entry = wire.entry_out(node.number, VALID, attributes_here(node, found))
        try:
            return entry + self._begin(node, 0, writing=True)
        except BaseException:
            self._view.nodes.forget(node.number, 1)  # the kernel does not hear of it
            raise

    def release(self, r: Request) -> bytes:
        """RELEASE: one open less."""
        handle, flags, _, _ = wire.RELEASE_IN.unpack_from(r.buffer, wire.HEADER)
        node = self._view.nodes[r.node]
        node.opens -= 1
        node.writers -= handle & 1
        if not node.writers and node.announced >= 0:
            self._view.absent.turns.not_written(node.announced)
            node.announced = -1
        if not node.opens:
            self._let_go(node)
        if flags & os.O_ACCMODE != os.O_RDONLY and not node.unlinked and node.parent is not None and not node.lost:
            self._view.hint(node.parent, node.name, _WRITTEN)
        return b""

    def _let_go(self, node: Node) -> None:
        """Nobody has it open any more."""
        if node.backing:
            self._device.unregister(node.backing)
        if node.remote is not None:
            node.remote.close()
            self._view.nodes.read_in_store.discard(node)
        file, node.file, node.backing, node.writable, node.remote = node.file, -1, 0, False, None
        if node.opener is not None:
            self._descriptors.give_back(node.opener)
            node.opener = None
        if file >= 0:
            if node.lost:  # another program may be about to open it
                self._view.nodes.grasp(node, b"/proc/self/fd/%d" % file, flags=0)
            os.close(file)


def _at_once(r: Request, handler: Handler) -> bytes:
    """What a handler of OPEN answers; a program that asks for that (O_NONBLOCK) waits for no lease."""
    try:
        return handler(r)
    except Held:
        (flags,) = wire.U32.unpack_from(r.buffer, wire.HEADER)
        if flags & os.O_NONBLOCK:
            raise OSError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK)) from None
        raise


def _program(r: Request, node: Node) -> int | bytes:
    """Whose open files a new one is counted with: those of the thread that asks, or of the session, if the thread is in
    another container."""
    return r.pid or session_of(node)
