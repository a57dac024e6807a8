"""flock(2), kept here instead of in the kernel.

The kernel would keep locks by node, and a file that is evicted and brought again is another node to it. Here they
follow the name: whatever stands at a name has the locks of what stood there, unless a program at the mount took that
away.
"""

from __future__ import annotations

import errno
import fcntl
import os

from cachesync.fuse import Handler, Loop, Parked, Request, wire
from cachesync.fuse.wire import Op
from cachesync.mount.nodes import FileLocks, Nodes


class Locking:
    """Handlers; see fuse.loop.Handler."""

    def __init__(self, nodes: Nodes, loop: Loop) -> None:
        self._nodes = nodes
        self._loop = loop

    def lock(self, r: Request) -> bytes:
        """SETLK and SETLKW: take or drop a lock, and wait for it or not."""
        _, owner, _, _, kind, _, _, _ = wire.LK_IN.unpack_from(r.buffer, wire.HEADER)
        locks = self._nodes.locks(self._nodes[r.node])
        had = owner in locks.holders
        if kind == fcntl.F_UNLCK:
            locks.holders.pop(owner, None)
        elif not locks.take(owner, exclusive=kind == fcntl.F_WRLCK):
            if had:
                self._wake(locks)
            if r.op == Op.SETLK:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            locks.waiting = [unique for unique in locks.waiting if self._loop.is_waiting(unique)]
            locks.waiting.append(r.unique)
            raise Parked
        if had:
            self._wake(locks)
        return b""

    def releasing(self, release: Handler) -> Handler:
        """A handler for RELEASE: what the open file had locked is not locked any more."""

        def handle(r: Request) -> bytes:
            _, _, flags, owner = wire.RELEASE_IN.unpack_from(r.buffer, wire.HEADER)
            locks = self._nodes[r.node].locks
            answer = release(r)
            if flags & wire.RELEASE_FLOCK and locks is not None and locks.holders.pop(owner, None) is not None:
                self._wake(locks)
            return answer

        return handle

    def _wake(self, locks: FileLocks) -> None:
        """Let those that wait try again, in their order."""
        waiting, locks.waiting = locks.waiting, []
        for unique in waiting:
            self._loop.again(unique)
