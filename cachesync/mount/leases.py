"""Opens files of the root in the request loop without blocking.

A program that holds a lease of a file (fcntl(2), F_SETLEASE) blocks an open for 45 seconds or more. A FIFO in its place
blocks the open without limit. So every open has O_NONBLOCK. If a lease conflicts, the kernel begins to break it, and
only this request waits for the end of the lease.
"""

from __future__ import annotations

import contextlib
import os
import stat as st
from functools import partial

from cachesync.fuse import Held
from cachesync.mount.nodes import Node, session_of


def opened(node: Node, place: bytes, flags: int) -> int:
    """Open ``place``, which is the file of ``node``. Raises OSError, Held."""
    try:
        return os.open(place, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except BlockingIOError:
        raise Held(partial(_wait, place, flags), party=_holder(node, place)) from None


def opened_anew(node: Node, file: int, flags: int) -> int:
    """Open an open file again, independent of its name. Raises OSError, Held."""
    return opened(node, b"/proc/self/fd/%d" % file, flags)


def open_grasped(node: Node) -> int:
    """The descriptor of a file that is held (Node.grip), now open for reading. Raises OSError, Held."""
    file = opened(node, node.grasped, os.O_RDONLY)
    os.dup2(file, node.grip, inheritable=False)
    os.close(file)
    return node.grip


def _holder(node: Node, place: bytes) -> bytes:
    """The party that a wait counts for. Only a file's owner gets a lease of it: the same places for all its sessions.
    Files of our own user are those of many agents."""
    with contextlib.suppress(OSError):
        if (owner := os.stat(place).st_uid) != os.geteuid():
            return b"/%d" % owner
    return session_of(node)


def _wait(place: bytes, flags: int) -> None:
    """Wait until the program or the kernel (/proc/sys/fs/lease-break-time) ends the lease.

    Errors are ignored: the request is handled again and sees them.
    """
    with contextlib.suppress(OSError):
        pinned = os.open(place, os.O_PATH | os.O_CLOEXEC | flags & os.O_NOFOLLOW)
        try:
            if st.S_ISREG(os.fstat(pinned).st_mode):
                os.close(os.open(b"/proc/self/fd/%d" % pinned, flags & os.O_ACCMODE | os.O_CLOEXEC))
        finally:
            os.close(pinned)
